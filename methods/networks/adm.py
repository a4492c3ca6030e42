"""ADM (Dhariwal & Nichol 2021) as EDM configures it (Karras et al. 2022, table 7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..parts.checks import check_at_least
from .layers import PositionalEmbedding, group_norm, label_rows
from .plan import Step, decoder_steps, encoder_steps, heads_per_64_channels
from .unet import BlockStyle, ResidualBlock, UNet, UNetOptions

EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class ADMOptions(UNetOptions):
    """Options of ADM; defaults for ImageNet-64. Both halves attend, with one head per 64 channels.

    dropout_res: the largest resolution whose blocks drop out; null for all, as in EDM.
    """

    channels: int = 192
    channel_mult: tuple[int, ...] | None = (1, 2, 3, 4)
    blocks: int = 3
    attn_resolutions: tuple[int, ...] | None = (32, 16, 8)
    dropout_res: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout_res is not None:
            check_at_least("dropout_res", self.dropout_res, 1)

    def dropout_at(self, resolution: int) -> float:
        """The dropout probability of blocks of this resolution."""
        return self.dropout if self.dropout_res is None or resolution <= self.dropout_res else 0.0

    def unet(self, shape: tuple[int, ...], classes: int, out_channels: int) -> UNet:
        return DhariwalUNet(self, shape, classes, out_channels)


class DhariwalUNet(UNet):
    """F(u, c_noise, labels) of EDM for square images; see `UNetOptions.unet`."""

    def __init__(self, options: ADMOptions, shape: tuple[int, ...], classes: int, out_channels: int) -> None:
        super().__init__()
        self.classes, self.label_dropout = classes, options.label_dropout
        in_channels, resolution, _ = shape
        channels, widths = options.channels, options.widths
        embedding = 4 * channels
        self.map_noise = PositionalEmbedding(channels, end_point=False, sine_first=False)
        self.map_layer0 = nn.Linear(channels, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        self.map_label = nn.Linear(classes, embedding, bias=False) if classes else None

        style = BlockStyle(embedding, (1.0, 1.0), EPS, scale_shift=True, gain=1.0, conv_on_resampled_skip=False)

        def block(step: Step) -> ResidualBlock:
            dropout = options.dropout_at(step.resolution)
            return ResidualBlock(step, style, heads=heads_per_64_channels(step), dropout=dropout)

        blocks, attention = options.blocks, options.attention
        encoder = encoder_steps(resolution, in_channels, widths[0], widths, blocks, attention)
        decoder = decoder_steps(encoder, widths, blocks, attention, last_only=False)
        first = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.enc = nn.ModuleDict({step.name: first if step.kind == "conv" else block(step) for step in encoder})
        self.dec = nn.ModuleDict({step.name: block(step) for step in decoder})
        self.out_norm = group_norm(widths[0], EPS)
        self.out_conv = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        self._initialise()

    def forward(self, u: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """u: [B, C, R, R], c_noise: [B], labels: [B] class indices or None -> [B, C_out, R, R]."""
        embedding = self.map_noise(c_noise).to(u.dtype)
        embedding = self.map_layer1(F.silu(self.map_layer0(embedding)))
        if self.map_label is not None:
            rows = label_rows(labels, self.classes, u, self.label_dropout if self.training else 0.0)
            embedding = embedding + self.map_label(rows)
        embedding = F.silu(embedding)
        x, skips = u, []
        for module in self.enc.values():
            x = module(x, embedding) if isinstance(module, ResidualBlock) else module(x)
            skips.append(x)
        for name, block in self.dec.items():
            x = block(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, embedding)
        return self.out_conv(F.silu(self.out_norm(x)))

    @torch.no_grad()
    def _initialise(self) -> None:
        """U(±sqrt(1 / fan_in)) for weights and biases; what ends a residual branch, and the network, starts at zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = module.weight[0].numel() ** -0.5
                for parameter in module.parameters():
                    nn.init.uniform_(parameter, -bound, bound)
            if name.endswith(("conv1", "proj", "out_conv")):
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)
