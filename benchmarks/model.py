"""A configuration's network and method, with their weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..methods.base import Method
from ..methods.compose import Context
from ..methods.networks.registry import build_factory
from ..methods.parts.bank import Bank
from ..methods.parts.kernels import Denoise
from ..methods.registry import build
from .data.base import Dataset
from .ema import averaged_copy
from .plan import budget_images
from .seeding import default_generator


@dataclass(frozen=True)
class Model:
    """A network and the method it is trained by. `weights` holds both: the network and the method's modules."""

    method: Method
    network: nn.Module

    @property
    def weights(self) -> nn.ModuleDict:
        return nn.ModuleDict({"network": self.network, **self.method.modules})

    def denoiser(self, *, evaluating: bool = False) -> Denoise:
        return self.method.kernel.denoiser(self.network, evaluating=evaluating)

    def averaged(self) -> Model:
        """A frozen copy, in evaluation mode, for the average of the weights."""
        modules = averaged_copy(self.method.modules)
        assert isinstance(modules, nn.ModuleDict)
        return Model(replace(self.method, modules=modules), averaged_copy(self.network))


def build_model(config: dict[str, Any], dataset: Dataset, device: torch.device) -> Model:
    """The model of a configuration, with the initial weights of its seed.

    The network's weights come from a stream that does not name the method: all methods start from the same point.

    Raises:
        OptionError: an unknown kind or key of a part or network, a value it refuses, parts that do not go together.
    """
    seed = config["seed"]
    factory = build_factory(config["network"], dataset.shape, classes=0)
    with default_generator("init network", seed):
        network = factory.network()
    bank = Bank(images=dataset.images.to(device), to_model=dataset.to_model)
    steps = budget_images(config) // config["train"]["batch"]
    with default_generator("init modules", seed):
        method = build(config["method"], config["sample"], Context(encoder=factory.encoder, bank=bank, steps=steps))
    method.modules.to(device)
    return Model(method, network.to(device))
