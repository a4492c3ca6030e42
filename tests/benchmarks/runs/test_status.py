"""status.json is checked when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.files import DamagedError, write_json
from consistency_bench.benchmarks.runs.status import State, Status


def test_what_is_written_is_read(tmp_path: Path) -> None:
    status = Status(State.RUNNING, phase="score", images=640, total=2560, loss=0.5, job="12_0", node="n1")
    status.write(tmp_path / "status.json")
    assert Status.read(tmp_path / "status.json") == status
    assert Status.read(tmp_path / "no such file") == Status(State.QUEUED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must have a state that is one of: queued, running, interrupted, failed, diverged, done"),
        ({"state": "lost"}, "must have a state that is one of: "),
        ({"state": "done", "images": "many"}, "images is 'many', must be a number or null"),
        ({"state": "done", "total": True}, "total is True, must be a number or null"),
        ({"state": "failed", "error": 1}, "error is 1, must be text or null"),
    ],
)
def test_other_content_is_refused(content: object, message: str, tmp_path: Path) -> None:
    write_json(tmp_path / "status.json", content)
    with pytest.raises(DamagedError, match=message):
        Status.read(tmp_path / "status.json")


def test_control_characters_are_escaped_and_unknown_values_ignored(tmp_path: Path) -> None:
    write_json(tmp_path / "status.json", {"state": "failed", "error": "a\x1b[2J", "node": None, "more": 1})
    status = Status.read(tmp_path / "status.json")
    assert "\x1b" not in (status.error or "")
    assert status.node is None
