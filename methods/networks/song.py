"""DDPM++ and NCSN++ (Song et al. 2021) as EDM configures them (Karras et al. 2022, table 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..parts.checks import check_above
from .layers import FourierEmbedding, PositionalEmbedding, group_norm, label_rows
from .plan import Step, decoder_steps, encoder_steps
from .resampling import ResampleConv
from .unet import BlockStyle, ResidualBlock, UNet, UNetOptions

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class DDPMppOptions(UNetOptions):
    """Options of DDPM++; defaults for CIFAR-10. Attention has one head."""

    def unet(self, shape: tuple[int, ...], classes: int, out_channels: int) -> UNet:
        return SongUNet(self, shape, classes, out_channels)


@dataclass(frozen=True, kw_only=True)
class NCSNppOptions(UNetOptions):
    """Options of NCSN++; defaults for CIFAR-10. Attention has one head.

    fourier_scale: standard deviation of the noise embedding's frequencies. Consistency models need 0.02 (iCT, Song &
        Dhariwal 2024), EDM has 16; a checkpoint of EDM replaces it by EDM's frequencies.
    """

    fourier_scale: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("fourier_scale", self.fourier_scale, 0)

    def unet(self, shape: tuple[int, ...], classes: int, out_channels: int) -> UNet:
        return SongUNet(self, shape, classes, out_channels, self.fourier_scale)


class SongUNet(UNet):
    """F(u, c_noise, labels) of EDM for square images; see `UNetOptions.unet`.

    fourier_scale: None gives DDPM++; a number gives NCSN++, whose noise embedding has random frequencies of this
        standard deviation, with a residual branch down the encoding half and smoother resampling.
    """

    def __init__(
        self,
        options: UNetOptions,
        shape: tuple[int, ...],
        classes: int,
        out_channels: int,
        fourier_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.label_dropout = classes, options.label_dropout
        in_channels, resolution, _ = shape
        channels, widths = options.channels, options.widths
        if fourier_scale is None:
            width, taps = channels, (1.0, 1.0)
            self.map_noise = PositionalEmbedding(width, end_point=True, sine_first=True)
        else:
            width, taps = 2 * channels, (1.0, 3.0, 3.0, 1.0)
            self.map_noise = FourierEmbedding(width, fourier_scale)
        embedding = 4 * channels
        self.map_label = nn.Linear(classes, width) if classes else None
        self.map_layer0 = nn.Linear(width, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)

        style = BlockStyle(embedding, taps, EPS, scale_shift=False, gain=math.sqrt(0.5), conv_on_resampled_skip=True)

        def block(step: Step) -> ResidualBlock:
            return ResidualBlock(step, style, heads=1 if step.attention else None, dropout=options.dropout)

        blocks, attention = options.blocks, options.attention
        encoder = encoder_steps(resolution, in_channels, channels, widths, blocks, attention)
        self.enc = nn.ModuleDict()
        aux = in_channels
        for step in encoder:
            if step.kind == "conv":
                self.enc[step.name] = nn.Conv2d(step.width_in, step.width_out, 3, padding=1)
                continue
            self.enc[step.name] = block(step)
            if step.kind == "down" and fourier_scale is not None:
                name = f"{step.resolution}x{step.resolution}_aux_residual"
                self.enc[name] = ResidualBranch(aux, step.width_out, 3, "down", taps)
                aux = step.width_out
        decoder = decoder_steps(encoder, widths, blocks, attention, last_only=True)
        self.dec = nn.ModuleDict({step.name: block(step) for step in decoder})
        self.dec[f"{resolution}x{resolution}_aux_norm"] = group_norm(widths[0], EPS)
        self.dec[f"{resolution}x{resolution}_aux_conv"] = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        self._initialise()

    def forward(self, u: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """u: [B, C, R, R], c_noise: [B], labels: [B] class indices or None -> [B, C_out, R, R]."""
        embedding = self._embed(c_noise, labels, u)
        x, aux, skips = u, u, []
        for module in self.enc.values():
            if isinstance(module, ResidualBranch):
                x = skips[-1] = aux = (x + module(aux)) * math.sqrt(0.5)
                continue
            x = module(x, embedding) if isinstance(module, ResidualBlock) else module(x)
            skips.append(x)
        *steps, norm, conv = self.dec.items()
        for name, block in steps:
            x = block(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, embedding)
        return conv[1](F.silu(norm[1](x)))

    def _embed(self, c_noise: Tensor, labels: Tensor | None, like: Tensor) -> Tensor:
        embedding = self.map_noise(c_noise).to(like.dtype)
        if self.map_label is not None:
            rows = label_rows(labels, self.classes, like, self.label_dropout if self.training else 0.0)
            embedding = embedding + self.map_label(rows * math.sqrt(self.classes))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))

    @torch.no_grad()
    def _initialise(self) -> None:
        """Glorot's uniform distribution, zero biases; the ends of residual branches and of the network near zero."""
        gains = {"conv1": 1e-5, "proj": 1e-5, "aux_conv": 1e-5, "qkv": math.sqrt(0.2)}
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert module.bias is not None
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
                module.weight.mul_(next((gain for end, gain in gains.items() if name.endswith(end)), 1.0))


class ResidualBranch(ResampleConv):
    """The image's own way down: a convolution whose result is filtered and halved, then its bias."""

    def forward(self, input: Tensor) -> Tensor:
        kernel = self.resample_filter
        # The margin that the filter needs is given to the convolution, so that it reaches over the image's edge.
        margin = self.kernel_size[0] // 2 + (kernel.shape[-1] - 1) // 2
        wide = F.conv2d(input, self.weight, padding=margin)
        kernel = kernel.to(wide.dtype).expand(self.out_channels, 1, -1, -1)
        return F.conv2d(wide, kernel, self.bias, stride=2, groups=self.out_channels)
