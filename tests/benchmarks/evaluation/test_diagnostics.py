"""Variances by noise level, held against closed forms and brute force; and that measuring changes no training."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from consistency_bench.benchmarks.cli.diagnose import diagnose as command
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_jsonl, write_jsonl
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.evaluation import diagnostics
from consistency_bench.benchmarks.evaluation.diagnostics import (
    Inputs,
    Row,
    Settings,
    TrainingDiagnostics,
    add_rows,
    batch_loss,
    cleaner_levels,
    common_inputs,
    diagnose,
    gradient_estimates,
    measure,
    target_variances,
)
from consistency_bench.benchmarks.evaluation.estimators import (
    Estimate,
    conditional_variance,
    gradient_spread,
    inner_products,
    mean_estimate,
)
from consistency_bench.benchmarks.evaluation.posterior import Points, bank_noise_posterior, posterior_draws
from consistency_bench.benchmarks.training.checkpoint import kept_snapshots
from consistency_bench.benchmarks.training.model import Model, build_model
from consistency_bench.benchmarks.training.trainer import is_due
from consistency_bench.methods.parts.bank import Bank
from consistency_bench.methods.parts.distances import Huber
from consistency_bench.methods.parts.times import KarrasBins

from ..conftest import Bench, put, tiny_cell
from ..training.runs import after, trainer_of

CPU = torch.device("cpu")
HALF = 0.5  # the two points of the closed forms lie at ±HALF on the first axis
QUICK = Settings(bins=4, samples=24, repeats=3)


def model_of(method: str, *settings: str) -> Model:
    config = tiny_cell(method, *settings).config
    return build_model(config, load_dataset(config.data), CPU)


def with_bank(model: Model, images: Tensor, labels: Tensor | None = None) -> Model:
    """The same model on another training set."""
    bank, method = Bank(images, labels), model.method
    if hasattr(method.teacher, "bank"):
        method = dataclasses.replace(method, teacher=dataclasses.replace(method.teacher, bank=bank))
    return dataclasses.replace(model, method=method, bank=bank)


def two_points(model: Model) -> Model:
    return with_bank(model, torch.tensor([[HALF, 0.0], [-HALF, 0.0]]))


class Scaled(nn.Module):
    """F(u) = a u, with the one parameter a."""

    def __init__(self, a: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, u: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        return self.a * u


class Encoder(nn.Module):
    """q(z | x) = N(shift · x, std²)."""

    def __init__(self, shift: float, std: float) -> None:
        super().__init__()
        self.shift, self.std = shift, std

    def forward(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.shift * x, torch.full_like(x, self.std)


def values_of(rows: Sequence[Row], what: str) -> list[float | None]:
    return [row.value for row in rows if row.what == what]


# Estimators


def test_the_spread_of_gradients_is_that_of_the_formulas() -> None:
    gradients = torch.randn(6, 50, dtype=torch.float64) + 1
    spread = gradient_spread(inner_products(list(gradients)))
    variance = np.cov(gradients.numpy().T, ddof=1).trace()
    norm2 = gradients.mean(0).square().sum().item() - variance / 6
    assert spread.variance.value == pytest.approx(variance)
    assert spread.norm2.value == pytest.approx(norm2)
    assert spread.ratio.value == pytest.approx(variance / norm2)


def test_the_spread_of_gradients_is_unbiased_and_knows_its_error() -> None:
    torch.manual_seed(0)
    mean = torch.tensor([3.0, 0.0, -1.0], dtype=torch.float64)
    std = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    spreads = [gradient_spread(inner_products(list(mean + std * torch.randn(8, 3)))) for _ in range(2000)]
    truths = {"variance": 5.25, "norm2": 10.0}
    for name, truth in truths.items():
        found: list[Estimate] = [getattr(spread, name) for spread in spreads]
        values = np.array([estimate.value for estimate in found], float)
        errors = np.array([estimate.error for estimate in found], float)
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
        assert math.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.15)


def test_a_small_variance_beside_a_large_mean_is_not_lost_to_rounding() -> None:
    torch.manual_seed(0)
    noise = 1e-3 * torch.randn(5, 1000)
    variance = gradient_spread(inner_products(list(100 + noise))).variance.value
    assert variance == pytest.approx((100 + noise).double().var(0).sum().item(), rel=1e-3)


def test_a_mean_lost_in_noise_has_no_ratio() -> None:
    spread = gradient_spread(inner_products([torch.tensor([v]) for v in (-1.0, 1.0, -1.0, 1.0)]))
    assert spread.ratio == Estimate(None, None)
    assert spread.norm2.value is not None
    assert spread.norm2.value < 0


def test_gradients_that_are_not_finite_have_no_spread() -> None:
    spread = gradient_spread(inner_products([torch.tensor([1.0, math.nan]), torch.ones(2), torch.ones(2)]))
    assert {spread.variance.value, spread.norm2.value, spread.ratio.value} == {None}


@pytest.mark.parametrize("count", [2, 5])
def test_the_variance_given_a_condition_is_unbiased_for_any_number_of_draws(count: int) -> None:
    torch.manual_seed(0)
    std = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64).repeat(20_000)
    draws = [std[:, None, None] * torch.randn(len(std), 2, 2) for _ in range(count)]
    found = conditional_variance(draws).view(-1, 3)
    for k, truth in enumerate((0.0, 4.0, 36.0)):
        estimate = mean_estimate(found[:, k])
        assert estimate.value is not None
        assert estimate.error is not None
        assert abs(estimate.value - truth) <= 4 * estimate.error


# The posterior over the training set


def test_draws_follow_the_posterior_of_two_points() -> None:
    model = two_points(model_of("ect"))
    x_t = torch.tensor([[0.3, 5.0], [-1.0, 0.0], [0.0, 0.0]])
    t = torch.tensor([0.5, 1.0, 2.0])
    rng = torch.Generator().manual_seed(0)
    draws = posterior_draws(model.method, model.bank, None, Points(x_t, t), 40_000, rng)
    share = (draws == 0).double().mean(0)
    expected = torch.sigmoid(2 * HALF * x_t[:, 0] / t**2).double()
    assert (share - expected).abs().max() < 4 * 0.5 / math.sqrt(40_000)


def test_draws_are_of_the_point_s_own_class() -> None:
    model = with_bank(model_of("ect"), torch.randn(9, 2), torch.arange(9) % 3)
    labels = torch.tensor([0, 1, 2, 0])
    rng = torch.Generator().manual_seed(0)
    points = Points(torch.randn(4, 2), torch.full((4,), 9.0), labels)
    draws = posterior_draws(model.method, model.bank, None, points, 200, rng)
    assert (draws % 3 == labels).all()
    assert len(draws[:, 0].unique()) == 3


# The variance of the target


def expected_variance(t: float, r: float, reach: float, spread: float, gain: float) -> float:
    """The closed form for two points, with Gauss–Hermite quadrature over x_t.

    On the first axis x_t = ±reach + spread ε; p = P(+ | x_t). Images ±HALF give targets that differ by
    gain (1 − r / t) 2 HALF, which is a variance of (gain (1 − r / t) 2 HALF)² p (1 − p).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    p = 1 / (1 + np.exp(-2 * reach * (reach + spread * nodes) / spread**2))
    mean = (weights * p * (1 - p)).sum() / weights.sum()
    return float((gain * (1 - r / t) * 2 * HALF) ** 2 * mean)


