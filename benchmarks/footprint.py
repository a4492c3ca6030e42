"""What a cell will need, worked out before it runs: parameters, FLOPs, memory, disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import ema, plan
from .cell import measure_compute
from .data.base import Dataset
from .model import build_model

FLOAT32 = 4  # bytes
PROBE = 2  # images that are passed through the network to count


@dataclass(frozen=True)
class Footprint:
    """Of one cell. Bytes and FLOPs; memory is that of one device while it trains.

    parameters: of the network and the method's modules. flops: of the whole training, as `run.json` counts them.
    state: of weights, gradients, optimiser and averages. data: of the training images. activations: of one pass, kept
    for the gradient. disk: of both generations of the checkpoint, and the snapshots.
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


def footprint(config: dict[str, Any], dataset: Dataset) -> Footprint:
    """What a configuration needs, by a pass of two images on the CPU.

    FLOPs and activations grow with the images, which is exact for all parts but those that look across the batch.
    """
    model = build_model(config, dataset, torch.device("cpu"))
    batch = min(PROBE, config["train"]["batch"])
    small = {**config, "train": {**config["train"], "batch": batch}}
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.weights.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute = measure_compute(model, small, dataset, torch.device("cpu"))
    parameters, averages = int(compute["parameters"]), len(ema.build_profiles(config["train"]))
    devices = (config["train"].get("resources") or {}).get("devices") or 1
    share = -(-config["train"]["batch"] // devices)
    images = min(config["run"]["micro_batch"] or share, share)
    moments = 2  # of the optimiser
    checkpoint, generations = 1 + moments + averages, 2
    return Footprint(
        parameters=parameters,
        flops=compute["flops_per_image"] * plan.budget_images(config),
        state=FLOAT32 * parameters * (2 + moments + averages),
        data=model.bank.images.nbytes,
        activations=sum(kept.values()) * images // batch,
        disk=FLOAT32 * parameters * (generations * checkpoint + averages * len(plan.snapshot_images(config))),
    )
