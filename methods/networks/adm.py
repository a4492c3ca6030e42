"""ADM (Dhariwal & Nichol 2021) as EDM configures it (Karras et al. 2022, table 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .unet import (
    BlockStyle,
    PositionalEmbedding,
    ResidualBlock,
    Step,
    UNet,
    decoder_steps,
    encoder_steps,
    group_norm,
    heads_per_64_channels,
    label_rows,
)

EPS = 1e-5


class DhariwalUNet(UNet):
    """F(u, c_noise, labels) of EDM for square images.

    Args:
        resolution: height and width. in_channels, out_channels: of the images.
        channels, channel_mult: width of level l is channels · channel_mult[l], its resolution resolution / 2^l.
        blocks: per level of the encoding half. attn_resolutions: where both halves attend, one head per 64 channels.
        classes: number of classes for conditional data, 0 for none.
        dropout, label_dropout: probabilities inside the blocks, and that a training sample's label is withheld.
        dropout_res: the largest resolution whose blocks drop out; None for all.

    Raises:
        ValueError: the resolution cannot be halved once a level, or channels cannot be divided among heads.
    """

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: int,
        channel_mult: Sequence[int],
        blocks: int,
        attn_resolutions: Sequence[int],
        classes: int = 0,
        dropout: float = 0.0,
        dropout_res: int | None = None,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes, self.label_dropout = classes, label_dropout
        embedding = 4 * channels
        self.map_noise = PositionalEmbedding(channels, end_point=False, sine_first=False)
        self.map_layer0 = nn.Linear(channels, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        self.map_label = nn.Linear(classes, embedding, bias=False) if classes else None

        style = BlockStyle(embedding, (1.0, 1.0), EPS, scale_shift=True, gain=1.0, conv_on_resampled_skip=False)

        def block(step: Step) -> ResidualBlock:
            drops = dropout_res is None or step.resolution <= dropout_res
            return ResidualBlock(step, style, heads=heads_per_64_channels(step), dropout=dropout if drops else 0.0)

        widths = [channels * mult for mult in channel_mult]
        encoder = encoder_steps(resolution, in_channels, widths[0], widths, blocks, attn_resolutions)
        decoder = decoder_steps(encoder, widths, blocks, attn_resolutions, last_only=False)
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
