"""Samples for evaluation, from latents that all methods share.

A sampling seed fixes latents and labels; records call it `draw`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...methods.parts.samplers import guided
from ..common.seeding import generator
from ..config.schema import RunConfig
from ..data.base import Dataset
from ..training.model import Model

BLOCK = 500


class NotFiniteError(ValueError):
    """The network returns values that are not finite: it has diverged."""


def latents(benchmark: str, seed: int, nfe: int, count: int, shape: tuple[int, ...], start: int = 0) -> Tensor:
    """Standard normal noise [nfe, count, *shape], fixed by (benchmark, sampling seed).

    It depends on no method, training seed or batch size. Noise is drawn on the CPU in blocks, so that the first n
    samples of a larger request are the same n, the noise of the first step is common to all numbers of steps, and all
    devices get the same numbers. start: the number of the first sample, so that samples can be drawn in batches.
    """

    def block(step: int, number: int) -> Tensor:
        return torch.randn(BLOCK, *shape, generator=generator("latents", benchmark, seed, step, number))

    return torch.stack([_blocks(lambda number, step=step: block(step, number), start, count) for step in range(nfe)])


def sample_labels(benchmark: str, seed: int, count: int, dataset: Dataset, distribution: str, start: int = 0) -> Tensor:
    """The classes to sample, int64 [count], fixed by (benchmark, seed) as the latents are.

    distribution: "data" draws from the data set's labels with replacement, "uniform" gives every class the same
    probability.
    """
    choices = dataset.labels if distribution == "data" else torch.arange(dataset.classes)

    def block(number: int) -> Tensor:
        return torch.randint(len(choices), (BLOCK,), generator=generator("sample labels", benchmark, seed, number))

    return choices[_blocks(block, start, count)]


def _blocks(block: Callable[[int], Tensor], start: int, count: int) -> Tensor:
    """Rows start to start + count of an endless sequence of blocks."""
    first = start // BLOCK
    parts = [block(number) for number in range(first, -(-(start + count) // BLOCK))]
    return torch.cat(parts)[start - first * BLOCK :][:count]


@dataclass(frozen=True)
class Guide:
    """A worse model to extrapolate away from: an earlier snapshot of the same run. Weight 1 has no effect."""

    model: Model
    weight: float


def sample(
    model: Model, noise: Tensor, batch: int, *, labels: Tensor | None = None, guide: Guide | None = None
) -> Tensor:
    """Samples in model units, float32 [count, *shape] on the CPU, computed in batches of `batch`.

    noise: [nfe, count, *shape], from `latents`. labels: [count], from `sample_labels`, for a conditional model.

    Raises NotFiniteError where the network gives values that are not finite.
    """
    denoise, device = model.denoiser(evaluating=True), next(model.network.parameters()).device
    if guide is not None:
        denoise = guided(denoise, guide.model.denoiser(evaluating=True), guide.weight)
    parts = []
    for rows in torch.arange(noise.shape[1]).split(batch):
        wanted = None if labels is None else labels[rows].to(device)
        samples = model.method.sampler(model.method, denoise, noise[:, rows].to(device), wanted).cpu()
        if not torch.isfinite(samples).all():
            raise NotFiniteError("the network gives samples that are not finite")
        parts.append(samples)
    return torch.cat(parts)


@dataclass(frozen=True)
class Sampler:
    """Samples of a model by the sections `sample` and `eval` of its configuration.

    guide: the earlier snapshot, where sampling is guided.
    """

    config: RunConfig
    model: Model
    dataset: Dataset
    guide: Model | None = None

    def draw(self, seed: int, nfe: int, rows: range, batch: int) -> Tensor:
        """The samples numbered `rows` of a sampling seed, as the data set stores them (uint8 images, or points).

        On the CPU, computed in batches of `batch`. Raises NotFiniteError where the network gives values that are not
        finite.
        """
        config, dataset, benchmark = self.config, self.dataset, self.config.benchmark.name
        noise = latents(benchmark, seed, nfe, len(rows), dataset.shape, rows.start)
        labels = None
        if config.data.conditional:
            labels = sample_labels(benchmark, seed, len(rows), dataset, config.sample.labels, rows.start)
        guide = self.guide and Guide(self.guide, config.sample.guidance)
        samples = sample(self.model, noise, batch, labels=labels, guide=guide)
        return dataset.from_model(samples, truncate=config.eval.quantise == "truncate")
