"""The reference images of SCT's teacher: a set of stored images, and which of them each row averages over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

WHOLE_ELEMENTS = 2**26
"""Up to so many elements the whole set is kept as floats too (256 MiB): Fashion-MNIST is, CIFAR-10 is not."""

CHUNK_ELEMENTS = 2**25
"""Elements converted to float32 at a time (128 MiB): images of a larger set never all exist as floats."""


def _unchanged(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True, eq=False)
class Bank:
    """A set of images, on the device that trains.

    images: [N, ...] as stored (uint8), or in model units.
    labels: class indices of all positions, mirror images included; None for unconditional training, where every image
        serves every row.
    to_model: from stored images to model units, float32.
    mirrored: whether the set also holds the mirror image of each, left to right, at the positions N to 2N - 1. They are
        made when they are asked for and take no memory.
    """

    images: Tensor
    labels: Tensor | None = None
    to_model: Callable[[Tensor], Tensor] = _unchanged
    mirrored: bool = False

    def __len__(self) -> int:
        return len(self.images) * (2 if self.mirrored else 1)

    def stored(self, places: Tensor | slice) -> Tensor:
        """The images at these positions, int64 [n] or a slice, as stored."""
        if not self.mirrored:
            return self.images[places]
        if isinstance(places, slice):
            places = torch.arange(len(self), device=self.images.device)[places]
        count = len(self.images)
        images = self.images[places % count]
        return torch.where((places >= count).view(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)

    @cached_property
    def by_class(self) -> dict[int, Tensor]:
        """Class -> positions of its images, int64 [n], rising. Empty without labels."""
        if self.labels is None:
            return {}
        labels, device = self.labels.cpu(), self.labels.device  # on a device, the only time that the host waits for it
        positions = {label: (labels == label).nonzero()[:, 0] for label in labels.unique().tolist()}
        return {label: places.to(device, non_blocking=True) for label, places in positions.items()}

    def chunks(self, index: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The images at `index` [n] (None: all), flat and in model units, and their ‖x‖² / 2, in pieces.

        Float [m, d] and [m], which together make up [n, d] and [n]. No other image is read.
        """
        if self._whole is not None:
            images, half_squares = self._whole
            yield (images, half_squares) if index is None else (images[index], half_squares[index])
            return
        size = max(1, CHUNK_ELEMENTS // max(1, self.images[0].numel()))
        for start in range(0, len(self) if index is None else len(index), size):
            rows = slice(start, start + size)
            yield self._as_floats(self.stored(rows if index is None else index[rows]))

    @cached_property
    def _whole(self) -> tuple[Tensor, Tensor] | None:
        """All images as floats, where they are few enough to keep."""
        elements = self.images[0].numel() * len(self) if len(self) else 0
        return self._as_floats(self.stored(slice(None))) if elements <= WHOLE_ELEMENTS else None

    def _as_floats(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        images = self.to_model(stored).flatten(1)
        return images, images.square().sum(1) / 2


@dataclass(frozen=True, kw_only=True)
class References:
    """Which images of a pool a teacher averages over, row by row of a batch.

    sets: class -> positions in the pool, int64 [n]; under None the positions for rows of any class. A value of None
        stands for the whole pool.
    own: where each row's own image lies in the pool, int64 [B]: the row's own image is then taken out of its set,
        together with one more if it was not in it, and put in exactly once. None where every set holds it already.
    places: where each row's own image lies in a pool that is the batch itself, int64 [B]; None for other pools.
    """

    pool: Bank
    sets: dict[int | None, Tensor | None]
    own: Tensor | None = None
    places: Tensor | None = None

    def rows(self, rows: slice) -> References:
        """The same references for a part of the batch."""
        return replace(
            self,
            own=None if self.own is None else self.own[rows],
            places=None if self.places is None else self.places[rows],
        )

    def groups(self, labels: Tensor | None, rows: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Those of the batch's `rows` (positions, int64 [b]) that share a set: (rows, the set)."""
        if None in self.sets:
            yield rows, self.sets[None]
        elif labels is None:
            raise ValueError("the references go by class, but the batch has no labels")
        else:
            own = labels[rows].tolist()  # the only time that the host waits for the device
            for label in sorted(set(own)):
                places = torch.tensor([place for place, other in enumerate(own) if other == label])
                yield rows[places.to(rows.device, non_blocking=True)], self.sets[label]


def all_references(pool: Bank) -> References:
    """All images of the pool; of a pool with labels, those of each row's own class."""
    sets: dict[int | None, Tensor | None] = {None: None}
    return References(pool=pool, sets=sets if pool.labels is None else {**pool.by_class})


def batch_references(x: Tensor, labels: Tensor | None) -> References:
    """The images x [B, ...] of the batch itself; with labels those of each row's own class."""
    return replace(all_references(Bank(images=x, labels=labels)), places=torch.arange(len(x), device=x.device))


def sampled_references(pool: Bank, labels: Tensor | None, own: Tensor, n: int, rng: torch.Generator) -> References:
    """n images for every row, its own among them and the others drawn without replacement from its class.

    One draw serves all rows of a class. With n or fewer images in the pool (or class) it is all of them.
    """
    if pool.labels is None or labels is None:
        return References(pool=pool, sets={None: _draw(torch.arange(len(pool), device=own.device), n, rng)}, own=own)
    present = sorted(set(labels.tolist()))
    return References(pool=pool, sets={label: _draw(pool.by_class[label], n, rng) for label in present}, own=own)


def _draw(positions: Tensor, n: int, rng: torch.Generator) -> Tensor:
    return positions[torch.randperm(len(positions), generator=rng, device=positions.device)[:n]]
