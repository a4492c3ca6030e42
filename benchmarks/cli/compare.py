"""`bench compare A B`: two methods, runs or sweeps on their common seeds, as tables in the terminal."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ...methods.parts.messages import quoted
from ..common.errors import UsageError, unknown
from ..metrics.registry import direction
from ..runs.archive import runs_behind
from ..runs.damage import Damage
from ..runs.folder import find_cells
from . import options
from .cells import below, no_cells, say_damage
from .json_output import print_json

Name = TypeVar("Name", str, int)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ...reports.analysis.cells import Cell
    from ...reports.analysis.compare import Comparison, Side
    from ...reports.analysis.comparisons import Difference

BETTER, INCONCLUSIVE = "better", "inconclusive"  # the verdicts of reports/analysis/comparisons.py
WIDTH = 80  # of output that does not go to a terminal
MOST_SEEDS = 20  # that are shown one by one
MOST_NAMES = 12  # that an error lists
LONGEST_HEADING = 14

app = typer.Typer()


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A method or configuration, a cell's id, or a folder.")],
    second: Annotated[str, typer.Argument(metavar="B", help="What A is compared with.")],
    out: options.Out = Path("runs"),
    metric: Annotated[str | None, typer.Option("--metric", help="Comma-separated. Default: all in common.")] = None,
    nfe: Annotated[
        str | None,
        typer.Option("--nfe", help="NFE: 1,2, or 35:1 for A at 35 and B at 1. Default: all in common."),
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Compare two methods, runs or sweeps on their common seeds. Print which is significantly better.

    A folder holds runs or published results. Two folders check a reproduction: `bench compare
    reports/results/small-scale runs`. With `--nfe 35:1`, A at 35 network calls is compared with B at one, as in `bench
    compare edm ect --nfe 35:1`.

    Exit status: 0 compared, 1 compared without cells that are damaged, which are named.
    """
    from ...reports.analysis.compare import compare as comparisons
    from ...reports.analysis.compare import evaluated, matches

    damages: list[Damage] = []
    with contextlib.ExitStack() as stack:
        folders = {name: Path(name) for name in (first, second) if Path(name).is_dir()}
        runs = {name: stack.enter_context(runs_behind(folder)) for name, folder in folders.items()}
        own = out if len(folders) == 2 else stack.enter_context(runs_behind(out))
        sides = _find(first, runs, own, damages), _find(second, runs, own, damages)
        status = say_damage(list(dict.fromkeys(damages)), out)
        pairs = matches(*sides, itself=_all_differ(nfe))
        if not pairs:
            raise UsageError(_no_pairs(first, second, *sides))
        nfes = None if nfe is None else _calls(nfe, *evaluated(pairs))
        known = comparisons(pairs, None, nfes)
        if not known:
            raise UsageError(f"{first} and {second} have no values of finished trainings in common; see `bench status`")
        made = comparisons(pairs, _chosen("metric", metric, [item.metric for item in known]), nfes)
        if as_json:
            print_json({"first": first, "second": second, "comparisons": map(_document, made)})
        else:
            _print(made, _headings(first, second), {names: _machines(*cells) for _, names, *cells in pairs})
        return status


def _document(item: Comparison) -> dict[str, object]:
    found = item.difference
    alone, corrected = found.shown()
    facts = {"benchmark": item.benchmark, "names": item.names, "metric": item.metric, "nfe": item.nfe}
    return {
        **facts,
        "higher_is_better": direction(item.metric) > 0,
        "first": item.first,
        "second": item.second,
        "second_nfe": item.second_nfe,
        "headline": item.headline,
        "same_configuration": item.same,
        "seeds": alone.n,
        "unit": "%" if found.log else "",
        "difference": alone.mean,
        "low": alone.low,
        "high": alone.high,
        "corrected_low": corrected.low,
        "corrected_high": corrected.high,
        "p": found.p,
        "corrected_p": found.corrected,
        "improvement": found.improvement,
        "verdict": found.verdict,
        "reason": found.reason,
    }


def _headings(first: str, second: str) -> tuple[str, str]:
    """What the columns are headed with: A and B, or the names of two folders where these tell them apart."""
    if Path(first).is_dir() and Path(second).is_dir():
        for ends in ([Path(name).resolve().name for name in (first, second)], [first, second]):
            short = [name if len(name) <= LONGEST_HEADING else f"…{name[1 - LONGEST_HEADING :]}" for name in ends]
            if short[0] != short[1]:
                return short[0], short[1]
    return "A", "B"


