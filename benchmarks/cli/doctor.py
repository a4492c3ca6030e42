"""`bench doctor`: whether this machine has what the suite needs."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

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


@app.command()
def doctor() -> int:
    """Check packages, devices, shipped files and data sets.

    Exit status: 0 all that is needed is there, 1 something is missing.
    """
    needed = [
        _python(),
        *map(_package, PACKAGES),
        _check("torch imports", _torch),
        _check("digits classifier", _digits),
    ]
    for good, text in needed:
        print(f"{'ok     ' if good else 'MISSING'} {text}")
    print(f"info    {count(available_cores(), 'core')}, {_accelerator()}")
    print(f"info    {_fast_training()}")
    for name in ("digits", "toy2d", "fashion_mnist", "cifar10"):
        print(f"info    data set {name}: {_dataset(name)}")
    for label, (program, purpose) in OPTIONAL.items():
        print(f"info    {label}: {shutil.which(program) or 'not found'} (for {purpose})")
    return 0 if all(good for good, _ in needed) else 1


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


def _fast_training() -> str:
    from ..common.devices import bf16_unit
    from ..training.compiled import missing_for_compiling

    if missing := missing_for_compiling():
        return f"train.compile=true needs {missing}"
    unit = bf16_unit()
    with_unit = f", which this CPU multiplies in {unit}" if unit else ""
    return f"faster training of convolutional networks: train.compile=true, train.precision=bf16{with_unit}"


def _dataset(name: str) -> str:
    from ..data.registry import load

    try:
        return f"{len(load(name)):,} samples"
    except UsageError as error:
        return str(error)
