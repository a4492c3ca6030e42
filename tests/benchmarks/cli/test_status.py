"""`bench status`, `wait`, `cancel`, `logs` and `retry`: the commands that look after a sweep."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from consistency_bench.benchmarks.cli import board, display, logs, wait
from consistency_bench.benchmarks.cli.cells import resolve
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_json, write_json, write_text
from consistency_bench.benchmarks.common.lock import acquire
from consistency_bench.benchmarks.execution import launch
from consistency_bench.benchmarks.runs.folder import STATUS, Run
from consistency_bench.slurm import clusters, queue, submit, sweeps
from consistency_bench.slurm import status as view
from consistency_bench.slurm.submit import Submission
from consistency_bench.slurm.sweeps import Array, Sweep

from ..conftest import BENCH, Said, put, tiny_cell

CELLS = [tiny_cell("ect", seed=seed) for seed in range(4)]
NAMES = [cell.name for cell in CELLS]
SWEEP = "20260101-000000-abcdef"
OUT = ("--out", "runs")


@pytest.fixture
def call(call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """`bench` with the given arguments and `--out runs` in this process, in `tmp_path`, which waits for nothing."""
    for module, name in ((view, "QUEUE_SECONDS"), (view, "SETTLE_SECONDS"), (display, "WATCH_SECONDS")):
        monkeypatch.setattr(module, name, 0.01)
    return lambda *arguments: call(*arguments, *OUT)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three cells in a sweep, two of them in one job, and one that is done and was in none."""
    folder = tmp_path / "runs"
    for cell in CELLS:
        write_json(put(cell, folder) / STATUS, {"state": "queued", "images": 0, "total": 2560})
    say(folder, 3, state="done", images=2560)
    save(folder, SWEEP, "12", ((NAMES[0],), (NAMES[1], NAMES[2])))
    return folder


def save(
    folder: Path, name: str, job: str | None, elements: tuple[tuple[str, ...], ...], setup: tuple[str, ...] = ()
) -> None:
    array = Array(f"bench-{name}-0", job, "array-0", {}, elements)
    cluster = asdict(replace(clusters.load("local"), name="ours", partition="spare", setup=setup))
    sweeps.save(folder, Sweep(name, "2026-01-01T00:00:00+00:00", "ann", "bench sweep", cluster, (array,)))


def say(folder: Path, number: int, **changes: Any) -> None:
    path = CELLS[number].path(folder) / STATUS
    write_json(path, {**read_json(path), **changes})


