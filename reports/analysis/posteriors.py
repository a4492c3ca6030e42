"""What couplings have learned: the law N(μ, s²) of the noise given the image, and how far it is from the prior N(0, I).

Finished cells keep both for a few images of the data (`samples/posterior.npz`), by the averaged encoder; the course of
the divergence in training, by the weights that are trained, is in the training log.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import read_arrays
from .cells import Cell, naming
from .statistics import Interval, t_interval
from .tables import Board

PARTS = ("part_images", "part_kl", "part_information", "part_variance")


@dataclass(frozen=True, eq=False)
class Posterior:
    """What one cell keeps: x uint8 [n, C, H, W] or float [n, 2]; mean and std float32 of its shape; kl float32 [n].

    modes: int [n], where points have them, -1 far from all.
    part_…: of more samples, see `KlParts` in `benchmarks/evaluation/posterior.py`: shape (); older files lack them.
    """

    x: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    kl: np.ndarray
    modes: np.ndarray | None
    part_images: np.ndarray | None
    part_kl: np.ndarray | None
    part_information: np.ndarray | None
    part_variance: np.ndarray | None

    @property
    def has_images(self) -> bool:
        return self.x.ndim == 4


@dataclass(frozen=True)
class Parts:
    """The parts of the divergence of one configuration, over its seeds, in nats per sample.

    kl = information + aggregate: the mutual information of data and noise, at most ln(images), and the divergence of
    the aggregate of all noise from the prior. variance: of the aggregate; noise: its root, what x_t carries of t.
    """

    images: int
    kl: Interval
    information: Interval
    aggregate: Interval
    variance: Interval
    noise: Interval


@dataclass(frozen=True)
class Learned:
    """One configuration, over its seeds.

    kl: nats a sample, mean over the samples that are kept; mean and std: of |μ| and s over these and their elements.
    """

    label: str
    kl: Interval
    mean: Interval
    std: Interval
    parts: Parts | None = None


@dataclass(frozen=True)
class Divergence:
    """The course of one configuration, in nats: images seen -> all seeds that are steady; those that diverged apart."""

    steady: Mapping[int, Sequence[float]]
    lost: tuple[Mapping[int, float], ...]

    @property
    def values(self) -> list[float]:
        return [value for seeds in (*self.steady.values(), *(each.values() for each in self.lost)) for value in seeds]


def learned(board: Board) -> tuple[Learned, ...]:
    """Every configuration whose finished cells keep a learned law, in the order of the board. Raises DamagedError."""
    found = []
    for entry in board.entries:
        laws = [read_posterior(cell.run.posterior) for cell in entry.cells if has_posterior(cell)]
        if laws:
            found.append(
                Learned(
                    label=entry.label,
                    kl=t_interval(_mean(law.kl) for law in laws),
                    mean=t_interval(_mean(np.abs(law.mean)) for law in laws),
                    std=t_interval(_mean(law.std) for law in laws),
                    parts=_parts(laws),
                )
            )
    return tuple(found)


def _parts(laws: Sequence[Posterior]) -> Parts | None:
    """Of the cells that keep them."""
    found = [
        tuple(map(float, (law.part_images, law.part_kl, law.part_information, law.part_variance)))
        for law in laws
        if law.part_images is not None
        and law.part_kl is not None
        and law.part_information is not None
        and law.part_variance is not None
    ]
    if not found:
        return None
    images, kl, information, variance = zip(*found, strict=True)
    return Parts(
        images=int(min(images)),
        kl=t_interval(kl),
        information=t_interval(information),
        aggregate=t_interval(a - b for a, b in zip(kl, information, strict=True)),
        variance=t_interval(variance),
        noise=t_interval(map(math.sqrt, variance)),
    )


def has_posterior(cell: Cell) -> bool:
    """Whether the cell is finished and keeps a learned law."""
    return cell.state == "done" and cell.has(cell.run.posterior)


def read_posterior(path: Path) -> Posterior:
    """The content of one file. Raises DamagedError, naming it, for anything but data with a normal law for each."""
    with naming(path):
        arrays = read_arrays(path, ("x", "mean", "std", "kl"), ("modes", *PARTS))
        law = Posterior(**{**dict.fromkeys(("modes", *PARTS)), **arrays})
        shape, kind = law.x.shape, law.x.dtype
        image = len(shape) == 4 and shape[1] in (1, 3) and kind == np.uint8
        point = len(shape) == 2 and shape[1] == 2 and kind == np.float32 and bool(np.isfinite(law.x).all())
        if not (image or point) or not law.x.size:
            raise ValueError(f"x of shape {shape} and type {kind} is neither images nor points")
        for name, array in (("mean", law.mean), ("std", law.std), ("kl", law.kl)):
            if array.shape != (shape[:1] if name == "kl" else shape) or array.dtype != np.float32:
                raise ValueError(f"{name} of shape {array.shape} and type {array.dtype} is no law of x, {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds what is not finite")
        if not (law.std > 0).all() or not (law.kl >= 0).all():
            raise ValueError("std must be above and kl not below 0")
        if law.modes is not None and (law.modes.shape != shape[:1] or law.modes.dtype.kind != "i"):
            raise ValueError(f"modes of shape {law.modes.shape} and type {law.modes.dtype} do not number x")
        for name in PARTS:
            if (part := arrays.get(name)) is not None and (
                part.shape
                or part.dtype.kind != "f"
                or not np.isfinite(part)
                or (name != "part_information" and part < 0)
            ):
                raise ValueError(f"{name} is no finite number")
        return law


def divergences(board: Board) -> dict[str, Divergence]:
    """label -> the course of its divergence, of the configurations that ever had one. Raises DamagedError.

    The log holds means over all rows since its last row, in which those that a coupling leaves alone count as 0; here
    they are of the rows that are coupled. Neither weight nor warm-up of the KL is in them.
    """
    found = {}
    for entry in board.entries:
        steady: dict[int, list[float]] = defaultdict(list)
        lost = []
        for cell in entry.cells:
            nats = course(cell)
            if cell.state == "diverged" and any(nats.values()):
                lost.append(nats)
            elif any(nats.values()):
                for images, value in nats.items():
                    steady[images].append(value)
        if steady or lost:
            found[entry.label] = Divergence(dict(sorted(steady.items())), tuple(lost))
    return found


def course(cell: Cell) -> dict[int, float]:
    """images -> nats a coupled sample; all of them are 0 where pairing is free."""
    with naming(cell.run.train_log_file):
        # A resumed run may log a stretch twice; the later line is the one that counts.
        penalties = {int(row["images"]): row.get("penalty") for row in cell.train_log}
        values = {images: float(value) for images, value in sorted(penalties.items()) if value is not None}
        if not all(map(math.isfinite, values.values())):
            raise ValueError("a penalty is not finite")
    if not any(values.values()):
        return values
    with naming(cell.run.config_file):
        share = float(cell.run.config.method.parts.get("coupling", {}).get("share", 1))
        if not 0 < share <= 1:
            raise ValueError(f"method.coupling.share is {share:g}, but the training log has penalties")
    return {images: max(0.0, value / share) for images, value in values.items()}  # below 0 by rounding alone


def _mean(array: np.ndarray) -> float:
    return float(array.astype(float).mean())
