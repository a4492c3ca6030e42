"""What SLURM says of jobs: odd answers by commands that pretend, and a real cluster."""

from __future__ import annotations

import getpass
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.files import write_json, write_text
from consistency_bench.benchmarks.runs.folder import find_cells
from consistency_bench.slurm import queue, sweeps
from consistency_bench.slurm.local.cluster import LocalCluster
from consistency_bench.slurm.queue import SQUEUE, Job, cancel, indices, query
from consistency_bench.slurm.status import poll
from consistency_bench.slurm.sweeps import Array, Sweep

from .local.test_cluster import wait_for

SINCE = datetime(2026, 11, 21, tzinfo=UTC)
#: A fake command writes down how it was called, and prints what it was given.
FAKE = '#!/bin/sh\necho "$@" >>{calls}\ncat {said}\ncat {complaint} >&2\nexit {status}\n'

BENCH = [sys.executable, "-c", "from consistency_bench.benchmarks.cli.main import main; main()"]

Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a command onto PATH that prints `said` and `complaint`; returns the file of its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(queue, "AGAIN_SECONDS", 0.0)

    def put(name: str, said: str = "", *, complaint: str = "", status: int = 0) -> Path:
        files = {part: tmp_path / f"{name}.{part}" for part in ("said", "complaint", "calls")}
        files["said"].write_text(said)
        files["complaint"].write_text(complaint)
        (folder / name).write_text(FAKE.format(status=status, **files))
        (folder / name).chmod(0o755)
        return files["calls"]

    put("sacct")
    return put


def row(number: str, name: str, state: str, reason: str = "None", node: str = "", code: int = 0) -> str:
    values = (number, name, state, reason, node, str(code))
    return "".join(value.ljust(width) for value, width in zip(values, SQUEUE.values(), strict=True)) + "\n"


# Odd answers


def test_rows_of_squeue_become_jobs(fake: Fake) -> None:
    reason = "ReqNodeNotAvail, UnavailableNodes:n[1-2] | Reserved"
    said = row("7_0", "a", "RUNNING", node="n1") + row("7_1", "a", "PENDING", reason) + row("9", "b", "PENDING")
    calls = fake("squeue", said)
    found = query([("a", 0), ("a", 1), ("b", 0)], SINCE)
    assert found.unreachable is None
    assert found.jobs == {
        ("a", 0): Job("7_0", "RUNNING", "", "n1", "0:0"),
        ("a", 1): Job("7_1", "PENDING", reason, "", "0:0"),
        ("b", 0): Job("9", "PENDING", "", "", "0:0"),
    }
    assert "--name=a,b" in calls.read_text()


def test_tasks_that_are_printed_together_are_taken_apart(fake: Fake) -> None:
    fake("squeue", row("7_[2,4-6%2]", "a", "PENDING", "Priority"))
    assert sorted(query([("a", 2)], SINCE).jobs) == [("a", 2), ("a", 4), ("a", 5), ("a", 6)]


def test_what_is_left_of_an_array_stands_for_tasks_without_a_row(fake: Fake) -> None:
    fake("squeue", row("7", "a", "CANCELLED"))
    fake("sacct", "a|7_0|COMPLETED|n1|0:0\n".replace("|", "\x1f"))
    found = query([("a", 0), ("a", 1)], SINCE).jobs
    assert {key: job.state for key, job in found.items()} == {("a", 0): "COMPLETED", ("a", 1): "CANCELLED"}
    calls = fake("sacct")
    calls.unlink()
    fake("squeue", row("9", "b", "RUNNING", node="n1"))
    assert query([("b", 0)], SINCE).jobs == {("b", 0): Job("9", "RUNNING", "", "n1", "0:0")}
    assert not calls.exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("3", [3]), ("0-3", [0, 1, 2, 3]), ("1,5-6%4", [1, 5, 6]), ("0-6:3", [0, 3, 6]), ("1-2,...", [1, 2]), ("", [])],
)
def test_short_forms_of_tasks(text: str, wanted: list[int]) -> None:
    assert indices(text) == wanted


