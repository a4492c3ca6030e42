"""Cells that start from another one: they wait for it, take its averaged weights, and say so if it does not come."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_json, write_json
from consistency_bench.benchmarks.common.lock import acquire
from consistency_bench.benchmarks.config.compose import Cell, compose_cells
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.execution.launch import prepare, run_in_process
from consistency_bench.benchmarks.execution.preflight import check_cells
from consistency_bench.benchmarks.runs.folder import Run, find_cells
from consistency_bench.benchmarks.runs.starts import find_finished
from consistency_bench.benchmarks.training.checkpoint import read_snapshot

from ..conftest import BENCH, TINY, Bench, environment, put, tiny_cell
from .test_worker import until

SMALL = (*(setting for setting in TINY if "images" not in setting), "eval.nfe=[1]")
INIT = "train.init={method: edm, images: 2560}"


def chain(*settings: str, methods: tuple[str, ...] = ("ect",)) -> list[Cell]:
    """A pre-training and the cells that start from it."""
    given = {setting.partition("=")[0] for setting in settings}
    usual = [setting for setting in (*SMALL, "train.images=2560", INIT) if setting.partition("=")[0] not in given]
    return compose_cells(methods, [0], [*usual, *settings])


def named(init: str, out: Path, *settings: str) -> Cell:
    """A cell that starts from one that is named."""
    usual = [setting for setting in TINY if not settings or "width" not in setting]
    found = partial(find_finished, out=out)
    (cell,) = compose_cells(["ect"], [3], [*usual, *settings, f"train.init={init}"], find=found)
    return cell


def weights(folder: Path, images: int = 2560) -> dict[str, torch.Tensor]:
    return {k: v for k, v in read_snapshot(Run(folder).weights(images)).items() if k.startswith("network.")}


def test_training_starts_from_the_averaged_weights_of_the_other_cell_and_counts_its_cost(tmp_path: Path) -> None:
    first, vct = chain("train.lr=1e-30", methods=("vct",))
    folder, own = put(first, tmp_path), put(vct, tmp_path)
    with pytest.raises(UsageError, match=f"^its pre-training {first.name} is unfinished"):
        run_cell(own)
    assert run_cell(folder) == run_cell(own) == "done"
    for name, value in weights(own).items():
        torch.testing.assert_close(value, weights(folder)[name])
    before, run = Run(folder).history["compute"], read_json(own / "run.json")
    assert run["init"] | {"cell": first.id, "method": "edm", "images": 2560} == run["init"]
    assert run["compute"]["pretraining_images"] == 2560
    assert run["compute"]["pretraining_flops"] == 2560 * before["flops_per_image"]
    # A further stage counts both.
    third = named(f"cell:{vct.id}", tmp_path)
    assert run_cell(put(third, tmp_path)) == "done"
    compute = Run(third.path(tmp_path)).history["compute"]
    assert compute["pretraining_images"] == 5120
    total = 2560 * (before["flops_per_image"] + run["compute"]["flops_per_image"])
    assert compute["pretraining_flops"] == pytest.approx(total)


def test_one_worker_trains_the_other_cell_first_and_once(tmp_path: Path) -> None:
    cells = chain(methods=("edm", "ect", "sct"))
    runs = prepare(cells[::-1], tmp_path)  # in whatever order they are listed
    assert run_in_process(runs, threads=1) is False
    assert [run.status.state for run in runs] == ["done"] * 3
    assert len(Run(cells[0].path(tmp_path)).history["attempts"]) == 1
    assert len(find_cells(tmp_path)) == 3


def test_a_cell_that_another_process_trains_is_waited_for(tmp_path: Path) -> None:
    first, ect = chain()
    (run,) = prepare([ect], tmp_path)
    folder = put(first, tmp_path / "elsewhere")
    run_cell(folder)
    target = put(first, tmp_path)
    held = acquire(target / "lock")
    assert held is not None

    def finish() -> None:
        """End as a cell does, whose state is written last and at once."""
        own = shutil.ignore_patterns("config.yaml", "lock", "status.json")
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=own)
        write_json(target / "status.json", read_json(folder / "status.json"))
        held.release()

    threading.Timer(1.5, finish).start()
    run_in_process([run], threads=1)
    assert run.status.state == "done"


@pytest.mark.parametrize(
    ("state", "error", "reason"),
    [
        ("failed", "no disk", "has failed (no disk)"),
        ("diverged", None, "has diverged"),
        ("interrupted", None, "is unfinished, and no process works on it"),
    ],
)
def test_a_cell_whose_start_does_not_come_fails_in_one_sentence(
    state: str, error: str | None, reason: str, tmp_path: Path
) -> None:
    first, ect = chain()
    write_json(put(first, tmp_path) / "status.json", {"state": state, "error": error})
    (run,) = prepare([ect], tmp_path)
    run_in_process([run], threads=1)
    assert (run.status.state, run.status.error) == ("failed", f"its pre-training {first.name} {reason}")
    assert reason in run.log_file.read_text()


def test_a_trained_cell_needs_its_start_no_more(tmp_path: Path) -> None:
    first, ect = chain()
    folder, own = put(first, tmp_path), put(ect, tmp_path)
    run_cell(folder)
    run_cell(own)
    shutil.rmtree(folder)
    before = read_json(own / "run.json")
    (more,) = [cell for cell in chain("eval.nfe=[1,2]") if cell.id == ect.id]
    assert run_cell(put(more, tmp_path)) == "done"
    after = read_json(own / "run.json")
    assert (after["init"], after["compute"]) == (before["init"], before["compute"])


def test_a_named_cell_must_be_finished_there_and_of_the_same_network(tmp_path: Path) -> None:
    cell = tiny_cell("edm", "eval.nfe=[1]")
    folder = put(cell, tmp_path)
    for name, message in ((cell.id, "is queued, must be done"), ("xyz", "no cell in"), (str(folder), "must be done")):
        with pytest.raises(UsageError, match=message):
            find_finished(name, tmp_path)
    run_cell(folder)
    assert find_finished(cell.id[:4], tmp_path)[0] == find_finished(str(folder), tmp_path)[0] == cell.name
    assert find_finished(str(folder), tmp_path / "other")[0] == str(folder)

    cell_started = named(f"cell:{folder}", tmp_path)
    assert cell_started.config.train.init == f"cell:{cell.id}"
    check_cells([cell_started], tmp_path)
    other = named(f"cell:{cell.id}", tmp_path, "network.width=32")
    with pytest.raises(UsageError, match=r"does not fit the network: embed\.weight has the shape"):
        check_cells([other], tmp_path)


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill_in_the_middle_of_the_pretraining(bench: Bench, tmp_path: Path) -> None:
    grid = ("--seeds", "0", "--no-mlflow", *SMALL, "train.images=2560", "run.checkpoint_seconds=0")
    grid = (*grid, "train.init={method: edm, images: 25600}")
    command = [str(BENCH), "run", "--methods", "ect", *grid]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), start_new_session=True) as process:
        assert until(lambda: any(tmp_path.glob("runs/toy2d/edm/*/checkpoints/last.pt")))
        os.killpg(process.pid, signal.SIGKILL)
    said = bench("run", "--methods", "ect", *grid)
    assert said.returncode == 0, said.stderr
    assert "2 of 2 done" in said.stdout
    attempts = {run.path.parent.name: len(run.history["attempts"]) for run in find_cells(tmp_path / "runs")}
    assert attempts == {"edm": 2, "ect": 1}
    said = bench("run", "--methods", "ect,sct", *grid, "--dry-run")
    assert "cells: 3, 2 done, 1 to run" in said.stdout
