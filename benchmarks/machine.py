"""What a process may use of the machine it runs on, and how it leaves it."""

from __future__ import annotations

import atexit
import gc
import os


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave_quickly() -> None:
    """Let this process end without a last look for garbage; the system takes its memory back anyway.

    With all that torch brings, that look takes a second of every command and every worker.
    """
    atexit.register(gc.freeze)
