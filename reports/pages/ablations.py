"""The page of an ablation: its sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...benchmarks.metrics.registry import direction
from ..analysis.ablations import Ablation, Point
from ..analysis.comparisons import INCONCLUSIVE, LEAST_COMMON, LEAST_SEEDS, Difference
from ..analysis.formatting import ARROWS, NOTHING, difference_text, score_text
from .text import Plot, Table, Text, render


@dataclass(frozen=True, kw_only=True)
class AblationPage:
    """What the page of an ablation shows.

    values: in their order, the default marked or said to be absent. reading: which differ.
    """

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
        values=_listed(ablation) + ("" if ablation.is_default else f". {_absent(ablation)}"),
        setting=_setting(ablation),
        reading=_reading(ablation),
        tables=[_table(ablation, metric) for metric in ablation.board.metrics],
        reference=value_name(ablation, ablation.reference),
        penalty=has_penalty(ablation),
        plots=plots,
    )


def title(ablation: Ablation) -> str:
    """What is varied, of which method on which benchmark."""
    sampling = f", {ablation.sampling}" if ablation.sampling else ""
    return f"{ablation.factor.key} of {ablation.method} v{ablation.version} on {ablation.board.benchmark}{sampling}"


def _listed(ablation: Ablation) -> str:
    return ", ".join(value_name(ablation, place) for place in range(len(ablation.points)))


def _absent(ablation: Ablation) -> str:
    usual = f", {ablation.factor.usual}," if ablation.factor.usual else ""
    return f"The default{usual} is not among them"


def _reading(ablation: Ablation) -> str:
    """What the table says of the first metric at the first NFE, and where other columns hold a significant difference.

    Which value is best, and which differ significantly from the reference.
    """
    board = ablation.board
    key = board.nfes[0], board.metrics[0]
    met = [point for point in ablation.points if key in point.scores and point.scores[key].n]
    if not met:
        return "No training of these has finished yet."
    return " ".join([*_best(met, key), *_significant(ablation, key), *_elsewhere(ablation)])


def _best(met: Sequence[Point], key: tuple[int, str]) -> list[str]:
    sign = direction(key[1])
    if not sign:
        return []
    ranked = [point for point in met if point.scores[key].n >= LEAST_SEEDS] or met
    point = max(ranked, key=lambda point: sign * point.scores[key].mean)
    word, score = "highest" if sign > 0 else "lowest", score_text(point.scores[key])
    return [f"At NFE {key[0]}, the value {point.value.text} has the {word} mean {key[1]}, {score}."]


def _significant(ablation: Ablation, key: tuple[int, str]) -> list[str]:
    reference = value_name(ablation, ablation.reference)
    paired = [(p, p.differences[key]) for p in ablation.points if p.differences and key in p.differences]
    known = [(point, found) for point, found in paired if found.interval.low is not None]
    if not known:
        return [f"No value has {LEAST_COMMON} seeds in common with {reference}, so no difference can be tested."]
    named = [
        f"{point.value.text} ({'differs' if found.verdict == INCONCLUSIVE else found.verdict}: {_margin(found)})"
        for point, found in known
        if differs(found, key[1])
    ]
    if not named:
        return [f"No value differs significantly from {reference}."]
    return [f"Significantly different from {reference}: {', '.join(named)}."]


def _elsewhere(ablation: Ablation) -> list[str]:
    """The other columns with a significant difference, which were not chosen in advance."""
    board = ablation.board
    named = [
        f"{metric} at NFE {nfe} ({', '.join(values)})"
        for metric in board.metrics
        for nfe in board.nfes
        if (nfe, metric) != (board.nfes[0], board.metrics[0])
        and (
            values := [
                point.value.text
                for point in ablation.points
                if point.differences
                and (nfe, metric) in point.differences
                and differs(point.differences[nfe, metric], metric)
            ]
        )
    ]
    return [f"Exploratory columns with significant differences: {', '.join(named)}."] if named else []


def _setting(ablation: Ablation) -> str:
    factor = ablation.factor
    text = f"{factor.key} takes the values {_listed(ablation)}; everything else is equal."
    if ablation.fixed:
        text += f" Other swept keys are at {', '.join(f'{key}={value.text}' for key, value in ablation.fixed)}."
    if factor.along:
        text += f" These keys change together with it, so their effects cannot be separated: {', '.join(factor.along)}."
    if not ablation.is_default:
        text += f" {_absent(ablation)}; differences are to {ablation.points[ablation.reference].value.text}."
    return text


def _table(ablation: Ablation, metric: str) -> Table:
    board = ablation.board
    penalty = has_penalty(ablation) and metric == board.metrics[0]
    reference = ablation.points[ablation.reference].value.text
    header = [ablation.factor.name, "seeds"]
    for nfe in board.nfes:
        header += [f"NFE {nfe}{ARROWS[direction(metric)]}", f"NFE {nfe}: difference to {reference}"]
    rows = [_row(ablation, place, metric, penalty) for place in range(len(ablation.points))]
    return Table(header + ["KL"] * penalty, "ll" + "r" * (2 * len(board.nfes) + penalty), rows, metric)


def _row(ablation: Ablation, place: int, metric: str, penalty: bool) -> list[Text]:
    point = ablation.points[place]
    cells = [
        Text(value_name(ablation, place)),
        Text(", ".join(f"{count} {kind}" for kind, count in point.states.items())),
    ]
    for nfe in ablation.board.nfes:
        score = point.scores.get((nfe, metric))
        cells += [Text(NOTHING if score is None else score_text(score)), _difference(point, (nfe, metric))]
    if penalty:
        cells.append(Text(NOTHING if point.penalty is None else score_text(point.penalty)))
    return cells


def _difference(point: Point, key: tuple[int, str]) -> Text:
    found = None if point.differences is None else point.differences.get(key)
    if found is None or not found.interval.n:
        return Text(NOTHING)
    return Text(_margin(found), "**" if differs(found, key[1]) else "")


def differs(found: Difference, metric: str) -> bool:
    """Whether a difference is significant; without a better direction, whether its interval excludes zero."""
    if direction(metric):
        return found.verdict != INCONCLUSIVE
    return found.p is not None and found.adjusted.excludes_zero


def _margin(found: Difference) -> str:
    """Always with its sign, and with the number of common seeds."""
    _, adjusted = found.shown()
    text = difference_text(adjusted, percent=found.log)
    sign = "+" if adjusted.mean > 0 and not found.log else ""
    return sign + text + (f" (n={adjusted.n})" if adjusted.low is not None else "")


def value_name(ablation: Ablation, place: int) -> str:
    """The value of a point, and whether it is the default."""
    default = ablation.is_default and place == ablation.reference
    return ablation.points[place].value.text + (" (default)" if default else "")


def has_penalty(ablation: Ablation) -> bool:
    """Whether any of its methods has a KL divergence to show."""
    return any(point.penalty is not None for point in ablation.points)
