"""A plug-in from its skeleton to a leaderboard, and what each command says where it is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.files import read_json
from consistency_bench.benchmarks.config import plugins

from ..conftest import TINY, Bench, Said

Call = Callable[..., Said]
RUN = ("run", "--seeds", "0", *TINY, "eval.nfe=[1]", "--no-mlflow")
HERE = ("--launcher", "debug")
MISSING = "of the plug-in plugin, which is not included: add --include"


@pytest.fixture(autouse=True)
def _without_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    yield
    plugins.activate([])


def said_ok(said: Said) -> str:
    assert said.status == 0, said.err
    return said.out


def refused(said: Said) -> str:
    assert said.status == 2
    assert said.err.startswith("bench: ")
    assert said.err.count("\n") == 1
    return said.err


def test_a_new_method_runs_and_is_reported_without_its_plugin(call: Call, tmp_path: Path) -> None:
    said_ok(call("new", "method", "mine"))
    listed = said_ok(call("list", "--include", "plugin"))
    assert "ECT with noise matched to the images by rank" in listed
    assert "coupling/mine, method/mine, methods/mine" in listed
    facts = json.loads(said_ok(call("list", "--include", "plugin", "--json")))["plugins"]
    assert [Path(plugin["folder"]).name for plugin in facts] == ["plugin"]
    assert "frequency: 0" in said_ok(call("show", "mine", "--include", "plugin"))
    run = (*RUN, *HERE, "--methods", "ect,mine")
    said_ok(call(*run, "--include", "plugin"))
    assert "all 2 cells are done already" in said_ok(call(*run, "--include", str(tmp_path / "plugin")))
    (cell,) = (tmp_path / "runs/toy2d/mine").iterdir()
    (attempt,) = read_json(cell / "run.json")["attempts"]
    assert attempt["plugins"] == [{"folder": str(tmp_path / "plugin"), "sha256": facts[0]["sha256"]}]

    assert "mine v1" in (tmp_path / "runs/leaderboard.md").read_text()
    (tmp_path / "runs/leaderboard.md").unlink()
    said_ok(call("report", "--no-mlflow"))
    assert "mine v1" in (tmp_path / "runs/leaderboard.md").read_text()
    assert "sha256" in said_ok(call("show", cell.name))
    for command in (
        run,
        ("eval", "runs", "--metrics", "kd_points_500"),
        ("eval", "runs", "--nfe", "2"),
        ("sample", cell.name, "--out", "x.npz"),
        ("diagnose", cell),
    ):
        assert f"uses method/mine, coupling/mine {MISSING} {tmp_path / 'plugin'}" in refused(call(*command))
    (cell / "status.json").write_text('{"state": "interrupted"}')
    assert MISSING in refused(call("retry", "--failed"))


def test_the_environment_names_plugins_too(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        said_ok(call("new", "method", name, "--folder", f"p-{name}"))
    monkeypatch.setenv(plugins.VARIABLE, os.pathsep.join(["p-one", "p-two"]))
    assert {"one", "two"} <= {entry["name"] for entry in json.loads(said_ok(call("list", "--json")))["methods"]}
    monkeypatch.setenv(plugins.VARIABLE, "nowhere")
    assert "--include 'nowhere': there is no such folder" in refused(call("list"))


def test_a_changed_method_is_another_cell(call: Call, tmp_path: Path) -> None:
    said_ok(call("new", "method", "mine"))
    run = (*RUN, *HERE, "--methods", "mine", "--include", "plugin")
    said_ok(call(*run))
    source = tmp_path / "plugin" / "methods" / "mine.py"
    source.write_text(source.read_text() + "# changed\n")
    (cell,) = (tmp_path / "runs/toy2d/mine").iterdir()
    assert "has changed since (sources" in refused(call("eval", cell, "--nfe", "2", "--include", "plugin"))
    said_ok(call(*run))
    assert len(list((tmp_path / "runs/toy2d/mine").iterdir())) == 2


def test_a_broken_plugin_stops_the_command_that_names_it(call: Call, tmp_path: Path) -> None:
    said_ok(call("new", "method", "mine"))
    (tmp_path / "plugin" / "methods" / "mine.py").write_text("def mine(:\n")
    for command in ((*RUN, "--methods", "mine"), ("list",), ("show", "ect"), ("retry", "--failed")):
        assert "plugin/methods/mine.py:1: SyntaxError" in refused(call(*command, "--include", "plugin"))
    assert "plugin/methods/mine.py:1: SyntaxError" in refused(call("check", "plugin"))
    assert not (tmp_path / "runs").exists()
    said_ok(call("list"))


def test_skeletons_of_benchmark_and_study_compose(call: Call, tmp_path: Path) -> None:
    said_ok(call("new", "benchmark", "discs", "--folder", "a/b"))
    written = said_ok(call("new", "study", "kl.1"))
    assert written.splitlines() == ["written: kl.1.yaml", "run it:  bench run kl.1.yaml"]
    assert "6 cells" in said_ok(call("run", "kl.1.yaml", "--dry-run")).replace("cells: 6", "6 cells")
    settings = ("benchmark=discs", "preset=smoke", "--dry-run")
    said_ok(call("run", "--include", "a/b", "--methods", "ect", "--seeds", "0", *settings))
    assert "unknown benchmark 'discs'" in (said := refused(call("run", *settings)))
    assert said.endswith("; that of a plug-in needs --include PATH\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method", "ect"), "name is 'ect', which is shipped ("),
        (("method", "loss"), "name is 'loss', which is shipped ("),
        (("benchmark", "digits"), "name is 'digits', which is shipped ("),
        (("method", "a-b"), "name is 'a-b', must be up to 60 letters, digits and underscores"),
        (("method", "class"), "name is 'class', must be"),
        (("method", "é"), "must be up to 60 letters"),
        (("method", "torch"), "name is 'torch', a word of the skeleton itself"),
        (("benchmark", "../x"), "name is '../x', must be"),
        (("study", "../x"), "name is '../x', must be up to 60 letters, digits, dots"),
        (("method", "kept"), "plugin/methods/kept.py exists already; choose another name"),
        (("study", "kept"), "kept.yaml exists already"),
        (("method", "mine", "--folder", "kept.yaml"), "kept.yaml"),
    ],
)
def test_skeletons_never_replace_a_file_or_a_name(
    words: tuple[str, ...], said: str, call: Call, tmp_path: Path
) -> None:
    kept = [tmp_path / "kept.yaml", tmp_path / "plugin" / "methods" / "kept.py"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kept")
    assert said in refused(call("new", *words))
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == kept
    assert {path.read_text() for path in kept} == {"kept"}


@pytest.mark.slow
def test_check_passes_on_the_skeletons_and_names_what_fails(call: Call, tmp_path: Path) -> None:
    said_ok(call("new", "method", "mine"))
    said_ok(call("new", "benchmark", "discs"))
    (tmp_path / "plugin" / "metrics").mkdir()
    (tmp_path / "plugin" / "metrics" / "grey.py").write_text(
        "def grey(images):\n    return images.float().flatten(1)[:, :16]\n"
    )
    lines = said_ok(call("check", "plugin")).splitlines()
    assert lines[-1] == "all 15 checks passed"
    assert [line.split()[:2] for line in lines[:2]] == [["ok", "benchmark/discs"], ["ok", "data/discs"]]

    source = tmp_path / "plugin" / "methods" / "mine.py"
    # Noise that is redrawn in every call depends on how the batch is split.
    wrong = source.read_text().replace("    def match", "    def match_(self, x, z): ...\n    def match", 1)
    source.write_text(wrong.replace("        return matched", "        return torch.randn_like(z) * float('nan')"))
    (tmp_path / "plugin" / "metrics" / "grey.py").write_text(
        "def grey(images):\n    return (images - images.float().mean(0)).flatten(1)[:, :16]\n"
    )
    data = tmp_path / "plugin" / "data" / "discs.py"
    data.write_text(data.read_text().replace("count=COUNT", "count=COUNT + 1"))
    said = call("check", "plugin")
    failed = [line for line in said.out.splitlines() if line.startswith("FAIL")]
    assert said.status == 1
    assert any("method/mine The loss is finite" in line and "the loss is nan" in line for line in failed)
    assert any("metrics/grey" in line and "features change with the rest of the batch" in line for line in failed)
    assert any("data/discs" in line and "it describes" in line for line in failed)
    assert said.out.splitlines()[-1] == f"15 checks, {len(failed)} failed"


@pytest.mark.slow
def test_workers_include_what_the_command_names(bench: Bench, tmp_path: Path) -> None:
    assert bench("new", "method", "mine").returncode == 0
    said = bench(*RUN, "--methods", "mine", "--include", "plugin", "--threads", "1")
    assert said.returncode == 0, said.stderr
    (cell,) = (tmp_path / "runs/toy2d/mine").iterdir()
    assert read_json(cell / "status.json")["state"] == "done"
