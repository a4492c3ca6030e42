"""A run that is interrupted and repeated ends in the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .nodes import alive
from .sweeping import Place

pytestmark = pytest.mark.slow

GRID = ("--methods", "ect,vct", "--seeds", "0", "--jobs", "2", "--no-mlflow")
SETTINGS = ("train.images=51200", "network.width=32", "run.snapshots=4", "run.checkpoint_seconds=0.2")


def start(place: Place) -> subprocess.Popen[str]:
    return place.start("run", *GRID, *SETTINGS)


def finish(*processes: subprocess.Popen[str]) -> list[int]:
    """Their exit statuses."""
    for process in processes:
        process.communicate()
    return [process.returncode for process in processes]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    place = Place(tmp_path_factory.mktemp("undisturbed") / "runs")
    assert finish(start(place)) == [0]
    files = place.results()
    assert len(files) == 2 * (1 + 4 + 3) + 2  # and the reference, and what VCT's coupling has learned
    return files


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> bool:
    """Wait until `reached`, or until the process has ended; True if it was reached first."""
    while process.poll() is None:
        if reached():
            return True
        time.sleep(0.01)
    return False


def workers(place: Place) -> list[int]:
    running = [status for status in place.statuses().values() if status["state"] == "running"]
    return sorted({status["pid"] for status in running if "pid" in status})


MOMENTS: list[Callable[[Place], bool]] = [
    lambda place: any(s["state"] == "running" and s.get("images") for s in place.statuses().values()),
    lambda place: len(list(place.out.glob("[!.]*/[!.]*/*/checkpoints/last.pt"))) == 2,
    lambda place: any(s.get("phase") == "score" for s in place.statuses().values()),
]


@pytest.mark.parametrize("how", ["signals to the command", "SIGKILL to the workers", "SIGKILL to the command"])
def test_interrupted_and_repeated(how: str, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    interrupted, place = 0, Place(tmp_path / "runs")
    for moment, number in zip(MOMENTS, (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT), strict=True):
        process = start(place)
        if not wait_for(process, lambda moment=moment: moment(place)):
            break  # the grid was finished before this moment came again
        interrupted += 1
        pids = workers(place)
        if how == "signals to the command":
            process.send_signal(number)
            # 0 where the signal came after the last cell, -SIGINT (130 to a shell) while Python was still starting
            assert finish(process)[0] in (0, 130, -number)
        elif how == "SIGKILL to the command":
            process.kill()
            while alive(pids):  # workers without a command leave by themselves
                time.sleep(0.05)
            finish(process)
        else:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            finish(process)
    assert interrupted >= 2
    assert finish(start(place)) == [0]
    assert place.results() == undisturbed


def test_two_runs_at_once_share_the_cells(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    place = Place(tmp_path / "runs")
    assert finish(start(place), start(place)) == [0, 0]
    assert place.results() == undisturbed
    attempts = [json.loads(path.read_text())["attempts"] for path in place.out.glob("*/*/*/run.json")]
    assert [len(list_) for list_ in attempts] == [1, 1]
