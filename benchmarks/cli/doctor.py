"""`bench doctor`: whether this machine has what the suite needs."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..common.errors import UsageError
from ..common.system import available_cores
from ..common.text import count

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib", "hydra-core", "mlflow", "submitit")
OPTIONAL = {
    "sbatch (SLURM)": ("sbatch", "sweeps on a cluster"),
    "chromium": ("chromium", "the browser tests"),
}

app = typer.Typer()


Device = Annotated[
    Literal["cpu", "cuda"] | None,
    typer.Option("--device", help="Examine this device instead: its numbers, its speed. Up to 5 minutes."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="JSON file for what was found. With --device only.")
]
Compiled = Annotated[
    bool,
    typer.Option("--compile", help="Also examine train.compile: up to 20 more minutes. With --device only."),
]


@app.command()
def doctor(device: Device = None, out: Out = None, compile: Compiled = False) -> int:
    """Check packages, devices and data sets, or all of one device.

    With --device, what training needs of that device is examined.

    Exit status: 0 all that is needed is there, 1 something is missing or a check failed.
    """
    if device is not None:
        return _examine(device, out, compiled=compile)
    if compile:
        raise UsageError("--compile needs --device: it examines training on a device")
    if out is not None:
        raise UsageError("--out needs --device: only what is found out about a device is written to a file")
    needed = [
        _python(),
        *map(_package, PACKAGES),
        _check("torch imports", _torch),
        _check("digits classifier", _digits),
    ]
    for good, text in needed:
        print(f"{'ok     ' if good else 'MISSING'} {text}")
    print(f"info    {count(available_cores(), 'core')}, {_accelerator()}")
    print(f"info    {_compiling()}")
    for name in ("digits", "toy2d", "fashion_mnist", "cifar10"):
        print(f"info    data set {name}: {_dataset(name)}")
    for label, (program, purpose) in OPTIONAL.items():
        print(f"info    {label}: {shutil.which(program) or 'not found'} (for {purpose})")
    return 0 if all(good for good, _ in needed) else 1


def _examine(name: str, out: Path | None, *, compiled: bool) -> int:
    from ..common.devices import check_device, pick_device
    from ..common.files import check_writable, write_json
    from ..doctor import table

    check_device(name)
    if out is not None:
        check_writable(out.parent)
    with tempfile.TemporaryDirectory() as folder:
        machine = table.this_machine(pick_device(name), Path(folder))
        print(f"{_accelerator() if name == 'cuda' else 'the CPU, one thread'}, torch {version('torch')}", flush=True)
        records = table.examine(machine, lambda record: print(table.row(record), flush=True), compiled=compiled)
    if out is not None:
        write_json(out, table.document(machine.device, records))
        print(f"written: {out}")
    failed = sum(record.ok is False for record in records)
    print(f"{count(failed, 'check')} failed" if failed else "no check failed")
    return 1 if failed else 0


def _python() -> tuple[bool, str]:
    return sys.version_info >= (3, 11), f"Python {platform.python_version()} (needs 3.11)"


def _package(name: str) -> tuple[bool, str]:
    try:
        return True, f"{name} {version(name)}"
    except PackageNotFoundError:
        return False, f"{name}: pip install -e . -c constraints.txt"


def _check(what: str, probe: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, f"{what}: {probe()}"
    except Exception as error:  # whatever is wrong is reported
        return False, f"{what}: {type(error).__name__}: {error}"


def _torch() -> str:
    torch = importlib.import_module("torch")
    return f"{torch.ones(2).sum().item():.0f} = 1 + 1"


def _digits() -> str:
    from ..metrics.extractors.digits import load_digits_classifier

    load_digits_classifier()
    return "weights are intact"


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{count(torch.cuda.device_count(), 'GPU')}: {torch.cuda.get_device_name()}"
    return "MPS" if torch.backends.mps.is_available() else "no GPU"


def _compiling() -> str:
    from ..common.devices import bf16_unit
    from ..training.compiled import missing_for_compiling

    if missing := missing_for_compiling():
        return f"train.compile=true needs {missing}"
    unit = bf16_unit()
    with_unit = f"; this CPU multiplies bf16 in {unit}" if unit else ""
    return f"`bench speed train` compares train.precision=fp32,bf16 and train.compile=false,true{with_unit}"


def _dataset(name: str) -> str:
    from ..common.devices import pick_device
    from ..config.compose import compose_cells
    from ..data.registry import load

    try:
        samples = f"{len(load(name)):,} samples"
    except UsageError as error:
        return str(error)
    (cell,) = compose_cells(["ect"], [0], [f"benchmark={name}"])
    return f"{samples}; cells run on {pick_device(cell.config.run.device).type}"