def at_level(model: Model, t: float, r: float, samples: int, batch: int = 64) -> Estimate:
    """The target's variance at one level."""
    posterior = bank_noise_posterior(model.method, model.bank)
    inputs = common_inputs(model, ("test",), t, t, samples)
    levels = torch.full((samples,), t)
    inputs = dataclasses.replace(inputs, t=levels)
    with torch.no_grad():
        return mean_estimate(target_variances(model, inputs, torch.full((samples,), r), posterior, batch, ("test",)))


def assert_close_to(estimate: Estimate, truth: float) -> None:
    assert estimate.value is not None
    assert estimate.error is not None
    assert 0 < estimate.error < 0.1 * truth
    assert abs(estimate.value - truth) < 4 * estimate.error


@pytest.mark.parametrize(("t", "r"), [(0.4, 0.0), (0.4, 0.3), (1.5, 1.0)])
def test_the_target_s_variance_on_two_points_is_the_closed_form(t: float, r: float) -> None:
    model = dataclasses.replace(two_points(model_of("ect")), network=Scaled())
    gain = 1.0 if r == 0 else 0.25 / (r**2 + 0.25)  # D = c_skip x, and x itself at r = 0
    assert_close_to(at_level(model, t, r, 8192, 1024), expected_variance(t, r, HALF, t, gain))


