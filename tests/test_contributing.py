"""The page in CONTRIBUTING.md about adding a method, followed to the letter in a copy of the package."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("methods", "benchmarks", "slurm", "reports")

BUILDER = '''"""Foo, a method that exists in this test alone: ECT whose target averages over the batch."""

from __future__ import annotations

from .compose import Context, Parts, assemble
from .parts.base import Method
from .parts.couplings import Independent
from .parts.teachers import PosteriorMean
from .parts.times import LognormalGap


def foo(parts: Parts, context: Context) -> Method:
    return assemble("foo", parts, times=LognormalGap, coupling=Independent, teacher=PosteriorMean)
'''

START = "import sys; from consistency_bench.benchmarks.cli.main import main; sys.exit(main())"

YAML = """# @package _global_
# A method of a test.
defaults:
  - ect
  - _self_
method:
  name: foo
  version: 1
  teacher: {kind: posterior_mean, references: batch}
"""


@pytest.mark.slow
def test_a_method_is_one_file_one_yaml_and_one_row(tmp_path: Path) -> None:
    package = tmp_path / "consistency_bench"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, package / folder, ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page.partition("## Adding a method")[2].partition("\n## ")[0]
    touched = dict.fromkeys(
        re.findall(r"`((?:methods|benchmarks|reports)/[\w/]*(?:foo\.\w+|published\.csv))`", section)
    )
    assert list(touched) == ["methods/foo.py", "benchmarks/config/method/foo.yaml", "reports/analysis/published.csv"]

    (package / "methods/foo.py").write_text(BUILDER)
    (package / "benchmarks/config/method/foo.yaml").write_text(YAML)
    table = package / "reports/analysis/published.csv"
    with table.open() as file:
        row = next(csv.DictReader(file))
    with table.open("a") as file:
        csv.DictWriter(file, row).writerow(row | {"method": "foo"})

    def bench(*arguments: str) -> str:
        command = [sys.executable, "-c", START, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert re.search(r"\bfoo\b", bench("list"))
    bench("run", "--methods", "foo", "--seeds", "0", "--out", "out", "benchmark=toy2d", "preset=smoke")
    assert re.search(r"\bfoo v1\b", (tmp_path / "out/leaderboard.md").read_text())
