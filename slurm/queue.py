"""What SLURM knows of jobs: from squeue, and from sacct for jobs that squeue has purged.

Jobs are found by name, so that a lost job number does not matter. Where both know a job, squeue is right: the accounts
lag by seconds, and show the state before a requeue for that long.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

#: squeue itself gives up after SLURM's MessageTimeout, 10 s unless a site says otherwise.
TIMEOUT_SECONDS = 20.0
#: Between two queries of which only the second counts, where the first lacks a job.
AGAIN_SECONDS = 2.0
#: Names in one call: a command line has its limits.
NAMES = 500

PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
ENDING = "COMPLETING"  # after it, a job has ended or is pending again
RUNNING = frozenset({"RUNNING", "CONFIGURING", ENDING, "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED", "RESIZING"})

#: Fields of squeue and their widths. Columns and not separators: a reason may hold anything.
SQUEUE = {"JobArrayID": 64, "Name": 160, "State": 32, "Reason": 160, "NodeList": 200, "exit_code": 20}
SACCT = ("JobName", "JobID", "State", "NodeList", "ExitCode")  # its reasons are of before the job began
#: Unless states are named, sacct leaves out jobs that were cancelled while they waited.
SACCT_STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,RS,RV,S,TO"

Key = tuple[str, int]

#: In place of a task where SLURM names none: a job that is no array, or the rest of an array that was cancelled while
#: it waited, which stands for all tasks without a row of their own.
REST = -1


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array.

    id: such as 123_4. state: SLURM's, in capitals, one word. reason: why it is pending, or how it ended; "" without
    one. node: where it runs or ran, "" before. exit_code: STATUS:SIGNAL, as in sacct.
    """

    id: str
    state: str
    reason: str
    node: str
    exit_code: str

    @property
    def array(self) -> str:
        """The number of its array, such as 123, or its own."""
        return self.id.partition("_")[0]

    @property
    def is_pending(self) -> bool:
        return self.state in PENDING

    @property
    def is_running(self) -> bool:
        return self.state in RUNNING

    @property
    def is_ending(self) -> bool:
        """Whether its processes are being ended."""
        return self.state == ENDING

    @property
    def is_live(self) -> bool:
        """Whether it is running or may still run."""
        return self.is_pending or self.is_running


@dataclass(frozen=True)
class Queue:
    """What SLURM answered.

    jobs: by name and task; a job that is no array stands for any task. unreachable: why SLURM could not be queried,
    None where it answered; nothing follows from a missing job then. accounted: whether ended jobs that squeue has
    purged were looked up in the accounts; if not, how they ended is unknown.
    """

    jobs: Mapping[Key, Job] = field(default_factory=dict)
    unreachable: str | None = None
    accounted: bool = True


class _RefusedError(Exception):
    """A command that failed, with its message."""


def is_installed() -> bool:
    """Whether this machine has the commands of SLURM."""
    return shutil.which("squeue") is not None


def query(wanted: Collection[Key], since: datetime, numbers: Mapping[str, str] | None = None) -> Queue:
    """The jobs of these names and tasks, and others of these names. Without keys, SLURM is not queried.

    since: when the oldest of them was submitted, with its time zone; the accounts are searched from then on.
    numbers: of the arrays, by name, where they are known: another array of the name is a second submission, which ends
        at once without running anything, and is left out.
    """
    numbers = numbers or {}
    if not wanted:
        return Queue()
    if not is_installed():
        return Queue(unreachable="this machine has no squeue")
    found = _query(wanted, since, numbers)
    if not found.unreachable and any(key not in found.jobs for key in wanted):
        # An empty answer may come from a controller that restarts: a job is missing once two answers say so.
        time.sleep(AGAIN_SECONDS)
        found = _query(wanted, since, numbers)
    return found


def _query(wanted: Collection[Key], since: datetime, numbers: Mapping[str, str]) -> Queue:
    names = sorted({name for name, _ in wanted})

    def owned(rows: Iterable[tuple[Key, Job]]) -> Iterator[tuple[Key, Job]]:
        return (row for row in rows if numbers.get(row[0][0]) in (None, row[1].array))

    try:
        jobs = _newest(owned(row for part in _parts(names) for row in _squeue(part)))
    except _RefusedError as error:
        return Queue(unreachable=f"SLURM does not answer ({error})")
    purged = sorted({key[0] for key in wanted if key not in jobs and not _rest_lives(jobs, key)})
    try:
        ended = _newest(owned(row for part in _parts(purged) for row in _sacct(part, since)))
    except _RefusedError:  # usually because this cluster keeps no accounts
        return Queue(_with_rests(jobs, wanted), accounted=False)
    return Queue(_with_rests({**ended, **jobs}, wanted))


def _rest_lives(jobs: Mapping[Key, Job], key: Key) -> bool:
    rest = jobs.get((key[0], REST))
    return rest is not None and rest.is_live


def _with_rests(jobs: Mapping[Key, Job], wanted: Collection[Key]) -> dict[Key, Job]:
    """The jobs, with the rest of an array in place of tasks that have no row of their own."""
    rests = {key: jobs[key[0], REST] for key in wanted if key not in jobs and (key[0], REST) in jobs}
    return {key: job for key, job in jobs.items() if key[1] != REST} | rests


