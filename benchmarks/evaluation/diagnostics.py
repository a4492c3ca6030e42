"""How noisy training is, by noise level: the variance of the target, that of the gradient, and the loss.

docs/diagnostics.md defines the quantities. They test claims of papers: that an average over references removes the
variance of the target (SCT, Wang et al. 2024, section 4.1), and that a learned coupling of noise and image lowers the
variance of training (VCT, Silvestri et al. 2025, abstract).

All methods are measured on the same images, noise and times, which depend on (benchmark, seed, bin) alone. Weights are
copied first, so that measuring cannot change a training.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...methods.loss import loss, target_at
from ...methods.parts.base import Draw, Gaussian, LossTerms, Pair
from ...methods.parts.process import Denoise
from ..common.errors import UsageError
from ..common.files import read_jsonl, write_jsonl
from ..common.lock import acquire
from ..common.precision import float32_products
from ..common.seeding import default_generator, generator
from ..config.schema import RunConfig
from ..runs.folder import DIAGNOSTICS
from ..training.model import Model
from .estimators import UNDEFINED, Estimate, conditional_variance, gradient_spread, inner_products, mean_estimate
from .posterior import (
    Points,
    aggregate_variance,
    bank_noise_posterior,
    implied_noise,
    noise_posterior_at,
    posterior_draws,
)

LOWEST = 0.01
"""The cleanest level that is measured; the noisiest is σ_max of the forward process."""

ROUNDING = 4 * torch.finfo(torch.float32).eps
"""Targets whose standard deviation is below this share of their norm are equal."""

POSTERIOR_DRAWS = 4
"""Images that are drawn for every noisy point; the variance of their targets is unbiased for any number from 2 on."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Resolution and precision of the measurement.

    bins: of the noise level, evenly spaced in its logarithm.
    samples: noisy points per bin, for the target and the gradient.
    repeats: batches that these are split into for gradients, of samples / repeats images each.
    ratio: r / t for all methods; None leaves every method its own rule.
    effective: bins are of the noise that x_t carries, t times the root of the aggregate variance of the coupling, not
        of t. Only a learned coupling has an aggregate variance other than 1.
    """

    bins: int = 8
    samples: int = 512
    repeats: int = 16
    ratio: float | None = None
    effective: bool = False

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UsageError(f"bins is {self.bins}, must be at least 1")
        if self.repeats < 3:
            raise UsageError(f"repeats is {self.repeats}, must be at least 3 for a variance with an error")
        if self.samples < self.repeats or self.samples % self.repeats:
            raise UsageError(f"samples is {self.samples}, must be a multiple of repeats ({self.repeats})")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise UsageError(f"ratio is {self.ratio:g}, must be r / t, from 0 to below 1")

    @property
    def batch(self) -> int:
        return self.samples // self.repeats

    @property
    def batches(self) -> list[slice]:
        """The rows of each batch."""
        return [slice(start, start + self.batch) for start in range(0, self.samples, self.batch)]


DURING = Settings(samples=128, repeats=8)
"""What is measured while training goes on (`run.diagnose_every`)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of diagnostics.jsonl.

    images: training images seen. weights: "averaged", "trained" (while training), or those that several methods shared.
    what: target_variance, gradient_variance, gradient_norm2, gradient_ratio, loss or distance, see docs/diagnostics.md.
    value: None where it is not defined (no density of the coupling, a mean gradient lost in noise) or not finite;
    error: its standard error.
    """

    images: int
    weights: str
    ratio: float | None
    bins: int
    samples: int
    repeats: int
    effective: bool
    t_low: float
    t_high: float
    what: str
    value: float | None
    error: float | None


@dataclass(frozen=True)
class Inputs:
    """What all methods are measured on: places of images in the bank int64 [S], levels t [S], noise z [S, ...]."""

    index: Tensor
    t: Tensor
    z: Tensor

    def rows(self, rows: slice) -> Inputs:
        return Inputs(self.index[rows], self.t[rows], self.z[rows])

    def at_noise(self, scale: float, highest: float) -> Inputs:
        """With levels t at which noise of the standard deviation `scale` is what t says here; at most `highest`."""
        return self if scale == 1 else replace(self, t=(self.t / scale).clamp(max=highest * (1 - 1e-6)))


def bin_edges(bins: int, highest: float, lowest: float = LOWEST) -> list[float]:
    """bins + 1 levels from `lowest` to `highest`, evenly spaced in the logarithm."""
    factor = (highest / lowest) ** (1 / bins)
    return [*(lowest * factor**k for k in range(bins)), highest]


def common_inputs(model: Model, address: Sequence[int | str], low: float, high: float, samples: int) -> Inputs:
    """Images drawn uniformly from the bank, levels log-uniform in (low, high), standard normal noise.

    The random streams do not depend on the method and are drawn on the CPU: equal for all methods and devices.
    """
    device = model.bank.images.device
    index = torch.randint(len(model.bank), (samples,), generator=generator("diagnose images", *address))
    share = torch.rand(samples, generator=generator("diagnose times", *address), dtype=torch.float64)
    t = (low * (high / low) ** share).float().clamp(max=high * (1 - 1e-6))  # li's image vanishes at σ_max itself
    shape = (samples, *model.bank.images.shape[1:])
    z = torch.randn(shape, generator=generator("diagnose noise", *address))
    return Inputs(index.to(device), t.to(device), z.to(device))


def cleaner_levels(model: Model, t: Tensor, progress: float, ratio: float | None) -> Tensor:
    """r [S] for levels t [S]: the method's own rule at this point of training, or ratio · t, within t's phase.

    Raises UsageError where the method's rule gives no r below t.
    """
    times = model.method.times
    r = times.t_to_r(t, progress) if ratio is None else torch.maximum(ratio * t, times.phase_boundary(t))
    if not bool((r < t).all()):
        raise UsageError(f"'{model.method.name}' has no cleaner level for some t above {t.min().item():g}")
    return r


def measure(
    model: Model, *, benchmark: str, seed: int, progress: float, settings: Settings
) -> Iterator[tuple[float, float, dict[str, Estimate]]]:
    """(t_low, t_high, what -> estimate) for each bin, in rising order of t. The model is not changed.

    progress: share of the budget seen, which decides the stage of the curriculum.
    """
    probe = model.averaged()  # a copy: forward passes in training mode may write to weights (EDM2)
    still = model.averaged().denoiser(evaluating=True) if model.method.coupling.needs_average else None
    probe.network.requires_grad_(True)
    edges = bin_edges(settings.bins, model.method.process.sigma_max)
    with torch.no_grad(), float32_products(tf32=False):
        posterior = bank_noise_posterior(probe.method, probe.bank) if probe.method.coupling.has_density else None
    scale = math.sqrt(aggregate_variance(posterior)) if settings.effective and posterior else 1.0
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        address = (benchmark, seed, settings.bins, number)
        inputs = common_inputs(probe, address, low, high, settings.samples).at_noise(scale, edges[-1])
        r = cleaner_levels(probe, inputs.t, progress, settings.ratio)
        found = {"target_variance": UNDEFINED}
        if probe.method.coupling.has_density:
            with torch.no_grad(), float32_products(tf32=False):
                probe.network.eval()
                variances = target_variances(probe, inputs, r, posterior, settings.batch, address)
            found["target_variance"] = mean_estimate(variances)
        probe.network.train()
        batches = (
            batch_loss(probe, inputs.rows(rows), r[rows], progress, (*address, number), still)
            for number, rows in enumerate(settings.batches)
        )
        yield low, high, found | gradient_estimates(probe.network, batches)


def target_variances(
    model: Model, inputs: Inputs, r: Tensor, posterior: Gaussian | None, batch: int, address: Sequence[int | str]
) -> Tensor:
    """tr Cov[target | x_t, t] of every point, over the posterior of images and over references: float64 [S].

    x_t is computed from the images and noise of `inputs` by the method's coupling. Images are drawn from the exact
    posterior given x_t; each implies the noise that leads to x_t, its own x_r, and so a target. For teachers that
    average over a batch, the batches are shuffled for each draw.

    posterior: of the noise of all images, see `bank_noise_posterior`. r: [S].
    """
    method, bank, t = model.method, model.bank, inputs.t
    device = bank.images.device
    denoise = method.process.denoiser(model.network)  # as the loss assembles it, in float32
    x, labels = model.batch(inputs.index)
    own = noise_posterior_at(posterior, inputs.index)
    x_t = method.process.perturb(x, t, inputs.z if own is None else own.mean + own.std * inputs.z)
    rng = generator("diagnose posterior", *address, device=device)
    draws = []
    points = Points(x_t, t, labels)
    for number, places in enumerate(posterior_draws(method, bank, posterior, points, POSTERIOR_DRAWS, rng)):
        references = generator("diagnose references", *address, number, device=device)
        order = torch.randperm(len(x_t), generator=generator("diagnose order", *address, number)).to(device)
        targets = torch.empty_like(x_t)
        for rows in order.split(batch):
            noisy, level, index = x_t[rows], t[rows], places[rows]
            image, own_labels = model.batch(index)
            z = implied_noise(method, image, noisy, level)
            pair = Pair(
                x=image,
                z=z,
                labels=own_labels,
                penalty=image.new_zeros(len(image)),
                noise_posterior=noise_posterior_at(posterior, index),
            )
            drawn = Draw(
                t=level,
                r=r[rows],
                z=z,
                references=method.teacher.draw_references(image, own_labels, index, references),
            )
            x_r = method.teacher(method, pair, noisy, drawn)
            targets[rows] = target_at(method, denoise, x_r, own_labels, level, r[rows])
        draws.append(targets)
    variances = conditional_variance([draw.cpu() for draw in draws])
    size = draws[0].double().flatten(1).square().sum(1).cpu()
    # Equal targets that were computed from different images differ by rounding.
    return torch.where(variances <= ROUNDING**2 * size, 0.0, variances)


def gradient_estimates(network: nn.Module, batches: Iterable[tuple[LossTerms, Tensor]]) -> dict[str, Estimate]:
    """The spread of the gradient over batches, and the loss, from the results of `batch_loss`.

    Of the network's parameters alone, which all methods share; a penalty of the coupling does not enter.
    """
    gradients, losses, distances = [], [], []
    for terms, consistency in batches:
        parts = torch.autograd.grad(terms.total, list(network.parameters()), allow_unused=True)
        gradients.append(torch.cat([part.flatten() for part in parts if part is not None]))
        losses.append(consistency)
        distances.append(terms.consistency.double().cpu())
    spread = gradient_spread(inner_products(gradients))
    return {
        "gradient_variance": spread.variance,
        "gradient_norm2": spread.norm2,
        "gradient_ratio": spread.ratio,
        "loss": mean_estimate(torch.stack(losses)),
        "distance": mean_estimate(torch.stack(distances)),
    }


def batch_loss(
    model: Model,
    inputs: Inputs,
    r: Tensor,
    progress: float,
    address: Sequence[int | str],
    average: Denoise | None = None,
) -> tuple[LossTerms, Tensor]:
    """The method's loss on one batch of common inputs, and the part of it without the coupling's penalty (float64)."""
    method, device = model.method, model.bank.images.device
    x, labels = model.batch(inputs.index)
    references = generator("diagnose references", *address, device=device)
    share = method.coupling.share
    coupled = torch.rand(len(x), generator=generator("diagnose share", *address)).to(device) < share
    drawn = Draw(
        t=inputs.t,
        r=r,
        z=method.coupling.match(x, inputs.z),
        references=method.teacher.draw_references(x, labels, inputs.index, references),
        coupled=None if share == 1 else coupled,
    )
    with default_generator("diagnose dropout", *address, device=device):
        terms = loss(method, model.denoiser(), x, labels, progress, drawn, average)
    weight = method.coupling.penalty_weight(method.times, method.weight, progress)
    return terms, (terms.total.detach().double() - weight * terms.penalty.double()).cpu()


def diagnose(config: RunConfig, model: Model, *, images: int, weights: str, settings: Settings) -> list[Row]:
    """All rows of one cell's model after `images` training images. weights: what they are called in the rows."""
    recipe, identity = config.train, config.cell
    # The last step before these weights: the stage of the curriculum that they were trained in.
    progress = max(0, images - recipe.batch) / config.budget_images
    rows = []
    with float32_products(tf32=recipe.precision == "tf32"):
        for low, high, found in measure(
            model, benchmark=identity.benchmark, seed=identity.seed, progress=progress, settings=settings
        ):
            place = Row(
                images=images, weights=weights, t_low=low, t_high=high, what="", value=None, error=None,
                **asdict(settings),
            )  # fmt: skip
            rows += [
                replace(place, what=what, value=estimate.value, error=estimate.error)
                for what, estimate in found.items()
            ]
    return rows


