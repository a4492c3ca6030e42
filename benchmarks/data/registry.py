"""Data sets by name. Importing this module is cheap: each data set's module is imported when it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from os.path import exists, isfile  # false also for paths that cannot be
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.cache import cache_folder
from ..common.errors import UsageError, unknown

if TYPE_CHECKING:
    from .base import DataInfo, Dataset, Source

NAMES = ("cifar10", "digits", "fashion_mnist", "ffhq64", "imagenet64", "images", "toy2d")
#: Those of plug-ins.
OWN: dict[str, Callable[[DataOptions], Source]] = {}
#: Data sets without files.
SHIPPED = ("digits", "toy2d")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which training set, and where its files are.

    name: of the data set.
    variant: which distribution of `toy2d`; null takes its first one.
    root: the folder or file of the data set; null looks in the user's cache. Changes no number.
    download: whether missing files may be downloaded. Changes no number.
    resolution: of `images` alone: the size in pixels that images are scaled to; null takes them as they are.
    resize: of `images` alone: `center_crop` crops images that are not square; null refuses them.
    fingerprint: of a user's images, taken when a cell is composed; null for published data.
    held_out: share of the samples that is never trained on, a fixed random choice; metrics named `…_refheldout` compare
        with it. 0 trains on everything.
    """

    name: str
    variant: str | None = None
    root: str | None = None
    download: bool = True
    resolution: int | None = None
    resize: str | None = None
    fingerprint: str | None = None
    held_out: float = 0.0


def describe(name: str, root: Path | None = None, download: bool = False, variant: str | None = None) -> DataInfo:
    """What is known of the training set called `name` without reading its samples. Nothing is ever downloaded.

    Arguments as for `load`. Files may be missing if `download` allows fetching them later.

    Raises UsageError for an unknown name or variant, and for missing files.
    """
    return describe_dataset(DataOptions(name=name, root=root and str(root), download=download, variant=variant))


def load(name: str, root: Path | None = None, download: bool = False, variant: str | None = None) -> Dataset:
    """The training set called `name`.

    root:     the folder with the files of a data set that is not shipped; the user's cache if None. For images,
              imagenet64 and ffhq64, and for cifar10 in EDM's layout, the folder or file of the images themselves;
              for imagenet64 and ffhq64 `NAME` or `NAME.zip` in the cache if None.
    download: whether missing files may be downloaded.
    variant:  which distribution, for toy2d alone (its first one if None).

    Raises UsageError for an unknown name or variant, and for files that are missing or damaged.
    """
    return load_dataset(DataOptions(name=name, root=root and str(root), download=download, variant=variant))


def load_dataset(data: DataOptions) -> Dataset:
    """The training set of a configuration.

    Raises UsageError where it is missing, or has another fingerprint than the configuration.
    """
    from .base import split

    return split(_source(data).load(), data.held_out)


def describe_dataset(data: DataOptions) -> DataInfo:
    """The training set of a configuration without its samples. Raises as `load_dataset`."""
    from .base import held_out_count

    info = _source(data).describe()
    held = held_out_count(info.count, data.held_out)
    return replace(info, count=info.count - held, held_out=held)


def fingerprint(data: DataOptions) -> str | None:
    """16 hexadecimal digits that change with the images of a user; None for published data, and if files are missing.

    Depends on names and content of the files, not on the path. Nothing is decoded. Folders are read once.
    """
    path = _images_path(data)
    if path is None:
        return None
    from . import listing

    try:
        return listing.fingerprint(path)
    except UsageError:  # is raised again before anything is trained
        return None


def check_options(data: DataOptions) -> None:
    """Raise UsageError for options that the data set does not have."""
    if data.name in SHIPPED and data.root is not None:
        raise UsageError(f"data set {data.name!r} has no files, so data.root has no meaning; leave it out")
    if data.root is not None and "," in data.root and not exists(Path(os.path.expanduser(data.root))):
        raise UsageError(
            f"data.root is {data.root}, which does not exist: it is one path, and a comma does not separate several; "
            "use one command for each folder"
        )
    for key in ("resolution", "resize"):
        if data.name != "images" and data.name not in OWN and getattr(data, key) is not None:
            raise UsageError(f"data.{key} is for benchmark=images alone: data set {data.name!r} has a fixed size")


def _has_labels(folder: Path) -> bool:
    """Whether a folder, or one directly below it, is in EDM's layout."""
    try:
        names = ["", *os.listdir(folder)]
    except OSError:
        return False
    return any(isfile(folder / name / "dataset.json") for name in names)


def _images_path(data: DataOptions) -> Path | None:
    """The folder or file of images in a user's files; None for other data."""
    root = None if data.root is None else Path(os.path.expanduser(data.root))
    if data.name == "cifar10":
        return root if root is not None and (root.suffix == ".zip" or isfile(root) or _has_labels(root)) else None
    if data.name in ("ffhq64", "imagenet64") and root is None:
        archive = cache_folder("data") / f"{data.name}.zip"
        return archive if isfile(archive) else archive.with_suffix("")
    return root if data.name in ("ffhq64", "imagenet64", "images") else None


def _source(data: DataOptions) -> Source:
    name = data.name
    if name in OWN:
        return _own(data)
    if name not in NAMES:
        raise unknown("data set", name, [*NAMES, *OWN])
    if data.variant is not None and name != "toy2d":
        raise UsageError(f"data set {name!r} has no variants, so {data.variant!r} has no meaning; only toy2d has them")
    if (path := _images_path(data)) is not None:
        from .image_folder import ImageFolder

        return ImageFolder(name, path, data.resolution, data.resize, data.fingerprint)
    folder = cache_folder("data") if data.root is None else Path(os.path.expanduser(data.root))
    if name == "images":
        raise UsageError("benchmark=images needs a folder, zip file or npz file of images: name it with data.root=PATH")
    if name == "cifar10":
        from .cifar10 import Cifar10

        return Cifar10(folder, data.download)
    if name == "fashion_mnist":
        from .fashion_mnist import FashionMnist

        return FashionMnist(folder, data.download)
    if name == "toy2d":
        from .toy2d import Toy2d

        return Toy2d(data.variant)
    from .digits import Digits

    return Digits()


def _own(data: DataOptions) -> Source:
    """The source of a plug-in. Raises UsageError if it is none."""
    source = OWN[data.name](data)
    if absent := [name for name in ("describe", "load") if not callable(getattr(source, name, None))]:
        raise UsageError(f"data set {data.name!r}: {type(source).__name__} has no function {' and no '.join(absent)}")
    return source
