"""What tests of sweeps share: commands of one output folder, what is on disk, and waiting for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAIN = "from consistency_bench.benchmarks.cli.main import main; main()"
TIMEOUT_SECONDS = 600.0  # for a slow machine; nothing here is a measurement

#: A cluster file for the cluster that the tests start: one core a cell, and little notice.
CLUSTER = """\
partition: main
gpus_per_node: 2
cpus_per_gpu: 1
memory_per_gpu: 1500M
time_limit: {time_limit}
array_parallelism: 4
requeue: {{notice_seconds: {notice}, without_progress: 3}}
"""

#: Cells that train for some ten seconds each and save all the time.
TRAINING = ("benchmark=toy2d", "train.images=256000", "run.snapshots=4", "run.checkpoint_seconds=0.5", "eval.nfe=[1,2]")
CELL = ("--methods", "ect", "--seeds", "0", *TRAINING)

PATTERNS = ("**/records.jsonl", "**/snapshots/*.safetensors", "**/samples/*.npz", "**/reference.jsonl")


@dataclass(frozen=True)
class Place:
    """An output folder, and `bench` on it. wrap: what stands before each command. prelude: Python before its start."""

    out: Path
    wrap: tuple[str, ...] = ()
    prelude: str = ""

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
        return {**kept, "OMP_NUM_THREADS": "1"}

    def cluster(self, time_limit: str = "1h", notice: int = 20) -> str:
        path = self.out.parent / f"here-{time_limit}.yaml"
        path.write_text(CLUSTER.format(time_limit=time_limit, notice=notice), encoding="utf-8")
        return str(path)

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            [*self.wrap, sys.executable, "-c", f"{self.prelude}\n{MAIN}", command, *arguments, "--out", str(self.out)],
            env=self.environment,
            cwd=self.out.parent,
            start_new_session=True,
            **pipes,
        )

    def bench(self, command: str, *arguments: str, status: int = 0) -> str:
        """What the command said; it must end with this exit status."""
        process = self.start(command, *arguments)
        said, complained = process.communicate()
        assert process.returncode == status, said + complained
        return said + complained

    def sweep(self, *arguments: str, cluster: str | None = None) -> str:
        return self.bench("sweep", "--cluster", cluster or self.cluster(), *arguments)

    def finish(self) -> str:
        """Wait until nothing runs any more, and insist that all is done."""
        return self.bench("wait", "--no-mlflow")

    def statuses(self) -> dict[str, dict[str, Any]]:
        """status.json of every cell, by the name of its folder."""
        return {path.parent.name: json.loads(path.read_text()) for path in self.out.glob("[!.]*/[!.]*/*/status.json")}

    def the(self, key: str) -> Any:
        """A value of the status of the one cell there is."""
        (status,) = self.statuses().values()
        return status.get(key)

    def attempts(self) -> list[int]:
        """How often each cell was begun."""
        return sorted(len(json.loads(path.read_text())["attempts"]) for path in self.out.glob("[!.]*/[!.]*/*/run.json"))

    def results(self) -> dict[str, bytes]:
        """Everything that must not depend on where, when and in how many pieces the cells ran."""
        found = (path for pattern in PATTERNS for path in sorted(self.out.glob(pattern)))
        return {str(path.relative_to(self.out)): path.read_bytes() for path in found}

    def said(self) -> str:
        """What all jobs wrote."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.out.glob("sweeps/*/*/*.out")))


#: Of a place with cells of TRAINING: what they would have given if nothing had happened.
Undisturbed = Callable[[Place], dict[str, bytes]]


def until(reached: Callable[[], Any], what: str = "it") -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not happen: {slurm_says()}"
        time.sleep(0.1)


def training(place: Place, images: int = 1) -> Callable[[], bool]:
    """Whether a cell has seen so many images and has a checkpoint."""

    def reached() -> bool:
        return any(
            status["state"] == "running" and status.get("images", 0) >= images for status in place.statuses().values()
        ) and any(place.out.glob("[!.]*/[!.]*/*/checkpoints/last.pt"))

    return reached


def slurm(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def slurm_says() -> str:
    return slurm("squeue", "--noheader", "--states=all", "--format=%i %j %T %r %N")


def jobs() -> list[str]:
    """Jobs that are in the queue, as `12_3 RUNNING n1`."""
    return slurm("squeue", "--noheader", "--array", "--format=%i %T %N %j").splitlines()
