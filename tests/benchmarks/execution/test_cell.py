"""A cell from configuration to records; and what running it again does, and does not do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consistency_bench.benchmarks.common.files import read_json, read_jsonl, write_json
from consistency_bench.benchmarks.config.compose import Cell, compose_cells
from consistency_bench.benchmarks.evaluation import sample
from consistency_bench.benchmarks.execution import attempt
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.runs.folder import RECORDS, RUN, STATUS, Record, Run, is_finished, read_reference

from ..conftest import put, tiny_cell


def composed(*settings: str) -> Cell:
    (cell,) = compose_cells(["ect"], [0], settings)
    return cell


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / RECORDS)


def content(folder: Path) -> dict[str, bytes]:
    """All results of a cell, bit for bit."""
    paths = [folder / RECORDS, *sorted((folder / "samples").iterdir()), *sorted((folder / "snapshots").iterdir())]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def trained_when(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "snapshots").iterdir()}


def after(calls: int) -> Callable[[], bool]:
    counter = itertools.count(1)
    return lambda: next(counter) >= calls


def test_a_cell_leaves_complete_rows(tmp_path: Path) -> None:
    cell = tiny_cell("vct", "eval.metrics=[fd_points_500,w2_points_100]", "eval.draws=2", "train.lr=2e-3", seed=3)
    folder = put(cell, tmp_path)
    assert run_cell(folder) == "done"
    rows = rows_of(folder)
    keys = [(row["images"], row["nfe"], row["draw"], row["metric"], row["samples"]) for row in rows]
    metrics = [("fd_points_500", 500), ("w2_points_100", 100)]
    passes = [(1280, nfe) for nfe in (1, 2)] + [(2560, nfe) for nfe in (1, 2, 4, 8)]  # eval.curve, then eval.nfe
    expected = itertools.product(passes, (0, 1), metrics)
    assert keys == [(*place, draw, *metric) for place, draw, metric in expected]
    identity = {"benchmark": "toy2d", "method": "vct", "version": 1, "cell": cell.id, "seed": 3}
    identity |= {"variant": cell.config.cell.variant, "group": cell.config.cell.group}
    assert "train.lr=0.002" in identity["variant"]
    for row in rows:
        assert set(row) == set(Record.__required_keys__)
        assert {key: row[key] for key in identity} == identity
        assert isinstance(row["value"], float)
    draws = {draw: [row["value"] for row in rows if row["draw"] == draw] for draw in (0, 1)}
    assert draws[0] != draws[1]


def test_a_cell_leaves_its_state_its_cost_and_its_circumstances(tmp_path: Path) -> None:
    cell = tiny_cell("ect")
    folder = put(cell, tmp_path)
    run_cell(folder, threads=3)
    status = read_json(folder / STATUS)
    assert (status["state"], status["images"], status["total"]) == ("done", 2560, 2560)
    assert status["error"] is None
    run = read_json(folder / RUN)
    (attempt,) = run["attempts"]
    assert attempt["started"] <= attempt["ended"]
    assert set(attempt["versions"]) >= {"python", "torch", "consistency-bench"}
    assert (attempt["device"], attempt["threads"]) == ("cpu", 3)
    assert attempt["hardware"]["cpu"]
    assert run["compute"]["train_seconds"] > 0
    assert run["compute"]["passes_per_step"] == 2
    network_alone = run["compute"]["parameters_network"]
    assert run["compute"]["parameters"] == network_alone
    assert run["compute"]["flops_per_image"] > 4 * network_alone / 2  # forward twice, backward once, two a weight
    other = put(tiny_cell("vct"), tmp_path)
    run_cell(other)
    compute = read_json(other / RUN)["compute"]
    assert compute["parameters"] > compute["parameters_network"] == network_alone  # the encoder is charged too


def test_a_cell_that_resumes_with_other_rounding_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = put(tiny_cell("ect"), tmp_path)
    for threads in (1, 1, 2):
        assert "rounding" not in caplog.text
        run_cell(folder, threads=threads)
    assert "results will differ in rounding from those of an uninterrupted run (threads: 2 after 1)" in caplog.text
    content = read_json(folder / RUN)
    content["attempts"][-1]["hardware"]["cpu"] = "abacus"
    write_json(folder / RUN, content)
    caplog.clear()
    run_cell(folder, threads=2)
    (line,) = [record.message for record in caplog.records if "rounding" in record.message]
    assert line.endswith(f"(CPU: {read_json(folder / RUN)['attempts'][-1]['hardware']['cpu']} after abacus)")


def test_a_cell_leaves_samples_of_the_data_s_kind(tmp_path: Path) -> None:
    cell = tiny_cell("ect", "benchmark=digits", "eval.metrics=[fd_digits_500]")
    folder = put(cell, tmp_path)
    run_cell(folder)
    for name in ("nfe1", "nfe2", "real"):
        samples = np.load(folder / "samples" / f"{name}.npz")["samples"]
        assert samples.dtype == np.uint8
        assert samples.shape == (64, 1, 8, 8)


def test_the_reference_is_written_once_a_benchmark_and_extended(tmp_path: Path) -> None:
    run_cell(put(tiny_cell("ect"), tmp_path))
    first = (tmp_path / "toy2d" / "reference.jsonl").read_bytes()
    run_cell(put(tiny_cell("ict"), tmp_path))
    assert (tmp_path / "toy2d" / "reference.jsonl").read_bytes() == first
    run_cell(put(tiny_cell("ect", "eval.metrics=[w2_points_100]", seed=1), tmp_path))
    rows = read_reference(tmp_path, "toy2d")
    assert [(row["metric"], row["what"]) for row in rows] == [
        (metric, what) for metric in ("fd_points_500", "w2_points_100") for what in ("halves", "noise")
    ]
    values = {(row["metric"], row["what"]): row["value"] for row in rows}
    assert values["fd_points_500", "halves"] < values["fd_points_500", "noise"]
    assert {row["benchmark"] for row in rows} == {"toy2d"}
    assert (tmp_path / "toy2d" / "reference.jsonl").read_bytes().startswith(first)


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    folder = put(tiny_cell("ect"), tmp_path)
    run_cell(folder)
    first, when = content(folder), trained_when(folder)
    compute = read_json(folder / RUN)["compute"]
    assert run_cell(folder) == "done"
    assert content(folder) == first
    assert trained_when(folder) == when
    assert read_json(folder / RUN)["compute"] == compute


@pytest.mark.parametrize(
    "wish", ["eval.metrics=[w2_points_100,fd_points_500]", "eval.nfe=[2,1]", "eval.draws=3"], ids=str
)
def test_a_new_wish_adds_rows_without_training(wish: str, tmp_path: Path) -> None:
    """In the end as if it had been there from the start, but for the order of what was there first."""
    start = "eval.nfe=[2]" if wish.startswith("eval.nfe") else "eval.draws=1"
    folder = put(tiny_cell("ect", start), tmp_path)
    run_cell(folder)
    first, when = rows_of(folder), trained_when(folder)
    assert put(tiny_cell("ect", wish), tmp_path) == folder
    assert not is_finished(Run(folder), tiny_cell("ect", wish).config)
    assert run_cell(folder) == "done"
    assert trained_when(folder) == when
    assert is_finished(Run(folder), tiny_cell("ect", wish).config)
    assert all(row in rows_of(folder) for row in first)
    assert len(rows_of(folder)) > len(first)
    at_once = put(tiny_cell("ect", wish), tmp_path / "at once")
    run_cell(at_once)
    assert (folder / RECORDS).read_bytes() == (at_once / RECORDS).read_bytes()


def test_other_sampling_replaces_the_rows_without_training(tmp_path: Path) -> None:
    folder = put(tiny_cell("ect"), tmp_path)
    run_cell(folder)
    first, when = rows_of(folder), trained_when(folder)
    put(tiny_cell("ect", "sample.sigma_mid=[5.0]"), tmp_path)
    assert run_cell(folder) == "done"
    second = rows_of(folder)
    assert trained_when(folder) == when
    assert len(second) == len(first)
    assert {row["sampler"] for row in second}.isdisjoint(row["sampler"] for row in first)
    changed = {row["nfe"] for row, old in zip(second, first, strict=True) if row["value"] != old["value"]}
    assert changed == {2, 4, 8}  # the intermediate level has no part in one step


def test_more_snapshots_asked_for_later(tmp_path: Path) -> None:
    folder = put(tiny_cell("ect"), tmp_path)
    run_cell(folder)
    put(tiny_cell("ect", "run.snapshots=5"), tmp_path)
    assert run_cell(folder) == "done"
    at_once = put(tiny_cell("ect", "run.snapshots=5"), tmp_path / "at once")
    run_cell(at_once)
    wanted = tiny_cell("ect", "run.snapshots=5").config.snapshot_images
    kept = [row for row in rows_of(folder) if row["images"] in wanted]
    assert kept == rows_of(at_once)


@pytest.mark.parametrize("stop", [1, 5, 9, 10, 11, 14, 16])
def test_interrupted_at_any_moment_and_run_again(stop: int, tmp_path: Path) -> None:
    """Between steps of training (10 of them), or between evaluations (6)."""
    whole, folder = put(tiny_cell("vct"), tmp_path / "whole"), put(tiny_cell("vct"), tmp_path / "stopped")
    run_cell(whole)
    assert run_cell(folder, should_stop=after(stop)) == "interrupted"
    assert read_json(folder / STATUS)["state"] == "interrupted"
    assert run_cell(folder) == "done"
    assert content(folder) == content(whole)
    assert (folder.parents[1] / "reference.jsonl").read_bytes() == (whole.parents[1] / "reference.jsonl").read_bytes()
    assert len(read_json(folder / RUN)["attempts"]) == 2


# Divergence and failure


def test_a_divergence_is_a_result_with_rows_without_values(tmp_path: Path) -> None:
    cell = tiny_cell("ect", "train.lr=1e30", "train.max_skipped=3")
    folder = put(cell, tmp_path)
    assert run_cell(folder) == "diverged"
    status = read_json(folder / STATUS)
    assert status["state"] == "diverged"
    assert 0 < status["images"] < 2560
    assert [(row["images"], row["nfe"], row["metric"], row["value"]) for row in rows_of(folder)] == [
        (2560, nfe, "fd_points_500", None) for nfe in (1, 2, 4, 8)
    ]
    assert is_finished(Run(folder), cell.config)


@pytest.mark.parametrize("benchmark", ["toy2d", "digits"])
def test_a_network_that_ends_in_no_numbers_has_diverged(benchmark: str, tmp_path: Path) -> None:
    """Even where the budget ended before too many steps in a row were skipped."""
    metric = {"toy2d": "fd_points_500", "digits": "fd_digits_500"}[benchmark]
    evaluated = (f"eval.metrics=[{metric}]", "eval.nfe=[1,2,4,8]", "eval.curve=[1,2]")
    cell = tiny_cell("ect", f"benchmark={benchmark}", *evaluated, "train.lr=1e30")
    folder = put(cell, tmp_path)
    assert run_cell(folder) == "diverged"
    rows = rows_of(folder)
    assert len(rows) == 2 + 4
    assert [row["value"] for row in rows if row["images"] == 2560] == [None] * 4
    assert is_finished(Run(folder), cell.config)


def broken(cell: Cell, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(sample, "sample", fail)
    return put(cell, out)


def test_a_failure_is_on_disk_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = broken(tiny_cell("ect"), tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="on fire"):
        run_cell(folder)
    status = read_json(folder / STATUS)
    assert (status["state"], status["error"]) == ("failed", "RuntimeError: the disk is on fire")
    assert read_json(folder / RUN)["attempts"][-1]["ended"] is not None
    when = trained_when(folder)
    monkeypatch.undo()
    assert run_cell(folder) == "done"  # put right: goes on where it failed
    assert trained_when(folder) == when
    assert read_json(folder / STATUS)["error"] is None


def test_what_training_cost_survives_being_killed_before_it_was_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    folder = put(tiny_cell("ect"), tmp_path)
    monkeypatch.setattr(attempt, "measure_compute", die)
    with pytest.raises(SystemExit):
        run_cell(folder)
    monkeypatch.undo()
    assert run_cell(folder) == "done"
    assert read_json(folder / RUN)["compute"]["train_seconds"] > 0


def test_methods_see_the_same_data_and_latents(tmp_path: Path) -> None:
    """Two methods that differ in nothing that acts on a fresh network give the same samples of it."""
    rows = []
    for method in ("ect", "sct"):
        folder = put(tiny_cell(method, "train.lr=1e-30", "run.snapshots=1"), tmp_path)
        run_cell(folder)
        rows.append([row["value"] for row in rows_of(folder)])
    assert rows[0] == pytest.approx(rows[1], rel=1e-6)


@pytest.mark.slow
def test_a_smoke_cell_scores_better_than_noise(tmp_path: Path) -> None:
    settings = ("eval.metrics=[fd_digits_2k]", "eval.nfe=[1]", "run.snapshots=1")
    folder = put(composed("preset=smoke", *settings), tmp_path)
    assert run_cell(folder) == "done"
    (row,) = rows_of(folder)
    noise = next(r["value"] for r in read_reference(tmp_path, "digits") if r["what"] == "noise")
    assert row["value"] < noise / 2
