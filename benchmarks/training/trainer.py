"""The training loop. Its unit is images: batch, budget, schedules, logs and snapshots all count them."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...methods.loss import draw
from ...methods.parts.base import LossTerms
from ...methods.parts.process import Denoise
from ..common.distributed import ALONE, Ranks
from ..common.errors import UsageError
from ..common.files import append_jsonl, read_jsonl, write_jsonl
from ..common.oom import Memory
from ..common.seeding import default_generator, derive, generator
from ..config.plan import budget_images, snapshot_images
from ..data.base import Dataset
from ..runs.folder import TRAIN_LOG
from . import ema
from .checkpoint import readable_checkpoints, save_checkpoint, save_snapshot, set_aside, snapshot_path
from .ddp import OwnPasses, Passes, passes_of
from .model import Model
from .sums import Sums

LOG_ROWS = 200  # of a whole run
CHECK_EVERY = 16  # steps, on a GPU
TOLD = 100  # steps that were not finite, in the log; later every hundredth
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a running cell tells about itself."""

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


def train(
    config: dict[str, Any],
    model: Model,
    dataset: Dataset,
    folder: Path,
    device: torch.device,
    *,
    should_stop: Callable[[], bool],
    report: Callable[[Progress], None],
    ranks: Ranks = ALONE,
    diagnose: Callable[[int], float] | None = None,
) -> Outcome:
    """Train to the end of the budget, from the last checkpoint if there is one.

    A run that was stopped at any moment and called again gives the same weights, bit for bit on the same hardware
    and number of threads. Writes `checkpoints/`, `snapshots/` and `train.jsonl` in `folder`.

    Several processes, each with a model of its own, compute their rows of every batch; rank 0 writes. All of them stop
    where one is asked to, and another number of them may go on.

    diagnose: called with the images seen whenever `run.diagnose_every` images have passed; returns its seconds.

    Raises UsageError where the processes read different checkpoints, TooLargeError where a pass does not fit into
    memory.
    """
    recipe, seed = config["train"], config["seed"]
    batch, total = recipe["batch"], budget_images(config)
    keep = set(snapshot_images(config))
    log_every = max(1, math.ceil(total / LOG_ROWS / batch)) * batch

    weights, average = model.weights.train(), model.averaged()
    averages = ema.Averages(recipe, average.weights)
    predict = average.denoiser(evaluating=True)
    parameters = list(weights.parameters())  # collected once: a small network's step is short
    optimizer = make_optimizer(recipe, weights)
    state = _State()

    def content() -> dict[str, Any]:
        parts = {"weights": weights, "averages": averages, "optimizer": optimizer}
        return {**{name: part.state_dict() for name, part in parts.items()}, "state": vars(state)}

    def restore(saved: dict[str, Any]) -> None:
        nonlocal state
        weights.load_state_dict(saved["weights"])
        averages.load_state_dict(saved["averages"])
        optimizer.load_state_dict(saved["optimizer"])
        state = _State(**saved["state"])

    damaged: list[str] = []
    if checkpoint := _usable_checkpoint(folder, device, keep, list(averages.profiles), damaged):
        restore(checkpoint)
    _refuse_different(ranks.exchange(state.images), folder)
    if ranks.is_writer:
        set_aside(folder, damaged)
        _truncate_log(folder, state.images)
    passes = passes_of(model, ranks, device)
    memory = Memory(config["run"].get("on_oom", "stop"), config["run"]["micro_batch"] or batch, ranks)

    started, seconds_before = time.monotonic(), state.seconds
    last_saved, last_rate = started, (started, state.images)

    # Between two looks the device is never waited for: steps are made as if all were sound, and what they were like is
    # added up on the device. Where one was not, all are made again from `kept`, with a look at each: everything random
    # has an address, so they come out the same.
    every = _look_every(config["run"].get("check_every"), device)
    diagnose_every = config["run"].get("diagnose_every")
    kept: dict[str, Any] | None = None
    sums: Sums | None = None
    careful_until = 0

    while state.images < total:
        progress = state.images / total
        careful = every == 1 or state.images < careful_until
        if not careful and sums is None:
            kept = copy.deepcopy(content())
            sums = Sums(state.sums, device)
        index = batch_index(len(dataset), seed, state.images, batch, flip=config["data"]["flip"])
        index = index.to(device, non_blocking=True)
        x, labels = model.batch(index)

        def accumulated(
            micro_batch: int, x: Tensor = x, labels: Tensor | None = labels, index: Tensor = index
        ) -> LossTerms:
            noise = generator("training noise", seed, state.images, device=device)
            with default_generator("dropout", seed, state.images, *ranks.address, device=device):
                return accumulate(
                    model,
                    x,
                    labels,
                    state.images / total,
                    noise,
                    micro_batch,
                    index=index,
                    average=predict,
                    passes=passes,
                )

        terms = memory.fit(accumulated, lambda: optimizer.zero_grad(set_to_none=True))
        asked = should_stop()
        terms, wishes = passes.settle(terms, asked)
        lr = learning_rate(recipe, state.images, total)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if careful or sums is None:
            stopping = bool(wishes > 0)
            norm, sound = settle_gradients(recipe, parameters)
            finite = sound and bool(torch.isfinite(terms.total))
            takes = finite or (recipe["nonfinite"] == "zero" and bool(torch.isfinite(norm)))
            if finite:
                state.add(terms, norm)
            else:
                state.skipped += 1
                _tell_skipped(model, x, labels, index, config, state, progress, terms, norm, taken=takes)
            state.skipped_in_row = 0 if finite else state.skipped_in_row + 1
        else:
            stopping, takes = False, True
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            nn.utils.clip_grads_with_norm_(parameters, recipe["clip"] or math.inf, norm)
            sums.add(terms, norm, wishes)
            state.steps += 1
            state.skipped_in_row = 0
        if takes:
            optimizer.step()
            state.updates += 1
            averages.update(weights, state.updates, batch)
        optimizer.zero_grad(set_to_none=True)
        state.images += batch
        state.seconds = seconds_before + time.monotonic() - started

        if sums is not None:
            logs = state.images % log_every == 0 or state.images in keep or state.images == total
            due = state.images // batch % every == 0 or is_due(diagnose_every, state.images, batch)
            if not (logs or due or (asked and ranks.size == 1)):
                continue
            seen, sums = sums.look(), None
            if seen is None:
                assert kept is not None
                careful_until = state.images
                restore(kept)
                continue
            state.sums, stopping = seen

        if state.images % log_every == 0 or state.images == total:
            now = time.monotonic()
            rate = (state.images - last_rate[1]) / max(now - last_rate[0], 1e-9)
            last_rate = (now, state.images)
            row = state.log_row(model.method.times.stage(progress), lr, state.images // batch, rate)
            if ranks.is_writer:
                append_jsonl(folder / TRAIN_LOG, row)
                report(Progress(state.images, total, row["stage"], row["loss"], rate))
        if ranks.is_writer and diagnose and is_due(diagnose_every, state.images, batch):
            started += diagnose(state.images)  # not a part of what training cost
        if state.images in keep and ranks.is_writer:
            for name, average_weights in averages.weights.items():
                save_snapshot(folder, state.images, average_weights, name)
        if state.skipped_in_row > recipe["max_skipped"]:
            return Outcome("diverged", state.images, state.seconds)
        if stopping or time.monotonic() - last_saved > config["run"]["checkpoint_seconds"]:
            if ranks.is_writer:
                save_checkpoint(folder, content())
            last_saved = time.monotonic()
        if stopping and state.images < total:
            return Outcome("interrupted", state.images, state.seconds)
    if ranks.is_writer:
        save_checkpoint(folder, content())
    return Outcome("done", state.images, state.seconds)


def is_due(every: int | None, images: int, batch: int) -> bool:
    """Whether a multiple of `every` images was passed by the step that ended at `images`; never where it is None."""
    return every is not None and images // every > (images - batch) // every


def _look_every(asked: int | None, device: torch.device) -> int:
    """Steps between two looks. MPS has no float64 to add up in, so that there is one at each step."""
    usual = {"cpu": 1, "mps": 1}.get(device.type, CHECK_EVERY)
    return 1 if device.type == "mps" else asked or usual


def _tell_skipped(
    model: Model,
    x: Tensor,
    labels: Tensor | None,
    index: Tensor,
    config: dict[str, Any],
    state: _State,
    progress: float,
    terms: LossTerms,
    norm: Tensor,
    *,
    taken: bool,
) -> None:
    """Log a step that was not finite, with its noise levels, which are drawn again: the first ones, then some."""
    if state.skipped > TOLD and state.skipped % TOLD:
        return
    noise = generator("training noise", config["seed"], state.images, device=x.device)
    levels = draw(model.method, x, labels, progress, noise, index).t
    log.warning(
        "step %d, after %d images, %s: loss %g, gradient norm %g, noise levels from %.4g to %.4g with median %.4g; "
        "%d such steps so far",
        state.images // config["train"]["batch"] + 1,
        state.images,
        "made with zeros in place of what was not finite" if taken else "skipped",
        terms.total.item(),
        norm.item(),
        levels.min().item(),
        levels.max().item(),
        levels.median().item(),
        state.skipped,
    )


@dataclass
class _State:
    """The numbers that travel with a checkpoint: where training stands, and the sums since the last row of the log."""

    images: int = 0
    seconds: float = 0.0
    updates: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    steps: int = 0
    loss: float = 0.0
    consistency: float = 0.0
    penalty: float = 0.0
    grad_norm: float = 0.0

    def add(self, terms: LossTerms, norm: Tensor) -> None:
        self.steps += 1
        self.loss += terms.total.item()
        self.consistency += terms.consistency.item()
        self.penalty += terms.penalty.item()
        self.grad_norm += norm.item()

    @property
    def sums(self) -> tuple[float, float, float, float]:
        return self.loss, self.consistency, self.penalty, self.grad_norm

    @sums.setter
    def sums(self, values: tuple[float, float, float, float]) -> None:
        self.loss, self.consistency, self.penalty, self.grad_norm = values

    def log_row(self, stage: int, lr: float, step: int, rate: float) -> dict[str, Any]:
        """Means since the last row (null where every step was skipped); the sums start again."""
        names = ("loss", "consistency", "penalty", "grad_norm")
        means = {name: getattr(self, name) / self.steps if self.steps else None for name in names}
        row = {"images": self.images, "step": step, **means, "stage": stage, "lr": lr, "skipped": self.skipped}
        self.steps, self.loss, self.consistency, self.penalty, self.grad_norm = 0, 0.0, 0.0, 0.0, 0.0
        return {**row, "images_per_s": round(rate, 1)}


def accumulate(
    model: Model,
    x: Tensor,
    labels: Tensor | None,
    progress: float,
    noise: torch.Generator,
    micro_batch: int,
    *,
    index: Tensor | None = None,
    average: Denoise | None = None,
    passes: Passes | None = None,
) -> LossTerms:
    """Gradients of the loss over one global batch, in passes of at most `micro_batch` images.

    Everything random, and everything that looks across the batch, is settled for the whole batch first; each pass
    counts by its share of the images, so the number of passes changes neither loss nor gradient. Nor does that of the
    processes: each draws the whole batch and makes the passes of its own rows. The terms are then those of its rows.

    Args:
        index: where the images x lie in the model's bank, int64 [B], for teachers that draw references from it.
        average: the denoiser of the averaged weights, for couplings that predict with it.
        passes: how a pass is made; by this process alone, if None.
    """
    passes = passes or OwnPasses(model)
    drawn = draw(model.method, x, labels, progress, noise, index)
    own = passes.ranks.rows(len(x))
    terms = []
    for start in range(own.start, own.stop, micro_batch):
        rows = slice(start, min(start + micro_batch, own.stop))
        own_labels = None if labels is None else labels[rows]
        share = len(x[rows]) / len(x)
        with passes.within(last=rows.stop == own.stop):
            part = passes(x[rows], own_labels, progress, drawn.rows(rows), average)
            # Gradients are averaged over the processes, and their sum is wanted.
            (part.total * (share * passes.ranks.size)).backward()
        terms.append([share * value.detach() for value in (part.total, part.consistency, part.penalty)])
    total, consistency, penalty = (torch.stack(values).sum() for values in zip(*terms, strict=True))
    return LossTerms(total=total, consistency=consistency, penalty=penalty)


def batch_index(size: int, seed: int, start: int, count: int, *, flip: bool) -> Tensor:
    """Where images `start` to `start + count` of the run lie in the bank, int64 [count].

    With flips each comes mirrored, at N more, on the toss of a coin. start: a multiple of count, as batches begin.
    """
    index = data_order(size, seed, start, count)
    return index + size * torch.randint(2, (count,), generator=generator("flips", seed, start)) if flip else index


def data_order(size: int, seed: int, start: int, count: int) -> Tensor:
    """Indices of images `start` to `start + count` of an endless stream of shuffled epochs, int64 [count].

    Any part of the stream can be had without the parts before it; no image is seen twice in an epoch.
    """
    parts = []
    position = start
    while position < start + count:
        epoch, offset = divmod(position, size)
        order = _epoch(size, seed, epoch)
        part = order[offset : offset + start + count - position]
        parts.append(part)
        position += len(part)
    return torch.cat(parts)


_epochs: dict[tuple[int, int, int], Tensor] = {}


def _epoch(size: int, seed: int, epoch: int) -> Tensor:
    key = (size, seed, epoch)
    if key not in _epochs:
        _epochs.clear()  # one permutation at a time: the stream only moves forward
        _epochs[key] = torch.randperm(size, generator=torch.Generator().manual_seed(derive("data order", seed, epoch)))
    return _epochs[key]


def learning_rate(recipe: dict[str, Any], images: int, total: int) -> float:
    """The learning rate after `images` of `total`.

    Constant, or falling as an inverse square root once `lr_decay` images are seen; linearly to 0 over the cooldown.
    """
    lr, cooldown, decay = recipe["lr"], recipe["lr_cooldown"], recipe["lr_decay"]
    if cooldown:
        lr *= min(1.0, (1 - images / total) / cooldown)
    return lr / math.sqrt(max(images / decay, 1)) if decay else lr


def settle_gradients(recipe: dict[str, Any], parameters: list[nn.Parameter]) -> tuple[Tensor, bool]:
    """Clip the gradients; their global norm before that, and whether it was finite from the start.

    With nonfinite=zero entries that are not finite become 0 before the norm is taken. The norm may still overflow: then
    the gradients are left alone, and no step is to be made with them.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    sound = finite = bool(torch.isfinite(norm))
    if not sound and recipe["nonfinite"] == "zero":
        for gradient in gradients:
            gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        norm = nn.utils.get_total_norm(gradients)
        finite = bool(torch.isfinite(norm))
    if finite:
        nn.utils.clip_grads_with_norm_(parameters, recipe["clip"] or math.inf, norm)
    return norm, sound


def make_optimizer(recipe: dict[str, Any], weights: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the section `train`; one learning rate for network and modules."""
    kinds = {"radam": torch.optim.RAdam, "adam": torch.optim.Adam}
    betas = tuple(recipe["betas"])
    # foreach halves the optimiser's time for small networks on a CPU, where it is not the default.
    return kinds[recipe["optimizer"]](weights.parameters(), lr=recipe["lr"], betas=betas, foreach=True)


def _usable_checkpoint(
    folder: Path, device: torch.device, keep: set[int], names: list[str], damaged: list[str]
) -> dict[str, Any] | None:
    """The newest checkpoint that can be read and lies before no snapshot that is wanted and not there.

    None where there is none: training from the start gives the same bits. Names of damaged ones go into `damaged`.
    """
    behind = False
    for checkpoint in readable_checkpoints(folder, device, damaged):
        images = checkpoint["state"]["images"]
        if all(snapshot_path(folder, n, ema).exists() for n in keep if n <= images for ema in names):
            if damaged or behind:
                log.warning("training goes on from the previous checkpoint, after %d images", images)
            return checkpoint
        behind = True
    if behind:
        log.warning("every checkpoint lies behind a snapshot that is missing: training starts from the beginning")
    elif damaged:
        log.warning("no checkpoint can be read: training starts from the beginning")
    return None


def _refuse_different(images: list[int], folder: Path) -> None:
    if len(set(images)) > 1:
        after = ", ".join(map(str, images))
        raise UsageError(
            f"the processes of a cell read different checkpoints of {folder}, after {after} images: the folder must be "
            "on a file system that all of their machines share"
        )


def _truncate_log(folder: Path, images: int) -> None:
    """Drop what a killed attempt logged after its last checkpoint: it is going to be logged again."""
    rows = read_jsonl(folder / TRAIN_LOG)
    write_jsonl(folder / TRAIN_LOG, [row for row in rows if row["images"] <= images])
