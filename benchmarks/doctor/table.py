"""The table of checks of `bench doctor --device`, and the document of what they found."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..common.precision import repeatable
from ..common.system import git_state, hardware
from . import rates, repetition, soundness
from .check import FULL, SMALL, Check, Machine, Record, perform
from .training import PRECISIONS, precisions

PACKAGES = ("consistency-bench", "torch", "numpy")

CHECKS: tuple[Check, ...] = (
    Check("two steps of every network, method and precision", 50, soundness.every_combination_trains),
    Check("no wait of the host within a step", 15, soundness.host_never_waits),
    *(
        Check(f"loss against the CPU, {precision}", 10, partial(soundness.agrees_with_the_cpu, precision=precision))
        for precision in PRECISIONS
    ),
    Check("dropout masks of student and teacher", 10, soundness.dropout_masks_are_replayed),
    *(
        Check(f"weights repeat, {precision}", 20, partial(repetition.weights_repeat, precision=precision))
        for precision in PRECISIONS
    ),
    Check("a pass that does not fit is split", 10, soundness.passes_are_split),
    *(
        Check(f"training speed, {precision}", limit, partial(rates.training_speed, precision=precision))
        for precision, limit in zip(PRECISIONS, (30, 20, 15), strict=True)
    ),
    Check("copy of the state for a check of finiteness", 10, rates.finiteness_check),
    Check("checkpoint", 10, rates.checkpoint),
    Check("a step after a resume", 20, rates.resumed_training),
    Check("Inception's features against the CPU's", 15, rates.features),
)
"""All checks of eager training, with limits in seconds that add up to less than 5 minutes."""

COMPILED: tuple[Check, ...] = (
    Check("compiled losses against eager ones", 150, soundness.compiled_losses_agree),
    *(
        Check(f"compiled training speed, {name}", 330, partial(rates.training_speed, precision=name, compiled=True))
        for name in PRECISIONS
    ),
)
"""Further checks, of `train.compile`: a check that is out of time ends after it has compiled."""


def checks_for(device: torch.device, *, compiled: bool = False) -> tuple[Check, ...]:
    """Those that apply to this kind of device: of precisions that are the same, one is checked."""
    missing = set(PRECISIONS) - set(precisions(device))
    checks = (*CHECKS, *(COMPILED if compiled else ()))
    return tuple(check for check in checks if check.name.rpartition(", ")[2] not in missing)


def this_machine(device: torch.device, folder: Path) -> Machine:
    """What the checks of `bench doctor` get: full sizes on a GPU, small ones on the CPU."""
    again = (sys.executable, "-c", f"import sys; from {repetition.__name__} import main; main(*sys.argv[1:])")
    return Machine(device, SMALL if device.type == "cpu" else FULL, folder, again)


def examine(
    machine: Machine, report: Callable[[Record], None] = lambda _: None, *, compiled: bool = False
) -> list[Record]:
    """Perform the checks that apply to this kind of device, and report each as it ends.

    compiled: those of `train.compile` as well.

    On the CPU they use one thread, as a cell does by default: small networks gain nothing from more.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # what is tried on purpose warns
    records = []
    try:
        with repeatable(machine.device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of the flags that checks set, between the lines of the table
            for check in checks_for(machine.device, compiled=compiled):
                records.append(perform(check, machine))
                report(records[-1])
    finally:
        logging.disable(logging.NOTSET)
        torch.set_num_threads(threads)
    return records


def document(device: torch.device, records: Sequence[Record], note: str = "") -> dict[str, Any]:
    """What is kept of an examination, as plain data for JSON. note: what a reader has to know."""
    return {
        "device": _described(device),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "git": git_state(),
        "flags": _flags(device),
        "note": note,
        "checks": [asdict(record) for record in records],
    }


def _described(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"type": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": device.type,
        "gpu": properties.name,
        "memory GB": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _driver() -> str | None:
    """The version of the driver; None where nvidia-smi is missing or fails."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.partition("\n")[0].strip() or None if done.returncode == 0 else None


def _flags(device: torch.device) -> dict[str, Any]:
    """What torch is set to within a cell on this device."""
    with repeatable(device):
        return {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cudnn.benchmark": torch.backends.cudnn.benchmark,
            "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "threads": torch.get_num_threads(),
        }


def markdown(found: dict[str, Any]) -> str:
    """The checks of a `document` as a table in Markdown."""
    lines = ["| check | value | at most | | seconds |", "|:--|--:|--:|:--|--:|"]
    for check in found["checks"]:
        record = Record(**check)
        value = "–" if record.value is None else f"{_number(record.value)} {record.unit}"
        bound = "" if record.bound is None else f"{record.bound:g}"
        lines.append(f"| {record.name} | {value} | {bound} | {_verdict(record)} | {record.seconds:.1f} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def _verdict(record: Record) -> str:
    return {True: "ok", False: "FAILED", None: "not checked" if record.value is None else "measured"}[record.ok]


def row(record: Record) -> str:
    """One line of the table: verdict, name, value with its bound, seconds, and details below."""
    value = "" if record.value is None else f"{_number(record.value)} {record.unit}"
    bound = "" if record.bound is None else f"(at most {record.bound:g})"
    text = f"{_verdict(record):<12}{record.name:<50}{value:>22} {bound:<17}{record.seconds:>6.1f} s"
    shown = [f"{key} {_short(detail)}" for key, detail in record.details.items()]
    return "\n".join([text, *(" " * 12 + line for line in (", ".join(shown), record.note) if line)])


def _short(detail: object) -> str:
    """At most three digits after the point; of a SHA-256 its beginning."""
    if isinstance(detail, float):
        return _number(detail)
    return str(detail)[:12]
