"""The Python API: light to import, and the numbers of the report."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import consistency_bench

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "pandas", "matplotlib", "numpy", "typer", "mlflow")


def test_the_import_is_light_and_shows_its_names() -> None:
    code = f"import sys, consistency_bench as c; print(dir(c)); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(sorted(consistency_bench.__all__)), "[]"]


def test_every_name_is_there_and_no_other() -> None:
    for name in consistency_bench.__all__:
        assert getattr(consistency_bench, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'load_result'"):
        consistency_bench.load_result  # noqa: B018


@pytest.mark.parametrize("module", ["reports.analysis.frames"])
def test_the_examples_of_the_docstrings_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    failed, tried = doctest.testmod(importlib.import_module(f"consistency_bench.{module}"))
    assert (failed, tried > 0) == (0, True)