#: Prints the next answer; the last one again and again.
SQUEUE = """#!/bin/sh
cd {folder}
set -- *.txt
answer=$1
[ $# = 1 ] || trap 'rm "$answer"' EXIT
if grep -q down "$answer"; then echo down >&2; exit 1; fi
cat "$answer"
"""
SCANCEL = '#!/bin/sh\necho "$@" >> {folder}/cancelled\n'


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a squeue onto PATH that prints the states of the tasks, one answer after another and the last one for ever.

    None is a controller that does not answer.
    """
    folder = tmp_path / "slurm"
    for name, script in (("squeue", SQUEUE), ("scancel", SCANCEL)):
        path = folder / "bin" / name
        write_text(path, script.format(folder=folder))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(queue, "AGAIN_SECONDS", 0.0)

    def set_answers(*answers: Sequence[str] | None) -> None:
        for path in folder.glob("*.txt"):
            path.unlink()
        for number, states in enumerate(answers):
            write_text(folder / f"{number}.txt", "down" if states is None else "".join(map(row, count(), states)))

    return set_answers


def row(index: int, state: str) -> str:
    """A line of squeue: `FAILED 1:0` is a state and an exit code."""
    state, _, code = state.partition(" ")
    status, _, number = code.partition(":")
    waits = state == "PENDING"
    fields = {
        "JobArrayID": f"12_{index}",
        "Name": f"bench-{SWEEP}-0",
        "State": state,
        "Reason": "Priority" if waits else "None",
        "NodeList": "" if waits or state == "CANCELLED" else "n1",
        "exit_code": str(256 * int(status or 0) + int(number or 0)),
    }
    assert fields.keys() == queue.SQUEUE.keys()
    return "".join(f"{fields[name]:<{width}}" for name, width in queue.SQUEUE.items()) + "\n"


def rows(text: str) -> dict[str, list[str]]:
    """The words beside each cell of a table."""
    found = (line.split() for line in text.splitlines())
    return {words[0]: words[1:] for words in found if words and words[0] in NAMES}


# Names


def test_cells_have_several_names(out: Path) -> None:
    cell = CELLS[1]
    for name in (cell.name, f"{cell.name}/", cell.id, cell.id[:5], cell.name.split("/")[-1], str(cell.path(out))):
        assert [found.path for found in resolve([name], out)] == [cell.path(out)]
    assert [found.path for found in resolve([cell.id, CELLS[0].id, cell.name], out)] == [
        cell.path(out),
        CELLS[0].path(out),
    ]
    assert len(resolve([], out)) == len(CELLS)
    with pytest.raises(UsageError, match="no cell 'zzz' in"):
        resolve(["zzz"], out)
    with pytest.raises(UsageError, match="no cells below"):
        resolve([], out / "none")
    other = put(tiny_cell("ict"), out.parent / "other")
    with pytest.raises(UsageError, match=r"is not below .*; name the folder of its runs with --out"):
        resolve([str(other)], out)


def test_an_ambiguous_id_is_refused(tmp_path: Path) -> None:
    for name in ("toy2d/ect/s0-abc11111", "toy2d/ect/s1-abc22222"):
        write_text(tmp_path / name / "config.yaml", "cell: {}\n")
    with pytest.raises(UsageError, match=r"2 cells in .* have ids that begin with 'abc': abc11111, abc22222"):
        resolve(["abc"], tmp_path)


# Status


def test_status_shows_jobs_and_counts_states(call: Callable[..., Said], out: Path, answer: Callable) -> None:
    answer(["PENDING", "FAILED 0:53"])
    said = call("status")
    assert said.status == 1
    shown = rows(said.out)
    assert shown[NAMES[0]] == ["queued", "0%", "-", "12_0", "-", "Priority"]
    assert shown[NAMES[1]][:5] == ["failed", "0%", "-", "12_1", "n1"]
    assert shown[NAMES[3]][:2] == ["done", "100%"]
    assert "1 of 4 done, 2 failed, 1 queued" in said.out
    assert f"{NAMES[1]}: its log folder could not be written on node n1 (job 12_1)" in said.out
    assert "\x1b" not in said.out
    assert max(map(len, said.out.splitlines())) <= 120
    assert set(rows(call("status", CELLS[0].id).out)) == {NAMES[0]}


def test_a_training_cell_says_how_long_and_what(call: Callable[..., Said], out: Path, answer: Callable) -> None:
    answer(["RUNNING", "PENDING"])
    say(out, 0, state="running", phase="train", images=1280, images_per_s=10.0, loss=0.5, job="12_0", node="n7")
    folder = CELLS[0].path(out)
    write_text(folder / "log.txt", "2026-11-21 12:00:01,123 INFO first\n2026-11-21 12:00:02,123 INFO snapshot [x]\n")
    lock = acquire(folder / "lock")
    assert lock is not None
    with lock:
        shown = rows(call("status").out)[NAMES[0]]
    assert shown == ["train", "50%", "2", "min", "12_0", "n7", "12:00:02", "snapshot", "[x]"]
    assert rows(call("status").out)[NAMES[0]][0] == "requeued"


def test_variants_and_the_time_left_for_all_are_shown(call: Callable[..., Said], out: Path, answer: Callable) -> None:
    swept = tiny_cell("ect", "train.lr=0.5")
    write_json(put(swept, out) / STATUS, {"state": "failed", "images": 0, "total": 2560, "error": "x"})
    attempts = [{"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:05:00+00:00"}]
    write_json(
        CELLS[3].path(out) / "run.json", {"attempts": attempts, "compute": {"images": 2560, "train_seconds": 256}}
    )
    answer(["RUNNING", "PENDING"])
    say(out, 0, state="running", phase="train", images=1280, images_per_s=10.0)
    lock = acquire(CELLS[0].path(out) / "lock")
    assert lock is not None
    with lock:
        said = call("status")
    assert rows(said.out)[NAMES[0]][0] == "train"
    assert next(line for line in said.out.splitlines() if line.startswith(swept.name)).split()[1] == "lr=0.5"
    # 128 s of training and 44 s of scoring, then two whole cells of 256 s and 44 s, one after the other
    assert "1 of 5 done, 1 running, 1 failed, 2 queued, about 13 min left" in said.out
    assert "left" not in call("status").out.splitlines()[-2]


def test_watching_prints_what_changes_until_all_has_ended(
    call: Callable[..., Said], out: Path, answer: Callable
) -> None:
    answer(["PENDING", "PENDING"], ["PENDING", "CANCELLED"], ["CANCELLED", "CANCELLED"])
    said = call("status", "--watch")
    assert said.status == 1
    changes = [
        line.replace(":", " ").split()[3:5] for line in said.out.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)
    ]
    assert changes[0] == ["1", "of"]  # what waits and what is done is counted
    assert sorted(changes[1:]) == [[name, "cancelled"] for name in sorted(NAMES[:3])]
    assert changes[-1][0] == NAMES[0]
    assert rows(said.out)[NAMES[0]][0] == "cancelled"


@pytest.mark.parametrize("width", [40, 80, 100, 120, 200])
@pytest.mark.parametrize("with_jobs", [False, True])
def test_tables_fit_terminals(width: int, with_jobs: bool, out: Path, answer: Callable) -> None:
    from rich.console import Console

    answer(["PENDING", "FAILED 0:53"])
    if not with_jobs:
        (out / "sweeps" / SWEEP / "sweep.json").unlink()
    with open(os.devnull, "w") as nowhere:
        console = Console(width=width, record=True, file=nowhere)
        console.print(board.table(view.poll(resolve([], out), out), width))
    text = console.export_text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for cell in CELLS:
        assert any(cell.id in line for line in lines)
    assert ("12_0" in text) == (with_jobs and width >= 100)
    assert text.count("failed") == (3 if with_jobs else 0)
    assert all(shown in text for shown in ("queued", "done", "100%"))


def test_a_long_table_counts_what_it_has_no_room_for(out: Path, answer: Callable) -> None:
    answer(["PENDING", "PENDING"])
    table = board.table(view.poll(resolve([], out), out), 100, rows=3)
    assert (table.row_count, str(table.caption)) == (3, "1 of 4 done, 3 queued; 1 not shown")


def test_a_cell_that_runs_here_has_a_line_for_each_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(CELLS[0], tmp_path)
    lines, running = display.Lines(), {"state": "running", "phase": "train", "total": 2560, "loss": 0.5}
    for status in (
        {"state": "queued"},
        {**running, "images": 0, "phase": "reference"},
        {**running, "images": 640, "images_per_s": 64.0},
        {**running, "images": 2560, "phase": "score", "scored": 1, "to_score": 4},
        {"state": "failed", "images": 2560, "total": 2560, "error": "RuntimeError: x\ny"},
    ):
        write_json(folder / STATUS, status)
        for _ in range(2):
            lines.show(display.local_view([Run(folder)], tmp_path))
    assert [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "0 of 1 done, 1 queued",
        f"{NAMES[0]} reference",
        f"{NAMES[0]} train 25%, loss 0.5, 64 images/s, 30 s left",
        f"{NAMES[0]} score 1 of 4",
        f"{NAMES[0]} failed 100%: RuntimeError: x",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (130, "2 min"), (7200, "2.0 h"), (260000, "3.0 d")]
)
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    assert board.duration(seconds) == text


# Wait


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The leaderboards that were written, and whether with MLflow."""
    written: list[bool] = []
    for name, result in (("show_report", 0), ("update_reports", ())):
        monkeypatch.setattr(wait, name, lambda _, tracking, r=result: written.append(tracking.wanted) or r)
    monkeypatch.setattr(wait, "REPORT_SECONDS", 0.0)
    return written


