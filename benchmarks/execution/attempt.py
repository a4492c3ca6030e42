"""run.json: the circumstances of each attempt at a cell, and the cost of its training."""

from __future__ import annotations

import datetime
import logging
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..common.distributed import Ranks
from ..common.files import write_json
from ..common.redact import command_line
from ..common.system import git_state, hardware
from ..config.plugins import active
from ..config.schema import RunConfig
from ..data.base import Dataset
from ..runs.folder import Run
from ..runs.hardware import device_kinds
from ..training.cost import measure_compute
from ..training.model import Model
from ..training.trainer import Outcome

log = logging.getLogger(__name__)

PACKAGES = ("consistency-bench", "torch", "numpy")


class Attempt:
    """Appends one attempt to run.json. Only rank 0 writes.

    command: as the user typed it; None for the command of this process.
    """

    def __init__(self, folder: Path, threads: int, command: str | None, ranks: Ranks) -> None:
        self.path, self.threads, self.ranks = Run(folder).history_file, threads, ranks
        self.command = command_line(sys.argv) if command is None else command
        self.run = Run(folder).history if ranks.is_writer else {"attempts": [], "compute": {}}

    def begin(self, device: torch.device, start: dict[str, Any] | None) -> None:
        """start: what is known of the weights that training starts from; None for random ones, or as before."""
        start = start or self.run.get("init")
        plugins = [{"folder": str(plugin.folder), "sha256": plugin.sha256} for plugin in active()]
        self.run["attempts"].append(
            {
                "started": _now(),
                "ended": None,
                "command": self.command,
                "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
                "git": git_state(),
                "hardware": hardware(),
                "device": str(device),
                "resumes": self._has_weights(),
                "threads": self.threads,
                "processes": self.ranks.size,
                **({"plugins": plugins} if plugins else {}),
            }
        )
        self.run["init"] = start
        self.run["compute"]["pretraining_images"] = start.get("pretraining_images") if start else 0
        if start:
            self.run["compute"]["pretraining_flops"] = start.get("pretraining_flops")
        self._warn_of_rounding()
        self._write()

    def _warn_of_rounding(self) -> None:
        """Say in the log if this attempt rounds otherwise than the last one, whose results it continues."""
        attempts = self.run["attempts"]
        if len(attempts) < 2 or not attempts[-1]["resumes"] or not self.ranks.is_writer:
            return
        before, now = map(_rounding, attempts[-2:])
        other = [key for key in now if before.get(key) and before[key] != now[key]]
        if other:
            what = ", ".join(f"{key}: {now[key]} after {before[key]}" for key in other)
            log.warning("results will differ in rounding from those of an uninterrupted run (%s)", what)

    def compute(
        self, model: Model, config: RunConfig, dataset: Dataset, device: torch.device, outcome: Outcome
    ) -> None:
        """Add the cost of the training; what does not change between attempts is measured once."""
        if not self.ranks.is_writer:
            return
        compute = self.run["compute"]
        if "parameters" not in compute:
            compute |= measure_compute(model, config, dataset, device)
        compute |= {
            "train_seconds": round(outcome.train_seconds, 3),
            "device": str(device),
            "images": outcome.images,
        }
        self._write()

    def end(self) -> None:
        if self.run["attempts"]:
            self.run["attempts"][-1]["ended"] = _now()
            self._write()

    @property
    def device_kinds(self) -> list[str]:
        """The kinds of device that have computed the cell so far, in order; on rank 0."""
        return device_kinds(self.run["attempts"])

    def _has_weights(self) -> bool:
        folder = self.path.parent
        return any(folder.glob("checkpoints/*.pt")) or any(folder.glob("snapshots/*.safetensors"))

    def _write(self) -> None:
        if self.ranks.is_writer:
            write_json(self.path, self.run, sealed=True)


def _rounding(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """What the rounding of an attempt depends on, as far as it is recorded."""
    hardware, device = attempt.get("hardware") or {}, str(attempt.get("device", "")).partition(":")[0]
    kind = {"CPU": hardware.get("cpu"), "threads": attempt.get("threads")}
    kind = kind if device == "cpu" else {"GPU": hardware.get("gpu")}
    return {"device": device, "processes": attempt.get("processes"), **kind}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
