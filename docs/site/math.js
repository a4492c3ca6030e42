// Set up MathJax before it loads: it typesets what Markdown marks as formulas, and nothing else.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], tags: "none" },
  options: { ignoreHtmlClass: ".*", processHtmlClass: "arithmatex" },
};
