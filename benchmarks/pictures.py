"""What a cell keeps for pictures: a few samples, and for points in the plane the lines of their transport."""

from __future__ import annotations

import torch
from torch import Tensor

from .data.base import Dataset
from .data.distributions import Mixture
from .model import Model
from .seeding import generator

IMAGES, POINTS = 64, 256


def shown(dataset: Dataset) -> int:
    """How many samples are kept: a grid of images, or enough points to see a distribution."""
    return IMAGES if dataset.quantised else POINTS


def real_arrays(dataset: Dataset, benchmark: str) -> dict[str, Tensor]:
    """`samples`: the real ones that every cell of a benchmark shows."""
    order = torch.randperm(len(dataset), generator=generator("real images to show", benchmark))
    return {"samples": dataset.images[order[: shown(dataset)]]}


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
    """Points `x`, `noise` drawn apart from them, and the noise `coupled` with them: three float32 [n, 2]; and `modes`.

    Empty for images, and where the coupling leaves noise as it was drawn.

    Args:
        batch: that of the training; a coupling that reorders noise does so within a batch.
        conditional: whether the model was trained with labels.
    """
    if dataset.quantised:
        return {}
    draw = generator("coupling to show", benchmark)
    order = torch.randperm(len(dataset), generator=draw)[:POINTS]
    x = dataset.images[order]
    noise = torch.randn(x.shape, generator=draw)
    coupling, device = model.method.coupling, next(model.network.parameters()).device
    parts = []
    for rows in torch.arange(len(x)).split(batch):
        points = x[rows].to(device)
        labels = dataset.labels[order[rows]].to(device) if conditional else None
        matched = coupling.match(points, noise[rows].to(device))
        law = coupling.noise_law(points, labels, model.method.modules)
        parts.append((matched if law is None else law.mean + law.std * matched).cpu())
    coupled = torch.cat(parts)
    if torch.equal(coupled, noise):
        return {}
    return {"x": x, "noise": noise, "coupled": coupled, **_modes(dataset, x)}


def _modes(dataset: Dataset, points: Tensor) -> dict[str, Tensor]:
    """`modes`: the mode that each point lies in, int64, -1 far from all; nothing where the distribution has none."""
    return {"modes": dataset.exact.nearest(points)} if isinstance(dataset.exact, Mixture) else {}
