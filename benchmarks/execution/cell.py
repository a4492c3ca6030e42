"""One cell from its configuration to its records: train, keep snapshots, sample, score.

A cell lives in a folder. Running it again goes on where it stopped and skips what is there; the folder alone says
how far it is. Nothing here knows how cells are launched.
"""

from __future__ import annotations

import datetime
import logging
import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..common.devices import pick_device, refuse_different_devices
from ..common.distributed import ALONE, LostError, OutOfStepError, PeerError, Ranks, check_batch, stepping
from ..common.files import TakenError, read_json, remove, reserve, write_json
from ..common.precision import float32_products
from ..common.redact import command_line
from ..common.system import git_state, hardware
from ..config.schema import RunConfig
from ..data.base import Dataset
from ..data.registry import load_dataset
from ..evaluation.diagnostics import TrainingDiagnostics
from ..evaluation.scoring import fill_records, record_divergence, write_reference
from ..metrics.evaluate import Evaluator
from ..metrics.references import StoppedError
from ..runs.folder import REFERENCE, RUN, STATUS, CellFiles
from ..training.checkpoint import damaged_snapshots, readable_checkpoints, snapshot_path
from ..training.cost import measure_compute
from ..training.model import Model, build_model
from ..training.trainer import Outcome, Progress, Trainer

STATUS_SECONDS = 0.5
RESERVE = ".reserve"  # room on the disk for the last words of an attempt
log = logging.getLogger(__name__)


def run_cell(
    folder: Path,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    threads: int = 1,
    job: str | None = None,
    command: str | None = None,
    ranks: Ranks = ALONE,
) -> str:
    """Bring one cell to its end and return its state: "done", "diverged" or "interrupted".

    job: the SLURM job that this happens in, for whoever asks where the cell is. command: what the person typed, None
    where that is the command of this process.

    Raises whatever goes wrong, after the state "failed" and the reason are on disk. The caller holds the cell's lock;
    where another process takes that over, TakenError is raised at the next write, and nothing is written.

    Several processes that have joined (`distributed.joined`) call it together and get the same answer; rank 0 writes
    and holds the lock, and all stop where one is asked to. Where one of them fails the others raise PeerError, and all
    may go on with another cell; after OutOfStepError the process has to end. Where another one was lost (LostError) the
    state is "interrupted".
    """
    files = CellFiles(folder)
    config = files.config
    status = _Status(folder, config.budget_images, job, ranks)
    attempt = _Attempt(folder, config, threads, command, ranks)
    try:
        if ranks.is_writer:
            reserve(folder / RESERVE)
        check_batch(config.train.batch, ranks.size)
        device = pick_device(config.run.device, ranks)
        refuse_different_devices(ranks, device)
        dataset = load_dataset(config.data)
        model = build_model(config, dataset, device)
        attempt.begin(device, model.start)
        # Before training, which may take days: what scoring needs is there, or its lack is said now.
        evaluator = Evaluator(dataset, config.eval.metrics, device, should_stop=should_stop)
        status.write(state="running", phase="reference")
        write_reference(config, evaluator, folder.parents[1] / REFERENCE, ranks)
        outcome = _train_once(config, model, folder, should_stop, status, ranks)
        attempt.compute(model, config, dataset, device, outcome)
        state = outcome.state
        if state == "done":
            status.write(state="running", phase="score")
            state = fill_records(
                config, model, evaluator, folder, device, should_stop=should_stop, report=status.scored, ranks=ranks
            )
        elif state == "diverged" and ranks.is_writer:
            record_divergence(config, folder)
        status.write(state=state, images=outcome.images)
        ranks.barrier()  # the others leave when all is written, and hear of it if it could not be
        return state
    except StoppedError:  # while the reference was made
        status.write(state="interrupted")
        return "interrupted"
    except TakenError as error:  # what becomes of the cell is for others to say
        ranks.fail(error)
        raise
    except LostError:
        status.write(state="interrupted")
        raise
    except BaseException as error:
        status.fail(f"{type(error).__name__}: {error}")
        if isinstance(error, Exception) and not isinstance(error, PeerError | OutOfStepError):
            ranks.fail(error)
        raise
    finally:
        try:
            attempt.end()
            if ranks.is_writer:
                remove(folder / RESERVE)
        except OSError as error:  # a full disk, most likely: what went wrong before is what matters
            log.error("the end of this attempt could not be written (%s)", error)


