"""EDM2: a U-Net whose layers preserve the magnitude of their inputs (Karras et al. 2024, configuration G)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adm import ADMOptions
from .layers import attend, label_rows, split_heads
from .plan import Step, decoder_steps, encoder_steps, heads_per_64_channels
from .unet import UNet, UNetBlock

LARGEST = 256.0
"""Activations are clipped to ± this at the end of a block."""


@dataclass(frozen=True, kw_only=True)
class EDM2Options(ADMOptions):
    """Options of EDM2; 192 channels are the published size S, 256 M, 320 L, 384 XL. Defaults: S for ImageNet-64.

    dropout_res: the largest resolution whose blocks drop out; null for all. 16 is what consistency tuning uses (ECT,
        Geng et al. 2025).
    """

    attn_resolutions: tuple[int, ...] | None = (16, 8)
    dropout_res: int | None = 16

    def unet(self, shape: tuple[int, ...], classes: int, out_channels: int) -> UNet:
        return EDM2UNet(self, shape, classes, out_channels)


class EDM2UNet(UNet):
    """F(u, c_noise, labels) of EDM for square images; F = 0 at the start. See `UNetOptions.unet`."""

    def __init__(self, options: EDM2Options, shape: tuple[int, ...], classes: int, out_channels: int) -> None:
        super().__init__()
        self.classes, self.label_dropout = classes, options.label_dropout
        in_channels, resolution, _ = shape
        widths = options.widths
        embedding = max(widths)
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(widths[0])
        self.emb_noise = MPConv(widths[0], embedding)
        self.emb_label = MPConv(classes, embedding) if classes else None

        def block(step: Step, *, decodes: bool) -> Block:
            return Block(step, embedding, decodes=decodes, dropout=options.dropout_at(step.resolution))

        # One more channel, of ones, replaces the biases, which no layer has.
        blocks, attention = options.blocks, options.attention
        encoder = encoder_steps(resolution, in_channels + 1, widths[0], widths, blocks, attention)
        decoder = decoder_steps(encoder, widths, blocks, attention, last_only=False)
        first = MPConv(in_channels + 1, widths[0], 3)
        self.enc = nn.ModuleDict(
            {step.name: first if step.kind == "conv" else block(step, decodes=False) for step in encoder}
        )
        self.dec = nn.ModuleDict({step.name: block(step, decodes=True) for step in decoder})
        self.out_conv = MPConv(widths[0], out_channels, 3)

    def forward(self, u: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """u: [B, C, R, R], c_noise: [B], labels: [B] class indices or None -> [B, C_out, R, R].

        In training mode and with gradients enabled, stored weights are normalised on the way; see `MPConv`.
        """
        embedding = self.emb_noise(self.emb_fourier(c_noise).to(u.dtype))
        if self.emb_label is not None:
            rows = label_rows(labels, self.classes, u, self.label_dropout if self.training else 0.0)
            embedding = mp_sum(embedding, self.emb_label(rows * math.sqrt(self.classes)), 0.5)
        embedding = mp_silu(embedding)
        x, skips = torch.cat([u, torch.ones_like(u[:, :1])], dim=1), []
        for module in self.enc.values():
            x = module(x, embedding) if isinstance(module, Block) else module(x)
            skips.append(x)
        for name, block in self.dec.items():
            x = block(mp_cat(x, skips.pop()) if "_block" in name else x, embedding)
        return self.out_conv(x, self.out_gain)


class Block(UNetBlock):
    """A residual block of EDM2; the encoding half normalises each pixel, the decoding half does not."""

    def __init__(self, step: Step, embedding: int, *, decodes: bool, dropout: float) -> None:
        super().__init__()
        self.kind, self.decodes, self.heads = step.kind, decodes, heads_per_64_channels(step)
        width = step.width_out
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(step.width_in if decodes else width, width, 3)
        self.emb_linear = MPConv(embedding, width)
        self.dropout = nn.Dropout(dropout)
        self.conv_res1 = MPConv(width, width, 3)
        self.conv_skip = MPConv(step.width_in, width, 1) if step.width_in != width else None
        if self.heads:
            self.attn_qkv = MPConv(width, 3 * width, 1)
            self.attn_proj = MPConv(width, width, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: [B, C_in, H, W], embedding: [B, E] -> [B, C_out, H', W']."""
        if self.kind == "down":
            x = F.avg_pool2d(x, 2)
        elif self.kind == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if self.decodes:
            x = mp_sum(self._skip(x), self._residual(x, embedding), 0.3)
        else:
            x = normalize(self._skip(x), [1])
            x = mp_sum(x, self._residual(x, embedding), 0.3)
        if self.heads:
            q, k, v = (normalize(part, [3]) for part in split_heads(self.attn_qkv(x), self.heads))
            x = mp_sum(x, self.attn_proj(attend(q, k, v, x.shape[2:])), 0.3)
        return x.clamp(-LARGEST, LARGEST)

    def _skip(self, x: Tensor) -> Tensor:
        return x if self.conv_skip is None else self.conv_skip(x)

    def _residual(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.conv_res0(mp_silu(x))
        scale = 1 + self.emb_linear(embedding, self.emb_gain)[:, :, None, None]
        return self.conv_res1(self.dropout(mp_silu(y * scale)))


class MPConv(nn.Module):
    """A linear layer (`size` None) or convolution without bias; it normalises the rows of its weight before use.

    In training mode the stored weight is overwritten by its normalised value first (forced weight normalisation, EDM2,
    section 2.3), which keeps the effective learning rate steady. A pass without gradient, such as that of a teacher
    within a step, leaves it alone. Overwriting does not count as a change to autograd, so that several passes may come
    before one backward pass: each after the first changes rows of about unit magnitude, as training keeps them, by a
    relative 1e-4 at most, the `eps` of `normalize`.
    """

    def __init__(self, width_in: int, width_out: int, size: int | None = None) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.randn(width_out, width_in, *([size, size] if size else [])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """x: [B, C_in] or [B, C_in, H, W] -> the same with C_out; gain: a factor, scalar."""
        rows = list(range(1, self.weight.ndim))
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self.weight.data.copy_(normalize(self.weight, rows))
        weight = normalize(self.weight, rows) * (gain / math.sqrt(self.weight[0].numel()))
        weight = weight.to(x.dtype)
        return F.linear(x, weight) if self.size is None else F.conv2d(x, weight, padding=self.size // 2)


class MPFourier(nn.Module):
    """sqrt(2) cos(f c + p) for fixed random f ~ 2π N(0, 1) and p ~ 2π U(0, 1), [B] -> [B, width], float32."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))

    def forward(self, c: Tensor) -> Tensor:
        return math.sqrt(2) * torch.cos(torch.outer(c.float(), self.freqs.float()) + self.phases.float())


def normalize(v: Tensor, dims: Sequence[int], eps: float = 1e-4) -> Tensor:
    """v / (eps + root mean square of v over `dims`); the mean is taken in float32, the type stays."""
    norm = torch.linalg.vector_norm(v.float(), dim=dims, keepdim=True)  # its gradient at 0 is 0, that of sqrt is not
    return v / (eps + norm / math.sqrt(v.numel() / norm.numel())).to(v.dtype)


def mp_silu(v: Tensor) -> Tensor:
    """SiLU with unit variance for standard normal input."""
    return F.silu(v) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b, rescaled so that uncorrelated inputs of unit variance keep it."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor) -> Tensor:
    """Concatenation on channels that gives both parts the same total magnitude, whatever their widths."""
    width_a, width_b = a.shape[1], b.shape[1]
    scale = math.sqrt((width_a + width_b) / 2)
    return torch.cat([a * (scale / math.sqrt(width_a)), b * (scale / math.sqrt(width_b))], dim=1)
