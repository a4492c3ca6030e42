"""What a grid of cells will cost: measured on finished cells where possible, counted otherwise."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...slurm.queue import Queue
from ...slurm.status import combine
from ..common.text import count
from ..runs.folder import Run, find_cells
from ..runs.status import State

if TYPE_CHECKING:
    from ..config.compose import Cell
    from ..training.cost import Footprint
    from .run import Grid

Costs = dict[tuple[str, str], float]
#: The state of a finished cell that has files to mend, or metrics to add.
INCOMPLETE = "incomplete"


def show_grid(grid: Grid, *, here: bool) -> None:
    """Print a table of the cells with their states, their device, and their costs where similar cells are finished.

    here: whether they would run on this machine.
    """
    from rich.console import Console
    from rich.table import Table

    title = f"{grid.counts}, {len(grid.pending)} to run"
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    for column in ("cell", "variant", "state", "images", "estimate"):
        table.add_column(column, justify="right" if column in ("images", "estimate") else "left", overflow="fold")
    runs = [Run(cell.path(grid.out)) for cell in grid.cells]
    states = [str(shown.state) for shown in combine(runs, grid.out, (), Queue()).cells]
    costs, pending, total = measured_costs(grid.out), {cell.name for cell in grid.pending}, 0.0
    for cell, run, state in zip(grid.cells, runs, states, strict=True):
        state = state if run.path.exists() else "new"
        if state == State.DONE and cell.name in pending:
            state = INCOMPLETE
        trains = cell.name in pending and state != INCOMPLETE
        cost = costs.get(_key(cell)) if trains else None
        images = cell.config.train.images
        total += (cost or 0.0) * images
        estimate = "-" if cost is None else f"{cost * images:.0f} s"
        table.add_row(cell.name, cell.config.cell.variant or "-", state, f"{images:,}", estimate)
    is_terminal = sys.stdout.isatty()
    Console(soft_wrap=not is_terminal, width=None if is_terminal else 200).print(table)
    print(_device(grid.cells, here=here))
    if total:
        print(f"estimated training time: {total:.0f} s of one worker, from finished cells of the same methods")


def _device(cells: Sequence[Cell], *, here: bool) -> str:
    from ..common.devices import pick_device

    found = []
    for name in dict.fromkeys(cell.config.run.device for cell in cells):
        found.append(f"auto ({pick_device(name).type} here)" if here and name == "auto" else name)
    return f"device: {', '.join(found)} (run.device)"


def measured_costs(out: Path) -> Costs:
    """Device-seconds of training per image, by benchmark and method, of the finished cells in `out`."""
    costs = {}
    for run in find_cells(out):
        compute, attempts = run.history["compute"], run.history["attempts"]
        if run.status.state is State.DONE and compute.get("images") and attempts:
            key = (run.config.cell.benchmark, run.config.cell.method)
            processes = attempts[-1].get("processes") or 1
            costs[key] = processes * compute["train_seconds"] / compute["images"]
    return costs


def cost_lines(pending: Sequence[Cell], out: Path, tflops: float | None) -> Iterable[str]:
    """Sentences on FLOPs, device-hours, memory and disk. tflops: sustained by a device, from the cluster's file."""
    from ..data.registry import describe_dataset
    from ..training.cost import footprint

    first = {cell.config.cell.group: cell for cell in pending}
    counts = Counter(cell.config.cell.group for cell in pending)
    sizes = {group: footprint(cell.config, describe_dataset(cell.config.data)) for group, cell in first.items()}
    flops = sum(counts[group] * size.flops for group, size in sizes.items())
    disk = sum(counts[group] * size.disk for group, size in sizes.items())
    yield f"training: {flops:.3g} FLOPs for {count(len(pending), 'cell')}"
    yield f"device-hours: {_hours(pending, out, flops, tflops)}"
    yield _memory(max(sizes.values(), key=lambda size: size.memory))
    yield f"disk: about {_bytes(disk)} for weights and optimizer states, and less than 10 % of that for other files"


def _key(cell: Cell) -> tuple[str, str]:
    return cell.config.cell.benchmark, cell.method


def _hours(pending: Sequence[Cell], out: Path, flops: float, tflops: float | None) -> str:
    costs = measured_costs(out)
    missing = sorted({f"{method} on {benchmark}" for benchmark, method in set(map(_key, pending)) - costs.keys()})
    if not missing:
        seconds = sum(costs[_key(cell)] * cell.config.train.images for cell in pending)
        return f"{seconds / 3600:.3g} of training, at the speed of the finished cells of {out}"
    if tflops is not None:
        return f"{flops / tflops / 1e12 / 3600:.3g} of training at the {tflops:g} TFLOP/s of the cluster's file"
    return (
        f"unknown: {out} has no finished cell of {', '.join(missing)}, and the cluster's file does not say how fast "
        "its devices are (tflops)"
    )


def _memory(size: Footprint) -> str:
    state, activations, data = map(_bytes, (size.state, size.activations, size.data))
    parts = f"{state} of weights, gradients, averages and optimizer, {activations} of activations, {data} of data"
    return f"memory per device in training: about {_bytes(size.memory)} ({parts}), plus that of the libraries"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
