"""Training and evaluation on a CUDA device that is simulated in host memory: no GPU is needed.

Seen are errors of devices and generators, waits of the host, memory, and numbers against the CPU's. Not seen are what
kernels of a real device compute, how fast, and NCCL (docs/reliability.md).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from consistency_bench.benchmarks.common.distributed import without_ranks
from consistency_bench.benchmarks.doctor.models import METHODS
from consistency_bench.benchmarks.execution.spawn import free_port

from ..conftest import require

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
Trial = Callable[..., Any]


@pytest.fixture(scope="session")
def null_cuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes torch see a CUDA device."""
    require((torch.version.cuda or "").startswith("13."), "a build of torch for CUDA 13", "pip install torch")
    library = tmp_path_factory.mktemp("null") / "libcuda.so.1"
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        str(library),
        "null_cuda.c",
        "-lpthread",
    ]
    try:
        subprocess.run(command, cwd=HERE, check=True)
    except FileNotFoundError:
        require(False, "a C compiler", "apt-get install gcc libc6-dev")
    return library


@pytest.fixture
def trial(null_cuda: Path, tmp_path: Path) -> Trial:
    """Run a trial in as many processes; the results by rank, or the only one."""

    def run(name: str, processes: int = 1) -> Any:
        common = without_ranks(os.environ) | {"LD_PRELOAD": str(null_cuda), "OMP_NUM_THREADS": "1"}
        common |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": "0"}
        common.pop("CUBLAS_WORKSPACE_CONFIG", None)
        running = []
        address = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        for rank in range(processes):
            ranked = {**address, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            command = [sys.executable, str(HERE / "trials.py"), name, str(tmp_path / str(rank))]
            running.append(subprocess.Popen(command, env=common | ranked, stderr=subprocess.PIPE, text=True))
        try:
            said = [process.communicate(timeout=900)[1] for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()
        assert [process.returncode for process in running] == [0] * processes, "\n".join(said)[-3000:]
        results = [json.loads((tmp_path / str(rank) / "result.json").read_text()) for rank in range(processes)]
        return results if processes > 1 else results[0]

    return run


def test_losses_are_those_of_the_cpu(trial: Trial) -> None:
    rows = trial("losses")
    assert len(rows) == 2 * len(METHODS)
    for row in rows:
        tolerance = 1e-5 if row["setting"] != "bf16" else 1e-3
        assert row["cuda"] == pytest.approx(row["cpu"], rel=tolerance), row


#: How often the host waits for the device in a step, between two checks of finiteness.
WAITS = {
    "ict+ot": 1,  # the affinities, whose assignment is solved on the CPU
    "ect+ot": 1,
    "conditional sct": 1,  # the labels, which sort the rows by class
    "sct, gated": 1,  # the number of rows below the gate, which are not computed
}


def test_the_host_does_not_wait_within_a_step(trial: Trial) -> None:
    rows = trial("waits")
    expected = {name: WAITS.get(name, 0) for name in rows}
    assert {name: row["per_step"] for name, row in rows.items()} == expected, rows


def test_the_noise_is_drawn_in_pieces_that_no_gpu_draws_otherwise(trial: Trial) -> None:
    assert trial("noise") == {"at once": 2**15, "equal": True}


def test_a_resumed_run_takes_no_more_memory_and_does_not_wait(trial: Trial) -> None:
    rows = trial("resumed")
    assert rows["fresh"]["waits"] == 0
    assert rows["resumed"] == rows["fresh"]


def test_the_state_is_copied_once(trial: Trial) -> None:
    assert 0.9 < trial("copies")["copies"] < 1.1


def test_a_pass_that_does_not_fit_is_split_or_refused(trial: Trial) -> None:
    answers = trial("memory")
    loss, size = answers["whole"]["loss"], answers["split"]["micro_batch"]
    assert size < 128
    assert f"set run.micro_batch={size}" in answers["stop"]["error"]
    assert answers["split"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert answers["named"] == {"loss": pytest.approx(loss, rel=1e-5), "micro_batch": 32}


def test_cells_have_the_records_of_the_cpu_and_resume_to_the_bit(trial: Trial) -> None:
    for method, runs in trial("cells").items():
        assert runs["cpu"]["states"] == runs["cuda"]["states"] == ["done"]
        assert runs["stopped"]["states"] == ["interrupted", "done"]
        assert runs["stopped"]["digests"] == runs["cuda"]["digests"], method
        assert runs["stopped"]["rows"] == runs["cuda"]["rows"], method
        assert_same_rows(runs["cuda"]["rows"], runs["cpu"]["rows"])


def test_a_cell_that_changes_its_device_says_so_in_its_records(trial: Trial) -> None:
    runs = trial("moved")
    for run, devices in ((runs["cuda"], None), (runs["cpu"], ["Null device", "CPU"])):
        assert run["states"] == ["interrupted", "done"]
        assert run["devices"] == [devices] * len(run["devices"])
        assert len(run["devices"]) > 0
    assert runs["cuda"]["said"] == []
    (line,) = runs["cpu"]["said"]
    assert line.endswith("(device: cpu after cuda)")


def test_the_smallest_benchmarks_leave_the_gpu_alone_unless_it_is_named(trial: Trial) -> None:
    found = trial("chosen")
    assert found.pop("benchmark=digits") == found.pop("benchmark=toy2d") == ["cpu", 0]
    assert list(found.values()) == [["cuda", 1]] * 2


def test_a_batch_of_samples_that_does_not_fit_is_found_before_training(trial: Trial) -> None:
    found = trial("tried")
    assert "set eval.batch=" in found["stop"]
    assert found["stop, steps"] == 0
    assert found["split"] == "done"
    assert found["split, steps"] > 0


def test_algorithms_are_deterministic_and_evaluation_is_in_float32(trial: Trial) -> None:
    seen = trial("modes")
    for phase in ("training", "sampling", "features"):
        tf32 = [phase == "training"] * 2
        assert seen[phase] == {
            "deterministic": True,
            "only warns": False,
            "fills": False,
            "benchmark": False,
            "tf32": tf32,
            "workspace": ":4096:8",
        }, phase
    assert not seen["afterwards"]["deterministic"]
    assert seen["afterwards"]["benchmark"]


def test_two_processes_share_a_device(trial: Trial) -> None:
    first, second = trial("processes", processes=2)
    assert first["shared"]["states"] == second["states"] == ["done"]
    assert_same_rows(first["shared"]["rows"], first["alone"]["rows"])
    expected = {"broadcast_buffers": False, "gradient_as_bucket_view": True, "find_unused_parameters": False}
    assert first["options"] == expected


def test_the_doctor_examines_a_device(trial: Trial) -> None:
    found = trial("doctor")
    assert (found["device"]["gpu"], found["flags"]["deterministic"]) == ("Null device", True)
    wrong = [record for record in found["checks"] if record["ok"] is False]
    assert wrong == []
    assert {record["unit"] for record in found["checks"]} >= {"combinations", "methods", "runs", "images/s"}


def assert_same_rows(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(rows) == len(expected) > 0
    for row, other in zip(rows, expected, strict=True):
        assert row == {**other, "value": pytest.approx(other["value"], rel=1e-3)}
