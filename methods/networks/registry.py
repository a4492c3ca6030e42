"""Networks by name, each with the encoder of the same family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..parts.options import OptionError, part_from_options
from .encoder import Encoder
from .mlp import ResidualMLP

#: Width and blocks of the encoder as shares of the network's, and its least number of blocks.
ENCODER_SIZES = {"small": (0.5, 1), "big": (0.5, 2)}


@dataclass(frozen=True, kw_only=True)
class MLPOptions:
    """Options of the residual MLP: hidden width (even), residual blocks, dropout probability."""

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
        share, blocks = ENCODER_SIZES[size]
        network = ResidualMLP(
            shape,
            width=int(self.width * share),
            blocks=blocks,
            dropout=self.dropout,
            classes=classes,
            out_factor=2,
        )
        return Encoder(network)


NETWORKS: dict[str, type[MLPOptions]] = {"mlp": MLPOptions}


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
    if kind not in NETWORKS:
        raise OptionError(
            f"network.kind is '{kind}', which this version does not have. Available: {', '.join(NETWORKS)}"
        )
    values = {key: value for key, value in options.items() if key != "kind"}
    network = part_from_options(NETWORKS[kind], values, "network")
    return NetworkFactory(
        network=lambda: network.network(shape, classes),
        encoder=lambda size: network.encoder(shape, classes, size),
    )
