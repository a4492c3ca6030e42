"""`bench run`: compose the cells, run what is not finished, report."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .. import plan
from ..config.compose import Cell, compose_cells, parse_methods, parse_seeds
from ..files import check_writable
from ..records import CellFiles
from .report import check_mlflow_uri
from .status import INTERRUPTED, complaint, current


def run(
    methods: str,
    seeds: str,
    settings: Sequence[str],
    out: Path,
    *,
    jobs: int | None,
    dry_run: bool,
    mlflow: bool,
    mlflow_uri: str | None,
) -> int:
    """Exit status: 0 all done, 1 a cell failed or diverged, 130 interrupted. Raises UsageError for bad input."""
    cells = compose_cells(parse_methods(methods), parse_seeds(seeds), settings)
    check_writable(out)
    check_mlflow_uri(mlflow_uri)
    pending = [cell for cell in cells if not plan.is_finished(cell.path(out), cell.config)]
    if dry_run:
        if pending:
            _check(pending)
        return _show_grid(cells, pending, out)
    if not pending:
        print(f"all {len(cells)} cells are done already" if len(cells) > 1 else "the cell is done already")
        _report(out, mlflow, mlflow_uri)
        return _exit_status(cells, out)

    _check(pending)
    from ...slurm.launch import default_slots, prepare, run_local
    from .progress import watch

    slots = default_slots(len(cells), jobs)
    done = len(cells) - len(pending)
    where = f"{slots.jobs} at once, threads of each: {slots.threads}"
    print(f"cells: {len(cells)}, {done} done, {len(pending)} to run ({where}); output in {out}", flush=True)
    folders = prepare(pending, out)
    with watch(folders, out) as tick:
        interrupted = run_local(folders, slots, tick)
    if interrupted:
        return INTERRUPTED
    _report(out, mlflow, mlflow_uri)
    return _exit_status(cells, out)


def _check(pending: Sequence[Cell]) -> None:
    from ..check import check_cells

    check_cells(pending)


def _show_grid(cells: Sequence[Cell], pending: Sequence[Cell], out: Path) -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"cells: {len(cells)}, {len(pending)} to run", title_justify="left", box=None)
    for column in ("cell", "variant", "state", "images", "estimate"):
        table.add_column(column, justify="right" if column in ("images", "estimate") else "left", overflow="fold")
    costs = _measured_costs(out)
    waiting = {cell.name for cell in pending}
    total = 0.0
    for cell in cells:
        files = CellFiles(cell.path(out))
        state = current(files)["state"] if cell.path(out).exists() else "new"
        config = cell.config
        cost = costs.get((config["cell"]["benchmark"], cell.method))
        estimate = None if cost is None or cell.name not in waiting else cost * config["train"]["images"]
        total += estimate or 0.0
        variant = config["cell"]["variant"] or "-"
        text = "-" if estimate is None else f"{estimate:.0f} s"
        table.add_row(cell.name, variant, state, f"{config['train']['images']:,}", text)
    Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200).print(table)
    if total:
        print(f"estimated training time: {total:.0f} s of one worker, from the finished cells of the same methods")
    return 0


def _measured_costs(out: Path) -> dict[tuple[str, str], float]:
    """Seconds of training an image, of the finished cells in `out`, a benchmark and method."""
    from ..records import find_cells

    costs = {}
    for files in find_cells(out):
        compute = files.run["compute"]
        if files.status["state"] == "done" and compute.get("images"):
            key = (files.identity["benchmark"], files.identity["method"])
            costs[key] = compute["train_seconds"] / compute["images"]
    return costs


def _report(out: Path, mlflow: bool, mlflow_uri: str | None) -> None:
    from .report import show_report

    show_report(out, mlflow=mlflow, mlflow_uri=mlflow_uri)


def _exit_status(cells: Sequence[Cell], out: Path) -> int:
    states = Counter()
    for cell in cells:
        files = CellFiles(cell.path(out))
        states[files.status["state"]] += 1
        if files.status["state"] in ("failed", "diverged"):
            print(complaint(cell.name, files.status, out), file=sys.stderr)
    return 0 if states["done"] == len(cells) else 1
