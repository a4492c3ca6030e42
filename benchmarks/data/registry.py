"""Data sets by name. Importing this module is cheap: each data set's module is imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..common.cache import cache_folder
from ..common.errors import UsageError, unknown

if TYPE_CHECKING:
    from .base import DataInfo, Dataset, Source

NAMES = ("cifar10", "digits", "fashion_mnist", "ffhq64", "imagenet64", "toy2d")


def describe(name: str, root: Path | None = None, download: bool = False, variant: str | None = None) -> DataInfo:
    """What is known of the training set called `name` without reading its samples. Nothing is ever downloaded.

    Arguments as for `load`. Files may be missing if `download` allows fetching them later.

    Raises UsageError for an unknown name or variant, and for missing files.
    """
    return _source(name, root, download, variant).describe()


def load(name: str, root: Path | None = None, download: bool = False, variant: str | None = None) -> Dataset:
    """The training set called `name`.

    root:     the folder with the files of a data set that is not shipped; the user's cache if None. For imagenet64 and
              ffhq64 the folder or zip file of the images themselves, `NAME` or `NAME.zip` in the cache if None.
    download: whether missing files may be downloaded.
    variant:  which distribution, for toy2d alone (its first one if None).

    Raises UsageError for an unknown name or variant, and for files that are missing or damaged.
    """
    return _source(name, root, download, variant).load()


def _source(name: str, root: Path | None, download: bool, variant: str | None) -> Source:
    if name not in NAMES:
        raise unknown("data set", name, NAMES)
    if variant is not None and name != "toy2d":
        raise UsageError(f"data set {name!r} has no variants, so {variant!r} has no meaning; only toy2d has them")
    folder = cache_folder("data") if root is None else root.expanduser()
    if name == "cifar10":
        from .cifar10 import Cifar10

        return Cifar10(folder, download)
    if name == "fashion_mnist":
        from .fashion_mnist import FashionMnist

        return FashionMnist(folder, download)
    if name in ("ffhq64", "imagenet64"):
        from .image_folder import ImageFolder

        archive = folder / f"{name}.zip"
        default = archive if archive.is_file() else folder / name
        return ImageFolder(name, default if root is None else folder)
    if name == "toy2d":
        from .toy2d import Toy2d

        return Toy2d(variant)
    from .digits import Digits

    return Digits()


class DataOptions(Protocol):
    """What a configuration says about the training set, see `load`."""

    @property
    def name(self) -> str: ...

    @property
    def root(self) -> str | None: ...

    @property
    def download(self) -> bool: ...

    @property
    def variant(self) -> str | None: ...


def load_dataset(data: DataOptions) -> Dataset:
    """The training set of a configuration. Raises UsageError where it is missing."""
    root = None if data.root is None else Path(data.root)
    return load(data.name, root=root, download=data.download, variant=data.variant)


def describe_dataset(data: DataOptions) -> DataInfo:
    """The training set of a configuration without its samples. Raises UsageError if files are missing."""
    root = None if data.root is None else Path(data.root)
    return describe(data.name, root=root, download=data.download, variant=data.variant)
