"""Distributions in the plane that are known in closed form: what `toy2d` draws its points from.

They fit in [-1, 1]² as images do, so noise levels keep their meaning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Mixture:
    """Equally likely round Gaussians with the given means and one standard deviation."""

    means: tuple[tuple[float, float], ...]
    std: float

    @property
    def classes(self) -> int:
        """A point's label is the Gaussian it came from."""
        return len(self.means)

    def sample(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`n` exact draws: points float32 [n, 2] and labels int64 [n]."""
        labels = torch.randint(len(self.means), (n,), generator=generator)
        noise = torch.randn(n, 2, generator=generator)
        return torch.tensor(self.means)[labels] + self.std * noise, labels

    def nearest(self, points: Tensor) -> Tensor:
        """The mode each point belongs to, int64 [n]; -1 beyond three standard deviations of every mean.

        Of exact draws 1.1 % (e^-4.5) lie that far out.
        """
        distances = torch.cdist(points.double(), torch.tensor(self.means, dtype=torch.float64))
        nearest = distances.min(dim=1)
        return torch.where(nearest.values <= 3 * self.std, nearest.indices, -1)


@dataclass(frozen=True)
class Spiral:
    """An Archimedean spiral from the centre to radius 0.9, blurred by round Gaussian noise.

    With u uniform in [0, 1): radius 0.9 √u at angle 2π · turns · √u, so points are about equally dense along the arm.
    """

    turns: float
    std: float
    classes: int = 1

    def sample(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """`n` exact draws: points float32 [n, 2] and labels int64 [n], all zero."""
        along = torch.rand(n, generator=generator).sqrt()
        angle = 2 * math.pi * self.turns * along
        arm = 0.9 * along[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1)
        noise = torch.randn(n, 2, generator=generator)
        return arm + self.std * noise, torch.zeros(n, dtype=torch.int64)


Distribution = Mixture | Spiral
