"""SIGKILL at ten random moments of a sweep, in CI; `python tests/faults/kill_anywhere.py` does a hundred."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_anywhere.py")


@pytest.mark.slow
def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    """In a process of its own, whose forks take nothing of the test runner along."""
    answer = tmp_path / "answer.json"
    command = [sys.executable, str(SCRIPT), "--moments", "10", "--seed", "1", "--json", str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = json.loads(answer.read_text())
    assert said["moments"] == 10
    assert sum(said["phases"].values()) == 10
    assert said["lost"] == []
