"""`bench speed sample`: every number of network calls and the features are timed."""

from __future__ import annotations

import torch

from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.speed.sample import measure

from ..conftest import TINY


def test_sampling_is_timed_at_every_nfe_and_so_are_features() -> None:
    cells = compose_cells(["ect", "vct"], [0], [*TINY, "eval.batch=32", "eval.nfe=[2,1]", "eval.curve=[1]"])
    rows = measure(cells, 2, torch.device("cpu"))
    programs = ["suite, NFE 1", "suite, NFE 2", "suite, features"]
    assert [(row.method, row.program) for row in rows] == [(m, program) for m in ("ect", "vct") for program in programs]
    for row in rows:
        assert row.images == 32
        assert row.rate == 1000 * 32 / row.milliseconds.median
    assert rows[0].cost.median == rows[3].cost.median == 1