@dataclass(frozen=True)
class TrainingDiagnostics:
    """A hook of training: measure the weights that are being trained, and write the rows into the run folder."""

    config: RunConfig
    model: Model
    folder: Path
    every_images: int
    settings: Settings = DURING

    def __call__(self, images: int) -> None:
        rows = diagnose(self.config, self.model, images=images, weights="trained", settings=self.settings)
        add_rows(self.folder, rows)


def held_rows(folder: Path, images: int, weights: str, settings: Settings) -> bool:
    """Whether the cell has rows of these settings already."""
    wanted = {"images": images, "weights": weights, **asdict(settings)}
    return any(wanted.items() <= ({"effective": False} | row).items() for row in read_jsonl(folder / DIAGNOSTICS))


def add_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Put rows into the cell's diagnostics.jsonl; one of the same place (all but value and error) is replaced."""
    while (lock := acquire(folder / "diagnostics.lock")) is None:  # training and `bench diagnose` may both write
        time.sleep(0.1)
    with lock:
        fresh = {_place(row): row for row in map(asdict, rows)}
        kept = {_place(row): row for row in read_jsonl(folder / DIAGNOSTICS)}
        write_jsonl(folder / DIAGNOSTICS, [row for _, row in sorted((kept | fresh).items())])


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    ratio = -1.0 if row["ratio"] is None else row["ratio"]
    return (
        row["weights"],
        ratio,
        row.get("effective", False),  # rows of before there was a choice have no such key
        *(row[key] for key in ("bins", "samples", "repeats", "images", "t_low", "t_high", "what")),
    )
