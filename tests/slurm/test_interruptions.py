"""A run that is interrupted and repeated ends in the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

GRID = ["run", "--methods", "ect,vct", "--seeds", "0", "--jobs", "2", "--no-mlflow"]
SETTINGS = ["train.images=51200", "network.width=32", "run.snapshots=4", "run.checkpoint_seconds=0.2"]
BENCH = [sys.executable, "-c", "from consistency_bench.benchmarks.cli.main import main; main()"]


def bench(out: Path) -> subprocess.Popen[bytes]:
    command = [*BENCH, *GRID, "--out", str(out), *SETTINGS]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def results(out: Path) -> dict[str, bytes]:
    """Everything that must not depend on when a run was interrupted."""
    patterns = ("**/records.jsonl", "**/snapshots/*.safetensors", "**/samples/*.npz", "**/reference.jsonl")
    return {str(p.relative_to(out)): p.read_bytes() for pattern in patterns for p in sorted(out.glob(pattern))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert bench(out).wait() == 0
    files = results(out)
    assert len(files) == 2 * (1 + 4 + 5) + 2  # and the reference, and what VCT's coupling has learned
    return files


def wait_for(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> bool:
    """Wait until `reached`, or until the process has ended; True if it was reached first."""
    while process.poll() is None:
        if reached():
            return True
        time.sleep(0.01)
    return False


def statuses(out: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in out.glob("[!.]*/[!.]*/*/status.json")]


def workers(out: Path) -> list[int]:
    return sorted({s["pid"] for s in statuses(out) if s["state"] == "running" and "pid" in s})


def training(out: Path) -> bool:
    return any(s["state"] == "running" and s.get("images", 0) > 0 for s in statuses(out))


def checkpointed(out: Path) -> bool:
    return len(list(out.glob("[!.]*/[!.]*/*/checkpoints/last.pt"))) == 2


def scoring(out: Path) -> bool:
    return any(s.get("phase") == "score" for s in statuses(out))


MOMENTS = [training, checkpointed, scoring]


@pytest.mark.parametrize("how", ["SIGINT to the command", "SIGKILL to the workers", "SIGKILL to the command"])
def test_interrupted_and_repeated(how: str, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    interrupted = 0
    for moment in MOMENTS:
        process = bench(tmp_path)
        if not wait_for(process, lambda moment=moment: moment(tmp_path)):
            break  # the grid was finished before this moment came again
        interrupted += 1
        if how == "SIGINT to the command":
            process.send_signal(signal.SIGINT)
            # 0 where the signal came after the last cell, -SIGINT (130 to a shell) while Python was still starting
            assert process.wait() in (0, 130, -signal.SIGINT)
        elif how == "SIGKILL to the command":
            orphans = workers(tmp_path)
            process.kill()
            process.wait()
            for pid in orphans:
                while _alive(pid):  # workers whose command is gone leave by themselves
                    time.sleep(0.05)
        else:
            for pid in workers(tmp_path):
                os.kill(pid, signal.SIGKILL)
            process.wait()
    assert interrupted >= 2
    assert bench(tmp_path).wait() == 0
    assert results(tmp_path) == undisturbed


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_two_runs_at_once_share_the_cells(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    both = [bench(tmp_path), bench(tmp_path)]
    assert [process.wait() for process in both] == [0, 0]
    assert results(tmp_path) == undisturbed
    attempts = [json.loads(path.read_text())["attempts"] for path in tmp_path.glob("*/*/*/run.json")]
    assert [len(list_) for list_ in attempts] == [1, 1]
