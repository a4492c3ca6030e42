"""Networks by name, each with the encoder of the same family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from ..parts.messages import one_of
from ..parts.options import OptionError, part_from_options
from .adm import ADMOptions
from .edm2 import EDM2Options
from .mlp import MLPOptions
from .song import DDPMppOptions, NCSNppOptions


class NetworkOptions(Protocol):
    """Options of one family of networks, which build them."""

    def network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """F(u, c_noise, labels) for samples of this shape; classes is 0 for unconditional data."""
        ...

    def encoder(self, shape: tuple[int, ...], classes: int, size: str) -> nn.Module:
        """(x, labels) -> mean, standard deviation; see `encoder_size` for the sizes."""
        ...


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
        raise OptionError(f"network.kind is '{kind}', must be {one_of(kind, NETWORKS)}")
    values = {key: value for key, value in options.items() if key != "kind"}
    network = part_from_options(NETWORKS[kind], values, "network")
    return NetworkFactory(
        network=lambda: network.network(shape, classes),
        encoder=lambda size: network.encoder(shape, classes, size),
    )
