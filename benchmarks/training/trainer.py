"""The training loop. Its unit is images: batch, budget, schedules, logs and snapshots all count them."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...methods.loss import draw
from ...methods.parts.base import LossTerms
from ..common.distributed import ALONE, Ranks
from ..common.files import append_jsonl, set_aside
from ..common.oom import Memory
from ..common.seeding import default_generator, generator
from ..config.schema import RunConfig
from ..runs.folder import Run
from . import ema
from .checkpoint import save_checkpoint, save_snapshot
from .data_order import batch_index
from .ddp import Replica
from .model import Model
from .optimizer import clip_gradients, gradient_norm, learning_rate, make_optimizer, zero_nonfinite
from .replay import StateCopy
from .resume import find_checkpoint, require_same_images, truncate_log
from .state import TrainState, read_steps

LOG_ROWS = 200  # rows of train.jsonl over the whole budget
CHECK_EVERY_STEPS = 16  # on a GPU, which a check of finiteness waits for
SAVE_SHARE = 50  # checkpoints are at least so many times their own duration apart: 2 % of the time at most
WARNINGS = 100  # steps that are not finite are logged up to this count, then every hundredth
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """The state of a running training, for status displays."""

    images: int
    total: int
    stage: int
    loss: float | None
    images_per_s: float | None


@dataclass(frozen=True)
class Outcome:
    """How training ended: "done", "interrupted" or "diverged"; train_seconds counts all attempts."""

    state: str
    images: int
    train_seconds: float


class Hook(Protocol):
    """An action on rank 0 after every `every_images` images, at the next step; not counted as training time."""

    @property
    def every_images(self) -> int: ...

    def __call__(self, images: int) -> None:
        """images: seen so far."""
        ...


class Trainer:
    """Trains a model in its run folder: writes `checkpoints/`, `snapshots/` and `train.jsonl` there.

    A run that is stopped at any moment and resumed ends in the same weights, bit for bit on the same hardware and
    number of threads. With several processes, each with a model of its own, every process computes its rows of every
    batch, and rank 0 writes. All stop at the same step if one is asked to. Another number of processes may resume.

    Args:
        report: called on rank 0 with every row of the log.
        hooks: actions at fixed image counts, such as diagnostics; the same in all processes.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Model,
        folder: Path,
        ranks: Ranks = ALONE,
        report: Callable[[Progress], None] = lambda _: None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.config, self.model, self.folder = config, model, folder
        self.ranks, self.report, self.hooks = ranks, report, hooks
        self.device = next(model.network.parameters()).device
        self.batch = config.train.batch
        self.budget_images = config.budget_images
        self.snapshot_images = frozenset(config.snapshot_images)
        self.log_every_images = max(1, math.ceil(self.budget_images / LOG_ROWS / self.batch)) * self.batch
        self.check_every_steps = config.run.check_every or (1 if self.device.type == "cpu" else CHECK_EVERY_STEPS)

        average = model.averaged()
        self.weights = model.weights.train()
        self.parameters = list(self.weights.parameters())
        self.averages = ema.Averages(config.train, self.weights, average.weights)
        self.optimizer = make_optimizer(config.train, self.weights)
        self.state = TrainState()
        self.replica = Replica(model, average.denoiser(evaluating=True), ranks, compile=config.train.compile)
        self.memory = Memory(config.run.on_oom, config.run.micro_batch or self.batch, ranks)
        self.copy = StateCopy([self.weights, *self.averages.weights.values()], self.optimizer)
        self.checkpoint_seconds = config.run.checkpoint_seconds
        self.single_steps_until = 0  # images up to which finiteness is checked at every step

    def train(self, should_stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Train to the end of the budget, from the last checkpoint if there is one.

        Raises:
            UsageError: the processes read different checkpoints.
            TooLargeError: a pass does not fit into memory.
        """
        self.resume()
        stop = False
        while self.state.images < self.budget_images and not stop:
            stop = self.train_window(should_stop)
            self.log()
            self.run_hooks()
            self.save_snapshots()
            if self.state.skipped_in_row > self.config.train.max_skipped:
                return Outcome("diverged", self.state.images, self.state.seconds)
            if not stop and time.monotonic() - self.saved > self.checkpoint_seconds:
                self.save()
        self.save()
        state = "done" if self.state.images >= self.budget_images else "interrupted"
        return Outcome(state, self.state.images, self.state.seconds)

    def train_window(self, should_stop: Callable[[], bool]) -> bool:
        """Train up to the next check of finiteness; whether any process was asked to stop.

        The host waits for the device once: after the last step's gradient, before its update. If a step of several was
        not finite, all are repeated from a copy of the state, one by one. Random streams are addressed by images seen,
        so the repeated steps are the same to the last bit.
        """
        size = self.steps_to_check()
        if size > 1 and not self.memory.fits(self.copy.take):
            self.copy.drop()
            self.check_every_steps = size = 1
        before = replace(self.state)
        window: list[Tensor] = []
        while True:
            vote = should_stop()
            window.append(self.forward_backward(vote))
            if len(window) == size or (vote and self.ranks.size == 1):
                break
            self.step(window[-1][-1])
        steps = read_steps(window)
        finite = all(step.is_finite for step in steps)
        if len(steps) > 1 and not finite:
            self.single_steps_until = self.state.images + self.batch
            self.copy.restore()
            self.state = before
            self.optimizer.zero_grad(set_to_none=True)
            return self.train_window(should_stop)
        for step in steps:
            self.state.add(step)
        if finite:
            self.step(window[-1][-1])
        else:
            self.step_nonfinite(steps[-1].loss)
        return any(step.stop_votes for step in steps)

    def forward_backward(self, vote: bool) -> Tensor:
        """Compute the gradient of the next global batch; returns the values of the step, see `StepValues`: float [5].

        vote: whether this process was asked to stop.
        """
        index = self.next_index()
        terms = self.memory.fit(partial(self.accumulate, index), partial(self.optimizer.zero_grad, set_to_none=True))
        votes = torch.full_like(terms.total, vote)
        values = self.replica.sum(torch.stack([terms.total, terms.consistency, terms.penalty, votes]))
        return torch.cat([values, gradient_norm(self.parameters)[None]])

    def accumulate(self, index: Tensor, micro_batch: int) -> LossTerms:
        """Gradients of this process's rows of the batch at `index`, in passes of at most `micro_batch` images."""
        address = (self.config.seed, self.state.images, *self.ranks.address)
        with default_generator("dropout", *address, device=self.device):
            return self.replica.forward_backward(index, self.progress, self.training_noise(), micro_batch)

    def step(self, norm: Tensor) -> None:
        """Clip the gradients, whose global norm is `norm`; update the weights and their averages."""
        recipe = self.config.train
        clip_gradients(self.parameters, norm, recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.state.images, self.budget_images)
        self.optimizer.step()
        self.state.updates += 1
        self.averages.update(self.state.updates, self.batch)
        self.end_step()

    def step_nonfinite(self, loss: float) -> None:
        """Skip a step that is not finite; with nonfinite=zero, take it with 0 in place of non-finite gradients.

        loss: of the step. The norm may still overflow with zeros in place; then the step is skipped.
        """
        zero = self.config.train.nonfinite == "zero"
        norm = zero_nonfinite(self.parameters) if zero else gradient_norm(self.parameters)
        taken = zero and bool(torch.isfinite(norm))
        self.warn_nonfinite(loss, norm.item(), taken=taken)
        if taken:
            self.step(norm)
        else:
            self.end_step()

    def end_step(self) -> None:
        """Drop the gradients and move on to the next batch."""
        self.optimizer.zero_grad(set_to_none=True)
        self.state.images += self.batch
        self.state.seconds = time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Share of the budget seen, in [0, 1)."""
        return self.state.images / self.budget_images

    def training_noise(self) -> torch.Generator:
        """The random stream of the next global batch, the same in all processes."""
        return generator("training noise", self.config.seed, self.state.images, device=self.device)

    def next_index(self) -> Tensor:
        """Positions of the next global batch in the bank, int64 [B]."""
        flip = self.config.data.flip
        size = len(self.model.bank) // (2 if flip else 1)
        index = batch_index(size, self.config.seed, self.state.images, self.batch, flip=flip)
        return index.to(self.device, non_blocking=True)

    def steps_to_check(self) -> int:
        """The number of steps up to the next check of finiteness."""
        if self.state.images < self.single_steps_until:
            return 1
        return next(n for n in itertools.count(1) if self.is_checked_at(self.state.images + n * self.batch))

    def is_checked_at(self, images: int) -> bool:
        """Whether finiteness is checked after so many images: regularly, and before anything is written."""
        regularly = images // self.batch % self.check_every_steps == 0
        written = self.is_logged_at(images) or images in self.snapshot_images
        return regularly or written or any(is_due(hook.every_images, images, self.batch) for hook in self.hooks)

    def is_logged_at(self, images: int) -> bool:
        """Whether the log gets a row after so many images."""
        return images % self.log_every_images == 0 or images == self.budget_images

    def log(self) -> None:
        """Append a row to the log if one is due: means over the steps since the last row."""
        images = self.state.images
        if not self.is_logged_at(images):
            return
        begun = images - self.batch  # where the last step began
        stage = self.model.method.times.stage(begun / self.budget_images)
        lr = learning_rate(self.config.train, begun, self.budget_images)
        since, self.logged = self.logged, (images, time.monotonic())
        rate = (self.logged[0] - since[0]) / max(self.logged[1] - since[1], 1e-9)
        means = self.state.pop_means()
        row = {"images": images, "step": images // self.batch, **means, "stage": stage, "lr": lr}
        row |= {"skipped": self.state.skipped, "images_per_s": round(rate, 1)}
        if self.ranks.is_writer:
            append_jsonl(Run(self.folder).train_log_file, row)
            self.report(Progress(images, self.budget_images, stage, means["loss"], rate))

    def warn_nonfinite(self, loss: float, norm: float, *, taken: bool) -> None:
        """Log a step that is not finite, with its noise levels, which are drawn again."""
        count = self.state.skipped
        if count > WARNINGS and count % WARNINGS:
            return
        index = self.next_index()
        x, labels = self.model.batch(index)
        levels = draw(self.model.method, x, labels, self.progress, self.training_noise(), index).t
        log.warning(
            "step %d, after %d images, %s: loss %g, gradient norm %g, noise levels from %.4g to %.4g with median %.4g; "
            "%d such steps so far",
            self.state.images // self.batch + 1,
            self.state.images,
            "taken with 0 in place of non-finite gradients" if taken else "skipped",
            loss,
            norm,
            levels.min().item(),
            levels.max().item(),
            levels.median().item(),
            count,
        )

    def run_hooks(self) -> None:
        """Call the hooks that are due."""
        for hook in self.hooks:
            if self.ranks.is_writer and is_due(hook.every_images, self.state.images, self.batch):
                begun = time.monotonic()
                hook(self.state.images)
                self.started += time.monotonic() - begun

    def save_snapshots(self) -> None:
        """Keep the averaged weights if a snapshot is due."""
        if self.state.images in self.snapshot_images and self.ranks.is_writer:
            for name, weights in self.averages.weights.items():
                save_snapshot(self.folder, self.state.images, weights, name)

    def save(self) -> None:
        """Write a checkpoint; the longer it takes, the more seconds pass until the next one."""
        begun = time.monotonic()
        if self.ranks.is_writer:
            save_checkpoint(self.folder, self.state_dict())
        self.saved = time.monotonic()
        if wanted := self.config.run.checkpoint_seconds:
            self.checkpoint_seconds = max(wanted, SAVE_SHARE * (self.saved - begun))

    def resume(self) -> None:
        """Load the newest usable checkpoint, if there is one, and start the clocks."""
        checkpoint, damaged = find_checkpoint(self.folder, self.snapshot_images, self.averages.profiles)
        if checkpoint is not None:
            self.load_state_dict(checkpoint)
        require_same_images(self.ranks.exchange(self.state.images), self.folder)
        if self.ranks.is_writer:
            for name in damaged:  # they must not become the previous generation of good ones
                set_aside(self.folder / "checkpoints" / name)
            truncate_log(self.folder, self.state.images)
        now = time.monotonic()
        self.started, self.saved, self.logged = now - self.state.seconds, now, (self.state.images, now)

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint."""
        parts = {"weights": self.weights, "averages": self.averages, "optimizer": self.optimizer}
        return {**{name: part.state_dict() for name, part in parts.items()}, "state": asdict(self.state)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.weights.load_state_dict(saved["weights"])
        self.averages.load_state_dict(saved["averages"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state = TrainState(**saved["state"])


def is_due(every_images: int, images: int, batch: int) -> bool:
    """Whether the step that ended at `images` passed a multiple of `every_images`."""
    return images // every_images > (images - batch) // every_images
