"""From a network and its input to an extractor: batches on the device, in exact float32, features on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from ...common.errors import UsageError
from ...common.precision import float32_products
from ...data.base import Dataset
from .base import Extractor, Features
from .preprocessing import Preparation, check_images

#: Images at once. On a CPU more is slower, by a tenth at 32, as the first layers' activations leave the cache; on a GPU
#: the activations of this many fit next to a model.
BATCH = {"cpu": 16}
BATCH_ELSEWHERE = 128
AT_ONCE = 4  # batches on a CPU: 16 images of Inception take up to 400 MB


def network_extractor(
    *,
    name: str,
    identity: str,
    dataset: Dataset,
    load: Callable[[], nn.Module],
    prepare: Preparation,
    device: torch.device,
) -> Extractor:
    """An extractor of the images of `dataset` by a network that returns features [N, D].

    Raises UsageError for data that are not images, before any weights are loaded.
    """
    from .registry import Extractor

    check_dataset(name, dataset)
    network = load().eval().requires_grad_(False).to(device)

    return Extractor(identity, batched(lambda images: network(prepare(images)), device), costly=True)


def check_dataset(name: str, dataset: Dataset) -> None:
    """Raise UsageError unless the data are images of one or three channels."""
    if not dataset.quantised or len(dataset.shape) != 3 or dataset.shape[0] not in (1, 3):
        raise UsageError(
            f"the extractor {name!r} reads images of 1 or 3 channels, which data set {dataset.name!r} does not hold"
        )


def refuse_protocol(name: str, protocol: str) -> None:
    """Raise UsageError where a protocol is asked of an extractor that has one way to prepare images."""
    if protocol:
        raise UsageError(f"the extractor {name!r} has no protocol {protocol!r}: only inception has protocols")


def batched(features: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Features]:
    """`features` of uint8 images on the device, [N, C, H, W] to [N, D], for any number of them.

    What this returns raises ValueError for images that are none, before anything is computed, and FloatingPointError
    where features are not finite.
    """

    size = BATCH.get(device.type, BATCH_ELSEWHERE)

    def one(batch: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):  # which every thread has to say
            return features(batch.to(device)).float().cpu()

    def extract(images: Tensor) -> Features:
        check_images(images)
        if not len(images):
            raise ValueError("there are no images to take features of")
        with float32_products(tf32=False):
            batches = images.split(size)
            parts = _side_by_side(one, batches) if device.type == "cpu" else [one(batch) for batch in batches]
        values = torch.cat(parts)
        if not torch.isfinite(values).all():
            raise FloatingPointError("features hold NaN or infinity")
        return Features(values, None)

    return extract


def _side_by_side(function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> list[Tensor]:
    """`function` of several batches at once, each in threads of its own.

    On two cores 8 % faster than one batch after the other cut among both, and the same bits: fewer meeting points.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(batches), AT_ONCE)
    if workers == 1:
        return [function(batch) for batch in batches]
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            return list(pool.map(function, batches))
    finally:
        torch.set_num_threads(threads)  # MKL's number is common to all threads