def _find(name: str, folders: Mapping[str, Path], out: Path, damages: list[Damage]) -> Side:
    """What a name stands for: a folder, or in `out` a configuration's name, a method, a group or a cell.

    folders: those of runs behind the names of folders. damages: where damaged cells go, which are left out.
    """
    from ...reports.analysis.cells import survey
    from ...reports.analysis.compare import Side

    if name in folders:
        cells, found = survey(below([folders[name]]))
        damages += found
        return Side.of(cells)
    if not find_cells(out):
        raise no_cells(out)
    cells, found = survey(find_cells(out))
    damages += found
    names = Side.of(cells).names
    ways: list[Callable[[Cell], str]] = [
        lambda cell: names[cell.group],
        lambda cell: cell.method,
        lambda cell: cell.group,
        lambda cell: cell.id,
    ]
    for way in ways:
        if found := [cell for cell in cells if way(cell) == name]:
            return Side.of(found, cells)
    choices = sorted({*names.values()})
    more = f" and {len(choices) - MOST_NAMES} more" if len(choices) > MOST_NAMES else ""
    raise UsageError(f"{unknown('run', name, choices[:MOST_NAMES])}{more}; or a cell's id, or a folder")


def _no_pairs(first: str, second: str, ours: Side, theirs: Side) -> str:
    benchmarks = [", ".join(sorted({cell.benchmark for cell in side.cells})) for side in (ours, theirs)]
    if {cell.run.path.resolve() for cell in ours.cells} == {cell.run.path.resolve() for cell in theirs.cells}:
        return f"{first} and {second} are the same runs: name two that differ"
    if not {cell.benchmark for cell in ours.cells} & {cell.benchmark for cell in theirs.cells}:
        return f"{first} ran on {benchmarks[0]} and {second} on {benchmarks[1]}: only runs of one benchmark compare"
    return (
        f"no configuration of {first} has the name or the settings of one of {second}: name one configuration of each"
    )


def _chosen(kind: str, text: str | None, known: Iterable[Name]) -> list[Name]:
    """The values that an option selects. `known` are those that both sides have."""
    if text is None:
        return list(known)
    names = {str(value): value for value in known}
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    for name in wanted:
        if name not in names:
            raise unknown(kind, name, names)
    return [names[name] for name in wanted]


def _all_differ(text: str | None) -> bool:
    """Whether `--nfe` names two different NFEs in each of its items, so that a run may be compared with itself."""
    items = [part.strip().partition(":") for part in (text or "").split(",") if part.strip()]
    return bool(items) and all(colon and first.strip() != second.strip() for first, colon, second in items)


def _calls(text: str, ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[int, int]]:
    """The NFEs of A and B that `--nfe` selects: `2` for both, `35:1` for one each. ours, theirs: those with values."""
    common = [nfe for nfe in ours if nfe in theirs]
    chosen: list[tuple[int, int]] = []
    for part in (part.strip() for part in text.split(",") if part.strip()):
        first, colon, second = part.partition(":")
        if colon:
            chosen += zip(_chosen("NFE of A", first, ours), _chosen("NFE of B", second, theirs), strict=False)
        else:
            chosen += [(nfe, nfe) for nfe in _chosen("NFE", part, common)]
    if not chosen:
        raise UsageError(f"--nfe is {quoted(text)}, must be numbers such as 1,2, or 35:1 for A at 35 and B at 1")
    return list(dict.fromkeys(chosen))


def _machines(first: Sequence[Cell], second: Sequence[Cell]) -> tuple[str, str]:
    """What the cells of both sides ran on."""
    from ...reports.pages.results import machines

    return machines(first), machines(second)


def _print(
    made: Sequence[Comparison], headings: tuple[str, str], hardware: Mapping[tuple[str, str], tuple[str, str]]
) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDTH)
    for benchmark, names in dict.fromkeys((item.benchmark, item.names) for item in made):
        block = [item for item in made if (item.benchmark, item.names) == (benchmark, names)]
        _print_block(console, block, headings, hardware[names])
    for line in _summary(made):
        console.print(line)


