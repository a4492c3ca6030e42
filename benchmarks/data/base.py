"""What a data set is to the rest of the suite: a tensor in memory and the way to and from the model's scale."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .distributions import Distribution


@dataclass(frozen=True, eq=False)
class Dataset:
    """All samples of a training set, in memory.

    name:    the name in the registry.
    images:  uint8 [N, C, H, W], or float32 [N, 2] for points in the plane.
    labels:  int64 [N], each in [0, classes).
    classes: number of classes (1 where there is only one kind of sample).
    exact:   the distribution the samples were drawn from, where it is known.

    Images stay uint8 because that is what they are: a quarter of the memory, exact copies, and metrics that
    compare files with files. Only the model sees floats.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: int
    exact: Distribution | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W), or (2,) for points."""
        return tuple(self.images.shape[1:])

    @property
    def quantised(self) -> bool:
        """Whether samples are uint8 images, to which the model's output is rounded."""
        return self.images.dtype == torch.uint8

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any sample, label, shape or type (a cut SHA-256)."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def to_model(self, batch: Tensor) -> Tensor:
        """Samples as the model sees them: float32 of the same shape.

        Images become x = uint8/127.5 - 1, the law of EDM and of every method here, so that black is -1, white
        is 1 and the published noise levels mean the same. Points pass unchanged.
        """
        return batch.float() / 127.5 - 1 if self.quantised else batch

    def from_model(self, x: Tensor, *, truncate: bool = False) -> Tensor:
        """The model's output as samples: uint8 images of the same shape, or points unchanged.

        Images are clamped and rounded half up from 127.5x + 127.5. `truncate` cuts instead, as a bare cast does: every
        image is then darker by half a grey level on average, and Fréchet distances see that.

        Raises ValueError where an image holds NaN or infinity: as uint8 a diverged sample would pass for an image.
        """
        if not self.quantised:
            return x
        if not torch.isfinite(x).all():
            raise ValueError("cannot quantise samples that are not finite")
        return (x.float() * 127.5 + 127.5).clamp(0, 255).add(0.0 if truncate else 0.5).floor().to(torch.uint8)
