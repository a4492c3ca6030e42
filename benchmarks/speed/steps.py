"""The suite's own training step, with the loop around it and without."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..common.seeding import generator
from ..config.compose import Cell
from ..config.schema import RunConfig
from ..data.base import Dataset
from ..data.registry import load_dataset
from ..training import ema
from ..training.ddp import Replica
from ..training.model import build_model
from ..training.optimizer import clip_gradients, gradient_norm, make_optimizer
from ..training.trainer import Trainer

Step = Callable[[], object]


def load_datasets(cells: Sequence[Cell]) -> dict[str, Dataset]:
    """The data set of each cell, by the cell's id. Cells with the same settings of data share one."""
    loaded = {config: load_dataset(config) for config in {cell.config.data for cell in cells}}
    return {cell.id: loaded[cell.config.data] for cell in cells}


def trainer_step(config: RunConfig, dataset: Dataset, device: torch.device, folder: Path) -> Step:
    """One turn of the training loop, all that it writes included, apart from checkpoints.

    folder: an empty one, which receives its files.
    """
    folder.mkdir(parents=True)
    trainer = Trainer(config, build_model(config, dataset, device), folder)
    trainer.resume()

    def step() -> None:
        trainer.train_window(lambda: False)
        trainer.log()
        trainer.run_hooks()
        trainer.save_snapshots()

    return step


def bare_step(config: RunConfig, dataset: Dataset, device: torch.device) -> Step:
    """The same computation without the loop around it: no addressed random streams, order of data, checks or log."""
    model = build_model(config, dataset, device)
    average = model.averaged()
    weights = model.weights.train()
    parameters = list(weights.parameters())
    optimizer = make_optimizer(config.train, weights)
    averages = ema.Averages(config.train, weights, average.weights)
    replica = Replica(model, average.denoiser(evaluating=True), compile=config.train.compile)
    noise, numbers = generator("speed", device=device), itertools.count(1)
    micro_batch = config.run.micro_batch or config.train.batch

    def step() -> None:
        index = torch.randint(len(model.bank), (config.train.batch,), device=device)
        replica.forward_backward(index, 0.0, noise, micro_batch)
        clip_gradients(parameters, gradient_norm(parameters), config.train.clip)
        optimizer.step()
        averages.update(next(numbers), config.train.batch)
        optimizer.zero_grad(set_to_none=True)

    return step
