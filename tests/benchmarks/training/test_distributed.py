"""Several processes on one cell: the same numbers as with one process, one writer, and no process that waits forever.

The processes are real and communicate over gloo. Launches are slow, so that each one runs many cells in turn.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consistency_bench.benchmarks.common.distributed import PeerError
from consistency_bench.benchmarks.common.files import read_json, read_jsonl
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.execution.spawn import free_port
from consistency_bench.benchmarks.metrics.extractors import registry as extractors
from consistency_bench.benchmarks.runs.folder import RECORDS, RUN, STATUS, TRAIN_LOG

from ..conftest import environment, put, tiny_cell

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("run_cells.py")
#: A hundred steps of 64 images: a row of the log each, and shares that differ where three processes have them.
HUNDRED = ("train.batch=64", "train.images=6400", "run.snapshots=1", "eval.nfe=[1]")
METHODS = {
    "ect": ("ect",),
    "sct, the batch": ("sct", "method.teacher.references=batch"),
    "sct, sampled": ("sct", "method.teacher.references=sampled:20"),
    "vct": ("vct",),
    "vct, uncoupled": ("vct", "method.coupling.share=0"),  # an encoder that no pass reaches
    "ict+ot": ("ict+ot",),
    "ect+gc": ("ect+gc",),
    "in passes": ("ect", "run.micro_batch=7"),
}
OF_THREE = ("ict+ot", "in passes")  # the last: 3, 3 and 4 passes
SHORT = ("network.dropout=0.1", "run.checkpoint_seconds=1000")
SCORED = ("eval.batch=130", "eval.draws=2", "eval.nfe=[1,2]", "train.images=512", "run.snapshots=1")

Answers = list[dict[str, Any]]


def launch(size: int, jobs: list[dict[str, Any]], root: Path, killed: int | None = None) -> Answers:
    """Run cells by `size` processes; what each of them answers, in the order of ranks, but one that is `killed`."""
    listing = root / f"jobs-{size}.json"
    listing.write_text(json.dumps(jobs), encoding="utf-8")
    extra = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    extra |= {"XDG_CACHE_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    answers = root / f"answers-{size}"
    command = [sys.executable, str(SCRIPT), str(listing), str(answers)]
    processes = [
        subprocess.Popen(
            command,
            env=environment(**extra, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [9 if rank == killed else 0 for rank in range(size)]
    assert [process.returncode for process in processes] == codes, "\n".join(said)
    return [read_json(Path(f"{answers}-{rank}.json")) for rank in range(size) if rank != killed]


@dataclasses.dataclass(frozen=True)
class Launched:
    """Cells that were run by several processes: their folders by name, and the answers of each rank."""

    root: Path
    folders: dict[str, Path]
    answers: dict[str, Answers]
    written: list[list[str]]

    def losses(self, name: str) -> list[float]:
        return losses(self.folders[name])


def launched(size: int, jobs: dict[str, dict[str, Any]], root: Path) -> Launched:
    """jobs: by name, with a "folder" and what else the script knows."""
    ranks = launch(size, [{**job, "folder": str(job["folder"])} for job in jobs.values()], root)
    answers = {name: [answer["results"][number] for answer in ranks] for number, name in enumerate(jobs)}
    folders = {name: job["folder"] for name, job in jobs.items()}
    return Launched(root, folders, answers, [answer["written"] for answer in ranks])


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / TRAIN_LOG)]


def cells_of(names: Any, out: Path) -> dict[str, Path]:
    return {name: put(tiny_cell(METHODS[name][0], *HUNDRED, *METHODS[name][1:]), out / name) for name in names}


def scored_cell(out: Path) -> Path:
    return put(tiny_cell("ect", *SCORED), out)


def results(folder: Path) -> dict[str, bytes]:
    paths = [folder / RECORDS, *sorted((folder / "samples").iterdir()), folder.parents[1] / "reference.jsonl"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The cells of all methods as one process leaves them, and one that is scored in several batches."""
    root = tmp_path_factory.mktemp("alone")
    folders = {**cells_of(METHODS, root / "cells"), "scored": scored_cell(root / "cells" / "scored")}
    for folder in folders.values():
        assert run_cell(folder) == "done"
    return folders


