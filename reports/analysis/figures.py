"""Whether the arrays behind the figures of a cell are what these can draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ...benchmarks.runs.damage import Damage, damage_of
from .cells import Cell
from .memorisation import read_nearest
from .posteriors import course, read_posterior
from .samples import read_samples
from .transport import COUPLED, read_lines


def with_sound_figures(cells: Iterable[Cell]) -> tuple[list[Cell], list[Damage]]:
    """The cells with those files added to `unusable` that cannot be drawn, and why."""
    sound, found = [], []
    for cell in cells:
        own, folder, log = list[Damage](), cell.run.path, cell.run.train_log_file
        shapes: dict[Path, tuple[object, ...]] = {}
        for file in sorted(folder.glob("samples/*.npz")):
            if cell.has(file):
                own += damage_of(folder, file, lambda file=file, shapes=shapes: _read(file, shapes), blocks=False)
        if len({*shapes.values()}) > 1:
            own += [Damage(folder, file, f"{file} does not fit the other samples beside it", False) for file in shapes]
        own += damage_of(folder, log, lambda cell=cell: course(cell), blocks=False)
        sound.append(replace(cell, unusable=cell.unusable | {item.file for item in own}))
        found += own
    return sound, found


def _read(file: Path, shapes: dict[Path, tuple[object, ...]]) -> None:
    """Read a file as its name says; the shape and type of one of samples goes into `shapes`."""
    if file.stem == "posterior":
        read_posterior(file)
    elif file.stem == "coupling":
        read_lines(file, COUPLED)
    elif file.stem.startswith("nearest"):
        read_nearest(file)
    else:
        read_lines(file, ("latents", "samples"))
        samples = read_samples(file)
        shapes[file] = (samples.shape[1:], samples.dtype.kind)