@pytest.mark.parametrize(("shift", "std"), [(1.5, 0.8), (0.0, 1.0), (-0.4, 0.6)])
def test_a_learned_coupling_changes_the_posterior_as_its_density_says(shift: float, std: float) -> None:
    t, r = 0.7, 0.4
    model = two_points(model_of("vct"))
    method = dataclasses.replace(model.method, modules=nn.ModuleDict({"encoder": Encoder(shift, std)}))
    model = dataclasses.replace(model, method=method, network=Scaled())
    truth = expected_variance(t, r, HALF * (1 + t * shift), t * std, 0.25 / (r**2 + 0.25))
    assert_close_to(at_level(model, t, r, 8192, 1024), truth)


def test_draws_agree_with_the_whole_posterior() -> None:
    """Every image's target weighted by its posterior, in place of draws, for a network that is not linear."""
    torch.manual_seed(0)
    model = with_bank(model_of("ect"), 0.5 * torch.randn(8, 2))
    t, r, count = 0.6, 0.35, 2048
    inputs = common_inputs(model, ("test",), t, t, count)
    inputs = dataclasses.replace(inputs, t=torch.full((count,), t))
    images = model.bank.images
    with torch.no_grad():
        drawn = target_variances(model, inputs, torch.full((count,), r), None, 256, ("test",))
        x_t = images[inputs.index] + t * inputs.z
        weights = (-(x_t[:, None] - images).square().sum(2) / (2 * t**2)).softmax(1)
        x_r = images + r / t * (x_t[:, None] - images)
        denoise = model.method.process.denoiser(model.network)
        targets = denoise(x_r.flatten(0, 1), torch.full((8 * count,), r), None).view(count, 8, 2)
        mean = (weights[..., None] * targets).sum(1, keepdim=True)
        exact = (weights * (targets - mean).square().sum(2)).sum(1)
    difference = mean_estimate(drawn - exact)
    assert difference.value is not None
    assert difference.error is not None
    assert abs(difference.value) < 4 * difference.error < 0.2 * exact.mean().item()


def test_stable_targets_have_the_less_variance_the_more_references() -> None:
    t, r = 0.8, 0.5
    found = {}
    for references in ("none", "sampled:1", "sampled:4", "sampled:64", "all"):
        model = model_of("sct", f"method.teacher.references={references}")
        found[references] = at_level(model, t, r, 512).value
    found["ect"] = at_level(model_of("ect"), t, r, 512).value
    assert found["none"] == found["sampled:1"] == found["ect"]
    assert found["all"] == 0
    assert found["ect"] > 1.5 * found["sampled:4"] > 3 * found["sampled:64"] > 1e-6


@pytest.mark.parametrize("method", ["ect+ot", "ict+gc"])
def test_a_coupling_without_density_has_no_target_variance_but_the_rest(method: str) -> None:
    for _, _, found in measure(model_of(method), benchmark="toy2d", seed=0, progress=0.5, settings=QUICK):
        assert found["target_variance"] == Estimate(None, None)
        assert found["gradient_variance"].value is not None


