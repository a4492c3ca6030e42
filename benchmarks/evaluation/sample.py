"""Samples for evaluation, from latents that all methods share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...methods.parts.samplers import guided
from ..common.seeding import generator
from ..data.base import Dataset
from ..training.model import Model

BLOCK = 500


class NotFiniteError(ValueError):
    """The network gives values that are not finite: it has diverged."""


def latents(benchmark: str, draw: int, nfe: int, count: int, shape: tuple[int, ...], start: int = 0) -> Tensor:
    """Standard normal noise [nfe, count, *shape], fixed by (benchmark, draw): no method, seed or batch size enters.

    Drawn on the CPU in blocks of its own, so that the first n samples of a larger request are the same n, the first
    step's noise is common to every number of steps, and every device sees the same numbers. With `start` it is that of
    the samples from there on: as many as are wanted never have to be in memory at once.
    """

    def block(step: int, number: int) -> Tensor:
        return torch.randn(BLOCK, *shape, generator=generator("latents", benchmark, draw, step, number))

    return torch.stack([_blocks(lambda number, step=step: block(step, number), start, count) for step in range(nfe)])


def sample_labels(benchmark: str, draw: int, count: int, dataset: Dataset, law: str, start: int = 0) -> Tensor:
    """The classes that samples are asked for, int64 [count], fixed by (benchmark, draw) as the latents are.

    law: "data" draws from the data set's labels with replacement, "uniform" gives every class the same chance.
    """
    choices = dataset.labels if law == "data" else torch.arange(dataset.classes)

    def block(number: int) -> Tensor:
        return torch.randint(len(choices), (BLOCK,), generator=generator("sample labels", benchmark, draw, number))

    return choices[_blocks(block, start, count)]


def _blocks(block: Callable[[int], Tensor], start: int, count: int) -> Tensor:
    """Rows start to start + count of an endless sequence of blocks."""
    first = start // BLOCK
    parts = [block(number) for number in range(first, -(-(start + count) // BLOCK))]
    return torch.cat(parts)[start - first * BLOCK :][:count]


@dataclass(frozen=True)
class Guide:
    """A worse model to be led away from: an earlier snapshot of the same run; weight 1 leaves the sampler alone."""

    model: Model
    weight: float


def sample(
    model: Model,
    dataset: Dataset,
    noise: Tensor,
    batch: int,
    device: torch.device,
    *,
    labels: Tensor | None = None,
    guide: Guide | None = None,
    truncate: bool = False,
) -> Tensor:
    """Samples as the data set stores them (uint8 images, or points), on the CPU, in batches of `batch`.

    Args:
        noise: [nfe, count, *shape], from `latents`.
        labels: [count], from `sample_labels`, for a conditional model.
        truncate: cut to whole grey levels instead of rounding.

    Raises NotFiniteError where the network gives values that are not finite.
    """
    denoise = model.denoiser(evaluating=True)
    if guide is not None:
        denoise = guided(denoise, guide.model.denoiser(evaluating=True), guide.weight)
    parts = []
    for rows in torch.arange(noise.shape[1]).split(batch):
        wanted = None if labels is None else labels[rows].to(device)
        samples = model.method.sampler(model.method, denoise, noise[:, rows].to(device), wanted).cpu()
        if not torch.isfinite(samples).all():
            raise NotFiniteError("the network gives samples that are not finite")
        parts.append(dataset.from_model(samples, truncate=truncate))
    return torch.cat(parts)
