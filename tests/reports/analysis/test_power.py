"""`bench plan`: what finished runs say of the seeds that a comparison needs."""

from __future__ import annotations

import math
import re

import pytest

from consistency_bench.benchmarks.cli.plan import plan
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.analysis.power import detectable, seeds_for
from consistency_bench.reports.analysis.tables import Focus, leaderboard, seed_values
from consistency_bench.reports.pages.verdicts import verdict

from ..conftest import Sweep

LEVELS = {"ect": (30.0, 33.0, 36.0), "vct": (31.0, 32.0, 37.0), "sct": (29.0, 34.0, 36.0)}


@pytest.fixture
def runs(sweep: Sweep) -> Sweep:
    for method, own in LEVELS.items():
        for seed, level in enumerate(own):
            sweep.cell(method, seed, level=level, compute={"train_seconds": 1200.0})
    return sweep


def test_the_table_is_that_of_the_spread_of_the_runs(runs: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    runs.cell("ect", 0, variant="preset=smoke", budget=102_400, level=900.0)  # another budget says nothing of this one
    assert plan(runs.out, difference=10.0) == 0
    text = capsys.readouterr().out
    logs = [[math.log(level) for level in own] for own in LEVELS.values()]
    rows, columns = [sum(own) / 3 for own in logs], [sum(own) / 3 for own in zip(*logs, strict=True)]
    whole = sum(rows) / 3
    squares = sum((logs[i][j] - rows[i] - columns[j] + whole) ** 2 for i in range(3) for j in range(3))
    sd = math.sqrt(squares / 4)
    assert f"apart from configuration and seed: {100 * math.expm1(sd):.2f} %" in text
    for seeds in (3, 10):
        found = re.search(rf"^ +{seeds} +([\d.]+) % +([\d.]+)$", text, re.MULTILINE)
        assert found
        assert float(found[1]) == pytest.approx(100 * math.expm1(sd * detectable(3, seeds)), rel=0.01)
        assert float(found[2]) == pytest.approx(seeds * 3 * 1200 / 3600)  # core-hours
    needed = seeds_for(math.log(1.1) / sd, 3)
    assert needed
    assert f"A difference of 10 % needs {needed} seeds: {3 * needed} cells, {needed:.2f}"[:50] in text


def test_fewer_rows_and_a_baseline_need_fewer_seeds(runs: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for options in ({"configurations": 8}, {"configurations": 8, "baseline": True}, {"configurations": 2}):
        plan(runs.out, difference=5.0, **options)
        needed = re.search(r"needs (\d+) seeds", capsys.readouterr().out)
        assert needed
        found.append(int(needed[1]))
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_a_configuration_that_varies_much_more_is_named_and_left_out(
    runs: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in LEVELS:
        for seed in (3, 4):
            runs.cell(method, seed, level=30.0 + seed + LEVELS[method][0] / 10)
    plan(runs.out)
    before = re.search(r"seed: ([\d.]+) %", capsys.readouterr().out)
    for seed, level in enumerate((20.0, 900.0, 30.0, 400.0, 50.0)):
        runs.cell("ict", seed, level=level)
    plan(runs.out)
    after = re.search(r"seed, without ict: ([\d.]+) %", capsys.readouterr().out)
    assert before
    assert after
    assert before[1] == after[1]
    cells = read_cells(runs.out)
    board = leaderboard(cells, seed_values(cells), {})
    named = "ict varies much more over seeds than the others. The common residual leaves it out, and its differences"
    assert named in verdict(board, 1)
    against = leaderboard(
        cells, seed_values(cells), {}, Focus(baseline=next(c.group for c in cells if c.method == "ict"))
    )
    assert named in verdict(against, 1)
    assert "Detectable" not in verdict(against, 1)  # no difference is compared by the common residual


def test_what_cannot_be_planned_is_said_in_a_sentence(sweep: Sweep) -> None:
    for method in ("ect", "vct"):
        for seed in range(2):
            sweep.cell(method, seed)
    with pytest.raises(UsageError, match="has no benchmark with two configurations with three common seeds"):
        plan(sweep.out)
    with pytest.raises(UsageError, match="--difference is 0, must be above 0"):
        plan(sweep.out, difference=0.0)
    with pytest.raises(UsageError, match="contains none"):
        plan(sweep.out / "nowhere")
