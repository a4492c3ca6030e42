"""The page of an ablation, and what the leaderboard says of it: sentences and table cells for the templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...benchmarks.metrics.registry import direction
from ..analysis.ablations import Ablation, Point
from ..analysis.formatting import ARROWS, NOTHING, number, score_text
from ..analysis.statistics import Interval
from .markdown import Plot, Text, environment


def ablation_page(page: Mapping[str, Any]) -> str:
    """The whole document of what `ablation_content` gives, ending in one newline."""
    return environment().get_template("ablation.md.j2").render(page=page).strip() + "\n"


def ablation_content(ablation: Ablation, plots: Sequence[Plot]) -> dict[str, Any]:
    """Sentences and tables of an ablation, for a template."""
    return {
        "title": title(ablation),
        "setting": _setting(ablation),
        "reading": reading(ablation),
        "tables": [_table(ablation, metric) for metric in ablation.board.metrics],
        "reference": _name(ablation, ablation.reference),
        "penalty": _has_penalty(ablation),
        "plots": plots,
    }


def title(ablation: Ablation) -> str:
    """What is varied, of which method on which benchmark."""
    sampling = f", {ablation.sampling}" if ablation.sampling else ""
    return f"{ablation.factor.key} of {ablation.method} v{ablation.version} on {ablation.board.benchmark}{sampling}"


def listed(ablation: Ablation) -> str:
    """The values in their order, the default marked."""
    return ", ".join(_name(ablation, place) for place in range(len(ablation.points)))


def reading(ablation: Ablation) -> str:
    """Which value is best by the first metric at the lowest NFE, and which differ from the reference for certain."""
    board = ablation.board
    key = board.nfes[0], board.metrics[0]
    sign = direction(key[1])
    met = [point for point in ablation.points if key in point.scores and point.scores[key].n]
    if not met:
        return "No training of these has finished yet."
    best = ""
    if sign:
        point = max(met, key=lambda point: sign * point.scores[key].mean)
        word = "highest" if sign > 0 else "lowest"
        best = f"At NFE {key[0]} the {word} {key[1]} is that of {point.value.text}, {score_text(point.scores[key])}. "
    return best + _apart(ablation, key)


def _apart(ablation: Ablation, key: tuple[int, str]) -> str:
    sign = direction(key[1])
    reference = _name(ablation, ablation.reference)
    paired = [
        (point, point.differences[key])
        for point in ablation.points
        if point.differences is not None and key in point.differences
    ]
    known = [(point, margin) for point, margin in paired if margin.low is not None and margin.high is not None]
    if not known:
        return f"No value has two seeds in common with {reference}: nothing here is certain."
    certain = [(point, margin) for point, margin in known if not (margin.low or 0) <= 0 <= (margin.high or 0)]
    if not certain:
        return f"No value can be told from {reference}: every 95 % interval of a paired difference includes zero."
    words = {0: "differs", 1: "better", -1: "worse"}
    told = [
        f"{point.value.text} ({words[sign * (1 if margin.mean > 0 else -1)]} by {_distance(margin)})"
        for point, margin in certain
    ]
    rest = len(ablation.points) - 1 - len(certain)
    others = f" For the other{f' {rest}' if rest > 1 else ''} it does not." if rest else ""
    return f"The 95 % interval of the paired difference to {reference} excludes zero for {', '.join(told)}.{others}"


def _setting(ablation: Ablation) -> str:
    factor = ablation.factor
    text = f"{factor.key} takes the values {listed(ablation)}; everything else is equal."
    if ablation.fixed:
        text += f" Of what was swept as well: {', '.join(f'{key}={value.text}' for key, value in ablation.fixed)}."
    if factor.along:
        text += f" What changes along with it, and cannot be told from it: {', '.join(factor.along)}."
    if not ablation.is_default:
        text += f" The default was not run here; differences are to {ablation.points[ablation.reference].value.text}."
    return text


def _table(ablation: Ablation, metric: str) -> dict[str, Any]:
    board = ablation.board
    penalty = _has_penalty(ablation) and metric == board.metrics[0]
    reference = ablation.points[ablation.reference].value.text
    header = [ablation.factor.name, "seeds"]
    for nfe in board.nfes:
        header += [f"NFE {nfe}{ARROWS[direction(metric)]}", f"NFE {nfe}: difference to {reference}"]
    return {
        "metric": metric,
        "header": header + ["KL"] * penalty,
        "alignment": [":--", ":--"] + ["--:"] * (2 * len(board.nfes) + penalty),
        "rows": [_row(ablation, place, metric, penalty) for place in range(len(ablation.points))],
    }


def _row(ablation: Ablation, place: int, metric: str, penalty: bool) -> list[Text]:
    point = ablation.points[place]
    cells = [
        Text(_name(ablation, place)),
        Text(", ".join(f"{count} {kind}" for kind, count in point.states.items())),
    ]
    for nfe in ablation.board.nfes:
        score = point.scores.get((nfe, metric))
        cells += [Text(NOTHING if score is None else score_text(score)), _difference(point, (nfe, metric))]
    if penalty:
        cells.append(Text(NOTHING if point.penalty is None else score_text(point.penalty)))
    return cells


def _difference(point: Point, key: tuple[int, str]) -> Text:
    margin = None if point.differences is None else point.differences.get(key)
    if margin is None or not margin.n:
        return Text(NOTHING)
    excludes_zero = margin.low is not None and margin.high is not None and not margin.low <= 0 <= margin.high
    return Text(_margin(margin), "**" if excludes_zero else "")


def _margin(margin: Interval) -> str:
    return f"{'+' if margin.mean > 0 else ''}{_with_half(margin.mean, margin)} (n={margin.n})"


def _distance(margin: Interval) -> str:
    return _with_half(abs(margin.mean), margin)


def _with_half(mean: float, margin: Interval) -> str:
    half = margin.half_width
    return number(mean, half or 0.0) + ("" if half is None else f" ± {number(half, mean)}")


def _name(ablation: Ablation, place: int) -> str:
    default = ablation.is_default and place == ablation.reference
    return ablation.points[place].value.text + (" (default)" if default else "")


def _has_penalty(ablation: Ablation) -> bool:
    return any(point.penalty is not None for point in ablation.points)
