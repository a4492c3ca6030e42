"""Samples for evaluation, from latents that all methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from .data.base import Dataset
from .model import Model
from .seeding import generator

BLOCK = 500


class NotFiniteError(ValueError):
    """The network gives values that are not finite: it has diverged."""


def latents(benchmark: str, draw: int, nfe: int, count: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise [nfe, count, *shape], fixed by (benchmark, draw): no method, seed or batch size enters.

    Drawn on the CPU in blocks of its own, so that the first n samples of a larger request are the same n, the first
    step's noise is common to every number of steps, and every device sees the same numbers.
    """
    steps = []
    for step in range(nfe):
        blocks = [
            torch.randn(BLOCK, *shape, generator=generator("latents", benchmark, draw, step, block))
            for block in range(-(-count // BLOCK))
        ]
        steps.append(torch.cat(blocks)[:count])
    return torch.stack(steps)


def sample(model: Model, dataset: Dataset, noise: Tensor, batch: int, device: torch.device) -> Tensor:
    """Samples as the data set stores them (uint8 images, or points), on the CPU, in batches of `batch`.

    Args:
        noise: [nfe, count, *shape], from `latents`.

    Raises NotFiniteError where the network gives values that are not finite.
    """
    denoise = model.denoiser(evaluating=True)
    parts = []
    for part in noise.split(batch, dim=1):
        samples = model.method.sampler(model.method, denoise, part.to(device)).cpu()
        if not torch.isfinite(samples).all():
            raise NotFiniteError("the network gives samples that are not finite")
        parts.append(dataset.from_model(samples))
    return torch.cat(parts)