# The variance of the gradient


@pytest.mark.parametrize(("t", "a"), [(0.3, 0.4), (2.0, -0.5)])
def test_the_gradient_s_variance_of_a_linear_model_is_the_closed_form(t: float, a: float) -> None:
    """Two points, r = 0, and a Huber distance so wide that it is ‖D − x‖² / 2c.

    With D = γ x_t and γ = c_skip + c_out c_in a the gradient by a is, for one sample,
    (w / c) c_out c_in [(γ − 1) A + (2γ − 1) t x·z + γ t² ‖z‖²] with A = HALF², x·z normal of variance A, ‖z‖² = χ²_2.
    """
    c, samples, repeats = 1e3, 10_000, 1000
    model = dataclasses.replace(two_points(model_of("ect")), network=Scaled(a))
    model = dataclasses.replace(model, method=dataclasses.replace(model.method, distance=Huber(c=c)))
    inputs = dataclasses.replace(common_inputs(model, ("test",), t, t, samples), t=torch.full((samples,), t))
    settings = Settings(samples=samples, repeats=repeats, ratio=0.0)
    r = torch.zeros(samples)
    batches = (
        batch_loss(model, inputs.rows(rows), r[rows], 0.5, ("test", number))
        for number, rows in enumerate(settings.batches)
    )
    found = gradient_estimates(model.network, batches)

    slope = t * 0.5 / (t**2 + 0.25)  # c_out c_in
    gamma = 0.25 / (t**2 + 0.25) + slope * a
    factor, energy = slope / (t * c), HALF**2
    variance = factor**2 * ((2 * gamma - 1) ** 2 * t**2 * energy + 4 * gamma**2 * t**4) / settings.batch
    mean = factor * ((gamma - 1) * energy + 2 * gamma * t**2)
    assert_close_to(found["gradient_variance"], variance)
    assert_close_to(found["gradient_norm2"], mean**2)
    assert_close_to(found["gradient_ratio"], variance / mean**2)
    loss = ((gamma - 1) ** 2 * energy + 2 * gamma**2 * t**2) / (2 * c * t)
    assert_close_to(found["loss"], loss)
    assert_close_to(found["distance"], t * loss)


@pytest.mark.parametrize("method", ["ict", "vct", "sct", "ect+ot"])
def test_gradients_are_those_of_backward_passes(method: str) -> None:
    model = model_of(method)
    (low, high, found), *_ = measure(model, benchmark="toy2d", seed=3, progress=0.5, settings=QUICK)
    inputs = common_inputs(model, ("toy2d", 3, 4, 0), low, high, 24)
    r = cleaner_levels(model, inputs.t, 0.5, None)
    gradients = []
    for number in range(3):
        rows = slice(8 * number, 8 * number + 8)
        terms, _ = batch_loss(model, inputs.rows(rows), r[rows], 0.5, ("toy2d", 3, 4, 0, number))
        model.weights.zero_grad()
        terms.total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.network.parameters() if p.grad is not None]))
    variance = torch.stack(gradients).double().var(0).sum().item()
    assert found["gradient_variance"].value == pytest.approx(variance, rel=1e-4)


def test_the_loss_is_that_of_the_common_inputs() -> None:
    """ECT's distance written out, with the images, times and noise in their places."""
    model = model_of("ect")
    model.network.eval()
    inputs = common_inputs(model, ("test",), 0.5, 5.0, 16)
    r = cleaner_levels(model, inputs.t, 0.5, 0.7)
    terms, loss = batch_loss(model, inputs, r, 0.5, ("test",))
    x = model.bank.images[inputs.index]
    denoise = model.method.process.denoiser(model.network)
    with torch.no_grad():
        student, target = (denoise(x + level[:, None] * inputs.z, level, None) for level in (inputs.t, r))
    distance = (student - target).norm(dim=1)
    torch.testing.assert_close(terms.consistency, distance.mean(), rtol=1e-4, atol=1e-7)
    assert loss.item() == pytest.approx((distance / (inputs.t - r)).mean().item(), rel=1e-4)


