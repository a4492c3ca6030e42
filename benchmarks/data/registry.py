"""Data sets by name. Importing this module is cheap: each loader is imported when it is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import UsageError, unknown

if TYPE_CHECKING:
    from .base import Dataset

NAMES = ("cifar10", "digits", "fashion_mnist", "ffhq64", "imagenet64", "toy2d")


def default_root() -> Path:
    """Where downloads go unless the user names a folder: `consistency-bench/data` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "consistency-bench" / "data"


def _image_source(name: str) -> Path:
    archive = default_root() / f"{name}.zip"
    return archive if archive.is_file() else default_root() / name


def load(name: str, root: Path | None = None, download: bool = False, variant: str | None = None) -> Dataset:
    """The training set called `name`, in memory.

    root:     the folder with the files of a data set that is not shipped; `default_root()` if None. For imagenet64 and
              ffhq64 the folder or zip file of the images themselves, `default_root()/NAME` or `NAME.zip` if None.
    download: whether the network may be used when the files are not there.
    variant:  which distribution, for toy2d alone (its first one if None).

    Raises UsageError for an unknown name or variant, and for files that are missing or damaged.
    """
    if name not in NAMES:
        raise unknown("data set", name, NAMES)
    if variant is not None and name != "toy2d":
        raise UsageError(f"data set {name!r} has no variants, so {variant!r} has no meaning; only toy2d has them")
    folder = default_root() if root is None else root.expanduser()
    if name == "cifar10":
        from . import cifar10

        return cifar10.load(folder, download)
    if name == "fashion_mnist":
        from . import fashion_mnist

        return fashion_mnist.load(folder, download)
    if name in ("ffhq64", "imagenet64"):
        from . import image_folder

        return image_folder.load(name, _image_source(name) if root is None else folder)
    if name == "toy2d":
        from . import toy2d

        return toy2d.load() if variant is None else toy2d.load(variant)
    from . import digits

    return digits.load()


def load_dataset(config: dict[str, Any]) -> Dataset:
    """The training set of a configuration. Raises UsageError where it is missing."""
    data = config["data"]
    root = None if data["root"] is None else Path(data["root"])
    return load(data["name"], root=root, download=data["download"], variant=data["variant"])
