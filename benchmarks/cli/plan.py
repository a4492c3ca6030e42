"""`bench plan`: which difference a number of seeds can resolve, and how many seeds a wanted difference needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.errors import UsageError
from ..common.text import count
from ..runs.archive import runs_behind
from .cells import below, say_damage

if TYPE_CHECKING:
    from ...reports.analysis.cells import Cell
    from ...reports.analysis.power import Resolution
    from ...reports.analysis.tables import Board

SEEDS = (3, 4, 5, 6, 8, 10, 15, 20, 30)

app = typer.Typer()


@app.command()
def plan(
    folder: Annotated[Path, typer.Argument(metavar="RUNS", help="Folder of finished runs or of results.")] = Path(
        "runs"
    ),
    difference: Annotated[
        float | None,
        typer.Option("--difference", min=0, help="Wanted difference, of distances in %."),
    ] = None,
    configurations: Annotated[
        int | None, typer.Option("--configurations", min=2, help="How many are compared. Default: as in RUNS.")
    ] = None,
    baseline: Annotated[bool, typer.Option("--baseline", help="Compare with one baseline.")] = False,
) -> int:
    """Show which difference a number of seeds can resolve.

    From the spread of finished runs. Resolved: significant with a probability of 80 %. Each benchmark by its first
    metric at the lowest NFE.

    Exit status: 0 all cells are counted, 1 cells are damaged, which are named.
    """
    from ...reports.analysis.cells import survey
    from ...reports.analysis.power import resolution
    from ...reports.analysis.rankings import rankings
    from ...reports.analysis.tables import leaderboard, seed_values

    if difference is not None and not (math.isfinite(difference) and difference > 0):
        raise UsageError(f"--difference is {difference:g}, must be above 0")
    boards = []
    with runs_behind(folder) as runs:
        cells, damages = survey(below([runs]))
        for name in sorted({cell.benchmark for cell in cells}):
            main = rankings([cell for cell in cells if cell.benchmark == name])[0][1]
            board = leaderboard(main, seed_values(main), {})
            if found := resolution(board.contests[board.nfes[0], board.metrics[0]].family):
                boards.append((board, found))
    if not boards:
        raise UsageError(f"{folder} has no benchmark with two configurations with three common seeds")
    for board, found in boards:
        wanted = replace(found, rows=configurations or found.rows, baseline=baseline)
        print("\n".join(_lines(board, found, wanted, difference)))
    return say_damage(damages, folder)


def _lines(board: Board, known: Resolution, wanted: Resolution, difference: float | None) -> Iterator[str]:
    from ...reports.analysis.formatting import number

    unit = " %" if wanted.log else ""
    sd = number(100 * math.expm1(wanted.sd)) if wanted.log else number(wanted.sd)
    hours, kind = _hours(board.cells)
    hours *= wanted.rows / len(board.entries)
    yield (
        f"{board.benchmark}, {board.metrics[0]} at NFE {board.nfes[0]}: from {count(known.rows, 'configuration')} with "
        f"{known.seeds} common seeds"
    )
    erratic = board.contests[board.nfes[0], board.metrics[0]].family.erratic
    without = f", without {', '.join(erratic)}" if erratic else ""
    yield f"standard deviation of a training, apart from configuration and seed{without}: {sd}{unit}"
    pairs = "each against a baseline" if wanted.baseline else "all pairs"
    yield f"{wanted.rows} configurations, {pairs}:"
    yield f"{'seeds':>7}{'detectable difference':>24}{kind:>13}"
    for seeds in SEEDS:
        yield f"{seeds:>7}{number(wanted.difference(seeds)) + unit:>24}{number(hours * seeds) if hours else '–':>13}"
    if difference is not None:
        needed = wanted.seeds_for(difference)
        size = f"A difference of {difference:g}{unit}"
        if needed is None:
            yield f"{size} needs more than 1,000 seeds."
        else:
            cost = f", {number(hours * needed)} {kind}" if hours else ""
            yield f"{size} needs {needed} seeds: {needed * wanted.rows} cells{cost}."


def _hours(cells: Sequence[Cell]) -> tuple[float, str]:
    """Of one seed of all configurations, as measured: of CPU cores, or of GPUs."""
    own: dict[str, list[float]] = {}
    gpu = any(cell.compute.get("device") != "cpu" for cell in cells)
    for cell in cells:
        seconds = cell.compute.get("train_seconds")
        if cell.state == "done" and seconds is not None:
            last = cell.attempts[-1] if cell.attempts else {}
            width = (last.get("processes") or 1) * (1 if gpu else last.get("threads") or 1)
            own.setdefault(cell.group, []).append(seconds * width / 3600)
    return sum(sum(found) / len(found) for found in own.values()), "GPU-hours" if gpu else "core-hours"