@pytest.mark.parametrize(("code", "wanted"), [(0, "0:0"), (768, "3:0"), (9, "0:9"), (4021, "0:53")])
def test_exit_codes_are_those_of_sacct(code: int, wanted: str, fake: Fake) -> None:
    fake("squeue", row("7_0", "a", "FAILED", "NonZeroExitCode", "n1", code))
    assert query([("a", 0)], SINCE).jobs["a", 0].exit_code == wanted


def test_sacct_is_asked_for_what_squeue_has_forgotten_alone(fake: Fake) -> None:
    fake("squeue", row("7_0", "a", "RUNNING", node="n1"))
    lines = [
        "b|8_0|CANCELLED by 1000|None assigned|0:0",
        "b|8_1|OUT_OF_MEMORY|n2|0:125",
        "b|8_[1-3%1]|CANCELLED by 0|None assigned|0:0",
        "a|7_0|NODE_FAIL|n2|1:0",  # as it was before it was queued again
    ]
    calls = fake("sacct", "\n".join(lines).replace("|", "\x1f") + "\n")
    found = query([("a", 0)], SINCE)
    assert not calls.exists()
    found = query([("a", 0), ("b", 0)], SINCE)
    assert "--name=b " in calls.read_text()
    assert "--starttime=2026-11-" in calls.read_text()
    assert found.jobs["b", 0] == Job("8_0", "CANCELLED", "", "", "0:0")
    assert found.jobs["b", 1].state == "OUT_OF_MEMORY"
    assert [found.jobs["b", index].id for index in (2, 3)] == ["8_2", "8_3"]
    assert found.jobs["a", 0].state == "RUNNING"
    assert found.accounted


def test_of_jobs_with_one_name_the_live_one_counts_and_then_the_last(fake: Fake) -> None:
    fake("squeue", row("12_0", "a", "FAILED") + row("7_0", "a", "PENDING") + row("7_1", "a", "FAILED"))
    fake("sacct", "")
    found = query([("a", 0)], SINCE)
    assert found.jobs["a", 0].id == "7_0"
    fake("squeue", row("12_0", "a", "CANCELLED") + row("7_0", "a", "FAILED"))
    assert query([("a", 0)], SINCE).jobs["a", 0].id == "12_0"


@pytest.mark.parametrize(
    ("own", "other"), [("RUNNING", "PENDING"), ("OUT_OF_MEMORY", "COMPLETED"), ("PENDING", "RUNNING")]
)
def test_a_second_submission_of_an_array_is_left_out(own: str, other: str, fake: Fake) -> None:
    """It appears where sbatch reports a timeout and submits late; it runs nothing."""
    fake("squeue", row("101_0", "a", own) + row("102_0", "a", other))
    assert query({("a", 0)}, SINCE, {"a": "101"}).jobs["a", 0].state == own
    fake("squeue", row("101_0", "a", own))
    fake("sacct", "\x1f".join(("a", "102_0", other, "n1", "0:0")) + "\n")
    assert query({("a", 0)}, SINCE, {"a": "101"}).jobs["a", 0].id == "101_0"


def test_a_cluster_without_accounts_says_what_it_can(fake: Fake) -> None:
    fake("squeue", row("7_0", "a", "RUNNING"))
    fake("sacct", complaint="Slurm accounting storage is disabled\n", status=1)
    found = query([("a", 0), ("a", 1)], SINCE)
    assert (found.unreachable, found.accounted) == (None, False)
    assert list(found.jobs) == [("a", 0)]


@pytest.mark.parametrize(("second", "lost"), [("cat {said}", False), ("exit 1", False), ("true", True)])
def test_a_job_is_missing_once_two_answers_say_so(second: str, lost: bool, fake: Fake, tmp_path: Path) -> None:
    fake("sacct", complaint="Slurm accounting storage is disabled\n", status=1)
    calls = fake("squeue", row("7_0", "a", "RUNNING"))
    again = second.format(said=tmp_path / "squeue.said")
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\ntest -e {calls} || {{ touch {calls}; exit; }}\n{again}\n")
    found = query([("a", 0)], SINCE)
    assert (not found.unreachable and not found.jobs) == lost