def _train_once(
    config: RunConfig,
    model: Model,
    folder: Path,
    should_stop: Callable[[], bool],
    status: _Status,
    ranks: Ranks,
) -> Outcome:
    names = config.train.averages
    paths = [snapshot_path(folder, images, name) for images in config.snapshot_images for name in names]
    if ranks.is_writer:
        for path in damaged_snapshots(paths):
            remove(path)  # a missing one is made again, by training from a checkpoint before it
    if ranks.broadcast(all(path.exists() for path in paths)):
        # run.json may lag: an attempt can be killed after its last checkpoint and before it wrote what training cost.
        checkpoint = next(readable_checkpoints(folder, torch.device("cpu"), []), None)
        written = read_json(folder / RUN, {}).get("compute", {}).get("train_seconds", 0.0)
        seconds = checkpoint["state"]["seconds"] if checkpoint else written
        return Outcome("done", config.budget_images, seconds)
    status.write(state="running", phase="train")
    every = config.run.diagnose_every
    hooks = [] if every is None else [TrainingDiagnostics(config, model, folder, every)]
    with float32_products(tf32=config.train.precision == "tf32"), stepping(ranks):
        trainer = Trainer(config, model, folder, ranks, status.progress, hooks)
        return trainer.train(should_stop)


class _Status:
    """status.json: what the cell is doing, for whoever watches. Written at most every half second while training."""

    def __init__(self, folder: Path, total: int, job: str | None, ranks: Ranks) -> None:
        self.path, self.ranks = folder / STATUS, ranks
        self.now: dict[str, Any] = {"phase": "train", "images": 0, "total": total, "stage": 0, "loss": None}
        self.now |= {"images_per_s": None, "error": None, "pid": os.getpid()}
        self.now |= {"job": job, "node": socket.gethostname()}
        self.last = 0.0

    def write(self, *, state: str, **changes: Any) -> None:
        self.now |= {"state": state, **changes, "updated": round(time.time(), 3)}
        if self.ranks.is_writer:
            write_json(self.path, self.now)
        self.last = time.monotonic()

    def fail(self, error: str) -> None:
        """Write the state "failed", on a full disk in the room that was kept for it; where that fails, too, log it."""
        try:
            if self.ranks.is_writer:
                remove(self.path.with_name(RESERVE))
            self.write(state="failed", error=error)
        except OSError as trouble:
            log.error("failed (%s), and the state cannot be written (%s)", error, trouble)

    def progress(self, progress: Progress) -> None:
        if time.monotonic() - self.last >= STATUS_SECONDS:
            self.write(state="running", **vars(progress))

    def scored(self, done: int, total: int) -> None:
        if time.monotonic() - self.last >= STATUS_SECONDS:
            self.write(state="running", scored=done, to_score=total)


class _Attempt:
    """run.json: under what circumstances each attempt ran, and what the training cost."""

    def __init__(self, folder: Path, config: RunConfig, threads: int, command: str | None, ranks: Ranks) -> None:
        self.path, self.threads, self.ranks = folder / RUN, threads, ranks
        self.command = command_line(sys.argv) if command is None else command
        self.run = read_json(self.path, {"attempts": [], "compute": {}})
        self.config = config

    def begin(self, device: torch.device, start: dict[str, Any] | None) -> None:
        """start: what is known of the weights that training starts from, None for random ones."""
        packages = ("consistency-bench", "torch", "numpy")
        self.run["attempts"].append(
            {
                "started": _now(),
                "ended": None,
                "command": self.command,
                "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
                "git": git_state(),
                "hardware": hardware(),
                "device": str(device),
                "threads": self.threads,
                "processes": self.ranks.size,
            }
        )
        self.run["init"] = start
        self.run["compute"]["pretraining_images"] = start.get("pretraining_images") if start else 0
        self._write()

    def compute(
        self, model: Model, config: RunConfig, dataset: Dataset, device: torch.device, outcome: Outcome
    ) -> None:
        if not self.ranks.is_writer:
            return
        if "parameters" not in self.run["compute"]:
            self.run["compute"] |= measure_compute(model, config, dataset, device)
        self.run["compute"] |= {
            "train_seconds": round(outcome.train_seconds, 3),
            "device": str(device),
            "images": outcome.images,
        }
        self._write()

    def end(self) -> None:
        if self.run["attempts"]:
            self.run["attempts"][-1]["ended"] = _now()
            self._write()

    def _write(self) -> None:
        if self.ranks.is_writer:
            write_json(self.path, self.run)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
