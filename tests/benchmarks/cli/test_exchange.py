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
from consistency_bench.benchmarks.config.study import read_study
from consistency_bench.benchmarks.runs.folder import find_cells
from consistency_bench.benchmarks.runs.studies import families, register

from ..conftest import Said, tiny_cell

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


def test_a_study_goes_along_with_its_cells(runs: Path, call: Call) -> None:
    file = Path("study.yaml")
    file.write_text("name: kl\nquestion: Does it help?\nmethods: [ect]\nseeds: 0\n")
    register(runs, read_study(file), file, [tiny_cell("ect", "eval.nfe=[1]")])
    assert call("export", "--format", "zip", "--out", "kl.zip", "--study", "kl").out.startswith("1 cell")
    assert call("export", "--format", "zip", "--out", "all.zip").status == 0
    said = call("merge", "kl.zip", "--out", "one")
    assert (said.status, said.out.partition("\n")[0]) == (
        0,
        "2 merged, 0 identical, 0 left out",
    )  # a cell and the study
    assert [family.name for family in families(Path("one"))] == ["kl"]
    assert call("merge", "all.zip", "--out", "one").status == 0
    for out in (Path("one"), runs):  # the cell of ect was there before the study was
        found = {family.name: [name.split("/")[1] for name in family.members] for family in families(out)}
        assert found == {"": ["ect", "vct"], "kl": ["ect"]}
    file.write_text("name: kl\nquestion: Is it another one?\nmethods: [ect]\nseeds: 0\n")
    register(Path("one"), read_study(file), file, [tiny_cell("ect", "eval.nfe=[1]")])
    said = call("merge", "kl.zip", "--out", "one")
    assert said.status == 1
    assert "studies/kl: a study 'kl' with another definition is here; left out" in said.err


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
    assert "bench compare runs other" in said.err
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


def test_a_cell_with_links_is_left_out(runs: Path, call: Call) -> None:
    ect, _ = find_cells(runs)
    snapshot = next(ect.path.glob("snapshots/*"))
    snapshot.unlink()
    snapshot.symlink_to("/etc/passwd")
    said = call("merge", runs, "--out", "other")
    assert (said.status, "it holds links; left out" in said.err) == (1, True)
    assert not any("ect" in str(path) for path in Path("other").rglob("*"))


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


HEADER = "benchmark,method,nfe,metric,value,source,measured_by,seed,seeds,url,note"
ROWS = (
    "toy2d,CD,1,fd_points_500,0.25,A paper,its authors,,3,https://example.org/a,=1+1",
    "toy2d,fork,1,fd_points_500,0.4,Our fork,us,0,,,",
    "toy2d,fork,1,fd_points_500,0.6,Our fork,us,1,,,",
)


def write_rows(*rows: str, header: str = HEADER) -> Path:
    Path("theirs.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return Path("theirs.csv")


def test_imported_values_are_shown_marked_and_change_no_verdict(runs: Path, call: Call) -> None:
    before = consistency_bench.leaderboard(consistency_bench.load_results(runs))
    said = call("import", write_rows(*ROWS))
    assert (said.status, said.out.splitlines()[0]) == (0, "3 rows imported: runs/imported/theirs.csv")
    assert call("import", "theirs.csv").status == 0  # again
    results = consistency_bench.load_results(runs)
    table = consistency_bench.leaderboard(results)
    assert table[table["source"] == ""].to_csv() == before.to_csv()
    foreign = table[table["source"] != ""].set_index("label")
    assert foreign["mean"].to_dict() == {"CD (imported)": 0.25, "fork (imported)": 0.5}
    assert foreign["rank"].isna().all()
    assert foreign.loc["CD (imported)", "source"] == "A paper; https://example.org/a; measured by its authors; n=3"
    assert set(results.loc[results["source"] != "", "state"]) == {"imported"}
    assert call("report", "--no-mlflow").status == 0
    page = (runs / "leaderboard.md").read_text()
    assert "| *CD (imported)* | *0.250* |" in page
    assert "| fork (imported) | 1 | fd_points_500 | 0.50 ± 1.27 (n=2) | 2 | Our fork | us | – |" in page
    assert "[A paper](https://example.org/a)" in page
    assert "CD (imported)" in (runs / "report.html").read_text()
    assert "'=1+1" not in page


def test_imported_rows_go_along_into_a_zip_file(runs: Path, call: Call) -> None:
    assert call("import", write_rows(*ROWS)).status == 0
    assert call("export", "--format", "zip", "--out", "a.zip").status == 0
    assert call("merge", "a.zip", "--out", "other").out.startswith("3 merged")
    assert Path("other/imported/theirs.csv").read_bytes() == Path("theirs.csv").read_bytes()
    call("import", write_rows(ROWS[0]), "--out", "third")
    said = call("merge", "a.zip", "--out", "third")
    assert (said.status, "exists with other rows" in said.err) == (1, True)
    assert Path("third/imported/theirs.csv").read_bytes() == Path("theirs.csv").read_bytes()


def test_a_damaged_file_of_imported_rows_takes_nothing_else_down(runs: Path, call: Call) -> None:
    assert call("import", write_rows(*ROWS)).status == 0
    (runs / "imported" / "theirs.csv").write_text("nonsense")
    said = call("report", "--no-mlflow")
    assert (said.status, "its rows are left out" in said.err) == (1, True)
    assert "(imported)" not in (runs / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.25", "nan", "line 2: value is 'nan', must be a finite number"),
        ("0.25", "0,25", "line 2: it has another number of fields"),
        ("CD,1,", "CD,0,", "line 2: nfe is '0', must be a whole number of at least 1"),
        ("us,1", "us,x", "line 4: seed is 'x', must be a whole number of at least 0"),
        ("us,1", "us,0", "line 4: repeats line 3"),
        (",3,", ",some,", "line 2: seeds is 'some', must be a whole number of at least 1, or unknown"),
        ("A paper", "", "line 2: source is empty"),
        ("https:", "javascript:", "line 2: url is"),
        ("toy2d,CD", "toy3d,CD", "line 2: unknown benchmark 'toy3d'. Did you mean: toy2d?"),
        ("fd_points_500,0.25", "fd_point_500,0.25", "line 2: unknown metric 'fd_point_500'"),
        ("method", "metod", "line 1: unknown column 'metod'"),
        ("measured_by,", "", "line 1: the column 'measured_by' is missing"),
        ("note", "url", "line 1: a column is there twice"),
        ("A paper", "A" * 501, "line 2: source has 501 characters"),
        ("A paper", '"A', "line 2: unexpected end of data"),
    ],
)
def test_a_row_that_is_not_complete_is_named(call: Call, old: str, new: str, message: str) -> None:
    text = "\n".join((HEADER, *ROWS)).replace(old, new, 1)
    said = call("import", write_rows(*text.splitlines()[1:], header=text.splitlines()[0]), "--out", "runs")
    assert (said.status, said.err.count("\n")) == (2, 1), said.err
    assert f"bench: theirs.csv: {message}" in said.err
    assert not Path("runs/imported/theirs.csv").exists()
