"""`bench diagnose`: the variance of target and gradient by noise level, of snapshots of finished and running cells."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import UsageError
from ..config.schema import DEVICES
from ..runs.folder import CellFiles
from .eval import SNAPSHOTS, find_runs
from .status import INTERRUPTED

if TYPE_CHECKING:
    import torch

    from ..data.base import Dataset
    from ..evaluation.diagnostics import Row, Settings
    from ..training.model import Model

OWN = "own"
SHOWN = ("target_variance", "gradient_variance", "gradient_ratio")


def diagnose(
    runs: Sequence[Path],
    *,
    bins: int,
    samples: int,
    repeats: int,
    weights: str,
    ratio: float | None,
    snapshots: str,
    device: str,
) -> int:
    """Exit status: 0 all rows are there, 1 a cell has no snapshot yet, 130 interrupted.

    runs: folders of cells, or folders above them. Raises UsageError for bad input.
    """
    if snapshots not in SNAPSHOTS:
        raise UsageError(f"--snapshots is {snapshots!r}, must be one of: {', '.join(SNAPSHOTS)}")
    if device not in DEVICES:
        raise UsageError(f"--device is {device!r}, must be one of: {', '.join(DEVICES)}")
    cells = find_runs(runs)
    from ..evaluation.diagnostics import Settings

    try:
        settings = Settings(bins=bins, samples=samples, repeats=repeats, ratio=ratio)
    except UsageError as error:
        raise UsageError(f"--{error}") from None
    try:
        return _measure(cells, settings, weights, snapshots, device)
    except KeyboardInterrupt:
        return INTERRUPTED


def _measure(cells: Sequence[CellFiles], settings: Settings, weights: str, snapshots: str, device: str) -> int:
    """Cell after cell; those of one data set share it."""
    from ..common.devices import check_device, pick_device
    from ..data.registry import load_dataset
    from ..evaluation.diagnostics import add_rows, diagnose, held_rows
    from ..training.checkpoint import kept_snapshots, load_snapshot
    from ..training.model import build_model

    check_device(device)
    shared = None if weights == OWN else _shared(Path(weights))
    where, empty, added = pick_device(device), 0, 0
    datasets: dict[str, Dataset] = {}
    for cell in cells:
        config, kept = cell.config, kept_snapshots(cell.path)
        if not kept:
            print(f"{cell.path}: left out, it has no snapshot yet", file=sys.stderr)
            empty += 1
            continue
        name = "averaged" if shared is None else shared[0]
        wanted = [
            images
            for images in (kept[-1:] if snapshots == "last" else kept)
            if not held_rows(cell.path, images, name, settings)
        ]
        if not wanted:
            continue
        key = repr(config["data"])
        if key not in datasets:
            datasets[key] = load_dataset(config)
        model = build_model(config, datasets[key], where)
        for images in wanted:
            load_snapshot(cell.path, images, model.weights)
            if shared is not None:
                _put(shared, model, cell.path)
            rows = diagnose(config, model, images=images, weights=name, settings=settings)
            add_rows(cell.path, rows)
            added += len(rows)
            print(f"{cell.path}  {images:,} images", *_lines(rows), sep="\n", flush=True)
    if added:
        print("`bench report` puts the new rows into the report")
    else:
        print("all rows are there already" if empty < len(cells) else "there is nothing to diagnose")
    return 1 if empty else 0


def _shared(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """The network that all methods are measured with: a name for it, and its tensors.

    path: a cell's folder, whose last snapshot is taken, or a safetensors file of a snapshot or a network.
    """
    import hashlib

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..training.checkpoint import kept_snapshots, snapshot_path

    file = path
    if (path / "config.yaml").is_file():
        kept = kept_snapshots(path)
        if not kept:
            raise UsageError(f"--weights {path}: the cell has no snapshot yet")
        file = snapshot_path(path, kept[-1])
    if not file.is_file():
        raise UsageError(f"--weights is {path}, must be {OWN}, the folder of a cell, or a safetensors file")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise UsageError(f"--weights {file}: not a safetensors file ({error})") from None
    own = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return f"shared {digest}", own or tensors


def _put(shared: tuple[str, dict[str, torch.Tensor]], model: Model, cell: Path) -> None:
    """Give the model the shared network; the modules of its method (an encoder) stay its own."""
    try:
        model.network.load_state_dict(shared[1])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--weights: that network does not fit {cell} ({reason})") from None


def _lines(rows: Sequence[Row]) -> list[str]:
    """A line for each bin and, above them, what stands in the columns."""
    lines = [f"  {'noise level':>18}" + "".join(f"  {what:>22}" for what in SHOWN)]
    bins: dict[tuple[float, float], dict[str, dict[str, Any]]] = {}
    for row in rows:
        bins.setdefault((row.t_low, row.t_high), {})[row.what] = dataclasses.asdict(row)
    for (low, high), found in bins.items():
        span = f"{low:.3g} to {high:.3g}"
        lines.append(f"  {span:>18}" + "".join(f"  {_text(found[what]):>22}" for what in SHOWN))
    return lines


def _text(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "not defined"
    return f"{row['value']:.3g}" + ("" if row["error"] is None else f" ± {row['error']:.1g}")
