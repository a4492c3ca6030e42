"""A residual multilayer perceptron for data of a few dozen dimensions (8×8 digits, points in the plane)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..parts.checks import MOST_BLOCKS, check_count, check_probability
from ..parts.variational import encoder_size
from .encoder import Encoder

#: VCT's encoders: share of the network's width, and blocks.
ENCODERS = {"small": (0.5, 1), "big": (0.5, 2)}


@dataclass(frozen=True, kw_only=True)
class MLPOptions:
    """Options of the residual MLP.

    width: of the hidden layers.
    blocks: number of residual blocks.
    dropout: probability in the blocks.
    """

    width: int = 128
    blocks: int = 3
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 4:
            raise ValueError(f"width is {self.width}, must be a positive multiple of 4")
        check_count("blocks", self.blocks, MOST_BLOCKS)
        check_probability("dropout", self.dropout)

    def network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return ResidualMLP(self, shape, classes)

    def encoder(self, shape: tuple[int, ...], classes: int, size: str) -> nn.Module:
        parsed = encoder_size(size)
        if isinstance(parsed, str):
            share, blocks = ENCODERS[parsed]
            width = 4 * math.ceil(self.width * share / 4)  # rounded up to a valid width
        else:
            width, blocks = parsed
        return Encoder(ResidualMLP(replace(self, width=width, blocks=blocks), shape, classes, out_factor=2))


class ResidualMLP(nn.Module):
    """F(u, c_noise, labels) of EDM for flat data.

    Args:
        shape: of one sample; the output has `out_factor` times its first dimension.
        classes: number of classes for conditional data, 0 for none.
    """

    def __init__(self, options: MLPOptions, shape: tuple[int, ...], classes: int = 0, out_factor: int = 1) -> None:
        super().__init__()
        width = options.width
        self.out_shape = (out_factor * shape[0], *shape[1:])
        self.classes = classes
        embedding = width // 2
        self.embed_noise = NoiseEmbedding(embedding)
        self.embed_label = nn.Linear(classes, embedding, bias=False) if classes else None
        self.embed = nn.Linear(embedding, embedding)
        self.input = nn.Linear(math.prod(shape), width)
        self.blocks = nn.ModuleList(Block(width, embedding, options.dropout) for _ in range(options.blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, math.prod(self.out_shape))
        with torch.no_grad():  # as in DDPM++: F ≈ 0 at the start, so D is the best linear denoiser
            self.output.weight.mul_(1e-5)
            self.output.bias.zero_()

    def forward(self, u: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """u: [B, *shape], c_noise: [B], labels: [B] class indices or None -> [B, *out_shape]."""
        embedding = self.embed_noise(c_noise)
        if self.embed_label is not None and labels is not None:
            embedding = embedding + self.embed_label(F.one_hot(labels, self.classes).to(u.dtype))
        embedding = F.silu(self.embed(embedding))
        hidden = self.input(u.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        return self.output(F.silu(self.norm(hidden))).view(-1, *self.out_shape)


class Block(nn.Module):
    """hidden + W2 dropout(SiLU(W1 (norm(hidden) · (1 + scale) + shift)))."""

    def __init__(self, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, width)
        self.affine = nn.Linear(embedding, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(width, width)
        with torch.no_grad():
            self.contract.weight.mul_(1e-5)
            self.contract.bias.zero_()

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.affine(embedding).chunk(2, dim=1)
        inner = F.silu(self.expand(self.norm(hidden) * (1 + scale) + shift))
        return hidden + self.contract(self.dropout(inner))


class NoiseEmbedding(nn.Module):
    """Sine and cosine features of c_noise = ln(σ) / 4, frequencies from 1 to 4 in geometric progression."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        frequencies = torch.logspace(0, math.log10(4), width // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise[:, None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)
