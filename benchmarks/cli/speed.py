"""`bench speed`: training and the evaluator against other programs that do the same, on this machine."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .json_output import print_json

if TYPE_CHECKING:
    import torch

    from ..config.compose import Cell
    from ..metrics.speed import Comparison
    from ..speed.contest import Spread
    from ..speed.sample import Row
    from ..speed.train import Result

Rounds = Annotated[int, typer.Option("--rounds", min=2, help="Timed calls of each program.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: all cores.")]

app = typer.Typer(name="speed", help="Measure speed on this machine.", no_args_is_help=True)


@app.command()
def train(
    settings: options.Settings = None,
    methods: options.Methods = "ect",
    rounds: Rounds = 15,
    threads: Threads = None,
    plain: Annotated[bool, typer.Option("--plain/--no-plain", help="Time a loop as in published codes.")] = True,
    bare: Annotated[bool, typer.Option("--bare", help="Time the step without the suite's loop around it.")] = False,
    peer: Annotated[Path | None, typer.Option("--peer", help="A checkout of sony/vct, whose code is run.")] = None,
    json: options.Json = False,
) -> int:
    """Compare the training step with a plain loop, and with a published code.

    Programs run in turn, in one process. Swept settings are programs of their own: train.compile=false,true.
    """
    from ..common.precision import repeatable
    from ..speed.train import compare

    cells, device = _prepared(methods, settings, threads)
    programs = [name for name, wanted in (("plain", plain), ("bare", bare)) if wanted]
    with tempfile.TemporaryDirectory() as folder, repeatable(device):
        result = compare(cells, programs, peer, rounds, device, Path(folder))
    asked = {"methods": methods, "settings": settings or [], "rounds": rounds}
    _show(device, asked, dataclasses.asdict(result), _lines(result), json=json)
    return 0


@app.command()
def sample(
    settings: options.Settings = None,
    methods: options.Methods = "ect",
    rounds: Rounds = 15,
    threads: Threads = None,
    json: options.Json = False,
) -> int:
    """Measure images per second of sampling at each eval.nfe, and of the features of eval.metrics.

    Programs run in turn, in one process, on batches of eval.batch images. Weights are the initial ones.
    """
    from ..common.precision import repeatable
    from ..speed.sample import measure

    cells, device = _prepared(methods, settings, threads)
    with repeatable(device):
        rows = measure(cells, rounds, device)
    asked = {"methods": methods, "settings": settings or [], "rounds": rounds}
    _show(device, asked, {"rows": [dataclasses.asdict(row) for row in rows]}, _sampling_lines(rows), json=json)
    return 0


def _prepared(methods: str, settings: list[str] | None, threads: int | None) -> tuple[list[Cell], torch.device]:
    """The cells to time, checked, and their device; this process uses so many threads."""
    import torch

    from ..common.devices import limit_threads, pick_device
    from ..config.compose import compose_cells, parse_methods
    from ..execution.preflight import check_cells

    cells = compose_cells(parse_methods(methods), [0], settings or [], partial(print, file=sys.stderr))
    check_cells(cells)
    limit_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    return cells, pick_device(cells[0].config.run.device)


def _show(
    device: torch.device, asked: dict[str, object], result: dict[str, object], lines: Iterable[str], *, json: bool
) -> None:
    """Print a result with the machine that it was measured on, as JSON or as lines."""
    import torch

    from ..common.system import hardware

    machine = {**hardware(), "device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if json:
        print_json({"machine": machine, **asked, **result})
    else:
        print(f"{machine['cpu']}, {machine['threads']} threads, {device}, torch {torch.__version__}")
        print("\n".join(lines))


def _sampling_lines(rows: Sequence[Row]) -> Iterator[str]:
    width = max(len(row.program) for row in rows)
    yield f"{'method':<8} {'program':<{width}} {'images':>7} {'ms a batch':>22} {'images/s':>9} {'times as long':>20}"
    for row in rows:
        yield (
            f"{row.method:<8} {row.program:<{width}} {row.images:>7} {_spread(row.milliseconds):>22} {row.rate:>9.4g} "
            f"{_spread(row.cost):>20}"
        )
    yield "Medians of the rounds, with quartiles in brackets; times as long as the first program of a method."


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
