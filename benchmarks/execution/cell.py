"""One cell from its configuration to its records: train, keep snapshots, sample, score.

A cell lives in a folder. Running it again resumes where it stopped and skips what exists: the files of the folder are
the only state. How cells are launched is not known here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..common.devices import pick_device, refuse_different_devices
from ..common.distributed import ALONE, LostError, OutOfStepError, PeerError, Ranks, check_batch, stepping
from ..common.errors import UsageError
from ..common.files import TakenError, set_aside
from ..common.precision import float32_products, repeatable
from ..config.plugins import require
from ..config.schema import RunConfig
from ..data.registry import load_dataset
from ..evaluation.diagnostics import TrainingDiagnostics
from ..evaluation.reference import write_reference
from ..evaluation.scoring import Scorer, record_divergence, try_batch
from ..metrics.evaluate import Evaluator
from ..metrics.references import StoppedError
from ..runs.damage import mark_lost_rows, salvage
from ..runs.folder import REFERENCE, Run
from ..runs.starts import awaited, first_cell, never
from ..training.checkpoint import damaged_snapshots, readable_checkpoints, snapshot_path
from ..training.model import Model, build_model
from ..training.trainer import Outcome, Trainer
from .attempt import Attempt
from .reuse import reuse_training, reused_seconds
from .status_writer import StatusWriter

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
    """Run one cell to its end and return its state: "done", "diverged" or "interrupted".

    job: the id of the SLURM job, for status displays. command: as the user typed it, None for that of this process.

    Any exception is raised after the state "failed" and the reason are on disk. The caller holds the cell's lock; where
    another process takes that over, TakenError is raised at the next write, and nothing is written.

    Several processes that have joined (`distributed.joined`) call it together and get the same answer; rank 0 writes
    and holds the lock, and all stop where one is asked to. Where one of them fails the others raise PeerError, and all
    may go on with another cell; after OutOfStepError the process has to end. Where another one was lost (LostError) the
    state is "interrupted".
    """
    config = Run(folder).config
    if ranks.is_writer:
        salvage(Run(folder))
    status = StatusWriter(folder, config.budget_images, job, ranks)
    attempt = Attempt(folder, threads, command, ranks)
    try:
        return _Cell(config, folder, should_stop, status, attempt, ranks).run()
    except StoppedError:  # while the reference was computed
        status.write(state="interrupted")
        return "interrupted"
    except TakenError as error:  # the other process decides on the state
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
            status.release()
        except OSError as error:  # a full disk, most likely; the first error is the one to raise
            log.error("the end of this attempt could not be written (%s)", error)


@dataclass(frozen=True)
class _Cell:
    config: RunConfig
    folder: Path
    should_stop: Callable[[], bool]
    status: StatusWriter
    attempt: Attempt
    ranks: Ranks

    def run(self) -> str:
        config, ranks, status = self.config, self.ranks, self.status
        require(config)
        status.reserve()
        check_batch(config.train.batch, ranks.size)
        device = pick_device(config.run.device, ranks)
        refuse_different_devices(ranks, device)
        with repeatable(device):
            return self._run_on(device)

    def _run_on(self, device: torch.device) -> str:
        config, ranks, status = self.config, self.ranks, self.status
        dataset = load_dataset(config.data)
        model = build_model(config, dataset, device, self._first())
        self.attempt.begin(device, model.start)
        # Before training, which may take days: a file that scoring lacks is reported now.
        evaluator = Evaluator(dataset, config.eval.metrics, device, should_stop=self.should_stop)
        status.write(state="running", phase="reference")
        write_reference(config, evaluator, self.folder.parents[1] / REFERENCE, ranks)
        outcome = self._train_once(model, evaluator)
        self.attempt.compute(model, config, dataset, device, outcome)
        state = outcome.state
        if state == "done":
            status.write(state="running", phase="score")
            scorer = Scorer(config, model, evaluator, self.folder, ranks, self.attempt.device_kinds)
            state = scorer.fill_records(self.should_stop, status.scored)
        elif state == "diverged" and ranks.is_writer:
            record_divergence(config, self.folder)
        status.write(state=state, images=outcome.images)
        ranks.barrier()  # all processes return after everything is written, or raise the error of rank 0
        return state

    def _first(self) -> Run | None:
        """The cell to start from, None where there is none or where this one is trained already and that one is gone.

        Raises UsageError where its weights are needed and not there.
        """
        if (missing := awaited(self.folder, self.config)) is not None:
            raise UsageError(never(missing))
        first, start = first_cell(self.folder, self.config), self.config.cell.start
        return first if first and start and first.weights(start.images).is_file() else None

    def _train_once(self, model: Model, evaluator: Evaluator) -> Outcome:
        """Train, unless all snapshots exist already."""
        config, folder, ranks = self.config, self.folder, self.ranks
        names = config.train.averages
        paths = [snapshot_path(folder, images, name) for images in config.snapshot_images for name in names]
        if ranks.is_writer:
            for path in damaged_snapshots(paths):
                set_aside(path)  # training from an earlier checkpoint writes it again
            if not all(path.exists() for path in paths):
                reuse_training(config, folder, paths)
        if ranks.broadcast(all(path.exists() for path in paths)):
            if ranks.is_writer:
                mark_lost_rows(Run(folder))
            return Outcome("done", config.budget_images, _train_seconds(config, folder))
        if next(model.network.parameters()).is_cuda:  # what does not fit is found before training, not after it
            try_batch(config, model, evaluator)
        self.status.write(state="running", phase="train")
        every = config.run.diagnose_every
        hooks = [] if every is None else [TrainingDiagnostics(config, model, folder, every)]
        with float32_products(tf32=config.train.precision == "tf32"), stepping(ranks):
            trainer = Trainer(config, model, folder, ranks, self.status.progress, hooks)
            return trainer.train(self.should_stop)


def _train_seconds(config: RunConfig, folder: Path) -> float:
    # run.json may lag: an attempt can be killed between its last checkpoint and the write of the cost.
    if checkpoint := next(readable_checkpoints(folder, torch.device("cpu"), []), None):
        return checkpoint["state"]["seconds"]
    known = Run(folder).history.get("compute", {}).get("train_seconds", 0.0)
    return known or (reused_seconds(config, folder) if config.cell.training else 0.0)
