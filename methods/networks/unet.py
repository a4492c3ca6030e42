"""What the U-Nets share: their options, the residual block of DDPM++, NCSN++ and ADM, and the encoder of VCT.

Residual blocks are those of Song et al. 2021; module names are those of the published EDM checkpoints (Karras et al.
2022).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from ..parts.checks import MOST_BLOCKS, check_count, check_probability
from ..parts.options import OptionError
from ..parts.variational import encoder_size
from .encoder import Encoder
from .layers import attention, group_norm
from .plan import Step, levels_for
from .resampling import Resample, ResampleConv

#: Width and blocks per level of VCT's encoders (Silvestri et al. 2025).
ENCODERS = {"small": (32, 1), "big": (32, 2)}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UNetOptions:
    """Options of a U-Net for square images.

    channels: width that `channel_mult` multiplies, level by level; level l has the resolution R / 2^l.
    channel_mult: factor of the width per level; null takes levels that follow the size of the images.
    blocks: residual blocks per level of the encoding half.
    attn_resolutions: resolutions of the levels that attend to all pixels; null takes one that follows the size of the
        images (`plan.levels_for`).
    dropout: probability in the blocks.
    label_dropout: probability that a training sample's label is withheld.
    """

    channels: int = 128
    channel_mult: tuple[int, ...] | None = (2, 2, 2)
    blocks: int = 4
    attn_resolutions: tuple[int, ...] | None = (16,)
    dropout: float = 0.0
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 4:
            raise ValueError(f"channels is {self.channels}, must be a positive multiple of 4")
        if self.channel_mult is not None and min(self.channel_mult, default=0) < 1:
            raise ValueError(f"channel_mult is {list(self.channel_mult)}, must be whole numbers of at least 1")
        check_count("blocks", self.blocks, MOST_BLOCKS)
        if any(resolution < 1 for resolution in self.attention):
            raise ValueError(f"attn_resolutions is {list(self.attention)}, must be resolutions in pixels")
        check_probability("dropout", self.dropout)
        check_probability("label_dropout", self.label_dropout)

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * mult for mult in self.channel_mult or ()]

    @property
    def attention(self) -> tuple[int, ...]:
        """The resolutions whose blocks attend to all pixels."""
        return self.attn_resolutions or ()

    def unet(self, shape: tuple[int, ...], classes: int, out_channels: int) -> UNet:
        """The network for images [C, R, R]; classes is 0 for unconditional data.

        Raises:
            ValueError: the resolution cannot be halved once per level, or channels cannot be divided among heads.
        """
        raise NotImplementedError

    def network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return self._checked(shape, classes, shape[0])

    def encoder(self, shape: tuple[int, ...], classes: int, size: str) -> nn.Module:
        parsed = encoder_size(size)
        channels, blocks = ENCODERS[parsed] if isinstance(parsed, str) else parsed
        return Encoder(replace(self, channels=channels, blocks=blocks)._checked(shape, classes, 2 * shape[0]))

    def _checked(self, shape: tuple[int, ...], classes: int, out_channels: int) -> UNet:
        if len(shape) != 3 or shape[1] != shape[2]:
            raise OptionError(f"this kind of network is for square images, not for samples of shape {shape}; use mlp")
        try:
            network = self._fitted(shape[1]).unet(shape, classes, out_channels)
        except ValueError as error:
            raise OptionError(f"network: {error}") from None
        lost = [name for name, heads in network.attention_heads().items() if heads == 0]
        if lost:
            log.warning("%s: below 64 channels there is no attention head; without: %s", type(self).__name__, lost)
        return network

    def _fitted(self, resolution: int) -> Self:
        """With a value in the place of each null."""
        if None not in (self.channel_mult, self.attn_resolutions):
            return self
        channel_mult, attn_resolutions = levels_for(resolution)
        return replace(
            self,
            channel_mult=channel_mult if self.channel_mult is None else self.channel_mult,
            attn_resolutions=attn_resolutions if self.attn_resolutions is None else self.attn_resolutions,
        )


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


@dataclass(frozen=True)
class BlockStyle:
    """The settings that all blocks of a network share.

    embedding: width of the noise embedding. taps: of the resampling filter. eps: of the group normalisation.
    scale_shift: whether the embedding scales and shifts (ADM) or shifts alone (DDPM++, NCSN++).
    gain: factor of the sum of branch and skip.
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
