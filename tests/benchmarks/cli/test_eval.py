"""`bench eval`: further rows for finished trainings, without training again."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from consistency_bench.benchmarks.cli.evaluate import evaluate
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_jsonl, write_json, write_text
from consistency_bench.benchmarks.common.lock import acquire
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.runs.folder import Run
from consistency_bench.benchmarks.training.checkpoint import save_snapshot
from consistency_bench.benchmarks.training.model import build_model
from consistency_bench.reports.analysis.cells import reference_values

from ..conftest import Bench, put, tiny_cell

pytestmark = pytest.mark.slow  # cells are trained and scored
#: The command as a function, with its own defaults.
score = functools.partial(evaluate, device="cpu", mlflow=False)


def rows_of(out: Path) -> dict[Path, list[dict]]:
    return {path: read_jsonl(path) for path in sorted(out.glob("*/*/*/records.jsonl"))}


def weights(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.glob("**/*.safetensors")}


def test_rows_are_added_and_those_that_are_there_are_kept(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, snapshots = rows_of(trained), weights(trained)
    assert score([trained], metrics="fd_points_500,kd_points_200", nfe="1,4", draws=2) == 0
    shown = capsys.readouterr().out
    for path, rows in rows_of(trained).items():
        assert [row for row in rows if row in before[path]] == before[path]
        added = {(row["nfe"], row["draw"], row["metric"]) for row in rows if row not in before[path]}
        wanted = {(n, d, m) for n in (1, 4) for d in (0, 1) for m in ("fd_points_500", "kd_points_200")}
        assert added == wanted - {(1, 0, "fd_points_500")}
        assert {row["images"] for row in rows if row not in before[path]} == {2560}
        for row in rows:
            assert row in before[path] or f"{row['value']:.6g}" in shown
    assert weights(trained) == snapshots
    # The same numbers as a run that asked for them from the start.
    folder = put(tiny_cell("ect", "eval.nfe=[1,4]", "eval.draws=2"), trained.parent / "whole")
    run_cell(folder)
    key = ("nfe", "draw", "metric", "images")
    values = {tuple(row[k] for k in key): row["value"] for row in read_jsonl(folder / "records.jsonl")}
    ours = next(rows for path, rows in rows_of(trained).items() if path.parts[-3] == "ect")
    assert [row["value"] for row in ours if row["metric"] == "fd_points_500"] == [
        values[tuple(row[k] for k in key)] for row in ours if row["metric"] == "fd_points_500"
    ]


def test_a_second_time_there_is_nothing_to_do(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"metrics": "w2_points_100"}
    assert score([trained], **asked) == 0
    before = rows_of(trained)
    capsys.readouterr()
    assert score([trained / "toy2d" / "ect"], **asked) == 0
    assert "all rows are there already" in capsys.readouterr().out
    assert rows_of(trained) == before


def test_earlier_snapshots_and_errors_of_the_sampling(trained: Path) -> None:
    (folder,) = (trained / "toy2d" / "vct").iterdir()
    assert score([folder], metrics="fd_points_300", snapshots="all", bootstrap=20) == 0
    rows = [row for row in read_jsonl(folder / "records.jsonl") if row["metric"] == "fd_points_300"]
    assert [row["images"] for row in rows] == [1280, 2560]
    assert rows[0]["error"] is None
    assert 0 < rows[1]["error"] < rows[1]["value"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": "fd_digits_500"}, "'digits' reads grey images"),
        ({"metrics": "fd_point_500"}, "unknown metric 'fd_point_500'. Did you mean: fd_points_2k"),
        ({"nfe": "1,two"}, "--nfe is '1,two', must be step counts"),
        ({"nfe": "0"}, "eval.nfe"),
        ({"bootstrap": 3}, "eval.bootstrap is 3, must be 0, or at least 10"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(trained: Path, change: dict, message: str) -> None:
    before = rows_of(trained)
    with pytest.raises(UsageError, match=message):
        score([trained], **change)
    assert rows_of(trained) == before


def test_folders_without_cells_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere is not a folder of a cell and contains none"):
        score([tmp_path / "nowhere"])


def test_trainings_that_are_not_done_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, open_ = (put(tiny_cell("ect", seed=seed), tmp_path) for seed in (0, 1))
    run_cell(done)
    write_json(open_ / "status.json", {"state": "interrupted"})
    assert score([tmp_path], metrics="kd_points_200") == 1
    assert "is interrupted and left out" in capsys.readouterr().err
    assert "kd_points_200" in {row["metric"] for row in read_jsonl(done / "records.jsonl")}
    assert not (open_ / "records.jsonl").exists()


def test_a_cell_in_other_hands_is_left_alone(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (trained / "toy2d" / "ect").iterdir()
    before = read_jsonl(folder / "records.jsonl")
    lock = acquire(folder / "lock")
    assert lock is not None
    with lock:
        assert score([folder], metrics="kd_points_300") == 1
    assert "left out: another process is working on it" in capsys.readouterr().err
    assert read_jsonl(folder / "records.jsonl") == before


def test_few_samples_leave_the_pictures_of_more(tmp_path: Path) -> None:
    folder = put(tiny_cell("ect", "eval.nfe=[1]"), tmp_path)
    run_cell(folder)
    before = (folder / "samples" / "nfe1.npz").read_bytes()
    assert score([folder], metrics="fd_points_20", nfe="1,2") == 0
    assert (folder / "samples" / "nfe1.npz").read_bytes() == before
    with np.load(folder / "samples" / "nfe2.npz") as arrays:  # where there is no picture yet, one of few
        assert {len(arrays[name]) for name in ("samples", "latents")} == {20}


@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_a_damaged_snapshot_is_named(tmp_path: Path, damage: str) -> None:
    folder = put(tiny_cell("ect"), tmp_path)
    run_cell(folder)
    path = max(folder.glob("snapshots/*"))
    path.write_bytes(path.read_bytes()[:100]) if damage == "cut off" else path.unlink()
    before = read_jsonl(folder / "records.jsonl")
    with pytest.raises(UsageError, match=rf"the snapshot .*{path.name} cannot be read"):
        score([folder], metrics="kd_points_200")
    assert read_jsonl(folder / "records.jsonl") == before


def test_weights_that_blow_up_have_no_value_and_say_so(tmp_path: Path) -> None:
    folder = put(tiny_cell("ect"), tmp_path)
    run_cell(folder)
    config = Run(folder).config
    weights = build_model(config, load_dataset(config.data), torch.device("cpu")).averaged().weights
    for parameter in weights.parameters():
        parameter.fill_(torch.nan)
    save_snapshot(folder, config.budget_images, weights)
    assert score([folder], metrics="kd_points_200", nfe="1") == 1
    assert [row["value"] for row in read_jsonl(folder / "records.jsonl") if row["metric"] == "kd_points_200"] == [None]


def test_data_of_their_own_have_a_reference_of_their_own(tmp_path: Path) -> None:
    for variant in ("two_modes", "spiral"):
        run_cell(put(tiny_cell("ect", f"data.variant={variant}", "eval.nfe=[1]"), tmp_path))
    rows = read_jsonl(tmp_path / "toy2d" / "reference.jsonl")
    assert len(rows) == 4
    assert len({row["data"] for row in rows}) == 2
    assert reference_values(tmp_path, "toy2d") == {}  # no one value belongs to both


def test_the_command(trained: Path, bench: Bench) -> None:
    said = bench("eval", trained, "--metrics", "modes_points_500", "--nfe", "1,2")
    assert (said.returncode, said.stderr) == (0, "")
    assert "NFE 2  draw 0  modes_points_500" in said.stdout
    said = bench("eval", trained, "--metrics", "nonsense")
    assert said.returncode == 2
    assert said.stderr.startswith("bench: unknown metric 'nonsense'")
    assert "nan" not in bench("report", "--out", trained, "--no-mlflow").stdout
    assert "modes_points_500" in (trained / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval": ["fid50k"]}, "the section 'eval' is missing"),
        ({"sample": {"labels": []}}, "sample.labels"),
        ({"run": {"snapshots": "many"}}, "run.snapshots is 'many', must be a whole number"),
        ({"train": {"images": 2560, "batch": 128}}, "train.lr is missing"),
    ],
)
def test_a_configuration_that_is_none_is_named(trained: Path, change: dict, message: str) -> None:
    (folder,) = (trained / "toy2d" / "ect").iterdir()
    path = folder / "config.yaml"
    before = path.read_text(encoding="utf-8")
    write_text(path, yaml.safe_dump({**yaml.safe_load(before), **change}))
    try:
        with pytest.raises(UsageError, match=f"config.yaml.*{message}"):
            score([folder], metrics="kd_points_300")
    finally:
        write_text(path, before)


def test_no_function_is_run_because_a_stored_configuration_names_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = (trained / "toy2d" / "ect").iterdir()
    path = folder / "config.yaml"
    before = path.read_text(encoding="utf-8")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\ndef f(images): return images\n")
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(before)
    config["eval"]["metrics"] = ["fd_evil:f_100"]
    write_text(path, yaml.safe_dump(config))
    try:
        with pytest.raises(UsageError, match=r"fd_evil:f_100.*code that a file of results names is not run"):
            score([folder], nfe="1")
        assert score([folder], metrics="kd_points_360") == 0
    finally:
        write_text(path, before)
    assert not (tmp_path / "canary").exists()
