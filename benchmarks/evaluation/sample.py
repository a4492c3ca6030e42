"""Samples for evaluation, from latents that all methods share.

A sampling seed fixes latents and labels; records call it `draw`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...methods.parts.samplers import guided
from ..common.precision import float32_products
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


@dataclass(frozen=True, repr=False)
class Sampler:
    """Samples of a model by the sections `sample` and `eval` of its configuration.

    guide: the earlier snapshot, where sampling is guided.
    """

    config: RunConfig
    model: Model
    dataset: Dataset
    guide: Model | None = None

    def sample(
        self, n: int, nfe: int, labels: ArrayLike | None = None, latents: ArrayLike | None = None, seed: int = 0
    ) -> Tensor:
        """Draw n samples with nfe network calls each. The same arguments give the same samples, on the same device.

        Without labels and latents, they are those of `bench sample`; the first ones are those that were scored.

        Args:
            n: Number of samples.
            nfe: Sampling steps.
            labels: Classes [n] from 0 on, for a conditional model. Default: drawn as for the evaluation.
            latents: Standard normal noise [n, C, H, W] (points: [n, 2]) that the first step starts from. Default:
                fixed by the benchmark and `seed`, as is the noise of further steps.
            seed: The sampling seed.

        Returns:
            Images, uint8 [n, C, H, W], or points, float32 [n, 2], on the CPU.

        Raises:
            ValueError: An argument is out of range, or the model has diverged.
        """
        for name, value, least in (("n", n, 1), ("nfe", nfe, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name} is {value}, must be at least {least}")
        self.model.method.sampler.check_nfe(self.model.method.times, nfe)
        noise, classes = self.noise(seed, nfe, range(n)), self.classes(seed, range(n))
        if latents is not None:
            given = torch.as_tensor(latents)
            if given.shape != noise[0].shape:
                raise ValueError(f"latents have shape {list(given.shape)}, must have {list(noise[0].shape)}")
            noise[0] = given
        if labels is not None:
            classes = self._checked(torch.as_tensor(labels), n)
        with torch.no_grad(), float32_products(tf32=False):
            return self.from_noise(noise, classes, self.config.eval.batch)

    def draw(self, seed: int, nfe: int, rows: range, batch: int) -> Tensor:
        """The samples numbered `rows` of a sampling seed, as the data set stores them (uint8 images, or points).

        On the CPU, computed in batches of `batch`. Raises NotFiniteError where the network gives values that are not
        finite.
        """
        return self.from_noise(self.noise(seed, nfe, rows), self.classes(seed, rows), batch)

    def noise(self, seed: int, nfe: int, rows: range) -> Tensor:
        """The latents of these samples, float32 [nfe, rows, *shape]."""
        return latents(self.config.benchmark.name, seed, nfe, len(rows), self.dataset.shape, rows.start)

    def classes(self, seed: int, rows: range) -> Tensor | None:
        """The classes of these samples, int64 [rows]; None for a model without classes."""
        if not self.config.data.conditional:
            return None
        name, distribution = self.config.benchmark.name, self.config.sample.labels
        return sample_labels(name, seed, len(rows), self.dataset, distribution, rows.start)

    def from_noise(self, noise: Tensor, classes: Tensor | None, batch: int) -> Tensor:
        """Samples from given latents, as `draw` returns them."""
        guide = self.guide and Guide(self.guide, self.config.sample.guidance)
        samples = sample(self.model, noise, batch, labels=classes, guide=guide)
        return self.dataset.from_model(samples, truncate=self.config.eval.quantise == "truncate")

    def _checked(self, labels: Tensor, n: int) -> Tensor:
        if not self.config.data.conditional:
            raise ValueError("the model is not conditional, so it takes no labels")
        last = self.dataset.classes - 1
        is_whole = not labels.is_floating_point() and labels.dtype is not torch.bool
        if labels.shape != (n,) or not is_whole or labels.min() < 0 or labels.max() > last:
            raise ValueError(f"labels must be {n} whole numbers from 0 to {last}")
        return labels.long()
