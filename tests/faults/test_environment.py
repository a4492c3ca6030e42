"""Machines that are set up otherwise: languages, places, clocks, terminals, homes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..benchmarks.conftest import TINY, environment

pytestmark = pytest.mark.slow  # a command in a process of its own for each environment

#: The clock of a process that jumps an hour back and forth with each look.
JUMPING = """
import itertools, sys, time
real, jumps = time.time, itertools.count()
time.time = lambda: real() + 3600 * (-1) ** next(jumps)
from consistency_bench.benchmarks.cli.main import main
sys.argv = ["bench", *sys.argv[1:]]
main()
"""
#: No connection can be made.
OFFLINE = """
import socket, sys
def refuse(*_):
    raise OSError("there is no network")
socket.socket.connect = socket.create_connection = refuse
from consistency_bench.benchmarks.cli.main import main
sys.argv = ["bench", *sys.argv[1:]]
main()
"""
PLAIN = JUMPING.replace("time.time = lambda: real() + 3600 * (-1) ** next(jumps)", "")
ENVIRONMENTS: dict[str, tuple[str, dict[str, str]]] = {
    "as it is": (PLAIN, {}),
    "C": (PLAIN, {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "Turkish": (PLAIN, {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}),
    "another time zone, no colour, 40 columns": (PLAIN, {"TZ": "Pacific/Kiritimati", "NO_COLOR": "1", "COLUMNS": "40"}),
    "no home that can be written": (PLAIN, {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/none", "MPLCONFIGDIR": ""}),
    "a clock that jumps": (JUMPING, {}),
    "no network": (OFFLINE, {}),
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return _run("as it is", tmp_path_factory.mktemp("usual"))


def _run(name: str, folder: Path) -> bytes:
    """One cell in a place with spaces and letters beyond ASCII; its records."""
    program, extra = ENVIRONMENTS[name]
    place = folder / "mein Ordner é 実験"
    place.mkdir()
    arguments = [
        "run",
        "--launcher",
        "debug",
        "--methods",
        "ect",
        "--seeds",
        "0",
        "--no-mlflow",
        "--out",
        "läufe",
        *TINY,
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=place,
        env=environment(**extra),
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stdout + done.stderr
    assert (place / "läufe" / "leaderboard.md").exists()
    (path,) = place.glob("läufe/toy2d/ect/*/records.jsonl")
    return path.read_bytes()


@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if name != "as it is"])
def test_a_cell_gives_the_same_records(name: str, records: bytes, tmp_path: Path) -> None:
    assert _run(name, tmp_path) == records
