"""Sweeps on a real cluster give what this machine gives, whoever submits them and whatever becomes of those."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .sweeping import CELL, TRAINING, Place, Undisturbed, jobs

pytestmark = pytest.mark.slow


def test_a_sweep_gives_the_leaderboard_of_this_machine(shared: Place, tmp_path: Path) -> None:
    grid = ("--methods", "ict,ect,sct,vct", "--seeds", "0-1", "preset=smoke")
    said = shared.sweep(*grid)
    assert said.count("\njob ") == 1  # one array for all
    assert "8 cells, 4 at once" in said
    waited = shared.finish()
    assert "8 of 8 done" in waited
    nodes = {status["node"] for status in shared.statuses().values()}
    assert nodes == {"n1", "n2"}
    here = Place(tmp_path / "runs")
    here.bench("run", "--no-mlflow", *grid)
    assert shared.results() == here.results()
    assert numbers(shared.out) == numbers(here.out)
    assert "done already" in shared.bench("sweep", "--cluster", "local", *grid)


def numbers(out: Path) -> list[str]:
    """The leaderboard's tables and verdicts by NFE; what training cost is a matter of the machine and its load."""
    sections = (out / "leaderboard.md").read_text(encoding="utf-8").split("\n### ")
    found = [section.partition("\n## ")[0] for section in sections if section.startswith("NFE ")]
    assert len(found) == 2
    return found


def test_the_submitter_dies_right_after_it(shared: Place, undisturbed: Undisturbed) -> None:
    process = shared.start("sweep", "--cluster", shared.cluster(), *CELL)
    while not any("bench-" in line for line in jobs()):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    shared.finish()
    assert shared.results() == undisturbed(shared)


def test_two_people_sweep_into_one_folder(shared: Place, undisturbed: Undisturbed) -> None:
    grids = (("--methods", "ect", "--seeds", "0-2", *TRAINING), ("--methods", "ect", "--seeds", "1-3", *TRAINING))
    both = [shared.start("sweep", "--cluster", shared.cluster(), *grid) for grid in grids]
    for process in both:
        said, complained = process.communicate()
        assert process.returncode == 0, said + complained
    shared.finish()
    assert shared.attempts() == [1] * 4
    assert shared.results() == undisturbed(shared)
