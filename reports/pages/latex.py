"""`leaderboard.tex` and `ablations/*.tex`: the tables of a report for LaTeX, with booktabs and marks of significance.

Every text from records is escaped. The document that includes the file loads the package booktabs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...benchmarks.common.text import plain
from ...benchmarks.metrics.registry import direction
from ..analysis.ablations import Ablation, Point
from ..analysis.formatting import ARROWS, last_keys, metric_title, number
from ..analysis.rivals import Rival, rivals
from ..analysis.statistics import Interval
from ..analysis.tables import Board, Row
from .ablations import differs, has_penalty, title, value_name
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
    "–": r"\textendash{}",  # two hyphens are kept apart
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "∞": r"$\infty$",
    "…": r"\ldots{}",
    **{character: f"\\{character}" for character in "#$%&_"},
}
WORSE, BETTER, OTHER = r"$^{\dagger}$", r"$^{\ddagger}$", r"$^{\ast}$"
HEAD = "% Rewritten by each bench report. Include this file, and load the package booktabs."


def escape(text: str) -> str:
    """A text on one line as LaTeX shows it literally."""
    # Two hyphens would become a dash.
    return "".join(SPECIAL.get(character, character) for character in plain(text)).replace("--", "-{}-")


def leaderboard_tex(boards: Iterable[Board]) -> str:
    """A table for each ranking and NFE: all metrics of every configuration, best first, and costs.

    Values: mean ± half of the 95 % t interval. Bold: significantly better than every other row; daggers: significantly
    worse (or better) than the best row, or than a study's baseline.
    """
    tables = [
        _table(board, nfe, f"tab:results-{place}-nfe{nfe}")
        for place, board in enumerate(boards, start=1)
        for nfe in board.nfes
    ]
    return "\n\n".join([HEAD, *tables]) + "\n"


def ablation_tex(ablation: Ablation, stem: str) -> str:
    """A table for each metric: the values of the swept key with every NFE, and KL where the method has one.

    Asterisk: significantly different from the default, or from the value that stands for it. stem: of the labels.
    """
    board = ablation.board
    tables = [
        _ablation_table(ablation, metric, f"tab:{stem}-{place}") for place, metric in enumerate(board.metrics, start=1)
    ]
    return "\n\n".join([HEAD, *tables]) + "\n"


def _ablation_table(ablation: Ablation, metric: str, label: str) -> str:
    nfes = ablation.board.nfes
    with_penalty = has_penalty(ablation)
    penalty = ["KL"] if with_penalty else []
    rows = []
    for place, point in enumerate(ablation.points):
        seeds = ", ".join(f"{count} {kind}".removesuffix(" finished") for kind, count in point.states.items())
        values = [_point_value(point, nfe, metric) for nfe in nfes]
        rows.append([escape(value_name(ablation, place)), seeds, *values])
        if with_penalty:
            rows[-1].append("--" if point.penalty is None else _interval(point.penalty))
    reference = escape(value_name(ablation, ablation.reference))
    fixed = [f"{key}={value.text}" for key, value in ablation.fixed]
    caption = [
        f"{escape(title(ablation))}: {_heading(metric)},",
        r"mean over training seeds $\pm$ half of the 95\,\% t interval.",
        rf"{OTHER}: significantly different from {reference} (family-wise 95\,\% per column, paired on common seeds).",
        *([f"With {escape(', '.join(map(last_keys, fixed)))}."] if fixed else []),
        *(["KL: divergence of the noise posterior from the standard normal, in nats per sample."] if penalty else []),
    ]
    header = [escape(ablation.factor.name), "seeds", *(f"NFE {nfe}" for nfe in nfes), *penalty]
    return _tabular(" ".join(caption), label, f"ll{'r' * (len(header) - 2)}", header, [_line(row) for row in rows])


def _point_value(point: Point, nfe: int, metric: str) -> str:
    score = point.scores.get((nfe, metric))
    if score is None or not score.n:
        return "diverged" if score is not None and score.lost else "--"
    found = (point.differences or {}).get((nfe, metric))
    return _interval(score) + (OTHER if found is not None and found.interval.n and differs(found, metric) else "")


def _interval(score: Interval) -> str:
    half = "" if score.half_width is None else f" ± {number(score.half_width, score.mean)}"
    return escape(number(score.mean, score.half_width or 0.0) + half)


def _table(board: Board, nfe: int, label: str) -> str:
    names = names_of(board)
    header = [*names, "seeds", *(_heading(metric) for metric in board.metrics)]
    rows = [row for row in board.rows if row.nfe == nfe]
    first = board.metrics[0]
    rows.sort(key=lambda row: (row.ranks[first].place is None, row.ranks[first].place or 0))
    lines = [*(_line(_cells(board, row, names)) for row in rows), *_references(board, len(names))]
    columns = "l" * len(names) + "r" * (1 + len(board.metrics))
    return _tabular(_caption(board, nfe), label, columns, header, lines)


def _tabular(caption: str, label: str, columns: str, header: Sequence[str], lines: Sequence[str]) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _line(header),
            r"\midrule",
            *lines,
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
    text = _interval(score)
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
        sentences.append(f"Common to all: {escape(', '.join(map(last_keys, board.common)))}.")
    return " ".join(sentences)
