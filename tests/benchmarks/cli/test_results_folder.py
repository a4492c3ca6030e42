"""A results folder: cells in one zip file, and pages that are rebuilt from it to the last byte."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import consistency_bench
from consistency_bench.benchmarks.cli.export import export
from consistency_bench.benchmarks.cli.report import report
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import check_writable
from consistency_bench.benchmarks.config.study import read_study
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.runs.studies import families, register, register_ad_hoc
from consistency_bench.reports.build import build_report

from ..conftest import TINY, Said, put, tiny_cell

Call = Callable[..., Said]
RESULTS = Path("results/mine")
SETTINGS = {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in TINY)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reported cells of an ad-hoc command and of a study, which share one."""
    folder = tmp_path_factory.mktemp("published")
    out, file = folder / "runs", folder / "study.yaml"
    settings = {key: value for key, value in SETTINGS.items() if key not in ("benchmark", "train.images")}
    content = {"methods": ["ect", "vct"], "seeds": "0-1", "benchmark": "toy2d", "budget": 2560, "overrides": settings}
    file.write_text(yaml.safe_dump({"name": "kl", "question": "Does it help?", **content}), encoding="utf-8")
    cells = [tiny_cell(method, seed=seed) for method in ("ect", "vct") for seed in (0, 1)]
    register(out, read_study(file), file, cells)
    more = [tiny_cell("ect"), tiny_cell("ict")]
    register_ad_hoc(out, more)
    for cell in {cell.name: cell for cell in (*cells, *more)}.values():
        assert run_cell(put(cell, out)) == "done"
    build_report(out, mlflow=False)
    return out


@pytest.fixture(scope="module")
def published(runs: Path) -> Path:
    """A results folder of these cells."""
    folder = runs.parent / "results"
    assert export("zip", folder / "cells.zip", runs=runs) == 0
    assert report(results=folder) == 0
    return folder


@pytest.fixture
def results(published: Path, call: Call) -> Path:
    """A copy of the results folder, in the working directory."""
    shutil.copytree(published, RESULTS)
    return RESULTS


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but stamps, by name."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".report.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_pages_are_those_of_the_runs_but_for_links_to_records(runs: Path, results: Path) -> None:
    found = contents(results)
    own = {path.relative_to(runs).as_posix() for path in (runs / "studies" / "kl").rglob("*") if path.is_file()}
    own |= {path.relative_to(runs).as_posix() for path in runs.glob("plots/*")}
    own |= {"leaderboard.md", "leaderboard.tex", "report.html", "results.csv", "cells.zip"}
    assert set(found) == {name for name in own if Path(name).name not in (".report.json", "cells.json")}
    for name, content in found.items():
        if name != "cells.zip":
            assert content.replace(b"cells.zip#", b"") == (runs / name).read_bytes(), name
    with zipfile.ZipFile(results / "cells.zip") as archive:
        for cell in archive.namelist():
            if cell.endswith("records.jsonl") and "/ict/" not in cell:
                link = f"(../../cells.zip#{cell})".encode()
                assert link in found["studies/kl/leaderboard.md"]


@pytest.mark.slow
def test_another_place_and_another_time_give_the_same_bytes(results: Path, call: Call) -> None:
    before = contents(results)
    Path("far").mkdir()
    Path("far/README.md").write_text("a\n<!-- leaderboard:begin -->\n<!-- leaderboard:end -->\nb\n")
    (results / "cells.zip").rename("far/cells.zip")
    said = call("report", "--from", "far", "--readme", "far/README.md")
    assert (said.status, said.err) == (0, "")
    assert "page: far/report.html" in said.out
    found = contents(Path("far"))
    assert b"[leaderboard.md](leaderboard.md)" in found.pop("README.md")
    assert found == before
    assert not list(Path("far").rglob("mlflow.db"))


@pytest.mark.slow
def test_pages_of_an_earlier_zip_file_go_and_other_files_stay(runs: Path, results: Path, call: Call) -> None:
    own = results / "NOTES.md"
    own.write_text("mine")
    (results / "studies/kl/plots/old.png").write_bytes(b"old")
    for name in ("old/leaderboard.md", "older/leaderboard.md", "older/study.yaml"):
        (results / "studies" / name).parent.mkdir(exist_ok=True)
        (results / "studies" / name).write_text("mine")
    before = contents(results)
    (results / "cells.zip").unlink()
    out = ("--runs", runs, "--study", "kl", "--out", results / "cells.zip")
    assert call("export", "--format", "zip", *out).status == 0
    assert call("report", "--from", results).status == 0
    found = contents(results)
    kept = {name for name in before if name.startswith("studies/kl/") and "old" not in name}
    assert set(found) == {"NOTES.md", "cells.zip", "studies/older/study.yaml", *kept}
    assert {name: found[name] for name in kept} == {name: before[name] for name in kept}
    assert not (results / "studies/old").exists()


