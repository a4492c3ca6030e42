"""The Python API: light to import, and every example of its pages and docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import consistency_bench
from consistency_bench.benchmarks.cli.sample import sample
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_json, write_json, write_text, yaml_text
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.data.registry import load
from consistency_bench.benchmarks.evaluation.export import pack
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.runs.archive import unpacked
from consistency_bench.benchmarks.runs.folder import Run
from consistency_bench.benchmarks.runs.studies import families

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "pandas", "matplotlib", "numpy", "typer", "mlflow")
MODULES = (
    "reports.analysis.frames",
    "reports.analysis.frame_leaderboard",
    "reports.plots.frames",
    "benchmarks.evaluation.export",
    "benchmarks.evaluation.image_scores",
)
SMALL = ("train.images=1280", "network.width=16", "network.blocks=1", "eval.nfe=[1]", "eval.metrics=[fd_digits_500]")


def test_the_import_is_light_and_shows_its_names() -> None:
    code = f"import sys, consistency_bench as c; print(dir(c)); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(sorted(consistency_bench.__all__)), "[]"]


def test_every_name_is_there_and_no_other() -> None:
    for name in consistency_bench.__all__:
        assert getattr(consistency_bench, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'load_result'"):
        consistency_bench.load_result  # noqa: B018


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples use: the published records of the default run, and an exported model."""
    folder = tmp_path_factory.mktemp("examples")
    (cell,) = compose_cells(["ect"], [0], SMALL)
    write_text(cell.path(folder / "small") / "config.yaml", yaml_text(cell.config.to_dict()))
    assert run_cell(cell.path(folder / "small")) == "done"
    pack(Run(cell.path(folder / "small")), folder / "exported")
    with unpacked(ROOT / "reports" / "results" / "small-scale") as runs:
        for name in families(runs)[0].members:
            shutil.copytree(runs / name, folder / "runs" / name)
    return folder


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_the_docstrings_run(module: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names = {name: getattr(consistency_bench, name) for name in consistency_bench.__all__}
    failed, tried = doctest.testmod(importlib.import_module(f"consistency_bench.{module}"), extraglobs=names)
    assert (failed, tried > 0) == (0, True)


def test_the_examples_of_the_page_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    page, flags = str(ROOT / "docs" / "api.md"), doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testfile(page, module_relative=False, optionflags=flags)
    assert (failed, tried > 10) == (0, True)


def test_exported_images_score_as_the_records_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (cell,) = Path("small").glob("digits/ect/s0-*")
    assert sample(str(cell), Path("samples.zip"), n=500) == 0
    loaded, exported = consistency_bench.load_model(cell), consistency_bench.load_model("exported")
    drawn = loaded.sample(500, nfe=1)
    assert torch.equal(load("images", Path("samples.zip")).images, drawn)
    assert torch.equal(exported.sample(500, nfe=1), drawn)
    results = consistency_bench.load_results(cell)
    expected = results.query("metric == 'fd_digits_500'")["value"].item()
    for images in ("samples.zip", drawn, drawn[:, 0].numpy()):
        found = consistency_bench.score(images, "digits", ["fd_digits_500"])
        assert found["fd_digits_500"].value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 8, 8)), r"images are float64 \[5, 8, 8\], must be uint8 \[N, H, W\]"),
        (np.zeros((5, 8, 8, 2), np.uint8), "must be uint8"),
        (np.zeros((5, 9, 9), np.uint8), "the array has images of 9×9, and the reference of 8×8"),
        ("nowhere", "nowhere"),
    ],
)
def test_images_that_cannot_be_scored_are_refused(images: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        consistency_bench.score(images, "digits", "fd_digits_5")


def test_a_folder_without_a_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is neither the folder of a cell nor"):
        consistency_bench.load_model(tmp_path)
    shutil.copytree(folder / "exported", tmp_path / "copy")
    file = tmp_path / "copy" / "config.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UsageError, match="was changed after it was written"):
        consistency_bench.load_model(tmp_path / "copy")
    content = read_json(folder / "exported" / "config.json")
    for facts in ({"shape": [1, 8, -8]}, {"shape": 8}, {"count": 10**18}, {"name": 3, "more": 1}):
        write_json(file, content | {"sample": content["sample"] | facts}, sealed=True)
        with pytest.raises(UsageError, match=r"config\.json"):
            consistency_bench.load_model(tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").unlink()
    file.write_bytes((folder / "exported" / "config.json").read_bytes())
    with pytest.raises(UsageError, match=r"model\.safetensors cannot be read"):
        consistency_bench.load_model(tmp_path / "copy")
