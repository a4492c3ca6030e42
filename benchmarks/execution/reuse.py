"""The training of another cell, where a cell differs from it in its sampling alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..common.errors import UsageError
from ..common.files import DamagedError, keep_copy
from ..config.schema import RunConfig
from ..runs.folder import Run
from ..training.checkpoint import damaged_snapshots

log = logging.getLogger(__name__)


def reuse_training(config: RunConfig, folder: Path, snapshots: Sequence[Path]) -> None:
    """Take over snapshots and log of a finished training that is the same from a cell beside this one, if any has it.

    Files get a second name where the file system has them. Nothing is taken over if a snapshot is missing or damaged.

    snapshots: the files that the cell in `folder` is going to have.
    """
    training = config.cell.training
    if not training:
        return
    for other in sorted(folder.parent.glob(f"s{config.seed}-*")):
        if other == folder or training not in _trainings(other):
            continue
        sources = [other / path.relative_to(folder) for path in snapshots]
        if not all(path.exists() for path in sources) or damaged_snapshots(sources):
            continue
        log.info("the training of %s is the same: its snapshots are taken over", other.name)
        for source, path in zip(sources, snapshots, strict=True):
            keep_copy(source, path)
        with suppress(OSError):
            keep_copy(Run(other).train_log_file, Run(folder).train_log_file)
        return


def reused_seconds(config: RunConfig, folder: Path) -> float:
    """How long the training took that a cell has taken over; 0 where it is not known."""
    found = [
        other for other in sorted(folder.parent.glob(f"s{config.seed}-*")) if config.cell.training in _trainings(other)
    ]
    for other in found:
        with suppress(DamagedError, OSError):
            if seconds := Run(other).history.get("compute", {}).get("train_seconds"):
                return float(seconds)
    return 0.0


def _trainings(folder: Path) -> tuple[str, ...]:
    """The ids that the training of a cell goes by; none for a folder without a sound configuration."""
    with suppress(DamagedError, OSError, UsageError):
        cell = Run(folder).config.cell
        return (cell.id, cell.training)
    return ()
