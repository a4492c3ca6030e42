"""Averages of the weights: their profiles, and several of them at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from consistency_bench.benchmarks.common.files import read_jsonl
from consistency_bench.benchmarks.config import averages
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.runs.folder import RECORDS
from consistency_bench.benchmarks.training import ema
from consistency_bench.benchmarks.training.checkpoint import snapshot_path
from consistency_bench.methods.parts.options import OptionError

from ..conftest import put, tiny_cell

EXTRA = "train.ema_extra=[{kind: power, sigma_rel: 0.05},{kind: constant, factor: 0.5}]"


def test_half_of_the_average_lies_on_its_half_life() -> None:
    profile = averages.build_profile({"kind": "halflife", "images": 1000})
    for batch in (1, 50, 1000):
        assert profile.beta(7, batch) ** (1000 / batch) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("step", "kept"),
    [  # batch 100, half-life min(1000, 0.05 · images before the step): 0, 5, 10, 995, 1000, 1000
        (1, 0.0),
        (2, 2.0**-20),
        (3, 2.0**-10),
        (200, 2.0 ** (-100 / 995)),
        (201, 2.0**-0.1),
        (5000, 2.0**-0.1),
    ],
)
def test_the_half_life_ramps_up_with_the_images_seen(step: int, kept: float) -> None:
    profile = averages.build_profile({"kind": "halflife", "images": 1000, "rampup": 0.05})
    assert profile.beta(step, 100) == pytest.approx(kept, rel=1e-12)


def test_a_ramp_up_forgets_the_initial_weights() -> None:
    def left(**options: float) -> float:
        profile = averages.build_profile({"kind": "halflife", "images": 44000, **options})
        return math.prod(profile.beta(step, 128) for step in range(1, 689))  # 88,064 images

    assert left() == pytest.approx(0.25, rel=1e-2)
    assert left(rampup=0.05) == 0


def test_the_average_of_all_tensors_at_once_has_the_bits_of_one_after_another() -> None:
    torch.manual_seed(0)
    average, weights = (nn.Sequential(nn.Conv2d(3, 33, 3), nn.BatchNorm2d(33), nn.Linear(33, 7)) for _ in range(2))
    expected = [
        mean.lerp(weight, 1 - 0.9) for mean, weight in zip(average.parameters(), weights.parameters(), strict=True)
    ]
    ema.update(ema.Tensors.of(average), ema.Tensors.of(weights), 0.9)
    assert all(torch.equal(mean, wanted) for mean, wanted in zip(average.parameters(), expected, strict=True))


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.01, 96.9949), (0.05, 16.9722), (0.1, 6.93720)])
def test_the_exponent_of_a_power_average(sigma_rel: float, gamma: float) -> None:
    found = averages.Power(sigma_rel=sigma_rel).gamma
    assert found == pytest.approx(gamma, rel=1e-5)
    assert (found + 1) / ((found + 2) ** 2 * (found + 3)) == pytest.approx(sigma_rel**2)


@pytest.mark.parametrize(("step", "kept"), [(1, 0), (2, 0.004080), (11, 0.469308), (101, 0.924060), (1001, 0.992098)])
def test_what_a_power_average_keeps(step: int, kept: float) -> None:
    assert averages.Power(sigma_rel=0.1).beta(step, 128) == pytest.approx(kept, abs=1e-6)
    assert averages.Power(sigma_rel=0.1, inverted=True).beta(step, 128) == pytest.approx(1 - kept, abs=1e-6)


def test_a_power_average_has_the_spread_it_is_named_after() -> None:
    """sigma_rel is the standard deviation of the weights' times, as a share of the training."""
    steps, profile = 4000, averages.Power(sigma_rel=0.1)
    share = torch.zeros(steps, dtype=torch.float64)
    for step in range(1, steps + 1):
        beta = profile.beta(step, 1)
        share *= beta
        share[step - 1] = 1 - beta
    times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    mean = (share * times).sum()
    assert share.sum().item() == pytest.approx(1)
    assert (share * (times - mean) ** 2).sum().sqrt().item() == pytest.approx(0.1, rel=1e-2)


