"""From a network to an extractor: batches on the device, in exact float32, features on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...common.errors import unknown
from ...common.precision import float32_products
from ...data.base import DataInfo
from . import weight_files
from .base import Extractor, Features, refuse_protocol, require_images
from .preprocessing import Preparation, check_images

#: Images per batch. On a CPU more is slower, by a tenth at 32, as activations of the first layers leave the cache; on a
#: GPU the activations of this many fit next to a model.
BATCH = {"cpu": 16}
BATCH_ELSEWHERE = 128
CONCURRENT = 4  # batches on a CPU: 16 images of Inception take up to 400 MB


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A network whose outputs [N, D] are features of images: an `ExtractorKind`.

    name:      the extractor's name, under which `weight_files` finds the weights.
    digest:    SHA-256 of the weights.
    load:      the network with the weights of a file; raises DamagedError.
    protocols: ways to prepare images by name, the default first; {"": …} if there is only one.
    """

    name: str
    digest: str
    load: Callable[[Path], nn.Module]
    protocols: Mapping[str, Preparation]

    def check(self, data: DataInfo, protocol: str) -> None:
        require_images(self.name, data)
        self._protocol(protocol)
        weight_files.locate(self.name)

    def build(self, data: DataInfo, device: torch.device, protocol: str) -> Extractor:
        self.check(data, protocol)
        protocol = self._protocol(protocol)
        prepare = self.protocols[protocol]
        network = self.load(weight_files.locate(self.name)).eval().requires_grad_(False).to(device)
        identity = " ".join(filter(None, (self.name, protocol, self.digest[:16])))
        return Extractor(identity, batched(lambda images: network(prepare(images)), device), costly=True)

    def _protocol(self, name: str) -> str:
        if "" in self.protocols:
            refuse_protocol(self.name, name)
        elif name and name not in self.protocols:
            raise unknown("protocol", name, self.protocols)
        return name or next(iter(self.protocols))


def batched(features: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Features]:
    """`features` of uint8 images on the device, [N, C, H, W] to [N, D], for any number of them.

    The result raises ValueError for tensors that are not images, before anything is computed, and FloatingPointError
    if features are not finite.
    """
    size = BATCH.get(device.type, BATCH_ELSEWHERE)

    def one(batch: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):  # both are settings of a thread
            return features(batch.to(device)).float().cpu()

    def extract(images: Tensor) -> Features:
        check_images(images)
        if not len(images):
            raise ValueError("there are no images to extract features from")
        with float32_products(tf32=False):
            batches = images.split(size)
            parts = _in_threads(one, batches) if device.type == "cpu" else [one(batch) for batch in batches]
        values = torch.cat(parts)
        if not torch.isfinite(values).all():
            raise FloatingPointError("features hold NaN or infinity")
        return Features(values, None)

    return extract


def _in_threads(function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> list[Tensor]:
    """`function` of several batches at once, which share the threads of PyTorch.

    On two cores 8 % faster than one batch after the other on both, with the same bits: threads synchronise less often.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(batches), CONCURRENT)
    if workers == 1:
        return [function(batch) for batch in batches]
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            return list(pool.map(function, batches))
    finally:
        torch.set_num_threads(threads)  # MKL's number is common to all threads
