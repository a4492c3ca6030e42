"""The page of an ablation: its sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...benchmarks.metrics.registry import direction
from ..analysis.ablations import Ablation, Point
from ..analysis.formatting import ARROWS, NOTHING, number, score_text
from ..analysis.statistics import Interval
from .text import Plot, Table, Text, render


@dataclass(frozen=True, kw_only=True)
class AblationPage:
    """What the page of an ablation shows. values: in their order, the default marked; reading: which differ."""

    title: str
    values: str
    setting: str
    reading: str
    tables: Sequence[Table]
    reference: str
    penalty: bool
    plots: Sequence[Plot]

    @property
    def markdown(self) -> str:
        """The whole document, ending in one newline."""
        return render("ablation.md.j2", page=self) + "\n"


def ablation_page(ablation: Ablation, plots: Sequence[Plot]) -> AblationPage:
    """Sentences and tables of an ablation."""
    return AblationPage(
        title=title(ablation),
        values=_listed(ablation),
        setting=_setting(ablation),
        reading=_reading(ablation),
        tables=[_table(ablation, metric) for metric in ablation.board.metrics],
        reference=_name(ablation, ablation.reference),
        penalty=_has_penalty(ablation),
        plots=plots,
    )


def title(ablation: Ablation) -> str:
    """What is varied, of which method on which benchmark."""
    sampling = f", {ablation.sampling}" if ablation.sampling else ""
    return f"{ablation.factor.key} of {ablation.method} v{ablation.version} on {ablation.board.benchmark}{sampling}"


def _listed(ablation: Ablation) -> str:
    return ", ".join(_name(ablation, place) for place in range(len(ablation.points)))


def _reading(ablation: Ablation) -> str:
    """Which value is best by the first metric at the lowest NFE, and which differ significantly from the reference."""
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
        score = score_text(point.scores[key])
        best = f"At NFE {key[0]}, the value {point.value.text} has the {word} {key[1]}, {score}. "
    return best + _significant(ablation, key)


def _significant(ablation: Ablation, key: tuple[int, str]) -> str:
    sign = direction(key[1])
    reference = _name(ablation, ablation.reference)
    paired = [(p, p.differences[key]) for p in ablation.points if p.differences and key in p.differences]
    known = [(point, margin) for point, margin in paired if margin.low is not None]
    if not known:
        return f"No value has two seeds in common with {reference}, so no difference can be tested."
    found = [(point, margin) for point, margin in known if margin.excludes_zero]
    if not found:
        return (
            f"No value differs significantly from {reference}: "
            "every 95 % interval of a paired difference includes zero."
        )
    words = {0: "differs", 1: "better", -1: "worse"}
    named = [
        f"{point.value.text} ({words[sign * (1 if margin.mean > 0 else -1)]} by {_distance(margin)})"
        for point, margin in found
    ]
    rest = len(ablation.points) - 1 - len(found)
    others = f" For the other{f' {rest}' if rest > 1 else ''} it includes zero." if rest else ""
    return f"The 95 % interval of the paired difference to {reference} excludes zero for {', '.join(named)}.{others}"


def _setting(ablation: Ablation) -> str:
    factor = ablation.factor
    text = f"{factor.key} takes the values {_listed(ablation)}; everything else is equal."
    if ablation.fixed:
        text += f" Other swept keys are at {', '.join(f'{key}={value.text}' for key, value in ablation.fixed)}."
    if factor.along:
        text += f" These keys change together with it, so their effects cannot be separated: {', '.join(factor.along)}."
    if not ablation.is_default:
        text += f" The default was not run; differences are to {ablation.points[ablation.reference].value.text}."
    return text


def _table(ablation: Ablation, metric: str) -> Table:
    board = ablation.board
    penalty = _has_penalty(ablation) and metric == board.metrics[0]
    reference = ablation.points[ablation.reference].value.text
    header = [ablation.factor.name, "seeds"]
    for nfe in board.nfes:
        header += [f"NFE {nfe}{ARROWS[direction(metric)]}", f"NFE {nfe}: difference to {reference}"]
    rows = [_row(ablation, place, metric, penalty) for place in range(len(ablation.points))]
    return Table(header + ["KL"] * penalty, "ll" + "r" * (2 * len(board.nfes) + penalty), rows, metric)


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
    return Text(_margin(margin), "**" if margin.excludes_zero else "")


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
