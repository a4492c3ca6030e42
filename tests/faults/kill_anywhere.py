"""Kill a small sweep at random moments, repeat it, and compare what is left with an undisturbed sweep.

`python tests/faults/kill_anywhere.py --moments 100 [--seed 0]` prints how many kills were survived, and in what phases
they came; it ends with 1 where anything was lost. The sweep trains, keeps checkpoints, samples, writes records, makes
the report and imports into MLflow, all in one process, which SIGKILL ends with all of its threads at once.

A process is a fork of this one, which has everything imported: a moment then is one of work, and not of waiting for
imports. Each start is killed at a moment drawn uniformly from the time that an undisturbed sweep takes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from consistency_bench.benchmarks.common.files import read_json
from consistency_bench.benchmarks.runs.folder import STATUS, find_cells

SWEEP = ("run", "--launcher", "debug", "--methods", "ect,vct", "--seeds", "0", "benchmark=toy2d", "network.width=16")
SWEEP += ("network.blocks=1", "train.images=12800", "run.snapshots=2", "run.checkpoint_seconds=0.02", "eval.nfe=[1,2]")
SWEEP += ("eval.metrics=[fd_points_500]", "eval.draws=24")
HEAVY = ("torch", "mlflow", "sklearn", "matplotlib.pyplot", "scipy.stats", "pandas", "rich.console")
OURS = ("benchmarks.cli.run", "benchmarks.cli.report", "benchmarks.execution.cell")
OURS += ("benchmarks.execution.launch", "benchmarks.execution.preflight", "reports.build", "reports.tracking.importer")
KILLS_A_SWEEP = 4


@dataclass
class Tally:
    """moments: kills so far. phases: what the sweep was at. lost: sentences, one a sweep that came out different."""

    moments: int = 0
    sweeps: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)


def preload() -> None:
    """One core, and so one thread: threads wait for each other on a busy machine."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", MPLBACKEND="agg", COLUMNS="100")
    for name in HEAVY:
        importlib.import_module(name)
    for name in OURS:
        importlib.import_module(f"consistency_bench.{name}")


def memory() -> str | None:
    """Where a file system in memory is, if anywhere: a kill, unlike a power cut, takes nothing that was written."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def start(out: Path) -> int:
    """The command in a fork of this process; its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        with (out.parent / "said").open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        from consistency_bench.benchmarks.cli import main

        sys.argv = ["bench", *SWEEP, "--out", str(out)]
        main.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def finish(out: Path) -> None:
    """Run it to its end. Raises RuntimeError where it fails."""
    _, status = os.waitpid(start(out), 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"status {os.waitstatus_to_exitcode(status)}: {(out.parent / 'said').read_text()[-2000:]}")


def kill_after(out: Path, seconds: float) -> bool:
    """Whether it was still at work after so long, and was killed."""
    pid = start(out)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def phase(out: Path) -> str:
    """What a sweep was at when it was killed."""
    states = [read_json(cell.path / STATUS, {"state": "queued"}) for cell in find_cells(out)]
    if len(states) < 2 or all(state["state"] == "queued" for state in states):
        return "start"
    if all(state["state"] == "done" for state in states):
        return "report" if not (out / ".report.json").exists() else "end"
    # The status is written twice a second at most: what is on disk says more exactly when training was over.
    running = next((cell for cell in find_cells(out) if cell.status.state == "running"), None)
    if running is None:
        return "between cells"
    trained = (running.path / "snapshots" / f"{running.config.budget_images:012d}.safetensors").exists()
    return "sample" if trained else running.status.phase


def results(out: Path) -> dict[str, str]:
    """Digests of weights, records and leaderboard (its times apart), and what MLflow holds of each cell."""
    files = [*out.glob("*/*/*/snapshots/*"), *out.glob("*/*/*/records.jsonl"), *out.glob("*/reference.jsonl")]
    found = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
    found["leaderboard.md"] = without_times((out / "leaderboard.md").read_text(encoding="utf-8"))
    with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as store:
        query = "select r.lifecycle_stage, m.key, m.value from latest_metrics m join runs r using (run_uuid)"
        rows = sorted(row for row in store.execute(query) if not re.search(r"second|per_s|time|system", row[1]))
        found["mlflow runs"] = str(store.execute("select lifecycle_stage, count(*) from runs group by 1").fetchall())
    found["mlflow values"] = hashlib.sha256(repr(rows).encode()).hexdigest()
    return found


def without_times(text: str) -> str:
    """A leaderboard without the columns of its tables that a clock fills."""
    lines, dropped = [], set[int]()
    for line in text.splitlines():
        cells = line.split("|")
        if not line.startswith("|"):
            dropped = set()
        elif not dropped:
            dropped = {number for number, cell in enumerate(cells) if re.search(r"hour|second|time", cell)}
        lines.append("|".join(cell for number, cell in enumerate(cells) if number not in dropped))
    return "\n".join(lines)


def kill_anywhere(moments: int, seed: int, folder: Path, say: bool = False) -> Tally:
    """Kill sweeps at so many moments."""
    preload()
    draw, tally = random.Random(seed), Tally()
    whole = folder / "undisturbed" / "runs"
    whole.parent.mkdir()
    started = time.monotonic()
    finish(whole)
    duration = time.monotonic() - started
    expected = results(whole)
    while tally.moments < moments:
        out = folder / f"sweep-{tally.sweeps}" / "runs"
        out.parent.mkdir()
        for _ in range(min(KILLS_A_SWEEP, moments - tally.moments)):
            if kill_after(out, draw.uniform(0, duration)):
                tally.moments += 1
                tally.phases[phase(out)] += 1
        tally.sweeps += 1
        try:
            finish(out)
            found = results(out)
        except Exception as error:
            tally.lost.append(f"{out.parent.name}: {error}")
            continue
        tally.lost += [
            f"{out.parent.name}: {name}" for name in expected | found if expected.get(name) != found.get(name)
        ]
        if say:
            print(f"{tally.moments} of {moments} moments, {tally.sweeps} sweeps, lost: {len(tally.lost)}", flush=True)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-anywhere-", dir=memory()) as folder:
        tally = kill_anywhere(given.moments, given.seed, Path(folder), say=True)
    print(f"moments {tally.moments} in {tally.sweeps} sweeps; killed while at: {dict(tally.phases)}")
    print(f"lost: {len(tally.lost)}")
    for line in tally.lost:
        print(line)
    if given.json:
        given.json.write_text(json.dumps(vars(tally)), encoding="utf-8")
    return 1 if tally.lost else 0


if __name__ == "__main__":
    sys.exit(main())
