"""Cells that train in a fraction of a second, and the `bench` command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import settings

from consistency_bench.benchmarks.cli import main as command
from consistency_bench.benchmarks.common.files import write_text
from consistency_bench.benchmarks.config.compose import Cell, compose_cells
from consistency_bench.benchmarks.execution.cell import run_cell

settings.register_profile("no deadline", deadline=None)  # tests never depend on speed
settings.load_profile("no deadline")
torch.set_num_threads(1)  # as in a worker; more threads slow tiny tensors down

BENCH = Path(sys.executable).with_name("bench")
#: Ten steps of a tiny network on points in the plane, scored by one metric: a fraction of a second per cell.
TINY = (
    "benchmark=toy2d",
    "network.width=16",
    "network.blocks=1",
    "train.images=2560",
    "eval.metrics=[fd_points_500]",
    "run.snapshots=2",
)


def tiny_cell(method: str, *settings: str, seed: int = 0) -> Cell:
    """One tiny cell; `settings` override the values of TINY."""
    named = {setting.partition("=")[0] for setting in settings}
    (cell,) = compose_cells([method], [seed], [*(s for s in TINY if s.partition("=")[0] not in named), *settings])
    return cell


def put(cell: Cell, out: Path) -> Path:
    """Write the configuration of a cell into its folder below `out`, and return the folder."""
    folder = cell.path(out)
    write_text(folder / "config.yaml", yaml.safe_dump(cell.config.to_dict(), sort_keys=False))
    return folder


def environment(**extra: str) -> dict[str, str]:
    """The environment of this process without variables that change the output of a command."""
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**kept, **extra}


Bench = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Run `bench` with the given arguments in a subprocess, in `tmp_path`."""

    def run(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [str(BENCH), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(**extra), timeout=300
        )

    return run


@dataclass(frozen=True)
class Said:
    """Exit status, standard output and standard error of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Said]:
    """Run `bench` with the given arguments in this process, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            command.main()
        assert isinstance(end.value.code, int)
        return Said(end.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with two finished cells, scored by one metric at NFE 1."""
    out = tmp_path_factory.mktemp("runs")
    for method in ("ect", "vct"):
        assert run_cell(put(tiny_cell(method, "eval.nfe=[1]"), out)) == "done"
    return out
