"""Steps of training as the checks take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..common.precision import float32_products
from ..config.schema import RunConfig
from ..training.compiled import missing_for_compiling
from ..training.model import build_model
from ..training.trainer import Trainer
from .check import Machine, NotCheckedError
from .models import dataset

PRECISIONS = ("fp32", "tf32", "bf16")


def precisions(device: torch.device) -> tuple[str, ...]:
    """Those that differ on this device: only CUDA knows TF32."""
    return PRECISIONS if device.type == "cuda" else ("fp32", "bf16")


def in_precision(precision: str) -> AbstractContextManager[None]:
    """The context of training at this `train.precision`."""
    return float32_products(tf32=precision == "tf32")


def require_compiler() -> None:
    """Raise NotCheckedError where this machine lacks what `train.compile` needs."""
    if missing := missing_for_compiling():
        raise NotCheckedError(f"train.compile=true needs {missing}")


def trainer_of(config: RunConfig, machine: Machine, folder: str, size: int = 8, count: int = 60) -> Trainer:
    """A trainer at the start of a cell, or at its checkpoint in that folder. size, count: of the random images."""
    path = machine.folder / folder
    path.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, build_model(config, dataset(size, count), machine.device), path)
    trainer.resume()
    return trainer


def steps(trainer: Trainer, count: int) -> Iterator[Tensor]:
    """Take so many steps; the values of each, on the device, see `StepValues`."""
    for _ in range(count):
        values = trainer.forward_backward(False)
        trainer.step(values[-1])
        yield values
