"""Training runs for tests: what a fresh process would do, what it leaves behind, and steps that are made non-finite."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consistency_bench.benchmarks.common.files import read_jsonl
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.runs.folder import TRAIN_LOG
from consistency_bench.benchmarks.training.model import Model, build_model
from consistency_bench.benchmarks.training.trainer import Outcome, Trainer

CPU = torch.device("cpu")


def model_of(config: RunConfig) -> Model:
    return build_model(config, load_dataset(config.data), CPU)


def trainer_of(
    config: RunConfig, folder: Path, kind: type[Trainer] = Trainer, model: Model | None = None, **settings: Any
) -> Trainer:
    """A trainer as a fresh process makes it: only the folder is carried over."""
    folder.mkdir(exist_ok=True)
    return kind(config, model or model_of(config), folder, **settings)


def run(config: RunConfig, folder: Path, should_stop: Callable[[], bool] = lambda: False) -> Outcome:
    return trainer_of(config, folder).train(should_stop)


def after(calls: int) -> Callable[[], bool]:
    """A request to stop that comes with the given call, counted from 1."""
    counter = itertools.count(1)
    return lambda: next(counter) >= calls


def left_behind(folder: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Snapshots bit for bit, and the log without its speeds."""
    snapshots = {path.name: path.read_bytes() for path in sorted((folder / "snapshots").glob("*"))}
    rows = read_jsonl(folder / TRAIN_LOG)
    return snapshots, [{key: value for key, value in row.items() if key != "images_per_s"} for row in rows]


class Spoilt(Trainer):
    """A trainer whose loss or gradient is not finite in some steps, counted from 0; `seen`: the weights before each.

    what: "loss", "gradient" (one infinite entry), or "norm" (a finite entry whose square overflows).
    """

    steps: frozenset[int] = frozenset()
    what = "loss"

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.seen: list[dict[str, Tensor]] = []

    def accumulate(self, index: Tensor, micro_batch: int) -> Any:
        self.seen.append({name: value.clone() for name, value in self.weights.state_dict().items()})
        terms = super().accumulate(index, micro_batch)
        if len(self.seen) - 1 in self.steps:
            if self.what == "loss":
                terms.total.fill_(math.nan)
            else:
                gradient = self.parameters[0].grad
                assert gradient is not None
                gradient[0] = 3e38 if self.what == "norm" else math.inf
        return terms

    def changed(self) -> list[bool]:
        """Whether each step but the last changed the weights."""
        return [any(not torch.equal(a[name], b[name]) for name in a) for a, b in itertools.pairwise(self.seen)]


def spoilt_trainer(config: RunConfig, folder: Path, steps: set[int], what: str) -> Spoilt:
    trainer = trainer_of(config, folder, Spoilt)
    assert isinstance(trainer, Spoilt)
    trainer.steps, trainer.what = frozenset(steps), what
    return trainer
