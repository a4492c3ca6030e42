"""What the tests of faults share: disks of their own, and cells that are run as the command runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.files import read_jsonl, write_json
from consistency_bench.benchmarks.config.compose import Cell
from consistency_bench.benchmarks.runs.folder import RECORDS, TRAIN_LOG

from ..benchmarks.conftest import environment, put, tiny_cell
from ..conftest import require

#: A cell long enough to be caught in the midst of its training, and one checkpoint a step.
LONG = ("train.images=30720", "run.checkpoint_seconds=0")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many bytes, in memory; unmounted at the end."""
    require(os.geteuid() == 0 and shutil.which("mount") is not None, "root, to mount a small disk", "run as root")
    mounted = []

    def mount(size: int) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=False, capture_output=True
        )
        require(done.returncode == 0, "the right to mount", "run as root, in a container that may mount")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def remount(path: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True)


def start_worker(folder: Path, listing: Path) -> subprocess.Popen[str]:
    """A worker of its own process on one cell."""
    write_json(listing, {"cells": [str(folder)]})
    command = [sys.executable, "-m", "consistency_bench.benchmarks.execution.worker", str(listing)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    """Until something is there, or fail with what the process said."""
    while not there():
        if process.poll() is not None:
            pytest.fail(f"the process ended early: {process.communicate()[0]}")
        time.sleep(0.01)


def finish(folder: Path, listing: Path) -> str:
    """Run the worker to its end; what it said."""
    process = start_worker(folder, listing)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def results(folder: Path) -> dict[str, object]:
    """What a cell has computed, bit for bit, and its log without the speeds."""
    files = [folder / RECORDS, *sorted((folder / "snapshots").glob("*.safetensors"))]
    rows = read_jsonl(folder / TRAIN_LOG)
    log = [json.dumps({key: value for key, value in row.items() if key != "images_per_s"}) for row in rows]
    return {**{path.name: path.read_bytes() for path in files}, TRAIN_LOG: log}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, dict[str, object]]:
    """A cell, and what it computes where nothing goes wrong."""
    cell = tiny_cell("ect", *LONG)
    out = tmp_path_factory.mktemp("undisturbed")
    folder = put(cell, out)
    finish(folder, out / "list")
    return cell, results(folder)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
