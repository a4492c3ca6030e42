"""`cifar10`: the 50,000 training images of CIFAR-10, 32×32 RGB, through torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..common.errors import UsageError
from .base import DataInfo, Dataset

FOLDER = "cifar-10-batches-py"
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


@dataclass(frozen=True)
class Cifar10:
    """The training images, uint8 [50000, 3, 32, 32]; ten classes.

    root:     the folder that holds `cifar-10-batches-py`.
    download: whether torchvision may put it there.
    """

    root: Path
    download: bool = False

    def describe(self) -> DataInfo:
        if not self.download and not all((self.root / FOLDER / name).is_file() for name in BATCHES):
            raise _missing(self.root)
        return DataInfo(name="cifar10", count=50_000, shape=(3, 32, 32), classes=10)

    def load(self) -> Dataset:
        """The batches are Python pickles, which can run code when they are read; torchvision compares every file with
        its published MD5 before it opens one, so only the original files are ever unpickled.
        """
        from torchvision.datasets import CIFAR10

        try:
            batches = CIFAR10(str(self.root), train=True, download=self.download)
        except (OSError, RuntimeError) as error:
            if not self.download:
                raise _missing(self.root) from error
            reason = " ".join(str(error).split())
            raise UsageError(
                f"data set 'cifar10' could not be downloaded to {self.root} ({reason}): unpack cifar-10-python.tar.gz "
                "into a folder and name it with data.root=FOLDER"
            ) from error
        images = torch.from_numpy(batches.data).permute(0, 3, 1, 2).contiguous()
        return Dataset("cifar10", images, torch.tensor(batches.targets), classes=10)


def _missing(root: Path) -> UsageError:
    return UsageError(
        f"data set 'cifar10' is missing or damaged in {root / FOLDER}: allow the download with "
        "data.download=true, or unpack cifar-10-python.tar.gz into a folder and name it with data.root=FOLDER"
    )
