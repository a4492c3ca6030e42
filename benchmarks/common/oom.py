"""Passes that do not fit into memory: find a size that does, and recommend it or continue with it."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable
from typing import TypeVar

import torch

from .distributed import ALONE, Ranks
from .errors import UsageError

log = logging.getLogger(__name__)


T = TypeVar("T")


class TooLargeError(UsageError):
    """A pass of training or sampling does not fit into memory; the message names a size that does."""


class Memory:
    """The number of images per pass: as configured, or fewer once that did not fit into memory.

    on_oom: "stop" raises TooLargeError with the size that fits, "split" continues with it.
    micro_batch: images per pass and process.
    ranks: the processes that compute a step together. With several, no smaller size is tried: the others are already
    waiting in the middle of the step.
    setting: the key that sets the size in a configuration.
    """

    def __init__(self, on_oom: str, micro_batch: int, ranks: Ranks = ALONE, setting: str = "run.micro_batch") -> None:
        self.on_oom, self.micro_batch, self.ranks, self.setting = on_oom, micro_batch, ranks, setting

    def fit(self, run: Callable[[int], T], undo: Callable[[], None] = lambda: None, rows: int | None = None) -> T:
        """The result of `run(images per pass)`, halving the size until it fits; `undo` is called before each retry.

        A smaller size is accepted only if passes of a quarter more fit as well: later steps need up to 15 % more, for
        the moments of the optimiser and because memory fragments.

        rows: the images there are, if that may be fewer than a pass takes.

        Raises TooLargeError.
        """
        size = tried = min(self.micro_batch, rows or self.micro_batch)
        result = _attempt(run, size)
        if result is not None:
            return result
        while result is None:
            undo()
            _free()
            if size == 1:
                raise TooLargeError("a pass of a single image does not fit into memory: the network is too large")
            size = self.micro_batch = math.ceil(size / 2)
            if self.ranks.size > 1:
                raise TooLargeError(
                    f"a pass of up to {tried} images does not fit into the memory of process {self.ranks.rank} of "
                    f"{self.ranks.size}: try {self.setting}={size}"
                )
            if _attempt(run, size + size // 4) is None:
                continue
            undo()
            _free()
            result = _attempt(run, size)
        if self.on_oom == "stop":
            raise TooLargeError(
                f"a pass of {tried} images does not fit into memory, passes of {size} do: set {self.setting}={size}, "
                "or run.on_oom=split to continue with it automatically"
            )
        log.warning("a pass of %d images does not fit into memory: continuing with passes of %d", tried, size)
        return result

    def fits(self, run: Callable[[], None]) -> bool:
        """Do what takes memory that a single process can do without; whether there was enough of it.

        Raises TooLargeError with several processes, which all have to do the same.
        """
        for clear in (lambda: None, _free):
            clear()
            if _attempt(lambda _: run() or True, 0):
                return True
        missing = "a copy of the state, to repeat steps from, does not fit into memory"
        if self.ranks.size > 1:
            raise TooLargeError(f"{missing}: set run.check_every=1, which needs none")
        log.warning("%s: finiteness is checked at every step, which needs none", missing)
        return False


def _attempt(run: Callable[[int], T], size: int) -> T | None:
    """None if memory ran out. The error, and what its frames hold, is released when this returns."""
    try:
        return run(size)
    except (torch.OutOfMemoryError, MemoryError):
        return None
    except RuntimeError as error:  # what the CPU's allocator raises
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        return None


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