def test_the_penalty_of_a_coupling_is_no_part_of_the_loss_by_level() -> None:
    rows = {}
    for weight in (0, 30):
        model = model_of("vct", f"method.coupling.kl_weight={weight}")
        found = list(measure(model, benchmark="toy2d", seed=0, progress=0.5, settings=QUICK))
        rows[weight] = [item["loss"].value for _, _, item in found]
    assert rows[0] == pytest.approx(rows[30], rel=1e-3)


# Equal images, noise and times


def test_all_methods_see_the_same_images_noise_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Inputs]] = {}
    for method in ("ict", "ect", "sct", "vct"):

        def recorded(*arguments: Any, method: str = method) -> Inputs:
            inputs = common_inputs(*arguments)
            seen.setdefault(method, []).append(inputs)
            return inputs

        monkeypatch.setattr(diagnostics, "common_inputs", recorded)
        list(measure(model_of(method), benchmark="toy2d", seed=0, progress=0.5, settings=QUICK))
    for inputs in seen.values():
        for ours, first in zip(inputs, seen["ict"], strict=True):
            for name in ("index", "t", "z"):
                assert torch.equal(getattr(ours, name), getattr(first, name))


def test_one_ratio_serves_all_methods() -> None:
    t = torch.tensor([0.05, 1.0, 50.0])
    for method in ("ict", "ect"):
        torch.testing.assert_close(cleaner_levels(model_of(method), t, 0.5, 0.8), 0.8 * t)
    assert not torch.equal(*(cleaner_levels(model_of(method), t, 0.5, None) for method in ("ict", "ect")))


def test_levels_can_be_those_of_the_noise_that_a_point_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    """On two points ±HALF with q(z | x) = N(2 x, 0.6²) the aggregate has variances 0.36 + 1 and 0.36."""
    seen: dict[str, list[Tensor]] = {"ect": [], "vct": []}
    vct = two_points(model_of("vct"))
    models = {
        "ect": two_points(model_of("ect")),
        "vct": dataclasses.replace(
            vct, method=dataclasses.replace(vct.method, modules=nn.ModuleDict({"encoder": Encoder(2.0, 0.6)}))
        ),
    }
    for method, model in models.items():

        def recorded(*arguments: Any, method: str = method) -> Tensor:
            seen[method].append(arguments[1])
            return cleaner_levels(*arguments)

        monkeypatch.setattr(diagnostics, "cleaner_levels", recorded)
        settings = dataclasses.replace(QUICK, effective=True)
        list(measure(model, benchmark="toy2d", seed=0, progress=0.5, settings=settings))
    scale = math.sqrt((1.36 + 0.36) / 2)
    for plain, learned in zip(seen["ect"][:-1], seen["vct"][:-1], strict=True):
        torch.testing.assert_close(learned * scale, plain)
    assert seen["vct"][-1].max() < 80  # the top bin ends at σ_max, not above it


def test_the_grid_s_rule_between_its_nodes_goes_through_them() -> None:
    times = KarrasBins(total_steps=10)
    for progress in (0.0, 0.4, 0.99):
        grid = times.grid(progress)
        torch.testing.assert_close(times.t_to_r(grid[1:], progress), grid[:-1], rtol=1e-10, atol=1e-14)
        between = (grid[1:-1] * grid[2:]).sqrt()
        assert (times.t_to_r(between, progress) > grid[:-2]).all()
        assert (times.t_to_r(between, progress) < between).all()


# Nothing is changed by it


@pytest.mark.parametrize("method", ["ict", "sct", "vct", "ect+gc"])
def test_a_model_is_left_as_it_was(method: str) -> None:
    model = model_of(method, "network.dropout=0.2")
    model.weights.train()
    before = {name: value.clone() for name, value in model.weights.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    list(measure(model, benchmark="toy2d", seed=0, progress=0.5, settings=QUICK))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.weights.state_dict().items())
    for parameter in model.weights.parameters():
        assert parameter.requires_grad
        assert parameter.grad is None
    assert all(module.training for module in model.weights.modules())


