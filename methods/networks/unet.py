"""What the U-Nets share: their plan, attention, resampling, labels, and the residual block of DDPM++, NCSN++ and ADM.

The plan is that of Ho et al. 2020 (DDPM) with the residual blocks of Song et al. 2021; names of modules are those of
the published EDM checkpoints (Karras et al. 2022). No activation works in place: student and teacher share inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import (
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

# --- plan ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One module of the encoding or decoding half: a convolution or a block.

    resolution: of its output. width_in: channels that come in, a concatenated skip included.
    attention: whether self-attention is asked for; a narrow block may have no head for it.
    """

    kind: Literal["conv", "down", "up", "in", "block"]
    number: int | None
    resolution: int
    width_in: int
    width_out: int
    attention: bool = False

    @property
    def name(self) -> str:
        """Key of the module: `32x32_conv`, `16x16_down`, `8x8_in0`, `16x16_block3`."""
        return f"{self.resolution}x{self.resolution}_{self.kind}{'' if self.number is None else self.number}"


def encoder_steps(
    resolution: int, width_in: int, first: int, widths: Sequence[int], blocks: int, attention: Sequence[int]
) -> list[Step]:
    """The encoding half: a convolution to `first` channels, then `blocks` blocks a level. Each output is a skip.

    attention: the resolutions at which every block attends.

    Raises:
        ValueError: the resolution cannot be halved once a level.
    """
    if resolution % 2 ** (len(widths) - 1):
        raise ValueError(
            f"channel_mult has {len(widths)} levels, but {resolution}×{resolution} images cannot be halved "
            f"{len(widths) - 1} times"
        )
    steps = [Step("conv", None, resolution, width_in, first)]
    for level, width in enumerate(widths):
        size, before = resolution >> level, steps[-1].width_out
        if level:
            steps.append(Step("down", None, size, before, before))
        for number in range(blocks):
            steps.append(Step("block", number, size, steps[-1].width_out, width, size in attention))
    return steps


def decoder_steps(
    encoder: Sequence[Step], widths: Sequence[int], blocks: int, attention: Sequence[int], *, last_only: bool
) -> list[Step]:
    """The decoding half: two blocks without skips at the bottom, then `blocks` + 1 a level, each with a skip.

    last_only: attention only in the last block of a level; the first block at the bottom always attends.
    """
    skips, size, width = [step.width_out for step in encoder], encoder[-1].resolution, widths[-1]
    steps = [Step("in", 0, size, width, width, attention=True), Step("in", 1, size, width, width)]
    for level, width in reversed(list(enumerate(widths))):
        size, before = encoder[0].resolution >> level, steps[-1].width_out
        if level < len(widths) - 1:
            steps.append(Step("up", None, size, before, before))
        for number in range(blocks + 1):
            attends = size in attention and (number == blocks or not last_only)
            steps.append(Step("block", number, size, steps[-1].width_out + skips.pop(), width, attends))
    return steps


class UNet(nn.Module):
    """A network of two ordered dictionaries of modules: `enc`, whose outputs are kept as skips, and `dec`."""

    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def attention_heads(self) -> dict[str, int]:
        """Heads of every block that was to attend, by name; 0 where the block is too narrow, so that nothing attends.

        Only ADM and EDM2 can lose attention: they take one head per 64 channels.
        """
        blocks = {name: module for name, module in self.named_modules() if isinstance(module, UNetBlock)}
        return {name: block.heads for name, block in blocks.items() if block.heads is not None}


class UNetBlock(nn.Module):
    """A block of `enc` or `dec`; `heads` is None where no attention is asked for."""

    heads: int | None


def heads_per_64_channels(step: Step) -> int | None:
    """ADM's and EDM2's number of heads, C // 64; None where the step does not attend.

    Raises:
        ValueError: the channels cannot be divided among the heads.
    """
    if not step.attention:
        return None
    heads = step.width_out // 64
    if heads and step.width_out % heads:
        raise ValueError(f"{step.name} has {step.width_out} channels, which cannot be divided among {heads} heads")
    return heads


Shape = tuple[int, ...]

# --- layers ----------------------------------------------------------------------------------------------------------


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


# --- resampling ------------------------------------------------------------------------------------------------------

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


# --- residual block --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockStyle:
    """What is common to all blocks of a network.

    embedding: width of the noise embedding. taps: of the resampling filter. eps: of the group normalisation.
    scale_shift: whether the embedding scales and shifts (ADM) or shifts alone (DDPM++, NCSN++).
    gain: what the sum of branch and skip is multiplied by.
    conv_on_resampled_skip: whether a resampling block convolves its skip although the width stays.
    """

    embedding: int
    taps: tuple[float, ...]
    eps: float
    scale_shift: bool
    gain: float
    conv_on_resampled_skip: bool


class ResidualBlock(UNetBlock):
    """Two convolutions conditioned on the noise embedding between them, a skip connection, self-attention."""

    def __init__(self, step: Step, style: BlockStyle, *, heads: int | None, dropout: float) -> None:
        super().__init__()
        self.heads, self.style = heads, style
        width_in, width = step.width_in, step.width_out
        self.norm0 = group_norm(width_in, style.eps)
        self.conv0 = _conv(step, 3, style)
        self.affine = nn.Linear(style.embedding, 2 * width if style.scale_shift else width)
        self.norm1 = group_norm(width, style.eps)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        resamples = step.kind in ("down", "up")
        if width_in != width or (resamples and style.conv_on_resampled_skip):
            self.skip = _conv(step, 1, style)
        else:
            self.skip = Resample(step.kind, style.taps) if step.kind in ("down", "up") else None
        if heads:
            self.norm2 = group_norm(width, style.eps)
            self.qkv = nn.Conv2d(width, 3 * width, 1)
            self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: [B, C_in, H, W], embedding: [B, style.embedding] -> [B, C_out, H', W']."""
        hidden = self.conv0(F.silu(self.norm0(x)))
        affine = self.affine(embedding)[:, :, None, None]
        if self.style.scale_shift:
            scale, shift = affine.chunk(2, dim=1)
            hidden = self.norm1(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm1(hidden + affine)
        hidden = self.conv1(self.dropout(F.silu(hidden)))
        x = self.style.gain * (hidden + (x if self.skip is None else self.skip(x)))
        if self.heads:
            x = self.style.gain * (self.proj(attention(self.qkv(self.norm2(x)), self.heads)) + x)
        return x


def _conv(step: Step, size: int, style: BlockStyle) -> nn.Conv2d:
    if step.kind == "down" or step.kind == "up":
        return ResampleConv(step.width_in, step.width_out, size, step.kind, style.taps)
    return nn.Conv2d(step.width_in, step.width_out, size, padding=size // 2)
