"""Training with a compiled network: the same losses up to rounding, and what a machine needs for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.execution.preflight import check_configurations
from consistency_bench.benchmarks.training.compiled import compiled, missing_for_compiling

from .runs import left_behind, run

#: Two steps of a U-Net whose dropout would spoil a consistency loss if teacher and student had different masks.
SMALL = (
    "network.kind=ddpmpp",
    "network.channels=8",
    "network.channel_mult=[1]",
    "network.blocks=1",
    "network.dropout=0.5",
    "train.images=16",
    "train.batch=8",
    "run.snapshots=1",
)


def config_of(method: str, *settings: str) -> RunConfig:
    (cell,) = compose_cells([method], [0], [*SMALL, *settings])
    return cell.config


@pytest.mark.slow
def test_compiled_losses_are_the_eager_ones_up_to_rounding(tmp_path: Path) -> None:
    if missing := missing_for_compiling():
        pytest.fail(f"this test needs {missing}")
    for method in ("ect", "vct", "sct"):
        logs = []
        for setting in ("false", "true"):
            folder = tmp_path / f"{method} {setting}"
            assert run(config_of(method, f"train.compile={setting}"), folder).state == "done"
            logs.append(left_behind(folder)[1])
        assert len(logs[0]) == 2
        for eager, graph in zip(*logs, strict=True):
            for name in ("loss", "consistency", "penalty", "grad_norm"):
                assert graph[name] == pytest.approx(eager[name], rel=1e-4), (method, name)


def test_a_machine_without_a_compiler_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    check_configurations([config_of("ect")])
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"train.compile=true needs .*no-such-compiler is not found"):
        check_configurations([config_of("ect", "train.compile=true")])


def test_what_cannot_be_compiled_is_a_sentence() -> None:
    class Undecided(torch.nn.Module):
        def forward(self, u: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
            return u if u.sum() > 0 else -u  # a branch on a value

    with pytest.raises(UsageError, match=r"^train.compile=true: this network cannot be compiled \(.*branch.*\)$"):
        compiled(Undecided())(torch.ones(1), torch.ones(1), None)
