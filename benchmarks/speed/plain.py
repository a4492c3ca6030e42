"""A training step as the published codes of ECT and VCT describe it, with the suite's networks and loss.

Data come from a shuffled loader on the host; weights have PyTorch's default memory format; gradients, averages and the
optimiser are treated tensor by tensor; loss terms are read at every step. float32, eager.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ...methods.loss import draw, loss
from ..common.seeding import generator
from ..config.schema import RunConfig
from ..data.base import Dataset
from ..training.model import Model, build_model
from ..training.optimizer import OPTIMIZERS
from .steps import Step


def plain_step(config: RunConfig, dataset: Dataset, device: torch.device) -> Step:
    """The published step for any method of the suite."""
    recipe = dataclasses.replace(config.train, precision="fp32")
    built = build_model(dataclasses.replace(config, train=recipe), dataset, device)
    network = built.network.to(memory_format=torch.contiguous_format)
    model = dataclasses.replace(built, network=network)
    average = model.averaged().denoiser(evaluating=True) if model.method.coupling.needs_average else None
    batches = host_batches(model, config.train.batch)
    noise = generator("speed", device=device)

    def gradient() -> Tensor:
        index, x, labels = next(batches)
        index, x = index.to(device), x.to(device)
        labels = None if labels is None else labels.to(device)
        drawn = draw(model.method, x, labels, 0.0, noise, index)
        terms = loss(model.method, model.denoiser(), x, labels, 0.0, drawn, average)
        terms.total.backward()
        for value in (terms.total, terms.consistency, terms.penalty):
            value.item()  # logged
        return terms.total

    return with_update(gradient, model.weights.train(), config)


def with_update(gradient: Callable[[], Tensor], weights: nn.Module, config: RunConfig) -> Step:
    """The step that computes a gradient and then updates weights and average, one tensor after another."""
    recipe = config.train
    optimizer = OPTIMIZERS[recipe.optimizer](weights.parameters(), lr=recipe.lr, betas=recipe.betas, foreach=False)  # type: ignore[arg-type]
    average = copy.deepcopy(weights).eval().requires_grad_(False)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        gradient()
        for parameter in weights.parameters():
            if parameter.grad is not None:
                parameter.grad = torch.nan_to_num(parameter.grad, nan=0.0, posinf=0.0, neginf=0.0)
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(weights.parameters(), recipe.clip, foreach=False)
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), weights.parameters(), strict=True):
                mean.copy_(weight.lerp(mean, 0.9999))

    return step


def host_batches(model: Model, batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Endless batches of positions, images in model units and labels, shuffled by a loader on the host."""
    bank = model.bank
    labels = torch.zeros(len(bank), dtype=torch.long) if bank.labels is None else bank.labels.cpu()
    data = TensorDataset(torch.arange(len(bank)), bank.stored(slice(None)).cpu(), labels)
    loader = DataLoader(data, batch, shuffle=True, drop_last=True)
    for index, images, classes in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield index, bank.to_model(images), None if bank.labels is None else classes
