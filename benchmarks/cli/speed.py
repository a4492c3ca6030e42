"""`bench speed`: training and the evaluator against other programs that do the same, on this machine."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .json_output import print_json

if TYPE_CHECKING:
    from ..metrics.speed import Comparison
    from ..speed.contest import Spread
    from ..speed.train import Result

app = typer.Typer(name="speed", help="Measure speed on this machine.", no_args_is_help=True)


@app.command()
def train(
    settings: options.Settings = None,
    methods: options.Methods = "ect",
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Timed steps of each program.")] = 15,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: all cores.")] = None,
    plain: Annotated[bool, typer.Option("--plain/--no-plain", help="Time a loop as in published codes.")] = True,
    bare: Annotated[bool, typer.Option("--bare", help="Time the step without the suite's loop around it.")] = False,
    peer: Annotated[Path | None, typer.Option("--peer", help="A checkout of sony/vct, whose code is run.")] = None,
    json: options.Json = False,
) -> int:
    """Compare the training step with a plain loop, and with a published code.

    Programs run in turn, in one process. Swept settings are programs of their own: train.compile=false,true.
    """
    import torch

    from ..common.devices import limit_threads, pick_device
    from ..common.precision import repeatable
    from ..common.system import hardware
    from ..config.compose import compose_cells, parse_methods
    from ..execution.preflight import check_cells
    from ..speed.train import compare

    cells = compose_cells(parse_methods(methods), [0], settings or [], partial(print, file=sys.stderr))
    check_cells(cells)
    limit_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    device = pick_device(cells[0].config.run.device)
    programs = [name for name, wanted in (("plain", plain), ("bare", bare)) if wanted]
    with tempfile.TemporaryDirectory() as folder, repeatable(device):
        result = compare(cells, programs, peer, rounds, device, Path(folder))
    machine = {**hardware(), "device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if json:
        asked = {"methods": methods, "settings": settings or [], "rounds": rounds}
        print_json({"machine": machine, **asked, **dataclasses.asdict(result)})
    else:
        print(f"{machine['cpu']}, {machine['threads']} threads, {device}, torch {torch.__version__}")
        print("\n".join(_lines(result)))
    return 0


def _lines(result: Result) -> Iterator[str]:
    width = max(len(row.program) for row in result.rows)
    yield f"{'method':<8} {'program':<{width}} {'ms a step':>22} {'images/s':>9} {'times faster':>20} {'of peak':>8}"
    for row in result.rows:
        yield (
            f"{row.method:<8} {row.program:<{width}} {_spread(row.milliseconds):>22} {row.rate:>9.4g} "
            f"{_spread(row.ratio):>20} {row.share:>8.0%}"
        )
    yield from (f"{name}: {_spread(value)}" for name, value in result.costs.items())
    peaks = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in result.peaks.items())
    yield f"peak, GFLOPS: {peaks}"
    yield "Medians of the rounds, with quartiles in brackets; times faster than the first program of a method."


def _spread(value: Spread) -> str:
    return f"{value.median:.3g} ({value.low:.3g}–{value.high:.3g})"


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
