"""Shared by all tests: skipping without system packages, and the order of long files."""

from __future__ import annotations

import os

import pytest


def require(available: bool, what: str, install: str) -> None:
    """Skip if a part of the system is missing, naming the command that installs it; on CI, fail instead."""
    if available:
        return
    message = f"{what} is missing: {install}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


#: Files that take minutes. They run first, so that no worker is left with one of them at the end.
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
