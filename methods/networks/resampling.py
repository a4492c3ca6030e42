"""Halving and doubling of images with a separable filter, with and without a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Direction = Literal["down", "up"]


def resampling_kernel(taps: Sequence[float]) -> Tensor:
    """The separable filter with these taps, normalised to sum 1: [1, 1, k, k]."""
    line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    return torch.outer(line, line)[None, None]


def resample(x: Tensor, kernel: Tensor, direction: Direction) -> Tensor:
    """Halve or double height and width of [B, C, H, W] with a filter [1, 1, k, k] (k even) on every channel.

    The taps [1, 1] give the mean of 2×2 pixels and the nearest neighbour.
    """
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, -1, -1)
    padding = (kernel.shape[-1] - 1) // 2
    if direction == "down":
        return F.conv2d(x, weight, stride=2, padding=padding, groups=channels)
    return F.conv_transpose2d(x, 4 * weight, stride=2, padding=padding, groups=channels)


class Resample(nn.Module):
    """Resampling without weights; its filter is the buffer `resample_filter`."""

    resample_filter: Tensor

    def __init__(self, direction: Direction, taps: Sequence[float]) -> None:
        super().__init__()
        self.direction: Direction = direction
        self.register_buffer("resample_filter", resampling_kernel(taps))

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.resample_filter, self.direction)


class ResampleConv(nn.Conv2d):
    """Resampling, then a convolution that keeps the size."""

    resample_filter: Tensor

    def __init__(self, width_in: int, width_out: int, size: int, direction: Direction, taps: Sequence[float]) -> None:
        super().__init__(width_in, width_out, size, padding=size // 2)
        self.direction: Direction = direction
        self.register_buffer("resample_filter", resampling_kernel(taps))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(resample(input, self.resample_filter, self.direction))