def train(config: RunConfig, folder: Path, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Train with diagnostics every `run.diagnose_every` images."""
    model, every = build_model(config, load_dataset(config.data), CPU), config.run.diagnose_every
    hooks = [TrainingDiagnostics(config, model, folder, every, QUICK)] if every else []
    trainer_of(config, folder, model=model, hooks=hooks).train(should_stop)


@pytest.mark.parametrize("method", ["ict", "sct", "vct", "ect+gc"])
def test_training_is_the_same_bit_for_bit_with_diagnostics(method: str, tmp_path: Path) -> None:
    found = {}
    for every in ("null", "512"):
        config = tiny_cell(method, "network.dropout=0.2", f"run.diagnose_every={every}").config
        train(config, folder := tmp_path / every)
        state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
        found[every] = {
            "snapshots": [path.read_bytes() for path in sorted((folder / "snapshots").iterdir())],
            "log": [
                {k: v for k, v in row.items() if k != "images_per_s"} for row in read_jsonl(folder / "train.jsonl")
            ],
            "moments": [value for entry in state["optimizer"]["state"].values() for value in entry.values()],
        }
    moments = [run.pop("moments") for run in found.values()]
    assert found["null"] == found["512"]
    assert all(torch.equal(one, other) for one, other in zip(*moments, strict=True))
    assert not (tmp_path / "null" / "diagnostics.jsonl").exists()
    rows = read_jsonl(tmp_path / "512" / "diagnostics.jsonl")
    assert {row["images"] for row in rows} == {512, 1024, 1536, 2048, 2560}
    assert {row["weights"] for row in rows} == {"trained"}


def test_an_interrupted_training_ends_with_the_same_diagnostics(tmp_path: Path) -> None:
    config = tiny_cell("vct", "run.diagnose_every=256", "run.checkpoint_seconds=1000").config
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", after(4))
    held = read_jsonl(tmp_path / "parts" / "diagnostics.jsonl")
    assert {row["images"] for row in held} == {256, 512, 768, 1024}
    train(config, tmp_path / "parts")
    assert read_jsonl(tmp_path / "parts" / "diagnostics.jsonl") == read_jsonl(tmp_path / "whole" / "diagnostics.jsonl")


def test_how_often_it_is_due() -> None:
    assert [images for images in range(128, 1400, 128) if is_due(500, images, 128)] == [512, 1024]
    assert [images for images in range(128, 640, 128) if is_due(1, images, 128)] == [128, 256, 384, 512]


# Files and the command


def test_rows_of_the_same_place_are_replaced(tmp_path: Path) -> None:
    row = Row(
        images=1, weights="averaged", ratio=None, bins=1, samples=8, repeats=4, effective=False,
        t_low=0.1, t_high=1.0, what="loss", value=1.0, error=0.1,
    )  # fmt: skip
    others = [dataclasses.replace(row, what="distance"), dataclasses.replace(row, ratio=0.5)]
    add_rows(tmp_path, [row, *others])
    older = [{k: v for k, v in r.items() if k != "effective"} for r in read_jsonl(tmp_path / "diagnostics.jsonl")]
    write_jsonl(tmp_path / "diagnostics.jsonl", older)
    add_rows(tmp_path, [dataclasses.replace(row, value=2.0)])
    rows = read_jsonl(tmp_path / "diagnostics.jsonl")
    assert [(r["what"], r["ratio"], r["value"]) for r in rows] == [
        ("distance", None, 1.0),
        ("loss", None, 2.0),
        ("loss", 0.5, 1.0),
    ]
    assert not (tmp_path / "diagnostics.lock").exists()


def test_rows_hold_plain_numbers_for_every_bin() -> None:
    config = tiny_cell("sct").config
    rows = diagnose(config, model_of("sct"), images=2560, weights="averaged", settings=QUICK)
    whats = {"target_variance", "gradient_variance", "gradient_norm2", "gradient_ratio", "loss", "distance"}
    assert len(rows) == 4 * len(whats)
    assert {row.what for row in rows} == whats
    assert json.loads(json.dumps([dataclasses.asdict(row) for row in rows], allow_nan=False))
    assert all(value is not None and value > 0 for value in values_of(rows, "loss"))
    assert rows == diagnose(config, model_of("sct"), images=2560, weights="averaged", settings=QUICK)


ASKED = ("--bins", "3", "--samples", "24", "--repeats", "3")


@pytest.mark.slow
def test_the_command_adds_rows_once(trained: Path, bench: Bench) -> None:
    done = bench("diagnose", trained, *ASKED)
    assert done.returncode == 0, done.stderr
    assert "target_variance" in done.stdout
    files = sorted(trained.glob("*/*/*/diagnostics.jsonl"))
    assert len(files) == 2
    assert {len(read_jsonl(path)) for path in files} == {3 * 6}
    assert {row["images"] for path in files for row in read_jsonl(path)} == {2560}
    before = [path.read_bytes() for path in files]
    assert bench("diagnose", trained, *ASKED).stdout == "all rows are there already\n"
    done = bench("diagnose", files[0].parent, *ASKED, "--snapshots", "all")
    assert done.returncode == 0
    assert {row["images"] for row in read_jsonl(files[0])} == set(kept_snapshots(files[0].parent)) == {1280, 2560}
    assert files[1].read_bytes() == before[1]


@pytest.mark.slow
def test_a_shared_network_makes_methods_comparable_at_the_same_weights(trained: Path, bench: Bench) -> None:
    donor = next((trained / "toy2d" / "ect").iterdir())
    done = bench("diagnose", trained, *ASKED, "--weights", donor)
    assert done.returncode == 0, done.stderr
    rows = {
        method: {
            (row["what"], row["t_low"]): row["value"]
            for row in read_jsonl(next((trained / "toy2d" / method).glob("*/diagnostics.jsonl")))
            if row["weights"].startswith("shared ")
        }
        for method in ("ect", "vct")
    }
    own = {
        (row["what"], row["t_low"]): row["value"]
        for row in read_jsonl(donor / "diagnostics.jsonl")
        if row["weights"] == "averaged" and row["bins"] == 3 and row["images"] == 2560
    }
    assert rows["ect"].keys() == rows["vct"].keys()
    assert rows["ect"] != rows["vct"]
    assert not own or rows["ect"] == own


@pytest.mark.slow
def test_bad_input_is_one_sentence(trained: Path, tmp_path: Path, bench: Bench) -> None:
    untrained = put(tiny_cell("ict"), tmp_path / "other")
    (tmp_path / "text.safetensors").write_text("no tensors")
    asked: dict[tuple[str, Any], str] = {
        ("repeats", 2): "--repeats is 2",
        ("samples", 100): "--samples is 100",
        ("ratio", 2.0): "--ratio is 2",
        ("weights", "nowhere"): "--weights is nowhere",
        ("weights", str(tmp_path / "text.safetensors")): "not a safetensors file",
        ("weights", str(untrained)): "has no snapshot yet",
    }
    usual = {
        "bins": 3,
        "samples": 24,
        "repeats": 3,
        "weights": "own",
        "ratio": None,
        "effective": False,
        "snapshots": "last",
    }
    for (name, value), complaint in asked.items():
        options = {**usual, "device": "cpu", name: value}
        with pytest.raises(UsageError) as caught:
            command([trained], **options)
        assert complaint in str(caught.value)
    done = bench("diagnose", trained, "--repeats", "2")
    assert done.returncode == 2
    assert done.stderr == "bench: --repeats is 2, must be at least 3 for a variance with an error\n"
    done = bench("diagnose", untrained)
    assert done.returncode == 1
    assert "has no snapshot yet" in done.stderr
