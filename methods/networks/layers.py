"""Layers that the U-Nets share: noise and label embeddings, group normalisation, attention.

No activation works in place: student and teacher share inputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import (
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

Shape = tuple[int, ...]


class PositionalEmbedding(nn.Module):
    """Sine and cosine of c · 10000^(-j / h) for `width` / 2 frequencies, [B] -> [B, width], float32 (DDPM).

    end_point: whether the last frequency is 1 / 10000 itself (h = width / 2 - 1) or the next to come (width / 2).
    sine_first: [sin | cos] (DDPM++) or [cos | sin] (ADM).
    """

    def __init__(self, width: int, *, end_point: bool, sine_first: bool) -> None:
        super().__init__()
        self.count = width // 2
        self.last = self.count - 1 if end_point else self.count
        self.sine_first = sine_first

    def forward(self, c: Tensor) -> Tensor:
        steps = torch.arange(self.count, dtype=torch.float32, device=c.device) / self.last
        angle = torch.outer(c.float(), 10000**-steps)
        parts = [angle.sin(), angle.cos()] if self.sine_first else [angle.cos(), angle.sin()]
        return torch.cat(parts, dim=1)


class FourierEmbedding(nn.Module):
    """[sin | cos] of 2π f c for fixed random frequencies f ~ N(0, scale²), [B] -> [B, width] (NCSN++)."""

    freqs: Tensor

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(width // 2) * scale)

    def forward(self, c: Tensor) -> Tensor:
        angle = torch.outer(c.float(), 2 * math.pi * self.freqs.float())
        return torch.cat([angle.sin(), angle.cos()], dim=1)


def label_rows(labels: Tensor | None, classes: int, like: Tensor, dropout: float) -> Tensor:
    """Class indices [B] as one-hot rows [B, classes] of the type of `like`; one row of zeros [1, classes] for None.

    dropout: probability that a sample's row is set to zero.
    """
    if labels is None:
        return like.new_zeros(1, classes)
    rows = F.one_hot(labels, classes).to(like.dtype)
    if dropout:
        rows = rows * (torch.rand(len(rows), 1, device=rows.device) >= dropout)
    return rows


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Group normalisation in min(32, channels // 4) groups.

    Where this does not divide the channels (144 = 96 + 48, in networks that were never published), the largest
    smaller number that does.
    """
    most = max(1, min(32, channels // 4))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels, eps=eps)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """softmax(qᵀk / sqrt(d)) v over the pixels: [B, 3C, H, W] -> [B, C, H, W], with d = C / heads.

    The channels of `qkv` are ordered as (head, channel within the head, one of q, k, v).
    """
    q, k, v = split_heads(qkv, heads)
    return attend(q, k, v, qkv.shape[2:])


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, 3C, H, W] -> queries, keys and values, each [B, heads, H·W, C / heads]."""
    batch, channels, height, width = qkv.shape
    parts = qkv.reshape(batch, heads, channels // (3 * heads), 3, height * width)
    # The fused kernels want the channels of a head side by side.
    q, k, v = parts.permute(3, 0, 1, 4, 2).contiguous().unbind(0)
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor, size: torch.Size) -> Tensor:
    """Attention of [B, heads, H·W, d] as an image [B, heads · d, H, W]. Every kernel takes its softmax in float32."""
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(2, 3).reshape(len(q), -1, *size)


def _count_attention_on_cpus() -> None:
    """torch counts the FLOPs of fused attention on GPUs alone; without this, a CPU would report less for the same."""
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    if forward in flop_registry:
        return

    @register_flop_formula(forward)
    def _(q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
        return sdpa_flop_count(q, k, v)

    @register_flop_formula(backward)
    def _(grad: Shape, q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
        return sdpa_backward_flop_count(grad, q, k, v)


_count_attention_on_cpus()
