"""Where a training run that was stopped continues: its newest usable checkpoint, and a log cut back to it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from ..common.errors import UsageError
from ..common.files import read_jsonl, write_jsonl
from ..runs.folder import Run
from .checkpoint import readable_checkpoints, snapshot_path

log = logging.getLogger(__name__)


def find_checkpoint(
    folder: Path, snapshots: Collection[int], averages: Collection[str]
) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint that is readable and before which no snapshot is missing, and the names of damaged ones.

    snapshots: after how many images the averaged weights are kept; averages: their names. Without a checkpoint,
    training from the start gives the same bits. The checkpoint is read to the CPU: on a device it would take memory,
    and the optimiser would keep its step counts there, which each update waits for.
    """
    damaged: list[str] = []
    behind = False
    for checkpoint in readable_checkpoints(folder, torch.device("cpu"), damaged):
        images = checkpoint["state"]["images"]
        due = [snapshot_path(folder, n, name) for n in snapshots if n <= images for name in averages]
        if all(path.exists() for path in due):
            if damaged or behind:
                log.warning("resuming from the previous checkpoint, after %d images", images)
            return checkpoint, damaged
        behind = True
    if behind:
        log.warning("a snapshot from before every checkpoint is missing: training starts from the beginning")
    elif damaged:
        log.warning("no checkpoint is readable: training starts from the beginning")
    return None, damaged


def require_same_images(images: list[int], folder: Path) -> None:
    """Raise UsageError unless all processes resume after the same number of images. images: by rank."""
    if len(set(images)) > 1:
        raise UsageError(
            f"the processes of a cell read different checkpoints of {folder}, after {', '.join(map(str, images))} "
            "images: the folder must be on a file system that all of their machines share"
        )


def truncate_log(folder: Path, images: int) -> None:
    """Drop rows of the training log from after the checkpoint: these steps are repeated and logged again."""
    path = Run(folder).train_log_file
    rows = read_jsonl(path, [])
    write_jsonl(path, [row for row in rows if row["images"] <= images])
