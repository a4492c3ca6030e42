"""Data sets by name. Importing this module is cheap: each loader is imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.cache import cache_folder
from ..common.errors import UsageError, unknown

if TYPE_CHECKING:
    from .base import DataInfo, Dataset

NAMES = ("cifar10", "digits", "fashion_mnist", "ffhq64", "imagenet64", "toy2d")


def describe(name: str, root: Path | None = None, download: bool = False, variant: str | None = None) -> DataInfo:
    """What is known of the training set called `name` without reading its samples. Nothing is ever downloaded.

    Arguments as for `load`. Files may be missing if `download` allows fetching them later.

    Raises UsageError for an unknown name or variant, and for missing files.
    """
    folder = _folder(name, root, variant)
    if name == "cifar10":
        from . import cifar10

        return cifar10.describe(folder, download)
    if name == "fashion_mnist":
        from . import fashion_mnist

        return fashion_mnist.describe(folder, download)
    if name in ("ffhq64", "imagenet64"):
        from . import image_folder

        return image_folder.describe(name, folder)
    if name == "toy2d":
        from . import toy2d

        return toy2d.describe(variant)
    from . import digits

    return digits.describe()


def load(name: str, root: Path | None = None, download: bool = False, variant: str | None = None) -> Dataset:
    """The training set called `name`.

    root:     the folder with the files of a data set that is not shipped; the user's cache if None. For imagenet64 and
              ffhq64 the folder or zip file of the images themselves, `NAME` or `NAME.zip` in the cache if None.
    download: whether missing files may be downloaded.
    variant:  which distribution, for toy2d alone (its first one if None).

    Raises UsageError for an unknown name or variant, and for files that are missing or damaged.
    """
    folder = _folder(name, root, variant)
    if name == "cifar10":
        from . import cifar10

        return cifar10.load(folder, download)
    if name == "fashion_mnist":
        from . import fashion_mnist

        return fashion_mnist.load(folder, download)
    if name in ("ffhq64", "imagenet64"):
        from . import image_folder

        return image_folder.load(name, folder)
    if name == "toy2d":
        from . import toy2d

        return toy2d.load(variant)
    from . import digits

    return digits.load()


def _folder(name: str, root: Path | None, variant: str | None) -> Path:
    """Where the files of a data set are. Raises UsageError for an unknown name or a variant of what has none."""
    if name not in NAMES:
        raise unknown("data set", name, NAMES)
    if variant is not None and name != "toy2d":
        raise UsageError(f"data set {name!r} has no variants, so {variant!r} has no meaning; only toy2d has them")
    if root is not None:
        return root.expanduser()
    folder = cache_folder("data")
    if name not in ("ffhq64", "imagenet64"):
        return folder
    archive = folder / f"{name}.zip"
    return archive if archive.is_file() else folder / name


def load_dataset(config: dict[str, Any]) -> Dataset:
    """The training set of a configuration. Raises UsageError where it is missing."""
    data = config["data"]
    root = None if data["root"] is None else Path(data["root"])
    return load(data["name"], root=root, download=data["download"], variant=data["variant"])


def describe_dataset(config: dict[str, Any]) -> DataInfo:
    """The training set of a configuration without its samples. Raises UsageError if files are missing."""
    data = config["data"]
    root = None if data["root"] is None else Path(data["root"])
    return describe(data["name"], root=root, download=data["download"], variant=data["variant"])