def test_the_average_is_the_weighted_sum_of_what_was() -> None:
    weights = nn.BatchNorm1d(3)  # parameters and buffers
    average = ema.averaged_copy(weights)
    expected = torch.ones(3)  # where the weights start
    for step in range(1, 6):
        with torch.no_grad():
            weights.weight.fill_(step)
            assert weights.running_mean is not None
            weights.running_mean.fill_(step)
        ema.update(ema.Tensors.of(average), ema.Tensors.of(weights), 0.75)
        expected = 0.75 * expected + 0.25 * step
    assert torch.allclose(average.weight, expected)
    assert torch.equal(average.running_mean, torch.full((3,), 5.0))
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "train.ema.kind is None, must be one of: halflife, constant, power"),
        ({"kind": "swa"}, "train.ema.kind is 'swa', must be one of: halflife, constant, power"),
        ({"kind": "halflife", "images": 0}, "train.ema.images is 0, must be above 0"),
        ({"kind": "halflife"}, "train.ema.images is missing"),
        (
            {"kind": "halflife", "images": 5, "rampup": 0},
            "train.ema.rampup is 0, must be above 0, a share of the images seen, or null",
        ),
        ({"kind": "constant", "factor": 1}, "train.ema.factor is 1, must be from 0 to below 1"),
        ({"kind": "constant", "images": 5}, "unknown key 'train.ema.images'. Available: factor"),
        ({"kind": "power", "sigma_rel": 0.3}, "train.ema.sigma_rel is 0.3, must be above 0 and at most 0.28"),
    ],
)
def test_a_bad_average_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        averages.build_profile(options)
    assert str(caught.value) == message


def test_bad_extra_averages_are_refused() -> None:
    usual, twice = {"kind": "constant", "factor": 0.9}, {"kind": "power", "sigma_rel": 0.1}
    with pytest.raises(OptionError, match=r"^train\.ema_extra has power-0\.1 twice$"):
        averages.build_profiles(usual, [twice, usual, twice])
    with pytest.raises(OptionError, match=r"^train\.ema_extra\[1\]\.kind is 'x', must be one of"):
        averages.build_profiles(usual, [twice, {"kind": "x"}])


def test_an_extra_average_is_the_headline_of_a_run_that_has_it_as_such(tmp_path: Path) -> None:
    """Nor does it change the headline. Snapshots bit for bit, and the numbers of their evaluation."""
    both = tiny_cell("vct", EXTRA)
    folder = put(both, tmp_path / "both")
    run_cell(folder)
    assert len(list((folder / "snapshots").iterdir())) == 2 * 3
    plain = put(tiny_cell("vct"), tmp_path / "plain")
    run_cell(plain)
    other = put(tiny_cell("vct", "train.ema={kind: constant, factor: 0.5}"), tmp_path / "other")
    run_cell(other)
    for images in (1280, 2560):
        assert snapshot_path(folder, images).read_bytes() == snapshot_path(plain, images).read_bytes()
        extra = snapshot_path(folder, images, "constant-0.5")
        assert extra.read_bytes() == snapshot_path(other, images).read_bytes()
        assert extra.read_bytes() != snapshot_path(folder, images).read_bytes()
    headline = [row["value"] for row in read_jsonl(folder / RECORDS)]
    asked = tiny_cell("vct", EXTRA, "eval.ema=constant-0.5")
    assert put(asked, tmp_path / "both") == folder
    run_cell(folder)
    rows = read_jsonl(folder / RECORDS)
    assert [row["value"] for row in rows] == [row["value"] for row in read_jsonl(other / RECORDS)] != headline
    assert all("eval.ema=constant-0.5" in row["variant"] and "constant-0.5" in row["sampler"] for row in rows)
    assert {row["group"] for row in rows} == {asked.config.cell.group} != {both.config.cell.group}
