"""A check of a device: what it is given, what it finds, and how it is run within its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .models import METHODS, NETWORKS


class NotCheckedError(Exception):
    """The check does not apply to this device, or lacks a file; the message says why."""


class OutOfTimeError(Exception):
    """The check used up its time; the message says how far it came."""


@dataclass(frozen=True)
class Sizes:
    """How much is computed, by what the device can do in a few minutes.

    channels, batch: of the DDPM++ whose speed is measured. matrix: rows of the products that tell the device's own
    rate. seconds: of each measurement of speed. images: of which features are computed. pass_images: of the pass whose
    memory is limited.
    """

    channels: int
    batch: int
    matrix: int
    seconds: float
    images: int
    pass_images: int


FULL = Sizes(channels=128, batch=512, matrix=8192, seconds=5.0, images=1024, pass_images=128)
SMALL = Sizes(channels=32, batch=8, matrix=1024, seconds=2.0, images=8, pass_images=128)


@dataclass(frozen=True)
class Machine:
    """What the checks run on.

    folder: for files, which are left there. again: a command that starts a new process, in which
    `repetition.main(arguments after it)` runs. until: when the time of the present check is over, as
    `time.monotonic()`.
    """

    device: torch.device
    sizes: Sizes
    folder: Path
    again: tuple[str, ...]
    networks: tuple[str, ...] = tuple(NETWORKS)
    methods: tuple[str, ...] = METHODS
    until: float = math.inf

    def require_time(self, progress: str) -> None:
        """Raise OutOfTimeError if there is none left. progress: how far the check came, such as "3 of 10"."""
        if time.monotonic() > self.until:
            raise OutOfTimeError(f"out of time after {progress}")


Detail = float | int | str | None


@dataclass(frozen=True)
class Finding:
    """The value that a check found; it passes up to `bound`. Without a bound it is a measurement, not a test.

    details: further values, by name. note: a sentence, such as what failed first.
    """

    value: float
    unit: str
    bound: float | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Check:
    """A named check, and the seconds it may take."""

    name: str
    limit: float
    run: Callable[[Machine], Finding]


@dataclass(frozen=True)
class Record:
    """What is kept of a check. ok: None where nothing was tested; value: None where there is none that is finite."""

    name: str
    value: float | None
    unit: str
    bound: float | None
    ok: bool | None
    seconds: float
    note: str = ""
    details: Mapping[str, Detail] = field(default_factory=dict)


def perform(check: Check, machine: Machine) -> Record:
    """Run a check. Whatever goes wrong in it is its result: the others are not affected."""
    begun = time.monotonic()
    value, unit, bound, details = None, "", None, {}
    try:
        found = check.run(replace(machine, until=begun + check.limit))
    except NotCheckedError as error:
        ok, note = None, f"not checked: {error}"
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        ok, note = False, first if isinstance(error, OutOfTimeError) else f"{type(error).__name__}: {first}"
    else:
        unit, bound, details, note = found.unit, found.bound, found.details, found.note
        value = found.value if math.isfinite(found.value) else None
        ok = None if bound is None else value is not None and value <= bound
    seconds = round(time.monotonic() - begun, 2)
    return Record(check.name, value, unit, bound, ok, seconds, note, details)
