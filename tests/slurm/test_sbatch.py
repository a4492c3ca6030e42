"""What an sbatch that has ended did, by what it printed; who runs the elements of a folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from consistency_bench.slurm.executor import DEAF
from consistency_bench.slurm.sbatch import Refused, Submitted, Unknown, claim, outcome

FAILED = "sbatch: error: Batch job submission failed: "

REFUSED = [
    f"sbatch: error: invalid partition specified: moon\n{FAILED}Invalid partition name specified",
    f"{FAILED}Invalid account or account/partition combination specified",
    f"{FAILED}Invalid qos specification",
    f"{FAILED}Invalid job array specification",
    f"{FAILED}Invalid generic resource (gres) specification",
    f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node configuration is not available",
    f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)",
    f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{FAILED}Job violates accounting/QOS policy (job submit limit, …)",
    "sbatch: error: AssocMaxSubmitJobLimit",
    f"{FAILED}Access/permission denied",
    f"{FAILED}User's group not permitted to use this partition",
    f"{FAILED}System submissions disabled",
    f"sbatch: error: name your project with --account\n{FAILED}Unspecified error",  # a job_submit plugin
    "sbatch: unrecognized option '--foo=1'\nTry \"sbatch --help\" for more information",
    "sbatch: error: Invalid --time specification",
    "Invalid time specification (pos=0): x\nsbatch: error: Invalid --begin specification",
    "sbatch: option '--gpus' requires an argument",
    "sbatch: error: cli_filter plugin terminated with error",
]
UNKNOWN = [
    f"{FAILED}Socket timed out on send/recv operation",
    f"{FAILED}Unable to contact slurm controller (connect failure)",
    f"{FAILED}Zero Bytes were transmitted or received",
    f"{FAILED}Unexpected message received",
    f"{FAILED}Communication connection failure",
    f"{FAILED}Protocol authentication error",
    f"{FAILED}Invalid authentication credential",
    f"{FAILED}Slurm backup controller in standby mode",
    f"{FAILED}Unable to create job record, try again",
    f"{FAILED}Requested nodes are busy",
    # A warning before a lost answer says nothing about the answer.
    f"sbatch: error: Invalid qos specification, the default is used\n{FAILED}Socket timed out on send/recv operation",
    "site wrapper: quota server does not answer",
    "",
]


@pytest.mark.parametrize("complaint", REFUSED)
def test_a_known_refusal_is_final(complaint: str) -> None:
    answer = outcome(1, "", complaint)
    assert isinstance(answer, Refused)
    assert "sbatch: " not in answer.reason
    assert isinstance(outcome(-9, "", complaint), Unknown)  # killed, whatever it printed before


@pytest.mark.parametrize("complaint", UNKNOWN)
def test_after_anything_else_the_array_may_be_in_the_queue(complaint: str) -> None:
    answer = outcome(1, "", complaint)
    assert isinstance(answer, Unknown)
    assert answer.reason


@pytest.mark.parametrize(
    ("status", "said", "wanted"),
    [
        (0, "Submitted batch job 7\n", Submitted("7")),
        (0, "job 3 of your quota of 50\nSubmitted batch job 7 on cluster a\n", Submitted("7")),
        (0, "7\n", Unknown("it printed no job number: '7'")),
        (0, "", Unknown("it printed no job number: ''")),
        (1, "Submitted batch job 7\n", Unknown("it ended with status 1 and no message")),
        (-15, "", Unknown("it ended by signal 15")),
    ],
)
def test_only_a_number_with_success_is_a_submission(status: int, said: str, wanted: object) -> None:
    assert outcome(status, said, "") == wanted


def test_the_first_array_that_claims_a_folder_keeps_it(tmp_path: Path) -> None:
    assert [claim(tmp_path, job) for job in ("7", "9", "7")] == ["7"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["array"]


def test_a_job_that_starts_is_not_ended_by_the_signals_of_slurm() -> None:
    program = "import signal; print(1, flush=True); signal.sigwait([signal.SIGUSR1]); print(2, flush=True)"
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); {program}"
    waits = f"{DEAF} {sys.executable} -c '{blocked}'"
    process = subprocess.Popen(["bash", "-c", f"exec {waits}"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        process.send_signal(signal.SIGUSR1)  # which it waits for, and would not get any more
        assert process.stdout.readline() == "2\n"
    finally:
        process.kill()
        process.communicate()
