"""Results as a zip file: the files of cells, as they lie in an output folder.

    <benchmark>/<method>/s<seed>-<id>/...    configuration, status, records, logs, samples and, if wanted, weights
    <benchmark>/reference.jsonl              baselines
    studies/<name>/...                       definition and cells of a study
    imported/<name>.csv                      imported rows

The same results are the same bytes. An archive may be someone else's: see `unpack`.

A results folder holds published results: such an archive, `cells.zip`, and the pages that `bench report --from` makes
from it.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..common.errors import UsageError
from ..common.files import DamagedError, atomic_path
from ..common.text import plain
from ..data.listing import naming_damage, opened_zip
from .damage import damages
from .folder import STUDIES, Run, find_cells
from .studies import begin_list

CELLS_FILE = "cells.zip"  # of a results folder
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of an entry of a zip file
WEIGHTS = ".safetensors"
KINDS = (".yaml", ".json", ".jsonl", ".npz", ".csv", WEIGHTS)
MOST_ENTRIES = 1_000_000
BLOCK = 1 << 20
#: Bytes of one file; of files of weights.
LARGEST, LARGEST_WEIGHTS = 1 << 30, 1 << 36


def files_of(run: Run, *, weights: bool) -> list[Path]:
    """The files of a cell that are its result. Checkpoints, locks and the log are not among them."""
    snapshots = run.path.glob(f"snapshots/*{WEIGHTS}") if weights else ()
    found = [*run.data_files, *sorted(run.path.glob("samples/*.npz")), *sorted(snapshots)]
    return [file for file in found if file.is_file()]


def write_archive(path: Path, out: Path, files: Iterable[Path]) -> None:
    """Write files below `out` into a new zip file. Raises UsageError if it exists."""
    if path.exists():
        raise UsageError(f"{path} exists already: choose another name")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in sorted(set(files)):
            info = zipfile.ZipInfo(file.relative_to(out).as_posix(), EPOCH)
            info.compress_type = zipfile.ZIP_STORED if file.suffix == WEIGHTS else zipfile.ZIP_DEFLATED
            with file.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target)


def unpack(path: Path, folder: Path) -> None:
    """Unpack the results in a zip file into an empty folder; files of other kinds are left out.

    Raises UsageError, before anything is written, for an archive that holds links, names outside of it or one name
    twice, and for one that is too large for its folder; also where its content is damaged.
    """
    with opened_zip(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if refusal := _refusal(entries, shutil.disk_usage(folder).free):
            raise UsageError(plain(f"{path} {refusal}; nothing was unpacked"))
        for entry in entries:
            target = folder / entry.filename
            if target.suffix in KINDS:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.writelines(_content(archive, entry, f"{path}: {entry.filename} is damaged"))


@contextlib.contextmanager
def runs_behind(path: Path) -> Iterator[Path]:
    """The output folder behind a path: the path itself or, of a results folder, its cells, unpacked for that long.

    A folder that holds cells is an output folder, with or without a `cells.zip`. Raises as `unpacked`.
    """
    if find_cells(path) or not (path / CELLS_FILE).is_file():
        yield path
    else:
        with unpacked(path) as runs:
            yield runs


@contextlib.contextmanager
def unpacked(results: Path) -> Iterator[Path]:
    """The cells of a results folder as an output folder, which is temporary.

    Raises UsageError where there is no `cells.zip`, and as `unpack`; DamagedError where a cell in it is damaged.
    """
    archive = results / CELLS_FILE
    if not archive.is_file():
        hint = f"`bench export --format zip --out {archive}` writes it"
        raise UsageError(plain(f"{results} is no results folder, for it has no {CELLS_FILE}; {hint}"))
    with tempfile.TemporaryDirectory(prefix="bench-results-") as temporary:
        runs = Path(temporary).resolve()
        unpack(archive, runs)
        cells = find_cells(runs)
        if not cells:
            raise UsageError(plain(f"{archive} holds no cells"))
        if (runs / STUDIES).is_dir():  # the archive of one study has no list of the cells of none
            begin_list(runs)
        for item in (item for run in cells for item in damages(run)):
            raise DamagedError(f"{archive}: {item.reason.replace(f'{runs}/', '')}")
        yield runs


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, sentence: str) -> Iterator[bytes]:
    with naming_damage(sentence):
        source = archive.open(entry)
    with source:
        while True:
            with naming_damage(sentence):
                block = source.read(BLOCK)
            if not block:
                return
            yield block


def _refusal(entries: Sequence[zipfile.ZipInfo], free: int) -> str | None:
    """Why an archive is not unpacked. Python reads no more of an entry than the size that it declares."""
    if len(entries) > MOST_ENTRIES:
        return f"holds more than {MOST_ENTRIES:,} files"
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        return "holds two files of one name"
    for entry in entries:
        name = PurePosixPath(entry.filename)
        is_outside = name.is_absolute() or ".." in name.parts or not entry.filename.isprintable()
        if is_outside or "\\" in entry.filename or ":" in entry.filename:
            return f"holds {entry.filename!r:.100}, which is no path within a folder"
        if stat.S_ISLNK(entry.external_attr >> 16):
            return f"holds {entry.filename!r:.100}, which is a link"
        if entry.file_size > (LARGEST_WEIGHTS if name.suffix == WEIGHTS else LARGEST):
            return f"holds {entry.filename!r:.100} of {entry.file_size >> 20:,} MiB, more than such a file has"
    total = sum(entry.file_size for entry in entries)
    return f"unpacks to {total >> 20:,} MiB, and {free >> 20:,} MiB are free" if total > free else None
