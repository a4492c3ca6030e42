"""`leaderboard.tex`: the tables of a report for LaTeX, with booktabs and marks of significance.

Every text from records is escaped. The document that includes the file loads the package booktabs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...benchmarks.common.text import plain
from ...benchmarks.metrics.registry import direction
from ..analysis.formatting import ARROWS, last_keys, metric_title, number
from ..analysis.rivals import Rival, rivals
from ..analysis.tables import Board, Row
from .results import names_of

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    # At the start of a row these would be an argument of the line break before.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "∞": r"$\infty$",
    "…": r"\ldots{}",
    **{character: f"\\{character}" for character in "#$%&_"},
}
WORSE, BETTER = r"$^{\dagger}$", r"$^{\ddagger}$"


def escape(text: str) -> str:
    """A text on one line as LaTeX shows it literally."""
    # Two hyphens would become a dash.
    return "".join(SPECIAL.get(character, character) for character in plain(text)).replace("--", "-{}-")


def leaderboard_tex(boards: Iterable[Board]) -> str:
    """A table for each ranking and NFE: all metrics of every configuration, best first, and costs.

    Values: mean ± half of the 95 % t interval. Bold: significantly better than every other row; daggers: significantly
    worse (or better) than the best row, or than a study's baseline.
    """
    parts = ["% Rewritten by each bench report. Include this file, and load the package booktabs."]
    for place, board in enumerate(boards, start=1):
        parts += [_table(board, nfe, f"tab:results-{place}-nfe{nfe}") for nfe in board.nfes]
    return "\n\n".join(parts) + "\n"


def _table(board: Board, nfe: int, label: str) -> str:
    names = names_of(board)
    header = [*names, "seeds", *(_heading(metric) for metric in board.metrics)]
    rows = [row for row in board.rows if row.nfe == nfe]
    first = board.metrics[0]
    rows.sort(key=lambda row: (row.ranks[first].place is None, row.ranks[first].place or 0))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_caption(board, nfe)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{'l' * len(names)}{'r' * (1 + len(board.metrics))}}}",
            r"\toprule",
            _line(header),
            r"\midrule",
            *(_line(_cells(board, row, names)) for row in rows),
            *_references(board, len(names)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _heading(metric: str) -> str:
    title, basis = metric_title(metric)
    return escape(f"{title}{f' ({basis})' if basis else ''}{ARROWS[direction(metric)]}")


def _cells(board: Board, row: Row, names: Sequence[str]) -> list[str]:
    entry = row.entry
    versions = {other.version for other in board.entries if other.method == entry.method}
    method = entry.method if len(versions) == 1 else f"{entry.method} v{entry.version}"
    words = {"method": method, "variant": entry.variant, "group": entry.group}
    shown = [escape(last_keys(words[name])) for name in names]
    counts = {kind: count for kind, count in entry.seeds.items() if kind != "finished"}
    seeds = ", ".join([str(entry.seeds.get("finished", 0)), *(f"{count} {kind}" for kind, count in counts.items())])
    return [*shown, seeds, *(_value(board, row, metric) for metric in board.metrics)]


def _value(board: Board, row: Row, metric: str) -> str:
    score, contest = row.scores[metric], board.contests[row.nfe, metric]
    if not score.n:
        return "diverged" if score.lost else "--"
    half = "" if score.half_width is None else f" ± {number(score.half_width, score.mean)}"
    text = escape(number(score.mean, score.half_width or 0.0) + half)
    if metric in row.best:
        return rf"\textbf{{{text}}}"
    return text + _mark(rivals(contest).get(row.entry.label))


def _mark(rival: Rival | None) -> str:
    if rival is None:
        return ""
    return WORSE if rival.worse else BETTER if rival.better else ""


def _references(board: Board, columns: int) -> list[str]:
    """The baselines of real data and noise, below a rule."""
    lines = []
    for what, name in (("halves", "real vs real"), ("noise", "noise")):
        values = [board.reference.get((what, metric)) for metric in board.metrics]
        if any(value is not None for value in values):
            shown = ["--" if value is None else escape(number(value)) for value in values]
            lines.append(_line([name, *[""] * columns, *shown]))
    return [r"\midrule", *lines] if lines else []


def _caption(board: Board, nfe: int) -> str:
    reference = escape(board.baseline or "the best mean of the column")
    sentences = [
        f"Results on {escape(board.benchmark)} at NFE {nfe}:",
        r"mean over training seeds $\pm$ half of the 95\,\% t interval.",
        r"Bold: significantly better than every other row (family-wise 95\,\%, paired on common seeds).",
        f"{WORSE}: significantly worse than {reference}.",
    ]
    if board.baseline:
        sentences.append(f"{BETTER}: significantly better than {reference}.")
    if board.common:
        sentences.append(f"All with {escape(', '.join(map(last_keys, board.common)))}.")
    return " ".join(sentences)
