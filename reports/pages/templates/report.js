"use strict";
// Sorting, filtering, plots and samples of the report. Text goes in by textContent alone: no name can become markup.

document.documentElement.classList.add("script");

// Tables

/** Sort the rows of a table by the column of `button`; rows without a value come last, whichever way. */
function sortTable(button) {
  const header = button.closest("th"), body = header.closest("table").tBodies[0];
  const down = header.getAttribute("aria-sort") === "ascending";
  const place = header.cellIndex, sign = down ? -1 : 1;
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = [...body.rows].map((row, index) => ({ row, index, ...sortKey(row.cells[place]) }));
  keyed.sort((a, b) => {
    if (a.missing || b.missing) return a.missing - b.missing || a.index - b.index;
    const order = typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key, "en");
    return sign * order || a.index - b.index;
  });
  body.append(...keyed.map((item) => item.row));
}

function sortKey(cell) {
  if (cell.dataset.key === undefined) return { key: cell.textContent.trim(), missing: false };
  return { key: Number(cell.dataset.key), missing: cell.dataset.key === "" };
}

/** Show the rows that agree with every choice and hold every word. */
function filterTable(form, table) {
  const choices = [...form.querySelectorAll("select")].filter((select) => select.value !== "");
  const words = form.querySelector("[data-filter=text]").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.tBodies[0].rows];
  let count = 0;
  for (const row of rows) {
    const text = words.length ? row.textContent.toLowerCase() : "";
    const kept = choices.every((select) => row.dataset[select.dataset.filter] === select.value)
      && words.every((word) => text.includes(word));
    row.hidden = !kept;
    count += kept;
  }
  form.querySelector(".nothing").hidden = count > 0;
  for (const name of ["nfe", "metric"]) {
    table.classList.toggle(`one-${name}`, form.querySelector(`[data-filter=${name}]`).value !== "");
  }
  form.querySelector(".count").textContent = `${count} of ${rows.length} rows`;
}

function clearFilters(form) {
  for (const field of form.querySelectorAll("[data-filter]")) field.value = "";
  form.querySelector("[data-filter=text]").focus();
}

// Drawing

function svg(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const SHAPES = {
  "o": (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  "s": (r) => polygon([[-r, -r], [r, -r], [r, r], [-r, r]]),
  "D": (r) => polygon([[0, -1.3 * r], [1.3 * r, 0], [0, 1.3 * r], [-1.3 * r, 0]]),
  "^": (r) => polygon([[0, -1.2 * r], [1.2 * r, r], [-1.2 * r, r]]),
  "v": (r) => polygon([[0, 1.2 * r], [1.2 * r, -r], [-1.2 * r, -r]]),
  ">": (r) => polygon([[1.2 * r, 0], [-r, 1.2 * r], [-r, -1.2 * r]]),
  "<": (r) => polygon([[-1.2 * r, 0], [r, 1.2 * r], [r, -1.2 * r]]),
  "P": (r) => plus(r, 0),
  "X": (r) => plus(r, Math.PI / 4),
  "h": (r) => polygon([...Array(6)].map((_, k) => turned([0, -1.25 * r], (k * Math.PI) / 3))),
  "p": (r) => polygon([...Array(5)].map((_, k) => turned([0, -1.25 * r], (k * Math.PI) / 2.5))),
  "*": (r) => polygon([...Array(10)].map((_, k) => turned([0, -(k % 2 ? 0.6 : 1.5) * r], (k * Math.PI) / 5))),
};
const polygon = (points) => "M" + points.map((point) => point.map((value) => value.toFixed(1)).join(" ")).join("L") + "z";
const turned = ([x, y], angle) => [x * Math.cos(angle) - y * Math.sin(angle), x * Math.sin(angle) + y * Math.cos(angle)];
function plus(r, angle) {
  const a = 0.45 * r, b = 1.2 * r;
  const corners = [[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]];
  return polygon(corners.map((corner) => turned(corner, angle)));
}

function marker(look, x, y, title, hollow = false) {
  const fill = hollow ? "var(--paper)" : look.color;
  const node = svg("path", { d: SHAPES[look.marker](4), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, fill, stroke: look.color });
  if (title) node.append(svg("title", {}, title));
  return node;
}

/** A number of at most three digits, large ones with a unit. */
function short(value) {
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(3)) + unit;
  }
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

/** A scale from data to pixels with its ticks. */
function scale(low, high, from, to, logarithmic, count) {
  if (logarithmic) {
    const at = (value) => from + ((Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (to - from);
    let ticks = [];
    for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]]) {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
        for (const step of steps) found.push(Number((step * 10 ** power).toPrecision(3)));
      }
      const within = found.filter((value) => value >= low && value <= high);
      if (ticks.length < 3 && within.length <= Math.max(count + 2, 4)) ticks = within;
    }
    return { at, ticks: ticks.length > 1 ? ticks : linearTicks(low, high, count) };
  }
  const at = (value) => from + ((value - low) / (high - low)) * (to - from);
  return { at, ticks: linearTicks(low, high, count) };
}

