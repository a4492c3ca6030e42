"""Calling sbatch, which may lose its answer: an array is submitted once, whatever the client reports.

A client that reports a timeout, is killed or hangs may have submitted its array. Only known refusals are final. After
anything else the queue is asked for the array by its name, which is unique. The array is submitted again only once the
client has ended and the queue has answered for a while that it has no such array. If both submissions appear after
all, the one that claims the folder runs, and jobs of the other end at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..benchmarks.common.text import visible
from . import queue

#: How long sbatch may be silent before the queue is asked; the client itself retries for up to two minutes.
ANSWER_SECONDS = 30.0
#: How long the queue must answer that it has no such array before it is submitted again: a busy controller accepts
#: requests after their client has given up.
GRACE_SECONDS = 30.0
#: How long one array is tried.
TOTAL_SECONDS = 300.0
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0

#: The array that runs the elements of a folder.
CLAIM = "array"

#: Beginnings of messages after which nothing was submitted: from slurm_errno.c, and of the client about its options.
#: A message about communication is not a refusal, whatever else it says.
REFUSALS = re.compile(
    r"invalid (partition|account|qos|feature|preferred feature|license|node name|job array|generic resource|gres"
    r"|trackable resource|wckey|mcs_label|user id|group id|time|dependency|cluster|knl|numeric value|--)"
    r"|requested (node config|nodes not in|partition|time limit|reservation|account|more|gres|operation not supported)"
    r"|(node count|cpu count|task count|task distribution|time limit) specification|no partition specified"
    r"|access(/permission)? denied|user's group not permitted|more processors requested|memory (required|specification)"
    r"|job (size specification|script not|violates|dependency|--batch)|circular job dependency|pathname of a file"
    r"|required (node|partition) not available|partition in down state|system submissions disabled"
    r"|burst buffer (permission|resource|request)|duplicate generic resource|insufficient gres|only batch jobs"
    r"|multiple partition job|cannot request more|unspecified error|(qos|assoc)(max|min|grp)"
    r"|unrecognized|unknown option|option '|unable to open file|this does not look like a batch script"
    r"|batch script contains dos|cli_filter plugin|could not establish a configuration|unable to process configuration"
    r"|reservation not usable|requested operation is presently disabled",
    re.IGNORECASE,
)
COMMUNICATION = re.compile(r"timed? ?out|unable to contact|connect|communication|zero bytes|socket", re.IGNORECASE)
FAILED = "Batch job submission failed: "


@dataclass(frozen=True)
class Submitted:
    """The array is in the queue. job: its number."""

    job: str


@dataclass(frozen=True)
class Refused:
    """The array is not in the queue, and never will be. reason: in the words of sbatch."""

    reason: str


@dataclass(frozen=True)
class Unknown:
    """The array may or may not be in the queue, or may still appear there. reason: in the words of sbatch."""

    reason: str


Outcome = Submitted | Refused | Unknown


def outcome(status: int, said: str, complaint: str) -> Outcome:
    """What an sbatch that has ended did, by its exit status, standard output and standard error."""
    number = re.search(r"^Submitted batch job (\d+)", said, re.MULTILINE)
    if status == 0 and number:
        return Submitted(number[1])
    lines = [re.sub(r"^sbatch: ((error|fatal): )?", "", line.strip()) for line in complaint.splitlines()]
    failures = [line.partition(FAILED)[2] for line in lines if FAILED in line]
    decisive = failures[-1:] or [line for line in lines if line]
    reason = "; ".join(dict.fromkeys(line for line in lines if line)) or _ended(status)
    if (
        status > 0
        and any(REFUSALS.match(line) for line in decisive)
        and not any(COMMUNICATION.search(line) for line in decisive)
    ):
        return Refused(reason)
    return Unknown(reason if status else f"it printed no job number: {said.strip()[:80]!r}")


def submit(script: Path, name: str) -> Outcome:
    """Submit the array of a job script, whose name is unique, and find out what became of it.

    Refused is certain. Unknown comes after TOTAL_SECONDS, or where a later attempt is refused. sbatch is never killed.
    """
    folder, begun, deadline = script.parent, datetime.now(UTC), time.monotonic() + TOTAL_SECONDS
    call, attempts, pause, told = _Call(script), 1, PAUSE_SECONDS, ""
    absent_since: float | None = None  # with the client ended, and the queue answering
    answer = call.wait(ANSWER_SECONDS)
    while True:
        if isinstance(answer, Refused) and attempts == 1:
            return answer
        if isinstance(answer, Submitted):
            return _settled(folder, name, answer.job, begun if attempts > 1 else None)
        reason = answer.reason if answer else f"it has not answered for {ANSWER_SECONDS:.0f} s"
        found, now = _arrays(folder, name, begun), time.monotonic()
        if found:
            return _settled(folder, name, min(found, key=int), begun)
        if now > deadline or isinstance(answer, Refused):
            return Unknown(reason)
        news = (
            f"sbatch: {reason}; the queue {'does not answer' if found is None else 'has no such array'}, asking again"
        )
        if news != told:
            told = _print(news)
        absent_since = None if found is None or answer is None else absent_since or now
        if absent_since is not None and now - absent_since >= GRACE_SECONDS:
            told = _print(f"submitting the array again: it has not appeared for {GRACE_SECONDS:.0f} s")
            call, attempts, absent_since = _Call(script), attempts + 1, None
            answer = call.wait(ANSWER_SECONDS)
            continue
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)
        answer = answer or call.wait(0)


def claim(folder: Path, job: str) -> str:
    """The number of the array that runs the elements of a folder: the first that claims it. job: that of the caller."""
    draft = folder / f".{CLAIM}-{uuid.uuid4().hex}"
    draft.write_text(job, encoding="utf-8")
    try:
        os.link(draft, folder / CLAIM)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return claimed(folder) or job


def claimed(folder: Path) -> str:
    """The number of the array that has claimed a folder; "" where none has, or the file holds anything else."""
    try:
        number = (folder / CLAIM).read_text("ascii", "replace")
    except FileNotFoundError:
        return ""
    return number if number.isascii() and number.isdecimal() else ""


def _settled(folder: Path, name: str, job: str, begun: datetime | None) -> Submitted:
    """The array that runs; others of its name since `begun` are cancelled, and would end by themselves."""
    owner = claim(folder, job)
    surplus = (_arrays(folder, name, begun) or set()) - {owner} if begun else set()
    if surplus:
        _print(f"SLURM took the array twice: job {owner} runs, {', '.join(sorted(surplus))} is cancelled")
        with contextlib.suppress(OSError):
            queue.cancel(surplus)
    return Submitted(owner)


def _arrays(folder: Path, name: str, begun: datetime) -> set[str] | None:
    """The numbers of the arrays of this name; None where SLURM does not answer."""
    started = {number for number in [claimed(folder)] if number}
    try:
        return queue.arrays(name, begun) | started
    except OSError:
        return started or None


class _Call:
    """One sbatch, in a session of its own: neither Ctrl-C nor the end of this process ends it."""

    def __init__(self, script: Path) -> None:
        self._said, self._complaint = script.with_name("sbatch.out"), script.with_name("sbatch.err")
        with self._said.open("wb") as said, self._complaint.open("wb") as complaint:
            self._process = subprocess.Popen(
                ["sbatch", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=complaint,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> Outcome | None:
        """What it did; None while it runs."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return outcome(status, *(path.read_text("utf-8", "replace") for path in (self._said, self._complaint)))


def _ended(status: int) -> str:
    return f"it ended by signal {-status}" if status < 0 else f"it ended with status {status} and no message"


def _print(text: str) -> str:
    print(visible(text), file=sys.stderr, flush=True)
    return text
