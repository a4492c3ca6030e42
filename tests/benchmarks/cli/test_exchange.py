"""Results out of one folder and into another: tables, models and zip files, and which of them are refused."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import consistency_bench
from consistency_bench.benchmarks.common.files import read_jsonl, write_jsonl
from consistency_bench.benchmarks.runs.folder import find_cells

from ..conftest import Said

Call = Callable[..., Said]


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of two finished cells."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def contents(folder: Path) -> dict[str, bytes]:
    """The results in a folder by name, without weights and logs."""
    kept = [path for path in folder.rglob("*") if path.suffix in (".yaml", ".json", ".jsonl", ".npz")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def test_a_table_in_a_file_is_that_of_the_python_api(runs: Path, call: Call) -> None:
    expected = consistency_bench.load_results(runs, "all")
    for name, read in (("a.csv", pd.read_csv), ("a.parquet", pd.read_parquet)):
        said = call("export", "--format", name[2:], "--out", name, "--snapshots", "all")
        assert (said.status, said.out) == (0, f"4 rows of 2 cells: {name}\n")
        found = read(name)
        assert found.columns.tolist() == expected.columns.tolist()
        assert found["value"].tolist() == expected["value"].tolist()
    assert expected.dtypes.astype(str).tolist() == pd.read_parquet("a.parquet").dtypes.astype(str).tolist()


def test_a_zip_file_becomes_the_same_results_elsewhere(runs: Path, call: Call) -> None:
    for name in ("a.zip", "b.zip"):
        assert call("export", "--format", "zip", "--out", name).status == 0
    assert Path("a.zip").read_bytes() == Path("b.zip").read_bytes()
    assert call("merge", "a.zip", "--out", "other").out.startswith("2 merged, 0 identical, 0 left out\n")
    assert contents(Path("other")) == contents(runs)
    again = call("merge", runs, "--out", "other")
    assert (again.status, again.out) == (0, "0 merged, 2 identical, 0 left out\n")
    assert {path.name for path in Path("other").iterdir()} == {"toy2d"}


def test_weights_go_along_if_wanted(runs: Path, call: Call) -> None:
    assert call("export", "--format", "zip", "--weights", "--out", "a.zip").status == 0
    assert call("merge", "a.zip", "--out", "other").status == 0
    for cell in find_cells(runs):
        here = consistency_bench.load_model(Path("other") / cell.path.relative_to(runs))
        assert torch.equal(here.sample(5, 1), consistency_bench.load_model(cell.path).sample(5, 1))


def test_other_values_of_the_same_training_are_reported_and_change_nothing(runs: Path, call: Call) -> None:
    shutil.copytree(runs, "other")
    ect, vct = find_cells(Path("other"))
    rows = read_jsonl(ect.records_file)
    rows[-1]["value"] += 1
    write_jsonl(ect.records_file, rows)
    vct.records_file.write_text(vct.records_file.read_text().replace('"value": ', '"value": 1'))
    before = contents(runs)
    said = call("merge", "other")
    assert (said.status, said.out) == (1, "0 merged, 0 identical, 2 left out\n")
    assert "toy2d/ect/" in said.err
    assert "its values differ from those of the same training here in 1 row (fd_points_500 at NFE 1" in said.err
    assert "was changed after it was written" in said.err
    assert "bench compare runs FOLDER" in said.err
    assert contents(runs) == before
    # Into an empty folder, the sound one is merged.
    said = call("merge", "other", "--out", "new")
    assert (said.status, said.out.splitlines()[0]) == (1, "1 merged, 0 identical, 1 left out")
    assert [run.path.name for run in find_cells(Path("new"))] == [ect.path.name]


def test_a_cell_without_a_result_is_neither_exported_nor_merged(runs: Path, call: Call) -> None:
    ect, _ = find_cells(runs)
    status = json.loads(ect.status_file.read_text())
    status.pop("digest")
    ect.status_file.write_text(json.dumps(status | {"state": "interrupted"}))
    said = call("export", "--format", "zip", "--out", "a.zip")
    assert (said.status, said.out) == (1, "1 cell, 1 without a result left out: a.zip\n")
    said = call("merge", runs, "--out", "other")
    assert (said.status, said.out.splitlines()[0]) == (1, "1 merged, 0 identical, 1 left out")
    assert "it is interrupted, and only finished cells are merged" in said.err


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("../toy2d/ect/s0-1/config.yaml", 0, "no path within a folder"),
        ("/etc/config.yaml", 0, "no path within a folder"),
        ("a\\..\\b.yaml", 0, "no path within a folder"),
        ("toy2d/ect", stat.S_IFLNK | 0o777, "which is a link"),
        ("TOY2D/reference.jsonl", 0, "two files of one name"),
    ],
)
def test_an_archive_that_reaches_outside_is_refused(runs: Path, call: Call, name: str, mode: int, message: str) -> None:
    assert call("export", "--format", "zip", "--out", "a.zip").status == 0
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile("a.zip", "a") as archive:
        archive.writestr(info, b"/etc/passwd")
    said = call("merge", "a.zip", "--out", "other")
    assert (said.status, message in said.err, said.err.count("\n")) == (2, True, 1), said.err
    assert list(Path("other").rglob("*")) == []


def test_an_archive_that_is_too_large_or_damaged_is_refused(runs: Path, call: Call) -> None:
    large = zipfile.ZipFile("large.zip", "w", zipfile.ZIP_DEFLATED)
    with large, large.open("toy2d/ect/s0-1/records.jsonl", "w", force_zip64=True) as file:
        for _ in range(1025):
            file.write(bytes(1 << 20))
    assert "more than such a file has" in call("merge", "large.zip", "--out", "other").err
    assert call("export", "--format", "zip", "--out", "a.zip").status == 0
    content = bytearray(Path("a.zip").read_bytes())
    content[len(content) // 2] ^= 1
    Path("a.zip").write_bytes(content)
    said = call("merge", "a.zip", "--out", "other")
    assert (said.status, "is damaged" in said.err) == (2, True)
    assert list(Path("other").rglob("*")) == []


def test_an_exported_model_samples_as_its_cell_does(runs: Path, call: Call) -> None:
    cell = find_cells(runs)[1]
    assert call("export", cell.path.name, "--format", "diffusers", "--out", "model").status == 0
    assert {path.name for path in Path("model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    ours, theirs = consistency_bench.load_model(cell.path), consistency_bench.load_model("model")
    assert torch.equal(ours.sample(20, 2, seed=3), theirs.sample(20, 2, seed=3))
    assert call("sample", cell.path, "--n", "20", "--nfe", "2", "--seed", "3", "--out", "a.npz").status == 0
    assert np.array_equal(np.load("a.npz")["points"], theirs.sample(20, 2, seed=3))
    card = Path("model/README.md").read_text()
    value = next(row["value"] for row in cell.records if row["images"] == cell.config.budget_images)
    assert f"| 1 | fd_points_500 | {value:.3g}" in card
    assert "(n=1)" in card
    assert "Licence" in card
    assert str(runs) not in card + Path("model/config.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "diffusers"), "--format diffusers needs a CELL"),
        (("ect", "--format", "csv"), "--format csv takes no CELL"),
        (("ect", "--format", "diffusers"), "no cell 'ect' in runs"),
        (("--format", "csv", "--runs", "nowhere"), "no cells below nowhere"),
    ],
)
def test_what_cannot_be_exported_is_said(runs: Path, call: Call, arguments: tuple[str, ...], message: str) -> None:
    said = call("export", *arguments, "--out", "x")
    assert (said.status, message in said.err) == (2, True), said.err
    Path("x").write_text("mine")
    assert call("export", "--format", "csv", "--out", "x").status == 2
    assert Path("x").read_text() == "mine"
