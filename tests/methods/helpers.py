"""The closed-form network and inputs of tests/golden/losses.json, and a method of default parts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from consistency_bench.methods.parts.base import Method
from consistency_bench.methods.parts.couplings import Independent
from consistency_bench.methods.parts.distances import Huber
from consistency_bench.methods.parts.process import ForwardProcess
from consistency_bench.methods.parts.samplers import Multistep
from consistency_bench.methods.parts.teachers import SamePoint
from consistency_bench.methods.parts.times import LognormalGap
from consistency_bench.methods.parts.weights import InverseGap

SHAPE = (3, 2, 4, 4)


class ClosedForm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(0.1))

    def forward(self, u: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.a * torch.sin(1.3 * u + c_noise.view(-1, 1, 1, 1)) + self.b * u


class ClosedFormEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m, self.s = nn.Parameter(torch.tensor(0.15)), nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u = x / 0.5
        return self.m * u, F.softplus(self.s * u - 1)


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    i = torch.arange(96, dtype=torch.float64)
    return (0.9 * torch.sin(0.37 * i)).to(dtype).view(SHAPE)


def noise(dtype: torch.dtype = torch.float32) -> Tensor:
    i = torch.arange(96, dtype=torch.float64)
    return (1.3 * torch.sin(0.37 * i * 4 + 0.33)).to(dtype).view(SHAPE)


def method_with(**parts: object) -> Method:
    """ECT, with some parts replaced."""
    base = Method(
        name="test",
        version=1,
        process=ForwardProcess(boundary="never"),
        times=LognormalGap(),
        coupling=Independent(),
        teacher=SamePoint(),
        distance=Huber(c=1e-8),
        weight=InverseGap(),
        sampler=Multistep(),
    )
    return replace(base, **parts)  # type: ignore[arg-type]


def halve(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    return x / 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