def test_commands_and_the_python_api_read_it_as_they_read_runs(runs: Path, results: Path, call: Call) -> None:
    expected = consistency_bench.load_results(runs, "all")
    assert consistency_bench.load_results(results, "all").to_csv() == expected.to_csv()
    assert [family.name for family in families(runs)] == ["", "kl"]
    ours, theirs = (call("compare", "ect", "vct", "--json", "--out", folder) for folder in (results, runs))
    assert (ours.status, ours.out) == (0, theirs.out)
    both = call("compare", results, runs)
    assert (both.status, both.err) == (0, "")
    assert "A and B are the same configuration" in both.out
    assert "are the same runs" in call("compare", results, results).err
    assert call("plan", results).err == call("plan", runs).err.replace(str(runs), str(results))


def damaged(name: str, content: bytes) -> Callable[[Path], None]:
    """Replace the first entry with this name in cells.zip."""

    def change(folder: Path) -> None:
        with zipfile.ZipFile(folder / "cells.zip") as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        place = next(entry for entry in entries if entry.endswith(name))
        with zipfile.ZipFile(folder / "cells.zip", "w") as archive:
            for entry, old in (entries | {place: content}).items():
                archive.writestr(entry, old)

    return change


def truncated(folder: Path) -> None:
    content = (folder / "cells.zip").read_bytes()
    (folder / "cells.zip").write_bytes(content[: len(content) // 2])


def renamed(folder: Path) -> None:
    with zipfile.ZipFile(folder / "cells.zip") as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(folder / "cells.zip", "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry.replace("studies/kl/", "studies/other/"), content)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda folder: (folder / "cells.zip").unlink(), "has no cells.zip; `bench export --format zip --out"),
    "truncated": (truncated, "results/mine/cells.zip is not an intact zip file"),
    "no cells": (lambda folder: zipfile.ZipFile(folder / "cells.zip", "w").close(), "cells.zip holds no cells"),
    "record": (damaged("records.jsonl", b'{"metric": 3}\n'), "results/mine/cells.zip: toy2d/ect/"),
    "samples": (damaged("nfe1.npz", b"nothing"), "results/mine/cells.zip: toy2d/ect/"),
    "baselines": (damaged("reference.jsonl", b""), "results/mine/cells.zip: toy2d/reference.jsonl"),
    "study": (damaged("kl/study.yaml", b"name: kl\n"), "results/mine/cells.zip: studies/kl/study.yaml"),
    "other study": (renamed, "results/mine/cells.zip: studies/other/cells.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_and_nothing_is_written(fault: str, results: Path, call: Call) -> None:
    change, message = FAULTS[fault]
    change(results)
    Path("README.md").write_text("<!-- leaderboard:begin -->\n<!-- leaderboard:end -->\n")
    before = contents(Path())
    said = call("report", "--from", results, "--readme", "README.md")
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1), said.err
    assert message in said.err
    assert "bench-results-" not in said.err
    assert contents(Path()) == before


def test_a_folder_that_cannot_be_written_or_holds_runs_is_refused(runs: Path, results: Path, call: Call) -> None:
    shutil.copytree(runs, "runs")
    shutil.copy(results / "cells.zip", "runs")
    before = contents(Path("runs"))
    said = call("report", "--from", "runs")
    assert (said.status, "runs is a folder of runs and not of results" in said.err) == (2, True)
    assert contents(Path("runs")) == before
    Path("file").write_text("")
    assert "has no cells.zip" in call("report", "--from", "file").err
    said = call("report", "--from", results, "--study", "kl")
    assert (said.status, "leave out --out, --study and --mlflow-uri" in said.err) == (2, True)


def test_a_results_folder_that_cannot_be_written_is_named(results: Path) -> None:
    with pytest.raises(UsageError, match=r"results folder /proc: /proc is not writable .*; choose another with --from"):
        check_writable(Path("/proc"), "results", "--from")