def arrays(name: str, since: datetime) -> set[str]:
    """The numbers of all arrays of this name, ended ones included. Raises OSError where SLURM does not answer.

    since: when the first of them was submitted at the earliest, with its time zone.
    """
    try:
        rows = _squeue([name])
    except _RefusedError as error:
        raise OSError(f"SLURM does not answer ({error})") from None
    if not rows:
        with contextlib.suppress(_RefusedError):  # usually because this cluster keeps no accounts
            rows = _sacct([name], since)
    return {job.array for _, job in rows}


def writing(ids: Collection[str], folder: Path) -> list[str]:
    """Those of these ids that are jobs of this user with their output below a folder; none where SLURM is silent."""
    if not ids:
        return []
    choice = (f"--user={getpass.getuser()}", f"--jobs={','.join(ids)}")
    try:
        lines = _call("squeue", "--all", "--array", "--noheader", *choice, "--Format=JobArrayID:64,StdOut:4096")
    except _RefusedError:  # also where SLURM has purged the only job
        return []
    rows = [(line[:64].strip(), Path(line[64:].strip()).resolve()) for line in lines.splitlines()]
    return [number for number, output in rows if number in ids and output.is_relative_to(folder.resolve())]


def cancel(ids: Collection[str]) -> None:
    """Cancel jobs by their ids, in as few calls as possible; ended ones are ignored.

    Raises OSError with SLURM's message where it refuses.
    """
    for part in _parts(list(ids)):
        try:
            _call("scancel", *part)
        except _RefusedError as error:
            raise OSError(f"scancel: {error}") from None


def indices(text: str) -> list[int]:
    """The tasks in an array's short form: `0-3,7%2` -> [0, 1, 2, 3, 7], `0-6:3` -> [0, 3, 6]."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part.strip())
        if match:  # a long list may end in "..."
            first, last, step = match[1], match[2] or match[1], match[3] or "1"
            found.extend(range(int(first), int(last) + 1, max(1, int(step))))
    return found


def _squeue(names: list[str]) -> list[tuple[Key, Job]]:
    form = ",".join(f"{name}:{width}" for name, width in SQUEUE.items())
    options = ("--all", "--array", "--noheader", "--states=all")
    text = _call("squeue", *options, f"--name={','.join(names)}", f"--Format={form}")
    return [row for line in text.splitlines() for row in _row(line)]


def _row(line: str) -> list[tuple[Key, Job]]:
    """The jobs in a line of squeue."""
    fields, start = [], 0
    for width in SQUEUE.values():
        fields.append(line[start : start + width].strip())
        start += width
    number, name, state, reason, node, code = fields
    return _jobs(name, number, state, reason, node, _exit_code(code))


def _sacct(names: list[str], since: datetime) -> list[tuple[Key, Job]]:
    # A day earlier: this machine's time zone may differ from the cluster's.
    start = (since.astimezone() - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")
    span = [f"--starttime={start}", "--endtime=now", f"--state={SACCT_STATES}"]
    choice = [f"--name={','.join(names)}", "--allusers", *span]
    text = _call("sacct", "-X", "--noheader", "--parsable2", "--delimiter=\x1f", f"--format={','.join(SACCT)}", *choice)
    rows = []
    for line in text.splitlines():
        fields = line.split("\x1f")
        if len(fields) == len(SACCT):
            name, number, state, node, code = fields
            rows.extend(_jobs(name, number, state, "", "" if node == "None assigned" else node, code))
    return rows


def _jobs(name: str, number: str, state: str, reason: str, node: str, code: str) -> list[tuple[Key, Job]]:
    """The jobs of one row: several where it is the rest of an array, `123_[4-9%2]`."""
    array, _, tasks = number.partition("_")
    state = state.split(" ")[0].rstrip("+")
    reason = "" if reason == "None" else reason
    if not tasks:
        return [((name, REST), Job(array, state, reason, node, code))]
    return [((name, index), Job(f"{array}_{index}", state, reason, node, code)) for index in indices(tasks.strip("[]"))]


def _newest(rows: Iterable[tuple[Key, Job]]) -> dict[Key, Job]:
    """Jobs by name and task; of several with one name, the live one, else the one submitted last."""
    # The row of an array's rest, which has no node, may still include a task that has a row of its own.
    single = {(key, job.id): job for key, job in sorted(rows, key=lambda row: bool(row[1].node))}
    found: dict[Key, Job] = {}
    for (key, _), job in single.items():
        if key not in found or _rank(job) >= _rank(found[key]):
            found[key] = job
    return found


def _rank(job: Job) -> tuple[bool, int]:
    number = re.match(r"\d+", job.id)
    return job.is_live, int(number[0]) if number else 0


def _exit_code(text: str) -> str:
    """squeue's exit code, a status as in wait(2), in sacct's form."""
    number = int(text) if text.isdecimal() else 0
    return f"0:{number & 127}" if number & 127 else f"{number >> 8}:0"


def _parts(names: list[str]) -> list[list[str]]:
    return [names[start : start + NAMES] for start in range(0, len(names), NAMES)]


def _call(*command: str) -> str:
    """The output of a command. Raises _RefusedError with the last line of its error message."""
    try:
        done = subprocess.run(
            command,
            env={key: value for key, value in os.environ.items() if not key.startswith(("SQUEUE_", "SACCT_"))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _RefusedError(f"{command[0]} took more than {TIMEOUT_SECONDS:.0f} s") from None
    except OSError as error:
        raise _RefusedError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise _RefusedError(said[-1] if said else f"{command[0]} ended with status {done.returncode}")
    return done.stdout