def test_a_controller_that_does_not_answer_is_quoted(fake: Fake) -> None:
    complaint = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    fake("squeue", complaint=f"{complaint}\n", status=1)
    calls = fake("sacct", "a\x1f7_0\x1fCOMPLETED\x1fn1\x1f0:0\n")
    found = query([("a", 0)], SINCE)
    assert found.unreachable == f"SLURM does not answer ({complaint})"
    assert found.jobs == {}
    assert not calls.exists()  # what the accounts say may be of before a requeue


def test_a_command_that_hangs_is_given_up(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("squeue")
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(queue, "TIMEOUT_SECONDS", 0.2)
    assert "squeue took more than" in str(query([("a", 0)], SINCE).unreachable)


def test_a_machine_without_slurm_knows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query([("a", 0)], SINCE).unreachable == "this machine has no squeue"
    assert query([], SINCE).unreachable is None


def test_settings_of_the_user_s_own_squeue_are_left_out(fake: Fake, tmp_path: Path, monkeypatch) -> None:
    fake("squeue")
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\nenv >{tmp_path}/env\n")
    monkeypatch.setenv("SQUEUE_USERS", "somebody")
    monkeypatch.setenv("SLURM_CONF", "kept")
    query([("a", 0)], SINCE)
    said = (tmp_path / "env").read_text()
    assert "SQUEUE_USERS" not in said
    assert "SLURM_CONF=kept" in said


def test_many_jobs_are_cancelled_in_one_call(fake: Fake) -> None:
    calls = fake("scancel")
    cancel([f"7_{index}" for index in range(300)])
    (line,) = calls.read_text().splitlines()
    assert line.split()[-1] == "7_299"
    cancel([])
    assert len(calls.read_text().splitlines()) == 1
    fake("scancel", complaint="scancel: error: Access denied\n", status=1)
    with pytest.raises(OSError, match="Access denied"):
        cancel(["7_0"])


# The real thing

Submit = Callable[..., str]


@pytest.fixture
def submit(slurm: LocalCluster) -> Iterator[Submit]:
    """Submits a line of shell, and cancels what is left of all of it."""
    ids: list[str] = []

    def sbatch(name: str, script: str, *options: str) -> str:
        command = ["sbatch", "--parsable", f"--job-name={name}", "--output=/dev/null", *options, f"--wrap={script}"]
        ids.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        return ids[-1]

    yield sbatch
    subprocess.run(["scancel", *ids], check=True)
    wait_for(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_jobs_of_a_real_cluster(submit: Submit) -> None:
    now = datetime.now(UTC)
    stamp = f"bench-{time.time_ns()}"
    ends = "case $SLURM_ARRAY_TASK_ID in 1) exit 3;; 2) kill -9 $$;; 3) sleep 300;; esac"
    mixed = submit(f"{stamp}-0", ends, "--array=0-3")
    submit(f"{stamp}-1", "true", "--array=0-0", "--output=/nowhere/%A_%a_0_log.out")
    waiting = submit(f"{stamp}-2", "true", "--array=0-40", "--begin=now+1hour")
    impossible = submit(f"{stamp}-3", "true", "--array=0-0", "--nodes=7")
    wanted = [(f"{stamp}-{k}", index) for k, count in enumerate((4, 1, 41, 1)) for index in range(count)]

    def jobs() -> dict[tuple[int, int], Job]:
        answer = query(wanted, now)
        assert answer.unreachable is None
        return {(int(name.rpartition("-")[2]), index): job for (name, index), job in answer.jobs.items()}

    wait_for(lambda: all(jobs()[key].state in ("COMPLETED", "FAILED") for key in ((0, 0), (0, 1), (0, 2), (1, 0))))
    wait_for(lambda: jobs()[0, 3].is_running)
    found = jobs()
    assert len(found) == len(wanted)
    assert [found[0, index].state for index in range(4)] == ["COMPLETED", "FAILED", "FAILED", "RUNNING"]
    assert [found[0, index].exit_code for index in range(3)] == ["0:0", "3:0", "0:9"]
    assert found[0, 3].id == f"{mixed}_3"
    assert found[0, 3].node in ("n1", "n2")
    assert (found[1, 0].state, found[1, 0].exit_code) == ("FAILED", "0:53")
    assert found[2, 40] == Job(f"{waiting}_40", "PENDING", "BeginTime", "", "0:0")
    assert (found[3, 0].id, found[3, 0].is_pending) == (f"{impossible}_0", True)
    assert found[3, 0].reason

    cancel([found[0, 3].id, found[2, 40].id])
    wait_for(lambda: not jobs()[0, 3].is_live)
    assert jobs()[0, 3].state == "CANCELLED"
    left = jobs()
    assert (2, 40) not in left  # SLURM keeps no word of it while the rest of its array waits
    assert left[2, 39].is_pending
    cancel([waiting])
    wait_for(lambda: not jobs()[2, 39].is_live)
    assert {jobs()[2, index].state for index in range(40)} == {"CANCELLED"}


@pytest.mark.slow
def test_a_sweep_is_looked_after_on_a_real_cluster(submit: Submit, tmp_path: Path) -> None:
    names = [f"toy2d/ect/s{seed}-0000000{seed}" for seed in range(4)]
    for name in names:
        write_text(tmp_path / name / "config.yaml", "cell: {}\n")
        write_json(tmp_path / name / "status.json", {"state": "queued", "images": 0, "total": 10})
    sweep, elements = f"{time.time_ns()}", tuple((name,) for name in names)
    folder = tmp_path / "sweeps" / sweep / "array-0"
    folder.mkdir(parents=True)
    array = Array(f"bench-{sweep}-0", None, "array-0", {}, elements)  # its number was not recorded
    sweeps.save(tmp_path, Sweep(sweep, datetime.now(UTC).isoformat(), getpass.getuser(), "x", {}, (array,)))
    script = "echo $SLURM_ARRAY_TASK_ID is lost >&2; [ $SLURM_ARRAY_TASK_ID = 0 ] && exit 2; sleep 300"
    number = submit(array.name, script, "--array=0-3%2", f"--error={folder}/%A_%a_0_log.err")

    def states() -> list[str]:
        return [cell.state for cell in poll(find_cells(tmp_path), tmp_path).cells]

    wait_for(lambda: states() == ["failed", "queued", "queued", "queued"])
    wait_for(lambda: (folder / f"{number}_2_0_log.err").exists())
    cells = poll(find_cells(tmp_path), tmp_path).cells
    assert re.fullmatch(r"its job ended on n[12] with exit status 2", cells[0].reason)
    assert [cell.job for cell in cells] == [f"{number}_{index}" for index in range(4)]
    assert cells[3].reason == "JobArrayTaskLimit"

    def bench(*arguments: str) -> str:
        command = [*BENCH, *arguments, "--out", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    assert bench("logs", "00000000").splitlines()[-1] == "0 is lost"
    assert bench("cancel", "00000003") == f"cancelled {number}_3: {names[3]}\n"
    wait_for(lambda: states()[3] == "cancelled")
    assert bench("cancel", "--all").splitlines() == [f"cancelled {number}_{task}: {names[task]}" for task in (1, 2)]
    wait_for(lambda: states() == ["failed", "cancelled", "cancelled", "cancelled"])
    assert "0 of 4 done, 1 failed, 3 cancelled" in bench("status")


@pytest.mark.slow
def test_what_squeue_has_forgotten_is_in_the_accounts(submit: Submit, fake: Fake) -> None:
    now = datetime.now(UTC)
    name = f"bench-{time.time_ns()}-0"
    number = submit(name, "exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
    submit(f"{name}x", "true", "--array=0-1", "--begin=now+1hour")
    wanted = [(name, 0), (name, 1), (f"{name}x", 1)]
    Path(fake("squeue")).parent.joinpath("bin", "sacct").unlink()  # a controller that remembers nothing

    def ended() -> bool:
        jobs = query(wanted[:2], now).jobs
        return len(jobs) == 2 and not any(job.is_live for job in jobs.values())

    wait_for(ended)
    jobs = query(wanted, now).jobs
    assert [(jobs[key].id, jobs[key].state, jobs[key].exit_code) for key in wanted[:2]] == [
        (f"{number}_0", "COMPLETED", "0:0"),
        (f"{number}_1", "FAILED", "1:0"),
    ]
    assert jobs[name, 1].node in ("n1", "n2")
