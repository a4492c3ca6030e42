"""Alternating runs of several programs in one process: other load on the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

WARM_UP = 2  # calls before the first that is timed: memory is allocated, graphs are compiled


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, median, high = np.percentile(values, (25, 50, 75)).tolist()
        return cls(median, low, high)


def contest(programs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one call of each program in each round. Every second round runs in reverse order."""
    for program in programs.values():
        for _ in range(WARM_UP):
            program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds):
        for name in list(programs)[:: 1 if number % 2 == 0 else -1]:
            _wait()
            begun = time.perf_counter()
            programs[name]()
            _wait()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times as long one program takes as another, round by round."""
    return Spread.of([one / other for one, other in zip(slow, fast, strict=True)])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
