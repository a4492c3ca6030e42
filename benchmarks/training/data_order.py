"""The order of the training images: an endless stream of shuffled epochs, addressed by images seen."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..common.seeding import derive, generator


def batch_index(size: int, seed: int, start: int, count: int, *, flip: bool) -> Tensor:
    """Positions in the bank of images `start` to `start + count` of the run, int64 [count].

    With `flip`, each image is replaced by its mirror image (`size` positions further) with probability 1/2.
    size: training images, without mirror images. start: a multiple of count, where batches begin.
    """
    index = data_order(size, seed, start, count)
    return index + size * torch.randint(2, (count,), generator=generator("flips", seed, start)) if flip else index


def data_order(size: int, seed: int, start: int, count: int) -> Tensor:
    """Indices of images `start` to `start + count` of the stream, int64 [count].

    Any part of the stream is computed without the parts before it. Each image occurs once per epoch.
    """
    parts = []
    position = start
    while position < start + count:
        epoch, offset = divmod(position, size)
        part = _epoch(size, seed, epoch)[offset : offset + start + count - position]
        parts.append(part)
        position += len(part)
    return torch.cat(parts)


@lru_cache(maxsize=1)  # the stream only moves forward
def _epoch(size: int, seed: int, epoch: int) -> Tensor:
    """The permutation of one epoch, int64 [size]."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(derive("data order", seed, epoch)))