function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high * (1 + 1e-12); k += 1) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

function panel(box, height) {
  const width = Math.max(280, Math.round(box.clientWidth));
  return { width, height, root: svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }) };
}

function bottomAxis(root, x, top, bottom, name, written = short) {
  for (const tick of x.ticks) {
    root.append(svg("line", { x1: x.at(tick), x2: x.at(tick), y1: top, y2: bottom, class: "grid" }));
    root.append(svg("text", { x: x.at(tick), y: bottom + 17, "text-anchor": "middle" }, written(tick)));
  }
  const [left, right] = x.span;
  root.append(svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }));
  root.append(svg("text", { x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle", class: "soft" }, name));
}

// Curves

const AXES = {
  images: { name: "training images seen", share: (look) => look.images },
  hours: { name: "device-hours of training", share: (look) => look.hours },
  tflop: { name: "TFLOP of training", share: (look) => look.tflop },
  nfe: { name: "NFE: network calls per image" },
};
const ARROW = { "1": " (higher is better)", "0": "", "-1": " (lower is better)" };

/** The lines of the plot: points [x, mean, low, high, seeds], and seeds that diverged, each by itself. */
function linesOf(data, chosen) {
  const visible = (item) => data.configurations[item.at].shown && item.metric === chosen.metric;
  if (chosen.x === "nfe") {
    const lines = new Map();
    for (const item of data.finals.filter(visible)) {
      if (!lines.has(item.at)) lines.set(item.at, { at: item.at, points: [], lost: [] });
      lines.get(item.at).points.push([item.nfe, item.mean, item.low, item.high, item.n]);
    }
    return apart([...lines.values()], data.nfes);
  }
  return data.curves.filter((item) => visible(item) && item.nfe === chosen.nfe).flatMap((item) => {
    const look = data.configurations[item.at], end = AXES[chosen.x].share(look);
    if (end === null) return [];
    const cost = ([images, ...rest]) => [(images / look.images) * end, ...rest];
    return [{ at: item.at, points: item.points.map(cost), lost: item.lost.map((seed) => seed.map(cost)) }];
  });
}

/** Configurations side by side at each NFE, as far apart as in the pictures, so that no interval hides another. */
function apart(lines, nfes) {
  if (nfes.length < 2) return lines;
  const gap = Math.min(...nfes.slice(1).map((nfe, at) => Math.log(nfe / nfes[at])));
  const step = Math.min(0.022 * Math.log(nfes[nfes.length - 1] / nfes[0]), (0.8 * gap) / Math.max(1, lines.length));
  return lines.map((line, place) => {
    const factor = Math.exp(step * (place - (lines.length - 1) / 2));
    return { ...line, points: line.points.map(([nfe, ...rest]) => [nfe * factor, ...rest, nfe]) };
  });
}

/** The ends of a logarithmic axis of learning curves, which shows where they differ: at the end. As in the pictures. */
function endLimits(lines, real) {
  const spans = (dots) => dots.flatMap((point) => point.slice(1, 4)).filter((value) => value !== undefined && value !== null);
  const steady = lines.filter((line) => line.points.length), every = spans(lines.flatMap((line) => [...line.points, ...line.lost.flat()]));
  const last = (line) => line.points[line.points.length - 1];
  const ends = steady.length ? spans(steady.map(last)).sort((a, b) => a - b) : [...every].sort((a, b) => a - b);
  const late = spans(steady.flatMap((line) => line.points.filter((point) => 4 * point[0] >= 3 * last(line)[0])));
  let low = Math.min(...every);
  const room = 3 * Math.log(ends[Math.floor(0.75 * (ends.length - 1))] / ends[0]);
  const top = Math.min(Math.max(...every), Math.max(...(late.length ? late : every), low * Math.exp(room)));
  if (real !== null && real > 0 && real < low && Math.log(low / real) <= Math.log(top / low) / 3) low = real;
  const margin = Math.max(top / low, 1.2) ** 0.05;
  return [low / margin, top * margin];
}

function drawCurve(box, data, chosen) {
  const lines = linesOf(data, chosen), metric = data.metrics.find((item) => item.name === chosen.metric);
  const points = lines.flatMap((line) => [...line.points, ...line.lost.flat()]);
  if (!points.length) {
    box.replaceChildren(Object.assign(document.createElement("p"), { className: "missing", textContent: "Nothing to draw: no shown configuration has these values." }));
    return;
  }
  const { width, height, root } = panel(box, 380), left = 58, right = width - 14, top = 26, bottom = height - 44;
  const ends = points.flatMap((point) => point.slice(1, 4)).filter((value) => value !== null && value !== undefined);
  const log = chosen.log && Math.min(...ends) > 0, nfe = chosen.x === "nfe";
  if (metric.halves !== null && !(log && !nfe)) ends.push(metric.halves);
  let low = Math.min(...ends), high = Math.max(...ends);
  if (log && !nfe) [low, high] = endLimits(lines, metric.halves);
  else if (log && low > 0) [low, high] = [low / 1.08, high * 1.08];
  else [low, high] = [low >= 0 && low < 0.6 * high ? 0 : low - 0.05 * (high - low || 1), high + 0.05 * (high - low || 1)];
  const y = scale(low, high, bottom, top, log, 6);
  const places = points.map((point) => point[0]), last = Math.max(...places);
  const x = nfe ? scale(Math.min(1, ...places) / 1.1, Math.max(2, last) * 1.1, left, right, true, 1) : scale(0, last * 1.02 || 1, left, right, false, width / 110);
  if (nfe) x.ticks = data.nfes;
  x.span = [left, right];
  for (const tick of y.ticks) {
    root.append(svg("line", { x1: left, x2: right, y1: y.at(tick), y2: y.at(tick), class: "grid" }));
    root.append(svg("text", { x: left - 6, y: y.at(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  bottomAxis(root, x, top, bottom, AXES[chosen.x].name);
  root.append(svg("text", { x: 0, y: 13, class: "soft" }, (width < 420 ? metric.name : metric.title) + ARROW[metric.direction]));
  const real = metric.halves !== null && metric.halves >= low && metric.halves <= high;
  if (real) root.append(svg("line", { x1: left, x2: right, y1: y.at(metric.halves), y2: y.at(metric.halves), class: "real" }));
  const frame = svg("clipPath", { id: `frame-${chosen.id}` });
  frame.append(svg("rect", { x: left - 6, y: top - 1, width: right - left + 12, height: bottom - top + 7 }));
  root.append(frame);
  for (const line of lines) root.append(...drawLine(line, data.configurations[line.at], x, y, chosen, high));
  root.setAttribute("aria-label", `${metric.name} against ${AXES[chosen.x].name} of ${lines.length} configurations; the values are in the tables`);
  box.replaceChildren(root);
}

function drawLine({ points, lost }, look, x, y, chosen, high) {
  const trace = (dots) => "M" + dots.map(([at, value]) => `${x.at(at).toFixed(1)} ${y.at(value).toFixed(1)}`).join("L");
  const group = svg("g", { "data-label": look.label, "clip-path": `url(#frame-${chosen.id})` });
  if (chosen.x === "nfe") {
    for (const [at, , from, to] of points.filter((point) => point[2] !== null)) {
      group.append(svg("line", { x1: x.at(at), x2: x.at(at), y1: y.at(from), y2: y.at(to), stroke: look.color, "stroke-width": 1.5 }));
    }
  } else if (points.length) {
    const band = [...points.map(([at, , , to]) => [at, to]), ...points.map(([at, , from]) => [at, from]).reverse()];
    group.append(svg("path", { d: trace(band) + "z", fill: look.color, "fill-opacity": 0.15 }));
  }
  if (points.length) group.append(svg("path", { d: trace(points), fill: "none", stroke: look.color, "stroke-width": 2, "stroke-dasharray": look.dash }));
  for (const [at, mean, from, to, n, nfe] of points.filter((point) => point[1] <= high)) {
    const spread = from === null ? "" : `, ${short(from)} to ${short(to)}`;
    group.append(marker(look, x.at(at), y.at(mean), `${look.label} at ${short(nfe ?? at)}: ${short(mean)}${spread} (n=${n})`));
  }
  for (const seed of lost) {
    group.append(svg("path", { d: trace(seed), fill: "none", stroke: look.color, "stroke-dasharray": "1 3" }));
    const [at, end] = seed[seed.length - 1], value = Math.min(end, high);  // at the edge where it lies beyond
    const cross = svg("path", { d: "M-5 -5L5 5M-5 5L5 -5", stroke: look.color, "stroke-width": 2, transform: `translate(${x.at(at)} ${y.at(value)})` });
    cross.append(svg("title", {}, `${look.label}: a seed that diverged`));
    group.append(cross);
  }
  return [group];
}

function curveCaption(data, chosen) {
  const real = data.metrics.find((item) => item.name === chosen.metric).halves;
  const halves = real === null ? "" : ` Dotted line: real-vs-real baseline, ${short(real)}, where the axis reaches it.`;
  if (chosen.x === "nfe") return `End of training: mean over seeds with its 95 % t interval.${halves}`;
  const cost = chosen.x === "images" ? "" : " The cost per image is taken to be constant: that of one seed's whole training, in proportion.";
  const end = chosen.log ? " A logarithmic axis shows the end of training: higher values of its beginning are cut off." : "";
  return `NFE ${chosen.nfe}: mean over seeds, the band spans the seeds; a seed that diverged is dotted up to a cross.${end}${halves}${cost}`;
}

// Paired differences

function drawForest(box, data, chosen) {
  const contest = data.contests.find((item) => item.nfe === chosen.nfe && item.metric === chosen.metric);
  const rivals = contest.rivals.filter((rival) => data.configurations[rival.at].shown);
  if (contest.leader === null || !rivals.length) {
    box.replaceChildren(Object.assign(document.createElement("p"), { className: "missing", textContent: "Nothing to compare." }));
    return;
  }
  const narrow = box.clientWidth < 560, step = narrow ? 40 : 26;
  const { width, height, root } = panel(box, rivals.length * step + 62);
  const names = rivals.map((rival) => data.configurations[rival.at].short);
  const left = narrow ? 10 : Math.min(0.36 * width, 20 + 7 * Math.max(...names.map((name) => name.length)));
  const right = width - (narrow ? 10 : 110), top = 6, bottom = height - 44;
  const [low, high] = forestRange(rivals);
  const x = scale(low, high, left, right, false, width / 120);
  x.span = [left, right];
  bottomAxis(root, x, top, bottom, `${chosen.metric}: difference to ${data.configurations[contest.leader].label}${contest.unit ? " in %" : ""}`);
  root.append(svg("line", { x1: x.at(0), x2: x.at(0), y1: top, y2: bottom, class: "axis", "stroke-width": 2 }));
  rivals.forEach((rival, place) => {
    const look = data.configurations[rival.at], middle = top + place * step + (narrow ? 28 : step / 2);
    const interval = rival.low === null ? contest.unit : `${contest.unit} (${short(rival.low)} to ${short(rival.high)})`;
    const verdict = !rival.worse ? "inconclusive" : rival.mean < 0 ? "significantly better" : "significantly worse";
    const label = `${look.label}: ${short(rival.mean)}${interval}, n=${rival.n}, ${verdict}${rival.reason ? `: ${rival.reason}` : ""}`;
    const name = svg("text", narrow ? { x: left, y: middle - 10 } : { x: left - 10, y: middle + 4, "text-anchor": "end" });
    const most = Math.floor((narrow ? right - left - 90 : left - 14) / 6.6);
    name.textContent = look.short.length > most ? look.short.slice(0, Math.max(1, most - 1)) + "…" : look.short;
    name.append(svg("title", {}, look.label));
    const row = svg("g", { "data-label": look.label, "data-verdict": verdict });
    row.append(name);
    if (rival.low !== null) {
      const at = (value) => x.at(Math.min(high, Math.max(low, value)));
      row.append(svg("line", { x1: at(rival.low), x2: at(rival.high), y1: middle, y2: middle, class: "whisker", "stroke-width": 1 }));
      row.append(svg("line", { x1: at(rival.plain[0]), x2: at(rival.plain[1]), y1: middle, y2: middle, stroke: look.color, "stroke-width": 4 }));
      // An arrow: the interval extends beyond the axis.
      if (rival.low < low) row.append(svg("path", { d: `M${left + 6} ${middle - 4}L${left} ${middle}l6 4`, fill: "none", class: "whisker" }));
      if (rival.high > high) row.append(svg("path", { d: `M${right - 6} ${middle - 4}L${right} ${middle}l-6 4`, fill: "none", class: "whisker" }));
    }
    row.append(marker(look, x.at(rival.mean), middle, label, !rival.worse));
    row.append(svg("text", narrow ? { x: right, y: middle - 10, "text-anchor": "end", class: "soft" } : { x: right + 12, y: middle + 4, class: "soft" }, verdict));
    root.append(row);
  });
  root.setAttribute("aria-label", `Differences of ${rivals.length} configurations to ${data.configurations[contest.leader].label}; the values are in the table of results`);
  box.replaceChildren(root);
}

/** Room for every mean and the usual interval; a very wide one, of two seeds say, may not flatten the others. */
function forestRange(rivals) {
  const means = [0, ...rivals.map((rival) => rival.mean)], least = Math.min(...means), most = Math.max(...means);
  const halves = rivals.filter((rival) => rival.low !== null).map((rival) => (rival.high - rival.low) / 2).sort((a, b) => a - b);
  const room = Math.max(1.5 * (most - least), 3 * (halves[Math.floor((halves.length - 1) / 2)] || 0)) || 1;
  const ends = [...means, ...rivals.flatMap((rival) => [rival.low, rival.high, ...rival.plain])].filter((value) => value !== null);
  const low = Math.max(Math.min(...ends), least - room), high = Math.min(Math.max(...ends), most + room);
  return [low - 0.04 * (high - low || 1), high + 0.04 * (high - low || 1)];
}

const FOREST = "Paired differences on common seeds at the end of training; right of zero is worse. Thick: 95 % interval; thin: the interval "
  + "that holds for all pairs at once. Filled: significant; hollow: inconclusive. An arrow: the interval extends beyond the axis.";

// Charts of one benchmark, with their toggles

function startCharts(charts) {
  const id = charts.dataset.for, data = JSON.parse(document.getElementById(`${id}-data`).textContent);
  const axes = charts.querySelector(".axes"), list = charts.querySelector(".toggles .list");
  const gallery = document.getElementById(`${id}-gallery`), toggles = [];
  const log = axes.querySelector("[data-axis=log]"), metric = axes.querySelector("[data-axis=metric]");

  function draw() {
    const chosen = {
      metric: metric.value,
      nfe: Number(axes.querySelector("[data-axis=nfe]").value),
      x: axes.querySelector("[data-axis=x]").value,
      log: log.checked,
      id,
    };
    drawCurve(charts.querySelector(".curve"), data, chosen);
    charts.querySelector(".curve-caption").textContent = curveCaption(data, chosen);
    drawForest(charts.querySelector(".forest"), data, chosen);
    charts.querySelector(".forest-caption").textContent = `NFE ${chosen.nfe}. ${FOREST}`;
    for (const card of gallery ? gallery.querySelectorAll("figure") : []) {
      card.hidden = card.dataset.at !== "" && !data.configurations[Number(card.dataset.at)].shown;
    }
  }

  function show(test) {
    data.configurations.forEach((look, at) => {
      look.shown = test(look);
      toggles[at].checked = look.shown;
    });
    draw();
  }

  data.configurations.forEach((look, at) => {
    const label = document.createElement("label"), name = document.createElement("span");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: look.shown, autocomplete: "off" });
    const swatch = svg("svg", { width: 34, height: 14, viewBox: "0 0 34 14", "aria-hidden": "true" });
    swatch.append(svg("path", { d: "M1 7H33", stroke: look.color, "stroke-width": 2, "stroke-dasharray": look.dash }), marker(look, 17, 7));
    name.textContent = look.short;
    name.title = look.label;
    label.append(box, swatch, name);
    box.addEventListener("change", () => { data.configurations[at].shown = box.checked; draw(); });
    toggles.push(box);
    list.append(label);
  });
  charts.querySelector("[data-show=all]").addEventListener("click", () => show(() => true));
  charts.querySelector("[data-show=none]").addEventListener("click", () => show(() => false));
  const methods = [...new Set(data.configurations.map((look) => look.method))].sort();
  if (methods.length < data.configurations.length) {
    for (const method of methods) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: `only ${method}` });
      button.addEventListener("click", () => show((look) => look.method === method));
      charts.querySelector(".bulk").append(button);
    }
  }
  for (const option of axes.querySelectorAll("[data-axis=x] option")) {
    const { share } = AXES[option.value];
    option.disabled = option.value === "nfe" ? data.nfes.length < 2 : data.configurations.every((look) => share(look) === null);
  }
  const lower = () => data.metrics.find((item) => item.name === metric.value).direction < 0;
  log.checked = lower();
  metric.addEventListener("change", () => { log.checked = lower(); });
  axes.addEventListener("input", draw);
  axes.addEventListener("submit", (event) => event.preventDefault());
  let width = 0;
  new ResizeObserver(() => {
    if (charts.clientWidth !== width) {
      width = charts.clientWidth;
      draw();
    }
  }).observe(charts);
}

// Samples

function startViewer(viewer) {
  const gallery = viewer.nextElementSibling, slider = viewer.querySelector("[data-nfes]");
  const nfes = slider.dataset.nfes.split(" "), latent = viewer.querySelector("[data-columns]");
  slider.addEventListener("input", () => {
    const nfe = nfes[Number(slider.value)];
    viewer.querySelector(".nfe").textContent = `NFE ${nfe}`;
    slider.setAttribute("aria-valuetext", `NFE ${nfe}`);
    for (const tiles of gallery.querySelectorAll(".tiles")) {
      let found = false;
      for (const picture of tiles.querySelectorAll("[data-nfe]")) {
        const here = picture.dataset.nfe === nfe;
        picture.toggleAttribute("hidden", !here);
        found = found || here;
      }
      tiles.querySelector(".missing").hidden = found;
    }
  });
  if (latent) {
    latent.addEventListener("input", () => {
      const place = Number(latent.value) - 1, columns = Number(latent.dataset.columns), rows = Number(latent.dataset.rows);
      for (const tiles of gallery.querySelectorAll(".tiles")) {
        const frame = tiles.querySelector(".latent");
        // Real images are made of no latent.
        frame.hidden = latent.value === "" || !latent.checkValidity() || tiles.parentNode.dataset.at === "";
        frame.style.left = `${(100 * (place % columns)) / columns}%`;
        frame.style.top = `${(100 * Math.floor(place / columns)) / rows}%`;
        frame.style.width = `${100 / columns}%`;
        frame.style.height = `${100 / rows}%`;
      }
    });
  }
  viewer.addEventListener("submit", (event) => event.preventDefault());
}

// Links into closed parts

function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  target.scrollIntoView();
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-sort]");
    if (button) sortTable(button);
  });
}
for (const form of document.querySelectorAll(".filters")) {
  const table = form.parentNode.querySelector("table.results");
  const filter = () => filterTable(form, table);
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("[data-clear]").addEventListener("click", () => { clearFilters(form); filter(); });
  filter();
}
document.querySelectorAll(".charts").forEach(startCharts);
document.querySelectorAll(".viewer").forEach(startViewer);
window.addEventListener("hashchange", openTarget);
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
openTarget();