@pytest.fixture(scope="module")
def two(alone: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Launched:
    root = tmp_path_factory.mktemp("two")
    out = root / "cells"
    jobs: dict[str, dict[str, Any]] = {name: {"folder": path} for name, path in cells_of(METHODS, out).items()}
    scored = scored_cell(out / "scored")
    shutil.copytree(alone["scored"] / "snapshots", scored / "snapshots")
    jobs["scored"] = {"folder": scored}
    jobs["whole"] = {"folder": put(tiny_cell("vct", *SHORT), out / "whole")}
    for name, rank in {"stopped": 1, "stopped for good": 0}.items():
        jobs[name] = {"folder": put(tiny_cell("vct", *SHORT), out / name), "stop": [rank, 5]}
    jobs["resumed"] = {"folder": jobs["stopped"]["folder"]}
    jobs["stopped while scored"] = {"folder": scored_cell(out / "stopped while scored"), "stop": [1, 4]}
    jobs["not finite"] = {"folder": put(tiny_cell("ect"), out / "not finite"), "spoil": [1, [2, 3, 6]]}
    for rank in (0, 1):
        name = f"failed on {rank}"
        jobs[name] = {"folder": put(tiny_cell("ect", "eval.batch=250"), out / name), "fail": [rank, "sample"]}
    jobs["few rows"] = {"folder": put(tiny_cell("ect", "train.batch=1", "train.images=2"), out / "few rows")}
    jobs["costly"] = {"folder": scored_cell(out / "costly"), "costly": True}
    return launched(2, jobs, root)


# The same numbers


def assert_the_same_losses(one: list[float], other: list[float]) -> None:
    """Up to rounding, which a step amplifies where the posterior of SCT is divided between nearly equal references."""
    assert len(one) == 100
    assert other == pytest.approx(one, rel=1e-3, abs=0)
    assert sum(b == pytest.approx(a, rel=1e-5, abs=0) for a, b in zip(one, other, strict=True)) >= 98


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_as_one(name: str, alone: dict[str, Path], two: Launched) -> None:
    assert [answer["state"] for answer in two.answers[name]] == ["done"] * 2
    assert_the_same_losses(losses(alone[name]), two.losses(name))


def test_three_processes_train_as_one(alone: dict[str, Path], tmp_path: Path) -> None:
    jobs = {name: {"folder": path} for name, path in cells_of(OF_THREE, tmp_path / "cells").items()}
    three = launched(3, jobs, tmp_path)
    for name in OF_THREE:
        assert [answer["state"] for answer in three.answers[name]] == ["done"] * 3
        assert len({answer["digest"] for answer in three.answers[name]}) == 1
        assert_the_same_losses(losses(alone[name]), three.losses(name))


def test_all_processes_have_the_same_weights_to_the_last_bit(two: Launched) -> None:
    trained = {name: answers for name, answers in two.answers.items() if "digest" in answers[0]}
    assert {*METHODS, "whole", "resumed", "not finite"} <= set(trained)
    for name, answers in trained.items():
        assert len({answer["digest"] for answer in answers}) == 1, name
    assert len({answers[0]["digest"] for answers in trained.values()}) > len(METHODS) / 2


def test_two_processes_score_a_snapshot_as_one_to_the_last_bit(alone: dict[str, Path], two: Launched) -> None:
    """Four batches of samples a pass, the last of them shorter: two for each."""
    one, other = results(alone["scored"]), results(two.folders["scored"])
    assert {"records.jsonl", "nfe1.npz", "nfe2.npz", "real.npz"} <= set(one)
    assert other == one
    assert "digest" not in two.answers["scored"][0]  # nothing was trained


def test_several_processes_share_the_features_of_real_data(
    two: Launched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that lie on disk; with the same records as of one that made all of them."""
    made = [{Path(path).name for path in written if "/cache/" in path} for written in two.written]
    pieces = [{name for name in names if name.startswith(".features-")} for names in made]
    assert all(len(names) > 2 for names in pieces)
    assert [answer["state"] for answer in two.answers["costly"]] == ["done"] * 2
    build = extractors.build
    monkeypatch.setattr(extractors, "build", lambda *given: dataclasses.replace(build(*given), costly=True))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = scored_cell(tmp_path)
    shutil.copytree(two.folders["costly"] / "snapshots", folder / "snapshots")
    assert run_cell(folder) == "done"
    assert results(folder) == results(two.folders["costly"])
    one, other = ({path.name for path in (root / "cache").rglob("*.npy")} for root in (tmp_path, two.root))
    assert one == other


# Interruptions


def test_all_stop_at_the_step_where_one_is_asked_to(two: Launched) -> None:
    for name in ("stopped", "stopped for good"):
        assert [answer["state"] for answer in two.answers[name]] == ["interrupted"] * 2
    status = read_json(two.folders["stopped for good"] / STATUS)
    assert (status["state"], status["images"]) == ("interrupted", 5 * 256)


def test_two_processes_resume_to_the_last_bit_with_dropout(two: Launched) -> None:
    whole, resumed = two.folders["whole"], two.folders["resumed"]
    assert [answer["state"] for answer in two.answers["resumed"]] == ["done"] * 2
    assert losses(resumed) == losses(whole)
    assert results(resumed) == results(whole)
    one, other = ({path.name: path.read_bytes() for path in (f / "snapshots").iterdir()} for f in (whole, resumed))
    assert one == other


def test_one_process_goes_on_where_two_stopped(two: Launched) -> None:
    folder = two.folders["stopped for good"]
    assert run_cell(folder) == "done"
    assert [attempt["processes"] for attempt in read_json(folder / RUN)["attempts"]] == [2, 1]
    # The same up to where the masks of dropout, which rows share with others of their process, are others.
    assert losses(folder)[:5] == losses(two.folders["whole"])[:5]
    assert losses(folder) == pytest.approx(losses(two.folders["whole"]), rel=0.2)
    assert losses(folder)[5:] != losses(two.folders["whole"])[5:]


def test_all_stop_where_one_is_asked_to_between_passes_of_scoring(two: Launched) -> None:
    """Two steps of eight are asked in training; the fourth question comes between two passes."""
    assert [answer["state"] for answer in two.answers["stopped while scored"]] == ["interrupted"] * 2
    folder = two.folders["stopped while scored"]
    assert len(read_jsonl(folder / RECORDS)) == 1
    assert run_cell(folder) == "done"
    assert len(read_jsonl(folder / RECORDS)) == 4


# One writer


def test_only_rank_0_writes(two: Launched) -> None:
    cells = str(two.root / "cells")
    by_rank = [[path for path in written if path.startswith(cells)] for written in two.written]
    assert len(by_rank[0]) > 100
    assert by_rank[1] == []


def test_the_number_of_processes_is_on_record(alone: dict[str, Path], two: Launched) -> None:
    for folder, count in ((alone["ect"], 1), (two.folders["ect"], 2)):
        (attempt,) = read_json(folder / RUN)["attempts"]
        assert attempt["processes"] == count
        assert attempt["hardware"]["cpu"]


# What goes wrong


def test_a_step_that_is_not_finite_in_one_process_is_skipped_in_all(two: Launched) -> None:
    assert [answer["state"] for answer in two.answers["not finite"]] == ["done"] * 2
    rows = read_jsonl(two.folders["not finite"] / TRAIN_LOG)
    assert [row["skipped"] for row in rows] == [0, 0, 1, 2, 2, 2, 3, 3, 3, 3]
    assert [row["loss"] is None for row in rows] == [step in (2, 3, 6) for step in range(10)]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_of_one_ends_the_cell_for_all_and_not_what_follows(rank: int, two: Launched) -> None:
    errors = [answer["error"] for answer in two.answers[f"failed on {rank}"]]
    assert errors[rank] == "RuntimeError: the disk is on fire"
    assert errors[1 - rank] == f"{PeerError.__name__}: process {rank} of 2: RuntimeError: the disk is on fire"
    status = read_json(two.folders[f"failed on {rank}"] / STATUS)
    assert (status["state"], status["error"]) == ("failed", errors[0])
    assert [answer["state"] for answer in two.answers["costly"]] == ["done"] * 2  # the last of the list


def test_a_batch_of_fewer_rows_than_processes_is_refused(two: Launched) -> None:
    for answer in two.answers["few rows"]:
        assert answer["error"].startswith("UsageError: a batch of 1 cannot be shared by 2 processes: train.batch must")
    assert not (two.folders["few rows"] / "snapshots").exists()


def test_a_failure_in_the_midst_of_training_ends_all_processes(tmp_path: Path) -> None:
    """The other one is waiting for gradients then, and learns of it by the end of the first."""
    folder = put(tiny_cell("ect"), tmp_path / "cells")
    failed = launched(2, {"cell": {"folder": folder, "fail": [1, "step"]}}, tmp_path)
    waiting, failing = (answer["error"] for answer in failed.answers["cell"])
    assert failing == "OutOfStepError: RuntimeError: the disk is on fire"
    assert waiting == "OutOfStepError: process 1 of 2: RuntimeError: the disk is on fire"
    status = read_json(folder / STATUS)
    assert (status["state"], status["error"]) == ("failed", waiting)


def test_a_process_that_is_killed_interrupts_the_cell(tmp_path: Path) -> None:
    folder = put(tiny_cell("ect"), tmp_path / "cells")
    (answer,) = launch(2, [{"folder": str(folder), "fail": [1, "step"], "kill": True}], tmp_path, killed=1)
    assert answer["results"][0]["error"].startswith("LostError: another process of this cell is gone")
    assert read_json(folder / STATUS)["state"] == "interrupted"
    assert run_cell(folder) == "done"
