"""`bench speed metrics`: compare our evaluator with clean-fid on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from ..metrics.speed import Comparison

app = typer.Typer(name="speed", help="Measure speed on this machine.", no_args_is_help=True)


@app.command()
def metrics(
    images: Annotated[int, typer.Option("--images", min=1, help="Images for the features.")] = 128,
    device: options.Device = "auto",
) -> int:
    """Compare our evaluator with clean-fid: features, distance and memory. Takes minutes on a CPU."""
    import torch

    from ..common.devices import check_device, limit_threads, pick_device
    from ..common.system import hardware
    from ..metrics import speed
    from ..metrics.extractors import weight_files

    check_device(device)
    limit_threads()
    chosen = pick_device(device)
    weight_files.locate("inception")
    found = hardware()
    threads = torch.get_num_threads()
    print(f"{found['cpu']}, {found['cores']} cores, {threads} threads; networks on {chosen}; torch {torch.__version__}")
    print(f"{'':<28} {'ours':>10} {'clean-fid':>10}", flush=True)
    for measure in (lambda: speed.compare_features(images, chosen), speed.compare_distances, speed.compare_memory):
        print(line(measure()), flush=True)
    return 0


def line(row: Comparison) -> str:
    """One row of the table."""
    return f"{f'{row.what}, {row.unit}':<28} {row.ours:>10.3g} {row.clean_fid:>10.3g}"
