"""What a grid of cells is going to cost: measured on finished cells where there are any, else counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.compose import Cell
from ..runs.folder import find_cells

if TYPE_CHECKING:
    from ..training.cost import Footprint

Costs = dict[tuple[str, str], float]


def measured_costs(out: Path) -> Costs:
    """Device-seconds of training an image, by benchmark and method, of the finished cells in `out`."""
    costs = {}
    for files in find_cells(out):
        compute, attempts = files.run["compute"], files.run["attempts"]
        if files.status["state"] == "done" and compute.get("images") and attempts:
            key = (files.identity["benchmark"], files.identity["method"])
            processes = attempts[-1].get("processes") or 1
            costs[key] = processes * compute["train_seconds"] / compute["images"]
    return costs


def cost_lines(pending: Sequence[Cell], out: Path, tflops: float | None) -> Iterable[str]:
    """Sentences on FLOPs, device-hours, memory and disk. tflops: that the cluster's file says a device sustains."""
    from ..data.registry import load_dataset
    from ..training.cost import footprint

    first = {cell.config["cell"]["group"]: cell for cell in pending}
    counts = Counter(cell.config["cell"]["group"] for cell in pending)
    sizes = {group: footprint(cell.config, load_dataset(cell.config)) for group, cell in first.items()}
    flops = sum(counts[group] * size.flops for group, size in sizes.items())
    disk = sum(counts[group] * size.disk for group, size in sizes.items())
    yield f"training: {flops:.3g} FLOPs for {len(pending)} cell{'s' * (len(pending) != 1)}"
    yield f"device-hours: {_hours(pending, out, flops, tflops)}"
    yield _memory(max(sizes.values(), key=lambda size: size.memory))
    yield f"disk: about {_bytes(disk)} for weights and optimisers, less than a tenth of that for the rest"


def _hours(pending: Sequence[Cell], out: Path, flops: float, tflops: float | None) -> str:
    costs = measured_costs(out)
    keys = {cell.name: (cell.config["cell"]["benchmark"], cell.method) for cell in pending}
    lacking = sorted(
        {f"{method} on {benchmark}" for benchmark, method in keys.values() if (benchmark, method) not in costs}
    )
    if not lacking:
        seconds = sum(costs[keys[cell.name]] * cell.config["train"]["images"] for cell in pending)
        return f"{seconds / 3600:.3g} of training, where it is as fast as in the finished cells of {out}"
    if tflops is not None:
        return f"{flops / tflops / 1e12 / 3600:.3g} of training at the {tflops:g} TFLOP/s of the cluster's file"
    return (
        f"not known: {out} has no finished cell of {', '.join(lacking)}, and the cluster's file does not say how fast "
        "its devices are (tflops)"
    )


def _memory(size: Footprint) -> str:
    state, activations, data = map(_bytes, (size.state, size.activations, size.data))
    parts = f"{state} of weights, gradients, averages and optimiser, {activations} of activations, {data} of data"
    return f"memory of a device in training: about {_bytes(size.memory)} ({parts}), and what the libraries take"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