def _print_block(
    console: Console, block: Sequence[Comparison], headings: tuple[str, str], hardware: tuple[str, str]
) -> None:
    """The two sides, the first metric seed by seed, and a table for each metric."""
    first = block[0]
    console.print(first.benchmark)
    for letter, heading, name, values in zip("AB", headings, first.names, (first.first, first.second), strict=True):
        lost = [str(seed) for seed, value in sorted(values.items()) if not math.isfinite(value)]
        diverged = f"; diverged: {', '.join(lost)}" if lost else ""
        place = "" if heading == letter else f"{heading}: "
        console.print(f"  {letter}  {place}{name} (seeds {', '.join(map(str, sorted(values)))}{diverged})")
    if first.same:
        console.print(_reproduction(*hardware))
    console.print()
    common = sorted(first.first.keys() & first.second.keys())
    if common:
        console.print(f"{_titled(first.metric)} {_at(first)}, seed by seed", style="bold")
        table = _table(["seed", *headings, "A − B"])
        for seed in common[:MOST_SEEDS]:
            values = first.first[seed], first.second[seed]
            table.add_row(str(seed), *map(_value, (*values, values[0] - values[1])))
        console.print(table)
        if len(common) > MOST_SEEDS:
            console.print(f"… and {len(common) - MOST_SEEDS} more seeds")
        console.print()
    for metric in dict.fromkeys(item.metric for item in block):
        console.print(f"{_titled(metric)}, means over n common seeds", style="bold")
        table = _table(["NFE", *headings, "A − B (95 % interval)", "n", "P(A better)", "verdict"])
        for item in block:
            if item.metric == metric:
                table.add_row(*_cells(item))
        console.print(table)
        console.print()


def _at(item: Comparison) -> str:
    """`at NFE 1`, or `of A at NFE 35 and B at NFE 1`."""
    if item.nfe == item.second_nfe:
        return f"at NFE {item.nfe}"
    return f"of A at NFE {item.nfe} and B at NFE {item.second_nfe}"


def _reproduction(first: str, second: str) -> str:
    """What differs between two runs of one configuration."""
    ran = f"A ran on {first}, B on {second}" if first != second else f"both ran on {first}"
    return (
        f"A and B are the same configuration: {ran}. Their differences measure hardware, software and nondeterminism, "
        "not methods."
    )


def _titled(metric: str) -> str:
    return metric + {1: " (higher is better)", 0: "", -1: " (lower is better)"}[direction(metric)]


def _table(header: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in header:
        table.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=name != "verdict")
    return table


def _cells(item: Comparison) -> list[str]:
    found = item.difference
    common = [seed for seed in item.first.keys() & item.second.keys() if _both(item, seed)]
    means = [
        math.fsum(own[seed] for seed in common) / len(common) if common else math.nan
        for own in (item.first, item.second)
    ]
    improvement = "–" if found.improvement is None else f"{100 * found.improvement:.0f} %"
    verdict = f"A {found.verdict}" if found.verdict != INCONCLUSIVE else INCONCLUSIVE
    calls = f"{item.nfe}" if item.nfe == item.second_nfe else f"{item.nfe}:{item.second_nfe}"
    return [calls, *map(_value, means), _range(found), str(found.interval.n), improvement, verdict]


def _both(item: Comparison, seed: int) -> bool:
    return math.isfinite(item.first[seed]) and math.isfinite(item.second[seed])


def _range(found: Difference) -> str:
    from ...reports.analysis.formatting import difference_text

    _, shown = found.shown()
    if shown.low is None and not found.log:
        return _value(shown.mean)
    return difference_text(shown, percent=found.log) if shown.n else "–"


def _value(value: float) -> str:
    from ...reports.analysis.formatting import number

    return number(value) if math.isfinite(value) else "–"


def _summary(made: Sequence[Comparison]) -> list[str]:
    """The verdict on the first metric at the lowest NFE, the counts of all verdicts, and what they mean."""
    lines = [_verdict(item) for item in made if item.headline]
    counts = Counter(item.difference.verdict for item in made if not item.headline)
    if rest := counts.total():
        found = {"A better": counts["better"], "B better": counts["worse"], "inconclusive": counts[INCONCLUSIVE]}
        others = f"The other {rest} comparisons are" if rest > 1 else "The other comparison is"
        lines.append(f"{others} exploratory: {', '.join(f'{count} {what}' for what, count in found.items())}.")
    lines.append(
        "Intervals: 95 %, of paired differences, for all configurations of a column at once. Differences of distances: "
        "in per cent of B, means of log ratios. Inconclusive: the interval includes zero, the difference is within "
        "1.3 % of the value, or there are fewer than three common seeds. P(A better), the probability of improvement: "
        "the share of all pairs of seeds in which A is better."
    )
    return lines


def _verdict(item: Comparison) -> str:
    found, (a, b), where = item.difference, item.names, f"At NFE {item.nfe} on {item.benchmark}"
    if item.nfe != item.second_nfe:
        a, b, where = f"{a} at NFE {item.nfe}", f"{b} at NFE {item.second_nfe}", f"On {item.benchmark}"
    elif a == b:
        a, b = f"A ({a})", f"B ({b})"
    if found.verdict == INCONCLUSIVE:
        return f"{where}, the comparison of {a} and {b} in {item.metric} is inconclusive: {found.reason}."
    better, worse = (a, b) if found.verdict == BETTER else (b, a)
    return f"{where}, {better} is significantly better than {worse} in {item.metric}: A − B is {_range(found)}."
