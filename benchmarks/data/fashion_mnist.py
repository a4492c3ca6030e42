"""`fashion_mnist`: Zalando's 60,000 training images, 28×28 grey, from the first copy that is found."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..common.errors import UsageError
from .base import DataInfo, Dataset

#: Where Debian's and Ubuntu's package `dataset-fashion-mnist` puts its files.
SYSTEM = Path("/usr/share/datasets/fashion-mnist")

#: MD5 of the *unpacked* content. The packed files differ from one distributor to the next (Debian's training
#: images have cf8536b0aa1a6ac5fa3f23001093305c, the original ones 8d4fb7e6c68d591d4c3dfef9ec88bf0d); their
#: content does not.
MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
}


@dataclass(frozen=True)
class FashionMnist:
    """The training images, uint8 [60000, 1, 28, 28]; ten classes.

    Searched in `root`, in torchvision's layout below it (`root/FashionMNIST/raw`) and in the system's folder, packed
    (`.gz`) or not; else, if `download` allows it, fetched by torchvision into `root`.
    """

    root: Path
    download: bool = False

    def describe(self) -> DataInfo:
        _find(self.root, self.download)
        return DataInfo(name="fashion_mnist", count=60_000, shape=(1, 28, 28), classes=10)

    def load(self) -> Dataset:
        files = _find(self.root, self.download) or _download(self.root)
        images, labels = (_tensor(file, MD5[name]) for name, file in files.items())
        return Dataset("fashion_mnist", images[:, None], labels.long(), classes=10)


def _find(root: Path, download: bool) -> dict[str, Path]:
    """The file for each name in `MD5`; {} if there is no copy and one may be downloaded, UsageError if not."""
    for folder in (root, root / "FashionMNIST" / "raw", SYSTEM):
        if files := _files(folder):
            return files
    if download:
        return {}
    raise UsageError(
        f"data set 'fashion_mnist' was found neither in {root} nor in {SYSTEM}: install the system package "
        "dataset-fashion-mnist, allow the download with data.download=true, or name the folder that "
        "holds its idx files with data.root=FOLDER"
    )


def _files(folder: Path) -> dict[str, Path]:
    """The file for each name in `MD5`, unpacked before packed; {} unless all are there."""
    found = {}
    for name in MD5:
        for path in (folder / name, folder / f"{name}.gz"):
            if isfile(path):
                found.setdefault(name, path)
    return found if len(found) == len(MD5) else {}


def _download(root: Path) -> dict[str, Path]:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"data set 'fashion_mnist' could not be downloaded to {root} ({reason}): install the system package "
            "dataset-fashion-mnist, or name the folder that holds its idx files with data.root=FOLDER"
        ) from error
    return _files(root / "FashionMNIST" / "raw")


def _tensor(path: Path, md5: str) -> Tensor:
    """The uint8 tensor of one idx file, after its checksum has been verified."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read ({error}): delete it and fetch fashion_mnist again") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UsageError(f"{path} is not the file of Fashion-MNIST: delete it and fetch fashion_mnist again")
    # idx: two zero bytes, the type (8: uint8), the number of dimensions, each dimension as a big-endian
    # 32-bit number, then the values. The checksum has already verified all of it.
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).astype(int)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(values.reshape(shape).copy())
