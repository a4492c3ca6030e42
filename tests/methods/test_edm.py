"""EDM: its loss and its samplers against independent implementations, and a trained model against the exact score."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from consistency_bench.benchmarks.common.seeding import generator
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.data.distributions import Mixture
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.training.model import build_model
from consistency_bench.benchmarks.training.trainer import Trainer
from consistency_bench.methods.loss import draw, loss
from consistency_bench.methods.parts.base import Method
from consistency_bench.methods.parts.options import OptionError
from consistency_bench.methods.parts.process import Denoise, ForwardProcess
from consistency_bench.methods.parts.samplers import Heun

from .conftest import small_model

S = 0.5  # standard deviation of the Gaussian whose probability flow is known


def gaussian(x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
    """E[x | x_σ] of data from N(0, S²)."""
    return x * (S**2 / (S**2 + sigma**2))[:, None]


def counted(denoise: Denoise) -> tuple[Denoise, list[float]]:
    levels: list[float] = []

    def call(x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        levels.append(sigma[0].item())
        return denoise(x, sigma, labels)

    return call, levels


@pytest.fixture
def method(digits: Dataset) -> Method:
    return small_model("edm", digits, "method.process.sigma_max=80").method


def test_the_loss_is_that_of_the_paper(digits: Dataset) -> None:
    """λ(σ) ‖D(x + σ z) - x‖² with c_skip, c_out, c_in, c_noise of table 1, in float64 by numpy."""
    model = small_model("edm", digits, "network.dropout=0")
    x = digits.to_model(digits.images[:16])
    drawn = draw(model.method, x, None, 0.5, generator("test", 1))
    terms = loss(model.method, model.denoiser(), x, None, 0.5, drawn)
    sigma = drawn.t.numpy().astype(np.float64)
    wide = sigma[:, None, None, None]
    noisy = x.numpy().astype(np.float64) + wide * drawn.z.numpy()
    c_in = 1 / np.sqrt(wide**2 + 0.25)
    with torch.no_grad():
        raw = model.network(torch.tensor(c_in * noisy).float(), torch.tensor(np.log(sigma) / 4).float(), None)
    denoised = 0.25 / (wide**2 + 0.25) * noisy + wide * 0.5 / np.sqrt(wide**2 + 0.25) * raw.numpy()
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    expected = (weight * ((denoised - x.numpy()) ** 2).reshape(16, -1).sum(1)).mean()
    assert terms.total.item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(drawn.r, torch.zeros(16))


def test_a_learned_uncertainty_starts_as_edm_and_follows_the_weighted_distance(digits: Dataset) -> None:
    """λ d / exp(u) + u is smallest at u = ln(λ d), where it is 1 + ln(λ d)."""
    models = [small_model("edm", digits, f"method.weight.kind={kind}") for kind in ("snr", "uncertainty")]
    x = digits.to_model(digits.images[:16])
    drawn = draw(models[0].method, x, None, 0.5, generator("test", 1))
    plain, learned = (loss(model.method, model.denoiser(), x, None, 0.5, drawn).total.item() for model in models)
    assert plain == learned
    assert "log_uncertainty.output.weight" in dict(models[1].weights.named_parameters())

    modules, weight = models[1].method.modules, models[1].method.weight
    t = (1.2 * torch.randn(1024, generator=torch.manual_seed(0)) - 1.2).exp()
    weighted = 5 / (1 + t)
    optimizer = torch.optim.Adam(modules.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        total = weight.balanced(weighted, t, modules).mean()
        total.backward()
        optimizer.step()
    assert total.item() == pytest.approx((1 + weighted.log()).mean().item(), abs=1e-3)
    within = modules["log_uncertainty"](t[t.log().abs() < 3]) - weighted[t.log().abs() < 3].log()
    assert within.abs().max() < 0.1


def test_noise_levels_follow_the_published_distribution(method: Method) -> None:
    levels, _ = method.times.sample(100_000, 0.5, generator("test", 0))
    logs = levels.log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.02)
    assert logs.std().item() == pytest.approx(1.2, abs=0.02)


@pytest.mark.parametrize("nfe", [1, 2, 3, 4, 8, 18, 35, 79])
def test_nfe_is_the_number_of_network_calls(method: Method, nfe: int) -> None:
    denoise, levels = counted(gaussian)
    method.sampler(method, denoise, torch.randn(nfe, 3, 2, generator=torch.Generator().manual_seed(0)))
    assert len(levels) == nfe
    assert levels[0] == 80
    assert levels == sorted(levels, reverse=True)


def reference_heun(x: np.ndarray, steps: int, rho: float = 7.0, low: float = 0.002, high: float = 80.0) -> np.ndarray:
    """Algorithm 1 of the paper for the Gaussian, from scratch."""
    t = [(high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(steps)]
    t.append(0.0)
    for i in range(steps):
        d = (x - x * S**2 / (S**2 + t[i] ** 2)) / t[i]
        following = x + (t[i + 1] - t[i]) * d
        if t[i + 1] > 0:
            after = (following - following * S**2 / (S**2 + t[i + 1] ** 2)) / t[i + 1]
            following = x + (t[i + 1] - t[i]) * (d + after) / 2
        x = following
    return x


@pytest.mark.parametrize("steps", [2, 5, 18])
def test_samples_are_those_of_algorithm_1(method: Method, steps: int) -> None:
    noise = torch.randn(2 * steps - 1, 50, 2, generator=torch.Generator().manual_seed(1))
    samples = method.sampler(method, gaussian, noise)
    expected = reference_heun(noise[0].numpy().astype(np.float64) * 80, steps)
    np.testing.assert_allclose(samples.numpy(), expected, rtol=2e-4, atol=1e-6)


def test_one_call_is_the_denoised_image(method: Method) -> None:
    noise = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(1))
    expected = gaussian(noise[0] * 80, torch.full((5,), 80.0))
    torch.testing.assert_close(method.sampler(method, gaussian, noise), expected)


@pytest.mark.parametrize("kind", ["ve", "li"])
def test_the_flow_is_followed_to_second_order(method: Method, kind: str) -> None:
    """On a Gaussian the flow only scales: by S / sqrt(S² + σ_max²), and with the linear process by S alone."""
    process = ForwardProcess(kind=kind, boundary="never", sigma_max=10.0)
    method = replace(method, process=process)

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha = process.alpha(sigma)
        return x * (alpha * S**2 / (alpha**2 * S**2 + sigma**2))[:, None]

    noise = torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(2))
    exact = noise[0].double() * (10 * S / math.hypot(S, 10) if kind == "ve" else S)
    errors = [
        (method.sampler(method, denoise, noise.expand(nfe, -1, -1)) - exact).abs().max().item() for nfe in (15, 31, 63)
    ]
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


def test_an_even_nfe_lies_between_its_neighbours(method: Method) -> None:
    noise = torch.randn(1, 200, 2, generator=torch.Generator().manual_seed(2))
    exact = noise[0].double() * 80 * S / math.hypot(S, 80)
    errors = [
        (method.sampler(method, gaussian, noise.expand(nfe, -1, -1)) - exact).abs().max().item() for nfe in (17, 18, 35)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_churn_keeps_the_distribution_and_changes_the_samples(method: Method) -> None:
    """With the exact score, added noise leaves N(0, S²): the point of algorithm 2."""
    noise = torch.randn(255, 4000, 2, generator=torch.Generator().manual_seed(3))
    churned = replace(method, sampler=Heun(churn=20.0))
    samples = churned.sampler(churned, gaussian, noise)
    assert samples.std().item() == pytest.approx(S, rel=0.03)
    steady = method.sampler(method, gaussian, noise)
    assert (samples - steady).abs().mean() > 0.05


def test_what_contradicts_is_refused(method: Method, digits: Dataset) -> None:
    with pytest.raises(ValueError, match=r"at least 3 with sample\.churn"):
        Heun(churn=1.0).check_nfe(method.times, 2)
    for settings, message in (
        (["method.process.kind=li"], "lognormal_denoising"),
        (["sample.kind=multistep", "sample.sigma_mid=[1]"], "'edm' cannot have"),
        (["sample.rho=0"], "sample.rho is 0"),
        (["sample.churn=-1"], "sample.churn"),
        (["method.coupling.kind=optimal_transport"], "'edm' cannot have method.coupling"),
    ):
        with pytest.raises(OptionError, match=message):
            small_model("edm", digits, *settings)


def posterior_mean(mixture: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
    """E[x | x_σ] of a mixture of round Gaussians in closed form."""
    means, variance = torch.tensor(mixture.means), mixture.std**2
    total = (variance + sigma**2)[:, None]
    weights = (-torch.cdist(x, means).square() / (2 * total)).softmax(1)
    own = means + variance * (x[:, None] - means) / total[..., None]
    return (weights[..., None] * own).sum(1)


@pytest.mark.slow
def test_a_trained_model_approaches_the_exact_score(tmp_path) -> None:
    """On two modes in the plane, where the posterior mean is known: 3 % of the variance is left, 100 % before."""
    (cell,) = compose_cells(["edm"], [0], ["benchmark=toy2d", "train.images=128000", "run.snapshots=1"])
    dataset = load_dataset(cell.config.data)
    exact = dataset.exact
    assert isinstance(exact, Mixture)
    model = build_model(cell.config, dataset, torch.device("cpu"))
    sigma = (-1.2 + 1.2 * torch.randn(4000, generator=torch.Generator().manual_seed(4))).exp()
    x = dataset.images[:4000] + sigma[:, None] * torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))
    best = posterior_mean(exact, x, sigma)

    def error() -> float:
        model.network.eval()
        with torch.no_grad():
            return ((model.denoiser(evaluating=True)(x, sigma, None) - best).square().mean() / best.var()).item()

    before = error()
    Trainer(cell.config, model, tmp_path).train()
    assert before > 0.1
    assert error() < 0.03
