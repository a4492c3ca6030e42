"""Passes that do not fit into memory: which would, and going on with those."""

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
    """A pass of training or sampling does not fit into memory; the message names that size and one that fits."""


class Memory:
    """How many images a pass takes: as many as asked, or fewer once that has failed.

    on_oom: "stop" finds the size that fits and raises TooLargeError with it, "split" goes on with it. micro_batch:
    images a pass and process. ranks: that make a pass together; with several no other size is tried, for the others
    wait in the midst of a step. setting: what the size is called in a configuration.
    """

    def __init__(self, on_oom: str, micro_batch: int, ranks: Ranks = ALONE, setting: str = "run.micro_batch") -> None:
        self.on_oom, self.micro_batch, self.ranks, self.setting = on_oom, micro_batch, ranks, setting

    def fit(self, make: Callable[[int], T], undo: Callable[[], None] = lambda: None, rows: int | None = None) -> T:
        """`make(images a pass)`, with half as many images, and half of that, until it fits; `undo` before each.

        rows: how many images there are, where that may be less than a pass takes.

        Raises TooLargeError.
        """
        size, failed = min(self.micro_batch, rows or self.micro_batch), None
        while True:
            terms = _tried(make, size)
            if terms is not None:
                break
            undo()
            _free()
            failed = failed or size
            if size == 1:
                raise TooLargeError(
                    "a pass of a single image does not fit into memory: the network is too large for it"
                )
            size = self.micro_batch = math.ceil(size / 2)
            if self.ranks.size > 1:
                raise TooLargeError(
                    f"a pass of up to {failed} images does not fit into the memory of process {self.ranks.rank} of "
                    f"{self.ranks.size}: try {self.setting}={self.micro_batch}"
                )
        if failed is not None and self.on_oom == "stop":
            raise TooLargeError(
                f"a pass of {failed} images does not fit into memory, passes of {self.micro_batch} do: set "
                f"{self.setting}={self.micro_batch}, or run.on_oom=split to have it done"
            )
        if failed is not None:
            log.warning(
                "a pass of %d images does not fit into memory: passes of %d from here on", failed, self.micro_batch
            )
        return terms


def _tried(make: Callable[[int], T], size: int) -> T | None:
    """None where memory ran out. The error is gone when this returns, and what its frames held with it."""
    try:
        return make(size)
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
