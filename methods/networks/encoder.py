"""VCT's encoder: a small network of the main network's family that maps an image to the distribution of its noise."""

from __future__ import annotations

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