def test_waiting_goes_on_while_slurm_is_silent(
    call: Callable[..., Said], out: Path, answer: Callable, reports: list[bool]
) -> None:
    answer(["PENDING", "PENDING"], None, None, ["CANCELLED", "FAILED 1:0"])
    said = call("wait")
    assert said.status == 1
    lines = [line[9:] for line in said.out.splitlines()]
    silent = lines.index("SLURM does not answer (down)")
    again = lines.index("SLURM answers again")
    # What was known of the cells is not forgotten meanwhile.
    assert not [line for line in lines[silent:again] if line.startswith(tuple(NAMES))]
    assert f"{NAMES[0]} cancelled 0%: its job was cancelled" in lines[again:]
    assert said.out.splitlines()[-1] == "1 of 4 done, 2 failed, 1 cancelled"
    assert f"{NAMES[2]}: its job ended on n1 with exit status 1 (job 12_1)" in said.err
    assert reports == [True]


def test_cells_that_finish_are_reported_meanwhile(
    call: Callable[..., Said], out: Path, answer: Callable, reports: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(["RUNNING", "RUNNING"])
    steps: Iterator[Callable[[], None]] = iter(
        [
            lambda: say(out, 0, state="done"),
            lambda: None,
            lambda: say(out, 1, state="done"),
            lambda: say(out, 2, state="done"),
        ]
    )
    clock = types.SimpleNamespace(sleep=lambda _: next(steps)(), strftime=time.strftime, monotonic=time.monotonic)
    monkeypatch.setattr(display, "time", clock)
    said = call("wait", "--no-mlflow")
    assert said.status == 0
    assert reports == [False, False, False]  # after the first, after the second, and at the end
    assert said.out.splitlines()[-1] == "4 of 4 done"


def test_waiting_has_a_limit(call: Callable[..., Said], out: Path, answer: Callable, reports: list[bool]) -> None:
    answer(["PENDING", "PENDING"])
    said = call("wait", "--timeout", "0")
    assert said.status == 1
    assert said.out.splitlines()[-1] == "1 of 4 done, 3 queued; unfinished after 0 minutes"
    assert call("wait", CELLS[3].id).status == 0


@pytest.mark.parametrize("arguments", [["wait"], ["status", "--watch"]], ids=" ".join)
def test_ctrl_c_ends_waiting_and_watching(arguments: list[str], out: Path, answer: Callable) -> None:
    answer(["PENDING", "PENDING"])
    command = [str(BENCH), *arguments, *OUT]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out.parent
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read() == "interrupted; rerun the command to resume\n"


def test_jobs_are_not_waited_for_where_they_cannot_be_asked_after(
    call: Callable[..., Said], out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = call("wait")
    assert (said.status, said.err) == (
        2,
        "bench: this machine has no squeue: wait for the jobs in runs on a machine of the cluster\n",
    )
    assert rows(call("status").out)[NAMES[0]][0] == "queued"


# Cancel


def cancelled(out: Path) -> list[str]:
    """What scancel was called with."""
    path = out.parent / "slurm" / "cancelled"
    return path.read_text().splitlines() if path.exists() else []


def test_the_jobs_of_cells_are_cancelled(
    call: Callable[..., Said], out: Path, answer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    answer(["PENDING", "RUNNING"])
    said = call("cancel", CELLS[0].id)
    assert (said.status, said.out) == (0, f"cancelled 12_0: {NAMES[0]}\n")
    said = call("cancel", NAMES[1])
    assert said.out == f"cancelled 12_1: {NAMES[1]}; it also held {NAMES[2]}\n"
    say(out, 2, state="done")  # it loses nothing
    assert call("cancel", NAMES[1]).out == f"cancelled 12_1: {NAMES[1]}\n"
    assert call("cancel", "--all").out.startswith(
        "left alone, since other users submitted them: 12_0, 12_1; name their"
    )
    assert cancelled(out) == ["12_0", "12_1", "12_1"]
    monkeypatch.setenv("LOGNAME", sweeps.read(out)[0].user)
    assert call("cancel", "--all").out == f"cancelled 12_0: {NAMES[0]}\ncancelled 12_1: {NAMES[1]}\n"
    assert cancelled(out)[3:] == ["12_0 12_1"]


def test_what_has_no_job_is_left_alone(call: Callable[..., Said], out: Path, answer: Callable) -> None:
    answer(["CANCELLED", "FAILED 1:0"])
    assert call("cancel", "--all").out == "nothing to cancel: no jobs in runs\n"
    assert call("cancel", NAMES[3]).out == "nothing to cancel: these cells have no jobs\n"
    for arguments in ([], [NAMES[0], "--all"]):
        said = call("cancel", *arguments)
        assert (said.status, said.err) == (
            2,
            "bench: name the cells whose jobs to cancel, or give --all, and not both\n",
        )
    answer(None)
    said = call("cancel", "--all")
    assert (said.status, said.err) == (2, "bench: SLURM does not answer (down): nothing was cancelled\n")
    assert cancelled(out) == []


# Logs


def test_logs_are_the_cell_s_or_else_its_job_s(call: Callable[..., Said], out: Path, answer: Callable) -> None:
    answer(["FAILED 3:0", "PENDING"])
    folder = out / "sweeps" / SWEEP / "array-0"
    write_text(folder / "12_0_0_log.err", "no module named x\n")
    write_text(folder / "12_0_0_log.out", "")
    write_text(folder / "11_0_0_log.err", "of another\n")
    said = call("logs", CELLS[0].id)
    shown = f"==> runs/sweeps/{SWEEP}/array-0/12_0_0_log.err <==\nno module named x\n"
    assert (said.status, said.out) == (0, shown)
    write_text(CELLS[0].path(out) / "log.txt", "of an earlier attempt\n")
    own = f"==> runs/{NAMES[0]}/log.txt <==\nof an earlier attempt\n"
    assert call("logs", CELLS[0].id).out == own + shown
    assert call("logs", CELLS[0].id, "--job").out == shown
    answer(["RUNNING", "PENDING"])
    assert call("logs", CELLS[0].id).out == "of an earlier attempt\n"


def test_a_cell_without_a_log_is_one_sentence(call: Callable[..., Said], out: Path, answer: Callable) -> None:
    answer(["PENDING", "FAILED 0:53"])
    said = call("logs", CELLS[0].id)
    assert (said.status, said.err) == (1, f"{NAMES[0]} has no log; the cell is queued: Priority\n")
    said = call("logs", CELLS[1].id)
    assert said.err == f"{NAMES[1]} has no log; the cell is failed: its log folder could not be written on node n1\n"
    said = call("logs", CELLS[3].id, "--job")
    assert (said.status, said.err.split(";")[0]) == (1, f"{NAMES[3]} was in no job")


def test_following_prints_what_is_added(
    call: Callable[..., Said], out: Path, answer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(["RUNNING", "PENDING"], ["RUNNING", "PENDING"], ["COMPLETED", "PENDING"])
    log = CELLS[0].path(out) / "log.txt"
    parts = iter(["one\n", "two\n", "three ", "parts\n"])

    def add(_: float) -> None:
        with log.open("a") as file:
            file.write(next(parts, ""))

    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(logs, "time", types.SimpleNamespace(sleep=add, monotonic=time.monotonic))
    said = call("logs", CELLS[0].id, "--follow")
    assert (said.status, said.out) == (0, "one\ntwo\n")


# Retry


@dataclass(frozen=True)
class Submitted:
    cells: list[tuple[Path, dict]]
    out: Path
    cluster: clusters.Cluster
    command: str


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Submitted]:
    """What was submitted, to a stub."""
    calls: list[Submitted] = []

    def submit_cells(cells: Any, out: Path, cluster: Any, *, pack: int, share: int, command: str) -> Submission:
        assert (pack, share) == (1, 1)
        calls.append(Submitted(list(cells), out, cluster, command))
        names = tuple((path.relative_to(out).as_posix(),) for path, _ in cells)
        arrays = (Array("b", "1", "array-0", {}, names),)
        return Submission(Sweep("new", "2026-01-02T00:00:00+00:00", "ann", command, {}, arrays), None)

    monkeypatch.setattr(submit, "submit_cells", submit_cells)
    return calls


def test_what_failed_or_was_left_is_submitted_again_as_it_was(
    call: Callable[..., Said], out: Path, answer: Callable, submitted: list[Submitted]
) -> None:
    answer(["FAILED 1:0", "PENDING"])
    config = CELLS[0].path(out) / "config.yaml"
    config.write_text(config.read_text().replace("lr: ", "lr: 9", 1))  # what no composition would give
    say(out, 0, state="interrupted", images=640, error="old")
    say(out, 1, state="failed", error="RuntimeError: x")
    said = call("retry", "--failed")
    assert said.status == 0
    (call_,) = submitted
    assert [path for path, _ in call_.cells] == [CELLS[0].path(Path("runs")), CELLS[1].path(Path("runs"))]
    assert str(call_.cells[0][1].train.lr).startswith("9")
    assert (call_.cluster.name, call_.cluster.partition) == ("ours", "spare")
    assert call_.command == "bench retry --failed --out runs"
    assert "cells: 2, jobs: 2 on ours, sweep new" in said.out
    assert f"{NAMES[0]} was failed: its job ended on n1 with exit status 1" in said.out
    call("retry", "--failed", "--cluster", "a100_preempt")
    assert submitted[-1].cluster == clusters.load("a100_preempt")


def test_no_shell_is_run_because_a_file_of_results_has_it(
    call: Callable[..., Said], out: Path, answer: Callable, submitted: list[Submitted]
) -> None:
    answer(["FAILED 1:0", "PENDING"])
    save(out, SWEEP, "12", ((NAMES[0],), (NAMES[1], NAMES[2])), setup=("touch canary",))
    said = call("retry", "--failed")
    assert said.status == 2
    assert "the record of the sweep has setup, environment, srun_args or sbatch of its own" in said.err
    assert submitted == []
    assert call("retry", "--failed", "--cluster", "local").status == 0
    assert submitted[-1].cluster == clusters.load("local")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("resources", "cpus", "1\ntouch canary #"),
        ("resources", "cpus", True),
        ("resources", "memory", "x"),
        ("resources", "time_limit", [1]),
        ("eval", "metrics", ["fd_evil:f_100"]),
        ("eval", "metrics", ["kd_evil.part:f_100"]),
        ("run", "micro_batch", "8"),
    ],
)
def test_a_configuration_of_a_stranger_is_never_submitted(
    section: str, key: str, value: object, call: Callable[..., Said], out: Path, answer: Callable, submitted: list
) -> None:
    answer(["FAILED 1:0", "PENDING"])
    path = CELLS[0].path(out) / "config.yaml"
    config = yaml.safe_load(path.read_text())
    (config["train"]["resources"] if section == "resources" else config[section])[key] = value
    path.write_text(yaml.safe_dump(config))
    before = path.with_name("status.json").read_bytes()
    for arguments in (("--failed",), ("--failed", "--cluster", "local"), ("--failed", "--launcher", "local")):
        said = call("retry", *arguments, CELLS[0].id)
        assert said.status == (2 if key == "metrics" else 1)
        assert "config.yaml" in said.err
        assert key in said.err or "which runs a function of a module" in said.err
    assert submitted == []
    assert path.with_name("status.json").read_bytes() == before


def test_a_damaged_file_keeps_no_other_cell_from_being_retried_or_watched(
    call: Callable[..., Said], out: Path, answer: Callable, submitted: list[Submitted], reports: list[bool]
) -> None:
    answer(["FAILED 1:0", "CANCELLED"])
    write_text(CELLS[1].path(out) / "config.yaml", "{")
    write_text(out / "sweeps" / "later" / "sweep.json", "{")
    (out / "sweeps" / "later" / "array-0").mkdir()
    for arguments in (("status", "--watch"), ("wait",)):
        said = call(*arguments)
        assert said.status == 1
        assert f"{NAMES[0]} failed" in said.out
        assert "sweeps/later/sweep.json" in said.err
    said = call("retry", "--failed")
    assert said.status == 1
    assert [path for path, _ in submitted[0].cells] == [CELLS[0].path(Path("runs")), CELLS[2].path(Path("runs"))]
    assert "sweeps/later/sweep.json" in said.err
    assert f"{NAMES[1]}/config.yaml" in said.err
    assert "may get a second job" in said.err


def test_nothing_in_a_status_reaches_the_terminal_as_a_command(
    call: Callable[..., Said], out: Path, answer: Callable
) -> None:
    answer(["FAILED 1:0", "PENDING"])
    say(out, 0, state="failed", error="\x1b]0;x\x07 \x1b[2Jgone\u202e")
    (CELLS[0].path(out) / "log.txt").write_text("said \x1b[2J\n\tmore\n")
    for arguments in (("status",), ("retry", "--failed"), ("logs", CELLS[0].id)):
        said = call(*arguments)
        assert not {"\x1b", "\x07", "\u202e"} & set(said.out + said.err), arguments
    assert "said \ufffd[2J\n\tmore\n" in call("logs", CELLS[0].id).out


def test_results_and_live_cells_are_never_retried(
    call: Callable[..., Said], out: Path, answer: Callable, submitted: list[Submitted]
) -> None:
    answer(["RUNNING", "PENDING"])
    say(out, 1, state="diverged")
    said = call("retry", "--failed")
    assert (said.status, said.out) == (0, "nothing to retry: 1 diverged, 2 queued, 1 done\n")
    said = call("retry", *NAMES)
    assert (said.status, said.out) == (0, "nothing to retry: 1 diverged, 2 queued, 1 done\n")
    assert call("retry", CELLS[3].id).out == "nothing to retry: the cell is done\n"
    assert submitted == []


def test_jobs_that_are_ending_are_waited_for(
    call: Callable[..., Said], out: Path, answer: Callable, submitted: list[Submitted]
) -> None:
    answer(["COMPLETING", "PENDING"], ["CANCELLED", "PENDING"])
    say(out, 0, state="interrupted")
    said = call("retry", "--failed")
    assert said.out.startswith("waiting for jobs that are ending: 12_0\ncells: 1, jobs: 1 on ours")
    assert [path for path, _ in submitted[0].cells] == [CELLS[0].path(Path("runs"))]


def test_cells_of_a_cluster_that_is_gone_are_retried_here(
    call: Callable[..., Said], out: Path, answer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(None)
    say(out, 0, state="running", job="12_0", node="n1")
    said = call("retry", "--failed")
    assert (said.status, said.out) == (2, "")
    assert "whether the cells are in jobs is unknown; nothing was submitted" in said.err
    assert "--launcher local runs them here" in said.err
    ran: list[Path] = []

    def run_local(runs: Sequence[Run], slots: launch.Slots, tick: Callable[[], None]) -> bool:
        ran.extend(run.path for run in runs)
        for number in range(3):
            say(out, number, state="done")
        return False

    monkeypatch.setattr(launch, "run_local", run_local)
    lock = acquire(CELLS[1].path(out) / "lock")
    assert lock is not None
    said = call("retry", "--failed", "--launcher", "local")
    lock.release()
    assert said.status == 0
    assert "assuming that their jobs are gone" in said.err
    assert ran == [CELLS[0].path(Path("runs")), CELLS[2].path(Path("runs"))]  # a process holds the other


def test_named_cells_alone_are_retried(
    call: Callable[..., Said], out: Path, answer: Callable, submitted: list[Submitted]
) -> None:
    answer(["CANCELLED", "CANCELLED"])
    call("retry", "--failed", CELLS[2].id)
    assert [path for path, _ in submitted[0].cells] == [CELLS[2].path(Path("runs"))]
    call("retry", CELLS[0].id)
    assert [path for path, _ in submitted[1].cells] == [CELLS[0].path(Path("runs"))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the cells to run again, or give --failed"),
        (["--failed", "--launcher", "local", "--cluster", "x"], "--cluster is for jobs"),
        (["--failed", "--cluster", "nowhere"], "unknown cluster 'nowhere'"),
        (["zzz"], "no cell 'zzz' in runs"),
    ],
)
def test_mistakes_of_a_retry_submit_nothing(
    arguments: list[str], message: str, call: Callable[..., Said], out: Path, answer: Callable, submitted: list
) -> None:
    answer(["CANCELLED", "CANCELLED"])
    said = call("retry", *arguments)
    assert said.status == 2
    assert said.err.startswith(f"bench: {message}")
    answer(None)
    assert "whether the cells are in jobs is unknown" in call("retry", "--failed").err
    assert submitted == []
    assert {read_json(cell.path(out) / STATUS)["state"] for cell in CELLS[:3]} == {"queued"}


def test_cells_of_no_sweep_are_retried_here(
    call: Callable[..., Said], out: Path, submitted: list[Submitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "sweeps" / SWEEP / "sweep.json").unlink()
    say(out, 0, state="failed", error="RuntimeError: x")
    say(out, 1, state="interrupted")
    write_json(CELLS[0].path(out) / "run.json", {"attempts": [{"threads": 1}], "compute": {}})
    ran: list[tuple[list[Path], int]] = []

    def run_local(runs: Sequence[Run], slots: launch.Slots, tick: Callable[[], None]) -> bool:
        assert {run.status.state for run in runs} == {"queued"}
        ran.append(([run.path for run in runs], slots.threads))
        say(out, 0, state="done")
        say(out, 1, state="failed", error="RuntimeError: again")
        return False

    monkeypatch.setattr(launch, "run_local", run_local)
    said = call("retry", "--failed")
    # The one that is queued, too: no process holds it, and no job ever will.
    assert ran == [([cell.path(Path("runs")) for cell in CELLS[:3]], 1)]
    assert said.status == 1
    assert f"{NAMES[1]}: RuntimeError: again (see runs/{NAMES[1]}/log.txt)" in said.err
    assert submitted == []
    said = call("retry", "--failed", "--launcher", "slurm")
    assert (said.status, said.err.split(":")[1]) == (2, " these cells were in no sweep")
