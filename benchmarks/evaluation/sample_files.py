"""Samples as files for other programs: PNG images in EDM's layout (a folder or a zip file), or one npz file.

The same samples are the same bytes: entries of archives have no time of their own.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..common.errors import UsageError
from ..common.files import atomic_path, owner_mark, remove_leftovers

PER_FOLDER = 1_000
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of an entry of a zip file

#: A batch of samples (uint8 [N, C, H, W] or float32 [N, 2]) and their classes (int64 [N], None without any).
Batch = tuple[Tensor, Tensor | None]


def write_samples(path: Path, batches: Iterable[Batch], shape: tuple[int, ...], count: int) -> None:
    """Write samples to `path`: an npz file or a zip file by its suffix, else a new folder. All of it or nothing.

    An npz file has the entries `images` (uint8 [N, H, W, C], or [N, H, W] if grey) or `points` (float32 [N, 2]) and, of
    conditional models, `labels`. As images they have the names 00000/img00000000.png and so on; dataset.json holds the
    classes.

    shape: of one sample, (C, H, W) or (2,). count: of all batches together.

    Raises UsageError if the path exists, and for points as images; OSError if something cannot be written.
    """
    if path.exists():
        raise UsageError(f"{path} exists already: choose another name for the samples")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _write_arrays(archive, batches, shape, count)
        return
    if len(shape) != 3:
        raise UsageError(f"samples of shape {list(shape)} are not images: write them to a file that ends in .npz")
    if suffix == ".zip":
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _write_images(lambda name, content: archive.writestr(zipfile.ZipInfo(name, EPOCH), content), batches)
        return
    with new_folder(path) as temporary:
        _write_images(lambda name, content: _write(temporary / name, content), batches)


def _write_arrays(archive: zipfile.ZipFile, batches: Iterable[Batch], shape: tuple[int, ...], count: int) -> None:
    """One batch is held at a time."""
    image = len(shape) == 3
    layout = (*shape[1:], *([shape[0]] if shape[0] > 1 else [])) if image else shape
    header = {"descr": "|u1" if image else "<f4", "fortran_order": False, "shape": (count, *layout)}
    labels = []
    with archive.open(zipfile.ZipInfo("images.npy" if image else "points.npy", EPOCH), "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for samples, classes in batches:
            arranged = samples.movedim(1, -1) if image else samples
            file.write(np.ascontiguousarray(arranged.numpy()).tobytes())
            labels += [] if classes is None else [classes.numpy()]
    if labels:
        content = io.BytesIO()
        np.lib.format.write_array(content, np.concatenate(labels))
        archive.writestr(zipfile.ZipInfo("labels.npy", EPOCH), content.getvalue())


def _write_images(write: Callable[[str, bytes], None], batches: Iterable[Batch]) -> None:
    number, listed = 0, []
    for samples, classes in batches:
        for place, pixels in enumerate(samples.movedim(1, -1).numpy()):
            name = f"{number // PER_FOLDER:05d}/img{number:08d}.png"
            content = io.BytesIO()
            Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(content, "PNG")
            write(name, content.getvalue())
            if classes is not None:
                listed.append([name, int(classes[place])])
            number += 1
    write("dataset.json", json.dumps({"labels": listed or None}).encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` at the end; after an error, nothing is left of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    prefix = f".{path.name[:100]}.{owner_mark()}"
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=".tmp"))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
