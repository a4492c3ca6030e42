"""Networks by name, each with the encoder of the same family."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol

from torch import nn

from ..parts.options import OptionError, part_from_options
from ..parts.variational import encoder_size
from .adm import DhariwalUNet
from .edm2 import EDM2UNet
from .encoder import Encoder
from .mlp import ResidualMLP
from .song import SongUNet
from .unet import UNet

#: Width and blocks of the MLP's encoder: shares of the network's width.
MLP_ENCODERS = {"small": (0.5, 1), "big": (0.5, 2)}
#: Width and blocks per level of the U-Nets' encoders (VCT, Silvestri et al. 2025).
UNET_ENCODERS = {"small": (32, 1), "big": (32, 2)}

log = logging.getLogger(__name__)


class NetworkOptions(Protocol):
    """Options of one family of networks, and what they make."""

    def network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """F(u, c_noise, labels) for samples of this shape; classes is 0 for unconditional data."""
        ...

    def encoder(self, shape: tuple[int, ...], classes: int, size: str) -> nn.Module:
        """(x, labels) -> mean, standard deviation; see `encoder_size` for the sizes."""
        ...


@dataclass(frozen=True, kw_only=True)
class MLPOptions:
    """Options of the residual MLP: hidden width (a multiple of 4), residual blocks, dropout probability."""

    width: int = 128
    blocks: int = 3
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 4:
            raise ValueError(f"width is {self.width}, must be a positive multiple of 4")
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}, must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout:g}, must be from 0 to below 1")

    def network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return ResidualMLP(shape, width=self.width, blocks=self.blocks, dropout=self.dropout, classes=classes)

    def encoder(self, shape: tuple[int, ...], classes: int, size: str) -> nn.Module:
        parsed = encoder_size(size)
        if isinstance(parsed, str):
            share, blocks = MLP_ENCODERS[parsed]
            width = 4 * math.ceil(self.width * share / 4)  # up to what the noise embedding can be built with
        else:
            width, blocks = parsed
        network = ResidualMLP(shape, width=width, blocks=blocks, dropout=self.dropout, classes=classes, out_factor=2)
        return Encoder(network)


@dataclass(frozen=True, kw_only=True)
class UNetOptions:
    """Options of a U-Net for square images.

    channels: width that `channel_mult` multiplies, level by level; each level halves the resolution.
    blocks: residual blocks per level. attn_resolutions: where they attend to all pixels.
    dropout: probability in the blocks. label_dropout: probability that a training sample's label is withheld.
    """

    family: ClassVar[type[UNet]]
    channels: int = 128
    channel_mult: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.0
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 4:
            raise ValueError(f"channels is {self.channels}, must be a positive multiple of 4")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult is {list(self.channel_mult)}, must be whole numbers of at least 1")
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}, must be at least 1")
        if any(resolution < 1 for resolution in self.attn_resolutions):
            raise ValueError(f"attn_resolutions is {list(self.attn_resolutions)}, must be resolutions in pixels")
        for name in ("dropout", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name):g}, must be from 0 to below 1")

    def network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return self._build(shape, classes, out_factor=1)

    def encoder(self, shape: tuple[int, ...], classes: int, size: str) -> nn.Module:
        parsed = encoder_size(size)
        channels, blocks = UNET_ENCODERS[parsed] if isinstance(parsed, str) else parsed
        return Encoder(replace(self, channels=channels, blocks=blocks)._build(shape, classes, out_factor=2))

    def _build(self, shape: tuple[int, ...], classes: int, out_factor: int) -> UNet:
        if len(shape) != 3 or shape[1] != shape[2]:
            raise OptionError(f"this kind of network is for square images, not for samples of shape {shape}; use mlp")
        try:
            network = self.family(shape[1], shape[0], out_factor * shape[0], classes=classes, **asdict(self))
        except ValueError as error:
            raise OptionError(f"network: {error}") from None
        lost = [name for name, heads in network.attention_heads().items() if heads == 0]
        if lost:
            log.warning("%s: below 64 channels there is no attention head; without: %s", type(self).__name__, lost)
        return network


@dataclass(frozen=True, kw_only=True)
class DDPMppOptions(UNetOptions):
    """Options of DDPM++; defaults for CIFAR-10."""

    family: ClassVar[type[UNet]] = SongUNet


@dataclass(frozen=True, kw_only=True)
class NCSNppOptions(UNetOptions):
    """Options of NCSN++; defaults for CIFAR-10.

    fourier_scale: standard deviation of the noise embedding's frequencies. Consistency models need 0.02 (iCT, Song &
        Dhariwal 2024), EDM has 16; a checkpoint of EDM brings EDM's frequencies with it.
    """

    family: ClassVar[type[UNet]] = SongUNet
    fourier_scale: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fourier_scale <= 0:
            raise ValueError(f"fourier_scale is {self.fourier_scale:g}, must be above 0")


@dataclass(frozen=True, kw_only=True)
class ADMOptions(UNetOptions):
    """Options of ADM; defaults for ImageNet-64.

    dropout_res: the largest resolution whose blocks drop out; none for all, as EDM has it.
    """

    family: ClassVar[type[UNet]] = DhariwalUNet
    channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)
    dropout_res: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout_res is not None and self.dropout_res < 1:
            raise ValueError(f"dropout_res is {self.dropout_res}, must be a resolution in pixels")


@dataclass(frozen=True, kw_only=True)
class EDM2Options(ADMOptions):
    """Options of EDM2; 192 channels are the published size S, 256 M, 320 L, 384 XL. Defaults: S for ImageNet-64.

    dropout_res: as in ADM; 16 is what consistency tuning uses (ECT, Geng et al. 2025).
    """

    family: ClassVar[type[UNet]] = EDM2UNet
    attn_resolutions: tuple[int, ...] = (16, 8)
    dropout_res: int | None = 16


NETWORKS: dict[str, type[NetworkOptions]] = {
    "mlp": MLPOptions,
    "ddpmpp": DDPMppOptions,
    "ncsnpp": NCSNppOptions,
    "adm": ADMOptions,
    "edm2": EDM2Options,
}


@dataclass(frozen=True, kw_only=True)
class NetworkFactory:
    """Makes the network of a configuration and the encoder beside it, with fresh random weights at each call."""

    network: Callable[[], nn.Module]
    encoder: Callable[[str], nn.Module]


def build_factory(options: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> NetworkFactory:
    """The factory of the section `network`: `kind` and that kind's options.

    Raises:
        OptionError: an unknown kind or key, or a value of the wrong type or range.
    """
    kind = options["kind"]
    if not isinstance(kind, str) or kind not in NETWORKS:
        raise OptionError(
            f"network.kind is '{kind}', which this version does not have. Available: {', '.join(NETWORKS)}"
        )
    values = {key: value for key, value in options.items() if key != "kind"}
    network = part_from_options(NETWORKS[kind], values, "network")
    return NetworkFactory(
        network=lambda: network.network(shape, classes),
        encoder=lambda size: network.encoder(shape, classes, size),
    )
