"""The options that docs/deviations.md promises: each is accepted as it is written there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import choices, compose_cells
from consistency_bench.methods.compose import Context
from consistency_bench.methods.networks.registry import build_factory
from consistency_bench.methods.parts.bank import Bank
from consistency_bench.methods.parts.options import OptionError
from consistency_bench.methods.registry import build

PAGE = Path(__file__).parents[3] / "docs" / "deviations.md"
SECTIONS = ("method", "train", "sample", "data", "eval", "network")
ROWS = [line.strip("|\n ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
NUMBERED = [[cell.strip() for cell in row] for row in ROWS if row[0].strip().isdecimal()]
#: Settings of one row go together where one is an option of what another chooses.
WANTED = [(row[0], re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[^`]*)`", row[-1])) for row in NUMBERED]
OPTIONS = [(number, setting) for number, settings in WANTED for setting in settings]
TOGETHER = {"20": ["network.kind=ncsnpp"]}


def accepted(method: str, settings: list[str]) -> dict[str, Any] | None:
    """The configuration, if this method takes the settings and its parts can be built with them."""
    try:
        *_, cell = compose_cells([method], [0], ["benchmark=cifar10", *settings])
        config = cell.config
        with torch.device("meta"):
            factory = build_factory(config.network, (3, 32, 32), 0)
            context = Context(encoder=factory.encoder, bank=Bank(torch.zeros(4, 3, 32, 32)), steps=1000)
            build(config.method.options, config.sample.options, context)
    except (UsageError, OptionError):
        return None
    return config


def test_every_known_place_has_a_row() -> None:
    assert [row[0] for row in NUMBERED] == [str(number) for number in range(1, 78)]
    assert {len(row) for row in NUMBERED} == {6}
    assert len(OPTIONS) > 40


@pytest.mark.parametrize(("number", "setting"), OPTIONS, ids=[f"{number} {setting}" for number, setting in OPTIONS])
def test_every_option_is_accepted_by_some_method(number: str, setting: str) -> None:
    settings = [*(other for other in TOGETHER.get(number, []) if other != setting), setting]
    taker = next((method for method in choices("method") if accepted(method, settings)), None)
    assert taker is not None
    assert accepted(taker, [*settings, f"{setting.partition('=')[0]}_=1"]) is None  # nothing is taken unread
