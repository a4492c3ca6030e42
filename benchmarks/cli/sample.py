"""`bench sample`: samples of a finished cell as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import UsageError
from . import options
from .cells import find

app = typer.Typer()


@app.command()
def sample(
    cell: options.Cell,
    out: Annotated[Path, typer.Option("--out", help="New folder, .zip file (both: PNG in EDM's layout) or .npz file.")],
    include: options.Include = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of samples.")] = 64,
    nfe: Annotated[int, typer.Option("--nfe", min=1, help="Sampling steps.")] = 1,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Sampling seed. 0: the first samples that were scored.")
    ] = 0,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that holds all runs.")] = Path("runs"),
    device: options.Device = "auto",
) -> int:
    """Draw samples from the final weights of a finished cell. The same command writes the same bytes."""
    run = find(cell, runs)
    if run is None:
        raise UsageError(f"no cell {cell!r} in {runs}: name its folder or its id; `bench status` lists them")
    from ..common.devices import check_device
    from ..evaluation.export import load
    from ..evaluation.sample import NotFiniteError
    from ..evaluation.sample_files import write_samples

    check_device(device)
    model = load(run, device)
    method = model.sampler.model.method
    try:
        method.sampler.check_nfe(method.times, nfe)
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        write_samples(out, model.batches(n, nfe, seed), model.sampler.dataset.shape, n)
    except NotFiniteError as error:
        raise UsageError(f"{run.path} at NFE {nfe}: {error}") from None
    print(f"{n} samples at NFE {nfe}, sampling seed {seed}: {out}")
    return 0
