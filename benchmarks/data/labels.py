"""The class of each image: from `dataset.json`, or from the folders that images are in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from posixpath import dirname, normpath

from ..common.errors import UsageError
from ..common.text import plain
from .listing import LABELS, Listing

LABEL_BYTES = 2**28
#: More is taken for a mistake: networks have weights for each class.
MOST_CLASSES = 100_000


def read_labels(listing: Listing, classes: int | None) -> list[int] | None:
    """The class of each image, in the order of the images; None if they have no classes.

    classes: how many there are, None if the labels say so.

    `dataset.json` holds {"labels": [["00000/img00000000.png", 6], …]}, or null for images without classes. Without that
    file each folder is a class, numbered in the order of their names, if there are several and no image is outside.

    Raises UsageError for a label that is missing, contradicts another one, or is not a whole number in range.
    """
    if listing.labels:
        known = _label_file(listing)
        if known is None:
            return None
        if missing := [name for name in listing.images if name not in known]:
            path = listing.files.path
            raise UsageError(plain(f"{path}: {LABELS} has no label for {missing[0]} ({len(missing)} images without)"))
        labels = [known[name] for name in listing.images]
    else:
        folders = [dirname(name) for name in listing.images]
        if len(set(folders)) < 2 or "" in folders:
            return None
        number = {folder: place for place, folder in enumerate(sorted(set(folders)))}
        labels = [number[folder] for folder in folders]
    return checked_labels(labels, lambda place: listing.where(listing.images[place]), classes)


def checked_labels(labels: Sequence[object], where: Callable[[int], str], classes: int | None) -> list[int]:
    """The labels, if each is a whole number below `classes`. Raises UsageError for the first that is not.

    where: what a message calls the image with this number.
    """
    last = (classes or MOST_CLASSES) - 1
    found = []
    for place, label in enumerate(labels):
        if type(label) is not int or not 0 <= label <= last:
            raise UsageError(f"{where(place)} has the label {_shown(label)}, must be a whole number from 0 to {last}")
        found.append(label)
    return found


def _label_file(listing: Listing) -> dict[str, object] | None:
    where = listing.where(LABELS)
    content = listing.read(LABELS, LABEL_BYTES)
    if len(content) > LABEL_BYTES:
        raise UsageError(f"{where} is larger than {LABEL_BYTES} bytes")
    try:
        pairs = json.loads(content)["labels"]
        if pairs is None:
            return None
        entries = [(normpath(name.replace("\\", "/")), label) for name, label in pairs]
    except RecursionError:
        raise UsageError(f"{where} is nested too deeply") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UsageError(f"{where} does not hold a list of [file, class], or null, under 'labels'") from None
    known: dict[str, object] = {}
    for name, label in entries:
        other = known.setdefault(name, label)
        if other is not label and (type(other) is not type(label) or other != label):
            classes = f"{_shown(other)} and {_shown(label)}"
            raise UsageError(plain(f"{where} lists {name} twice, with the classes {classes}"))
    return known


def _shown(label: object) -> str:
    text = repr(label) if not isinstance(label, int) or abs(label) < 10**20 else "a huge number"
    return plain(text if len(text) <= 40 else f"{text[:40]}…")
