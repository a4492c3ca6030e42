"""A configuration's network and method, with their weights and what they train on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...methods.compose import Context
from ...methods.networks.registry import build_factory
from ...methods.parts.bank import Bank
from ...methods.parts.base import Method
from ...methods.parts.process import Denoise
from ...methods.registry import build
from ..common.errors import UsageError
from ..common.precision import in_bf16
from ..common.seeding import default_generator
from ..config.schema import DataConfig, RunConfig
from ..data.base import DataInfo, Dataset
from ..runs.folder import Run
from .compiled import compiled
from .ema import averaged_copy
from .pretrained import check_prepared, check_trained, load_prepared, load_trained


@dataclass(frozen=True)
class Model:
    """A network and the method it is trained by. `weights` holds both: the network and the method's modules.

    bank: the training images on the device, and their labels where training is conditional.
    start: what is known of the published weights that the network started from; None for random ones.
    bf16: whether training runs the network in bfloat16 where autocast deems it safe; evaluation never does.
    """

    method: Method
    network: nn.Module
    bank: Bank
    start: dict[str, Any] | None = None
    bf16: bool = False

    @property
    def weights(self) -> nn.ModuleDict:
        return nn.ModuleDict({"network": self.network, **self.method.modules})

    def denoiser(self, *, evaluating: bool = False, compile: bool = False) -> Denoise:
        """The preconditioned network; compile: with its passes compiled, see `compiled`."""
        network = compiled(self.network) if compile else self.network
        network = in_bf16(network) if self.bf16 and not evaluating else network
        return self.method.process.denoiser(network, evaluating=evaluating)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """The training images at these places in the bank, int64 [B], in model units, and their labels if any."""
        labels = self.bank.labels
        return self.bank.to_model(self.bank.stored(index)), None if labels is None else labels[index]

    def averaged(self) -> Model:
        """A frozen copy, in evaluation mode, for the average of the weights."""
        modules = averaged_copy(self.method.modules)
        assert isinstance(modules, nn.ModuleDict)
        return replace(self, method=replace(self.method, modules=modules), network=averaged_copy(self.network))


def build_model(config: RunConfig, dataset: Dataset, device: torch.device, first: Run | None = None) -> Model:
    """The model of a configuration, with the initial weights of its seed, or those that `train.init` names.

    Random weights come from a stream that does not name the method: all methods start from the same point.

    first: the cell that training starts from, where `train.init` asks for one. Without it the weights are random, for
    evaluation, which replaces them.

    Raises:
        UsageError: the data set cannot be used as the section `data` asks for; weights are not there or do not fit.
        OptionError: an unknown kind or key of a part or network, a value it refuses, parts that do not go together.
    """
    return _built(config, dataset.info, training_bank(config.data, dataset, device), device, first)


def outline_model(config: RunConfig, data: DataInfo, first: Run | None = None) -> Model:
    """The model on the meta device: shapes without memory, for checks and estimates before anything is loaded.

    Of weights to start from names and shapes are compared; of `first` only if it is trained. Raises as `build_model`.
    """
    _check_use(config.data, data)
    meta, flip = torch.device("meta"), config.data.flip
    kind = torch.uint8 if data.quantised else torch.float32
    images = torch.empty((data.count, *data.shape), dtype=kind, device=meta)
    positions = data.count * (2 if flip else 1)
    labels = torch.empty(positions, dtype=torch.long, device=meta) if config.data.conditional else None
    with meta:
        return _built(config, data, Bank(images, labels, data.to_model, flip), meta, first)


def _built(config: RunConfig, data: DataInfo, bank: Bank, device: torch.device, first: Run | None) -> Model:
    seed, recipe = config.seed, config.train
    factory = build_factory(config.network, data.shape, 0 if bank.labels is None else data.classes)
    with default_generator("init network", seed):
        network = factory.network()
    start = _started(config, network, first, outlined=device.type == "meta")
    context = Context(encoder=factory.encoder, bank=bank, steps=config.budget_images // recipe.batch)
    with default_generator("init modules", seed):
        method = build(config.method.options, config.sample.options, context)
    method.modules.to(device)
    # Convolutions are faster with channels last, by a third on a CPU; weights of other shapes are not affected.
    network = network.to(device).to(memory_format=torch.channels_last)
    return Model(method, network, bank, start, bf16=recipe.precision == "bf16")


def _started(config: RunConfig, network: nn.Module, first: Run | None, *, outlined: bool) -> dict[str, Any] | None:
    """Load the weights that `train.init` names, and return what is known of them; None for random ones.

    outlined: only names and shapes are compared.
    """
    init, start = config.train.init, config.cell.start
    if start is not None:
        if first is None or (outlined and not first.weights(start.images).is_file()):
            return None
        return check_trained(first, start.images, network) if outlined else load_trained(first, start.images, network)
    if init is None:
        return None
    return check_prepared(init, network) if outlined else load_prepared(init, network)


def training_bank(data: DataConfig, dataset: Dataset, device: torch.device) -> Bank:
    """The training set on the device: images 0 to N - 1, and with flips their mirror images N to 2N - 1.

    Labels are in it where training is conditional.

    Raises:
        UsageError: labels are asked for and all are the same, or mirror images of what is no image.
    """
    _check_use(data, dataset.info)
    images, labels = dataset.images.to(device), dataset.labels.to(device)
    labels = labels.repeat(2) if data.flip else labels
    return Bank(images, labels if data.conditional else None, dataset.to_model, data.flip)


def _check_use(asked: DataConfig, data: DataInfo) -> None:
    if asked.conditional and data.classes < 2:
        unlabelled = ": its images have no labels, or all the same one" if data.quantised else ""
        raise UsageError(f"data.conditional is true, but data set '{data.name}' has one class{unlabelled}")
    if asked.flip and not data.quantised:
        raise UsageError(f"data.flip is true, but data set '{data.name}' does not hold images")
