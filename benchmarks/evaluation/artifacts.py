"""Arrays that a cell keeps for figures: samples, transport lines of points, and the learned noise distribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from ...methods.parts.base import Gaussian
from ...methods.parts.variational import kl_to_standard_normal
from ..common.files import atomic_path
from ..common.seal import seal
from ..common.seeding import generator
from ..data.base import Dataset
from ..data.distributions import Mixture
from ..training.model import Model
from .posterior import ENCODED, kl_parts

IMAGES, POINTS = 64, 256
LEARNED = 16  # images whose learned noise distribution is kept
MOST_PARTS = 2_048  # images whose distributions the parts of the KL divergence are taken from


def shown(dataset: Dataset) -> int:
    """How many samples are kept: a grid of images, or enough points to see a distribution."""
    return IMAGES if dataset.quantised else POINTS


def save_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write an npz file with its checksum, atomically; without arrays, no file."""
    content: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
    if content:
        with atomic_path(path) as temporary:
            with temporary.open("wb") as file:
                numpy.savez(file, **content)
            seal(temporary)


def real_arrays(dataset: Dataset, benchmark: str) -> dict[str, Tensor]:
    """`samples`: the real ones that every cell of a benchmark shows."""
    return {"samples": dataset.images[_real_order(dataset, benchmark)[: shown(dataset)]]}


def _real_order(dataset: Dataset, benchmark: str) -> Tensor:
    return torch.randperm(len(dataset), generator=generator("real images to show", benchmark))


def sample_arrays(dataset: Dataset, samples: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """The first `samples`; of points also the `latents` they came from and the `modes` they lie in.

    samples, noise: [N, ...], the noise standard normal.
    """
    samples, noise = samples[: shown(dataset)], noise[: shown(dataset)]
    return (
        {"samples": samples}
        if dataset.quantised
        else {"samples": samples, "latents": noise, **_modes(dataset, samples)}
    )


@torch.no_grad()
def coupling_arrays(
    model: Model, dataset: Dataset, benchmark: str, batch: int, *, conditional: bool
) -> dict[str, Tensor]:
    """Points `x`, independent `noise`, and the noise `coupled` with the points: three float32 [n, 2]; and `modes`.

    Empty for images, and where the coupling does not change the noise.

    Args:
        batch: that of the training; a coupling that reorders noise does so within a batch.
        conditional: whether the model was trained with labels.
    """
    if dataset.quantised:
        return {}
    rng = generator("coupling to show", benchmark)
    order = torch.randperm(len(dataset), generator=rng)[:POINTS]
    x = dataset.images[order]
    noise = torch.randn(x.shape, generator=rng)
    coupling, device = model.method.coupling, next(model.network.parameters()).device
    parts = []
    for rows in torch.arange(len(x)).split(batch):
        points = x[rows].to(device)
        labels = dataset.labels[order[rows]].to(device) if conditional else None
        matched = coupling.match(points, noise[rows].to(device))
        posterior = coupling.noise_posterior(points, labels, model.method.modules)
        parts.append((matched if posterior is None else posterior.mean + posterior.std * matched).cpu())
    coupled = torch.cat(parts)
    if torch.equal(coupled, noise):
        return {}
    return {"x": x, "noise": noise, "coupled": coupled, **_modes(dataset, x)}


@torch.no_grad()
def posterior_arrays(model: Model, dataset: Dataset, benchmark: str, *, conditional: bool) -> dict[str, Tensor]:
    """The learned distribution of the noise given the data, N(mean, std²), and its KL divergence from N(0, I).

    Also the parts of the divergence over the first MOST_PARTS images of the same order, see `KlParts`: `part_images`,
    `part_kl`, `part_information` and `part_variance`, float64 of shape ().

    `x`, as in the data; `mean` and `std`, float32 of the shape of x; `kl`, float32 [n], in nats. Of images the first
    that `real_arrays` shows; of points those of `coupling_arrays`, and `modes`. Computed in one pass, so that
    the numbers depend on no batch size. Empty where no distribution is learned, or where it is not finite.

    Args:
        model: with the averaged modules, which return the distribution.
        conditional: whether the model was trained with labels.
    """
    coupling, device = model.method.coupling, next(model.network.parameters()).device
    if not coupling.learns_noise_posterior:
        return {}
    if dataset.quantised:
        every = _real_order(dataset, benchmark)
    else:
        every = torch.randperm(len(dataset), generator=generator("coupling to show", benchmark))
    order = every[: LEARNED if dataset.quantised else POINTS]
    x = dataset.images[order]
    labels = dataset.labels[order].to(device) if conditional else None
    posterior = coupling.noise_posterior(dataset.to_model(x).to(device), labels, model.method.modules)
    if posterior is None:
        return {}
    mean, std = posterior.mean.float().cpu(), posterior.std.float().cpu()
    # In float64, where a sum over a whole image neither rounds nor falls below 0.
    kl = kl_to_standard_normal(Gaussian(mean=mean.double(), std=std.double())).clamp(min=0).float()
    if not all(torch.isfinite(array).all() for array in (mean, std, kl)):
        return {}
    parts = _kl_parts(model, dataset, every[:MOST_PARTS], conditional=conditional)
    return {"x": x, "mean": mean, "std": std, "kl": kl, **parts, **_modes(dataset, x)}


def _kl_parts(model: Model, dataset: Dataset, order: Tensor, *, conditional: bool) -> dict[str, Tensor]:
    """The parts of the KL divergence over the images at `order`; none where they are not finite."""
    coupling, device = model.method.coupling, next(model.network.parameters()).device
    found = []
    for rows in order.split(ENCODED):
        labels = dataset.labels[rows].to(device) if conditional else None
        images = dataset.to_model(dataset.images[rows]).to(device)
        found.append(coupling.noise_posterior(images, labels, model.method.modules))
    posterior = Gaussian(mean=torch.cat([one.mean for one in found]), std=torch.cat([one.std for one in found]))
    parts = kl_parts(posterior, generator("noise of the parts of the KL"))
    values = {f"part_{name}": torch.tensor(value, dtype=torch.float64) for name, value in asdict(parts).items()}
    return values if all(torch.isfinite(value) for value in values.values()) else {}


def _modes(dataset: Dataset, points: Tensor) -> dict[str, Tensor]:
    """`modes`: the mode that each point lies in, int64, -1 far from all; nothing where the distribution has none."""
    return {"modes": dataset.exact.nearest(points)} if isinstance(dataset.exact, Mixture) else {}
