"""What a cell will need, worked out before it runs: parameters, FLOPs, memory, disk."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...methods.parts.base import LossTerms
from ..common.oom import Memory
from ..common.seeding import default_generator, generator
from ..config.schema import RunConfig
from ..data.base import DataInfo, Dataset
from .ddp import Replica
from .model import Model, build_model

FLOAT32 = 4  # bytes
PROBE = 2  # images that are passed through the network to count


@dataclass(frozen=True)
class Footprint:
    """Of one cell. Bytes and FLOPs; memory is that of one device while it trains.

    parameters: of the network and the method's modules. flops: of the whole training, as `run.json` counts them.
    state: of weights, gradients, optimiser and averages, and of the copy of them that is kept on a GPU. data: of the
    training images. activations: of one pass, kept for the gradient. disk: of both generations of the checkpoint, and
    the snapshots.
    """

    parameters: int
    flops: float
    state: int
    data: int
    activations: int
    disk: int

    @property
    def memory(self) -> int:
        """What training takes on a device, the workspace of its libraries aside."""
        return self.state + self.data + self.activations


def footprint(config: RunConfig, data: DataInfo) -> Footprint:
    """What a configuration needs, by a pass of two blank images on the CPU. No sample is read.

    FLOPs and activations grow with the images, which is exact for all parts but those that look across the batch.
    """
    batch = min(PROBE, config.train.batch)
    dataset = _blank(data, data.count)
    blank = replace(config, train=replace(config.train, init=None), data=replace(config.data, flip=False))
    small = replace(blank, train=replace(blank.train, batch=batch))
    model = build_model(blank, dataset, torch.device("cpu"))
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.weights.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute = measure_compute(model, small, dataset, torch.device("cpu"))
    parameters, copies = int(compute["parameters"]), len(config.train.averages)
    devices = config.train.resources.devices
    share = -(-config.train.batch // devices)
    images = min(config.run.micro_batch or share, share)
    moments = 2  # of the optimiser
    checkpoint, generations = 1 + moments + copies, 2
    # Training keeps a copy of its state to repeat steps from, unless finiteness is checked at every step.
    single = 1 if config.run.device == "cpu" else None
    replay = 0 if (config.run.check_every or single) == 1 else checkpoint
    return Footprint(
        parameters=parameters,
        flops=compute["flops_per_image"] * config.budget_images,
        state=FLOAT32 * parameters * (1 + checkpoint + replay),
        data=data.nbytes,
        activations=sum(kept.values()) * images // batch,
        disk=FLOAT32 * parameters * (generations * checkpoint + copies * len(config.snapshot_images)),
    )


def _blank(data: DataInfo, count: int) -> Dataset:
    """A data set of `count` equal samples, which share the memory of one."""
    kind = torch.uint8 if data.quantised else torch.float32
    images = torch.zeros(1, *data.shape, dtype=kind).expand(count, *data.shape)
    return Dataset(data.name, images, torch.arange(count) % data.classes, data.classes, data.exact)


def measure_compute(model: Model, config: RunConfig, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """Parameters (modules included), network passes and FLOPs of one training step, counted on a small batch.

    FLOPs are those of matrix products and convolutions, forward and backward, a multiplication and an addition each.
    """
    from torch.utils.flop_counter import FlopCounterMode

    average = model.averaged() if model.method.coupling.needs_average else None
    passes, flops = 0, 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    batch = min(config.train.batch, len(dataset))
    index = torch.arange(batch, device=device)
    replica = Replica(model, average.denoiser(evaluating=True) if average else None)
    memory = Memory("split", min(config.run.micro_batch or batch, batch))

    def step(micro_batch: int) -> LossTerms:
        nonlocal passes, flops
        passes = 0
        with default_generator("flops", device=device), FlopCounterMode(display=False) as counter:
            noise = generator("flops", device=device)
            terms = replica.forward_backward(index, 0.5, noise, micro_batch)
        flops = counter.get_total_flops()
        return terms

    networks = [model.network, *([average.network] if average else [])]
    hooks = [network.register_forward_hook(count) for network in networks]
    try:
        memory.fit(step, lambda: model.weights.zero_grad(set_to_none=True))
    finally:
        for hook in hooks:
            hook.remove()
        model.weights.zero_grad(set_to_none=True)
    return {
        "parameters": sum(p.numel() for p in model.weights.parameters()),
        "parameters_network": sum(p.numel() for p in model.network.parameters()),
        "passes_per_step": passes / math.ceil(batch / memory.micro_batch),  # of the images, however they are split
        "flops_per_image": flops / batch,
    }
