"""VCT's encoder: a small network of the main network's family that reads the noise's law off the image."""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Encoder(nn.Module):
    """q(z | x) = N(μ, s²) with s = softplus(ρ); the network sees x / σ_data at the constant noise label 0.

    network: F(u, c_noise, labels) with twice the channels of x in its output: (μ, ρ).
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x: [B, C, ...] -> mean and standard deviation, each of the shape of x, float32."""
        label = torch.zeros(len(x), device=x.device)
        mean, rho = self.network(x / self.sigma_data, label, labels).float().chunk(2, dim=1)
        return mean, F.softplus(rho)


def encoder_size(text: str) -> Literal["small", "big"] | tuple[int, int]:
    """The size of an encoder: "small" or "big", whose meaning is the network family's, or "48x2": (width, blocks).

    Raises:
        ValueError: anything else, or a width that is no multiple of 4.
    """
    if text == "small" or text == "big":
        return text
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text)
    if match is None or int(match[1]) % 4:
        raise ValueError(
            f"encoder is '{text}', must be one of: small, big, or <width>x<blocks> such as 48x2, "
            "whose width is a multiple of 4"
        )
    return int(match[1]), int(match[2])
