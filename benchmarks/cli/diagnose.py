"""`bench diagnose`: variance of target and gradient by noise level, from snapshots of finished and running cells."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..common.errors import UsageError
from ..config.plugins import require
from ..runs.folder import Run
from . import options
from .cells import below

if TYPE_CHECKING:
    import torch

    from ..data.base import Dataset
    from ..evaluation.diagnostics import Row, Settings

OWN = "own"
SHOWN = ("target_variance", "gradient_variance", "gradient_ratio")

app = typer.Typer()


class Network(NamedTuple):
    """A network that all methods are measured with: a name for it, and its tensors."""

    name: str
    tensors: dict[str, torch.Tensor]


@app.command()
def diagnose(
    runs: options.Runs,
    include: options.Include = None,
    bins: Annotated[int, typer.Option("--bins", help="Bins of the noise level, evenly spaced in its logarithm.")] = 8,
    samples: Annotated[int, typer.Option("--samples", help="Noisy images per bin, a multiple of --repeats.")] = 512,
    repeats: Annotated[int, typer.Option("--repeats", help="Batches for the gradient's variance, at least 3.")] = 16,
    weights: Annotated[
        str, typer.Option("--weights", help="own, or one network for all: a cell's folder or a safetensors file.")
    ] = OWN,
    ratio: Annotated[float | None, typer.Option("--ratio", help="r / t for all. Default: each method's rule.")] = None,
    effective: Annotated[
        bool, typer.Option("--effective", help="Bin by the noise that x_t carries: fair to learned couplings.")
    ] = False,
    snapshots: options.Snapshots = "last",
    device: options.Device = "auto",
) -> int:
    """Measure the variance of target and gradient by noise level. Images, noise and times are the same for all
    methods.

    Exit status: 0 all rows are there, 1 a cell has no snapshot yet, 130 interrupted.
    """
    cells = below(runs)
    for cell in cells:
        require(cell.config)
    from ..common.devices import check_device, limit_threads, pick_device
    from ..evaluation.diagnostics import Settings

    try:
        settings = Settings(bins=bins, samples=samples, repeats=repeats, ratio=ratio, effective=effective)
    except UsageError as error:
        raise UsageError(f"--{error}") from None
    check_device(device)
    limit_threads()
    shared = None if weights == OWN else _shared(Path(weights))
    measure = _Measurement(settings, shared, pick_device(device), only_last=snapshots == "last")
    added = [measure(cell) for cell in cells]
    if any(added):
        print("`bench report` adds the new rows to the report")
    else:
        print("all rows are there already" if 0 in added else "nothing to diagnose")
    return 1 if None in added else 0


class _Measurement:
    """Measures cell after cell; cells of one data set share it."""

    def __init__(self, settings: Settings, shared: Network | None, device: torch.device, *, only_last: bool) -> None:
        self.settings, self.shared, self.device, self.only_last = settings, shared, device, only_last
        self.datasets: dict[str, Dataset] = {}

    def __call__(self, cell: Run) -> int | None:
        """Adds and prints the missing rows. Returns their number, None if the cell has no snapshot."""
        from ..data.registry import load_dataset
        from ..evaluation.diagnostics import add_rows, diagnose, held_rows
        from ..training.checkpoint import kept_snapshots, load_snapshot
        from ..training.model import build_model

        kept, config = kept_snapshots(cell.path), cell.config
        if not kept:
            print(f"{cell.path} is left out: it has no snapshot yet", file=sys.stderr)
            return None
        name = self.shared.name if self.shared else "averaged"
        snapshots = kept[-1:] if self.only_last else kept
        wanted = [images for images in snapshots if not held_rows(cell.path, images, name, self.settings)]
        if not wanted:
            return 0
        key = repr(config.data)
        if key not in self.datasets:
            self.datasets[key] = load_dataset(config.data)
        model = build_model(config, self.datasets[key], self.device)
        added = 0
        for images in wanted:
            load_snapshot(cell.path, images, model.weights)
            if self.shared is not None:
                _load(self.shared, model.network, cell.path)
            rows = diagnose(config, model, images=images, weights=name, settings=self.settings)
            add_rows(cell.path, rows)
            added += len(rows)
            print(f"{cell.path}  {images:,} images", *_lines(rows), sep="\n", flush=True)
        return added


def _shared(path: Path) -> Network:
    """The network of a cell's last snapshot (its folder), or of a safetensors file of a snapshot or a network."""
    import hashlib

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..training.checkpoint import kept_snapshots, snapshot_path

    file = path
    if Run(path).config_file.is_file():
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
    return Network(f"shared {digest}", own or tensors)


def _load(shared: Network, network: torch.nn.Module, cell: Path) -> None:
    """Load the shared network; further modules of the method (an encoder) keep their own weights."""
    try:
        network.load_state_dict(shared.tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--weights: that network does not fit {cell} ({reason})") from None


def _lines(rows: Sequence[Row]) -> list[str]:
    """A header, and one line per bin."""
    lines = [f"  {'noise level':>18}" + "".join(f"  {what:>22}" for what in SHOWN)]
    bins: dict[tuple[float, float], dict[str, Row]] = {}
    for row in rows:
        bins.setdefault((row.t_low, row.t_high), {})[row.what] = row
    for (low, high), found in bins.items():
        span = f"{low:.3g} to {high:.3g}"
        lines.append(f"  {span:>18}" + "".join(f"  {_text(found[what]):>22}" for what in SHOWN))
    return lines


def _text(row: Row) -> str:
    if row.value is None:
        return "not defined"
    return f"{row.value:.3g}" + ("" if row.error is None else f" ± {row.error:.1g}")
