"""The counters of a training run that travel with its checkpoints, and the values of single steps that enter them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LOGGED = ("loss", "consistency", "penalty", "grad_norm")


class StepValues(NamedTuple):
    """One step over the global batch: its loss terms, the norm of its gradient before clipping, and its stop votes.

    stop_votes: the number of processes that were asked to stop.
    """

    loss: float
    consistency: float
    penalty: float
    stop_votes: float
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def read_steps(steps: Sequence[Tensor]) -> list[StepValues]:
    """The values of steps, float [5] each in the order of `StepValues`. Waits for the device, once."""
    return [StepValues(*values) for values in torch.stack(list(steps)).tolist()]


@dataclass
class TrainState:
    """Where training stands, and sums over the steps since the last row of the log.

    images: seen. seconds: of training, over all attempts. updates: of the weights. skipped: steps that were not
    finite; skipped_in_row: of these, the ones at the end. steps: finite ones since the last row of the log.
    """

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

    def add(self, step: StepValues) -> None:
        """Add a step to the sums, or count it as skipped if it is not finite."""
        if not step.is_finite:
            self.skipped += 1
            self.skipped_in_row += 1
            return
        self.skipped_in_row = 0
        self.steps += 1
        for name in LOGGED:
            setattr(self, name, getattr(self, name) + getattr(step, name))

    def pop_means(self) -> dict[str, float | None]:
        """Means over the steps since the last call (None if all were skipped); the sums start again."""
        means = {name: getattr(self, name) / self.steps if self.steps else None for name in LOGGED}
        self.steps, self.loss, self.consistency, self.penalty, self.grad_norm = 0, 0.0, 0.0, 0.0, 0.0
        return means
