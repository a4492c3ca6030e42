"""What all tests share."""

from __future__ import annotations

import os

import pytest


def require(available: bool, what: str, install: str) -> None:
    """Skip where a part of the system is missing, with the command that installs it; in CI that is a failure."""
    if available:
        return
    message = f"{what} is missing: {install}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


#: Files that take minutes, by name: with several workers they come first, so that none is left with one at the end.
LONGEST = (
    "test_sweep_faults.py",
    "test_sweep_nodes.py",
    "test_sweep_results.py",
    "test_interruptions.py",
    "test_distributed.py",
    "test_kill_anywhere.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
