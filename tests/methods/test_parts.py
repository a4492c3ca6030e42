"""Closed-form numbers of the papers' formulas (float64, derived independently of this code)."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from consistency_bench.methods.parts.bank import Bank, all_references
from consistency_bench.methods.parts.base import Draw, Gaussian, Pair
from consistency_bench.methods.parts.couplings import OptimalTransport
from consistency_bench.methods.parts.distances import Huber, HuberElementwiseMean, HuberElementwiseSum, paper_c
from consistency_bench.methods.parts.options import OptionError, part_from_options
from consistency_bench.methods.parts.posterior import log_likelihood
from consistency_bench.methods.parts.process import ForwardProcess
from consistency_bench.methods.parts.samplers import Multistep
from consistency_bench.methods.parts.teachers import PosteriorMean
from consistency_bench.methods.parts.times import KarrasBins, LognormalGap
from consistency_bench.methods.parts.variational import Variational, kl_to_standard_normal
from consistency_bench.methods.parts.weights import InverseGap, Snr

from .helpers import method_with


def levels(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: torch.Tensor, *expected: float, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, levels(*expected), rtol=rtol, atol=1e-12)


# --- times -----------------------------------------------------------------------------------------------------------


def test_karras_grid_and_probabilities_of_the_first_stage() -> None:
    times = KarrasBins()
    grid = [0.002, 0.0167208, 0.0850872, 0.318283, 0.965417, 2.51522, 5.83895, 12.3816, 24.4083, 45.3137, 80]
    close(times.grid(0.0), *grid)
    expected = [0.062633, 0.181737, 0.245501, 0.213494, 0.142446, 0.080605, 0.041080, 0.019580, 0.008944, 0.003980]
    close(times.probabilities(0.0), *expected, rtol=2e-4)
    weights = [67.9313, 14.6271, 4.28824, 1.54528, 0.645244, 0.300867, 0.152844, 0.0831479, 0.0478345, 0.0288299]
    close(InverseGap()(times.grid(0.0)[1:], times.grid(0.0)[:-1]), *weights)


def test_karras_probabilities_of_the_last_stage() -> None:
    times = KarrasBins()
    grid, probabilities = times.grid(0.9999), times.probabilities(0.9999)
    assert len(grid) == 1281
    assert probabilities.argmax() == 329
    assert probabilities.max().item() == pytest.approx(0.0019557, rel=1e-4)
    assert grid[329].item() == pytest.approx(0.186089, rel=1e-5)
    assert probabilities[grid[:-1] > 10].sum().item() == pytest.approx(0.0415, abs=5e-5)
    assert grid[492].item() == pytest.approx(0.820867, rel=1e-6)
    assert grid[571].item() == pytest.approx(1.525766, rel=1e-6)


@pytest.mark.parametrize("stage", range(8))
def test_karras_curriculum_doubles_and_weights_grow(stage: int) -> None:
    times = KarrasBins()
    progress = stage / 8
    assert times.stage(progress) == stage
    assert times.stage(progress + 0.1249) == stage
    assert len(times.grid(progress)) == 10 * 2**stage + 1
    expected_weight = [8.4, 17.5, 35.2, 70.5, 141, 282, 565, 1129][stage]
    grid, probabilities = times.grid(progress), times.probabilities(progress)
    assert (probabilities * InverseGap()(grid[1:], grid[:-1])).sum().item() == pytest.approx(expected_weight, rel=5e-3)
    assert times.last(progress) == (grid[-1].item(), grid[-2].item())


@pytest.mark.parametrize("n", [1, 7, 128])
def test_intervals_of_the_grid_are_those_that_multinomial_draws(n: int) -> None:
    times = KarrasBins()
    for progress in (0.0, 0.4, 0.99):
        grid, probabilities = times.grid(progress), times.probabilities(progress)
        for seed in range(20):
            t, r = times.sample(n, progress, torch.Generator().manual_seed(seed))
            index = torch.multinomial(probabilities, n, replacement=True, generator=torch.Generator().manual_seed(seed))
            assert torch.equal(t, grid[index + 1].float())
            assert torch.equal(r, grid[index].float())


def test_karras_indices_follow_their_probabilities() -> None:
    times, generator = KarrasBins(), torch.Generator().manual_seed(0)
    t, _ = times.sample(200_000, 0.0, generator)
    counts = torch.stack([(t == node).sum() for node in times.grid(0.0)[1:].float()])
    assert counts.sum() == 200_000
    torch.testing.assert_close(counts / 200_000, times.probabilities(0.0).float(), rtol=0, atol=5 * 0.5 / 200_000**0.5)


@pytest.mark.parametrize(
    ("q", "stage", "ratios"),
    [
        (2, 0, (0, 0, 0.499818)),
        (2, 1, (0, 0.129949, 0.749909)),
        (4, 0, (0, 0.129949, 0.749909)),
        (2, 2, (0.377500, 0.564974, 0.874955)),
        (2, 3, (0.688750, 0.782487, 0.937477)),
        (4, 2, (0.922187, 0.945622, 0.984369)),
        (2, 7, (0.980547, 0.986405, 0.996092)),
        (256, 0, (0.980547, 0.986405, 0.996092)),
    ],
)
def test_ect_map(q: float, stage: int, ratios: tuple[float, ...]) -> None:
    stages = {2: 8, 4: 4, 256: 1}[q]
    times = LognormalGap(q=q, stages=stages)
    t = levels(0.01, 0.8, 10)
    close(times.t_to_r(t, stage / stages) / t, *ratios, rtol=2e-5)


def test_ect_constant_mapping_and_last_interval() -> None:
    times = LognormalGap(mapping="const")
    close(times.t_to_r(levels(0.01, 10), 0.0), 0.005, 5)
    for stage, expected in enumerate([0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2]):
        t, r = LognormalGap().last(stage / 8)
        assert t == 80
        assert 1 / (t - r) == pytest.approx(expected, rel=1e-9)


def test_ect_share_of_denoising_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    for (mean, std), stage, expected in [((-1.1, 2), 0, 0.8113), ((-1.1, 2), 1, 0.5848), ((-0.8, 1.6), 0, 0.8202)]:
        _, r = LognormalGap(p_mean=mean, p_std=std).sample(400_000, stage / 8, generator)
        assert (r == 0).float().mean().item() == pytest.approx(expected, abs=3e-3)


def test_t_max_clamps() -> None:
    t, r = LognormalGap(p_mean=4, t_max=80).sample(1000, 0.5, torch.Generator().manual_seed(0))
    assert t.max() == 80
    assert (r < t).all()


# --- forward processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("process", "offset", "sigma", "expected"),
    [
        (ForwardProcess(), 0.002, 0.5, (0.502004, 0.352139, 1.414214)),
        (ForwardProcess(), 0.002, 0.821, (0.2715145, 0.4259987, 1.0402899)),
        (ForwardProcess(), 0.0, 0.821, (0.2705508, 0.4270390, 1.0402899)),
        (ForwardProcess(), 0.003, 0.821, (0.271998, 0.425479, 1.0402899)),
        (ForwardProcess(), 0.002, 80, (3.90629e-5, 0.499978, 0.0124998)),
        (ForwardProcess(), 0.0, 80, (3.90610e-5, 0.499990, 0.0124998)),
        (ForwardProcess(), 0.003, 80, (3.90639e-5, 0.499971, 0.0124998)),
        (ForwardProcess(kind="li"), 0.002, 0.821, (0.2702295, 0.4271803, 1.0431754)),
        (ForwardProcess(kind="li"), 0.0, 0.821, (0.2692618, 0.4282235, 1.0431754)),
        (ForwardProcess(kind="li"), 0.003, 0.821, (0.2707150, 0.4266587, 1.0431754)),
        (ForwardProcess(kind="li"), 0.002, 80, (0, 0.4999875, 0.0125)),
    ],
)
def test_preconditioning(process: ForwardProcess, offset: float, sigma: float, expected: tuple[float, ...]) -> None:
    close(torch.cat(process.precondition(levels(sigma), offset)), *expected, rtol=5e-6)  # the table has six digits


@pytest.mark.parametrize("kind", ["ve", "li"])
def test_boundary_condition(kind: str) -> None:
    process = ForwardProcess(kind=kind)
    x = torch.randn(4, 3, 2, 2)
    denoise = process.denoiser(lambda u, c, labels: torch.randn_like(u))
    torch.testing.assert_close(denoise(x, torch.full((4,), 0.002), None), x, rtol=1e-6, atol=1e-6)


def test_shift_is_for_evaluation_alone() -> None:
    process = ForwardProcess(boundary="never", eval_shift=0.003)
    x, t = torch.ones(1, 1), torch.tensor([0.821])
    outputs = [
        process.denoiser(lambda u, c, labels: torch.ones_like(u), evaluating=e)(x, t, None) for e in (False, True)
    ]
    assert outputs[0].item() == pytest.approx(0.270551 + 0.427039, abs=2e-6)
    assert outputs[1].item() == pytest.approx(0.271998 + 0.425479, abs=2e-6)


def test_li_reaches_pure_noise() -> None:
    z = torch.randn(3, 2)
    assert torch.equal(ForwardProcess(kind="li").perturb(torch.randn(3, 2), torch.full((3,), 80.0), z), 80 * z)


# --- distances and weights -------------------------------------------------------------------------------------------


def test_paper_constant() -> None:
    for shape, c in [((3, 32, 32), 0.0299298), ((3, 64, 64), 0.0598597), ((1, 28, 28), 0.01512)]:
        assert paper_c(torch.empty(1, *shape)) == pytest.approx(c, rel=2e-5)


def test_huber_is_over_the_whole_image() -> None:
    a, b = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    norm = 0.5 * math.sqrt(12)
    assert Huber(c=norm)(a, b).item() == pytest.approx(norm * (math.sqrt(2) - 1))
    assert Huber(c=1e-8)(a, b).item() == pytest.approx(norm)
    element = math.sqrt(0.25 + 0.01) - 0.1
    assert HuberElementwiseSum(c=0.1)(a, b).item() == pytest.approx(12 * element)
    assert HuberElementwiseMean(c=0.1)(a, b).item() == pytest.approx(element)


@pytest.mark.parametrize("distance", [Huber(c=0), Huber(c=1e-8), Huber(), HuberElementwiseSum(c=0)])
def test_an_exact_match_has_no_gradient_and_no_nan(distance: Huber) -> None:
    student = torch.ones(2, 4, requires_grad=True)
    value = distance(student, torch.ones(2, 4))
    value.sum().backward()
    assert torch.equal(value.detach(), torch.zeros(2))
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros(2, 4))


def test_weights() -> None:
    t = levels(0.01, 0.5, 1, 80)
    close(Snr()(t, t / 2), 10004, 8, 5, 4.00015625)
    close(InverseGap()(t, t / 2), 200, 4, 2, 0.025)


# --- couplings -------------------------------------------------------------------------------------------------------


def test_kl() -> None:
    posterior = Gaussian(mean=levels(0, 0.5, 0)[:, None], std=levels(1, 0.8, math.log(2))[:, None])
    close(kl_to_standard_normal(posterior), 0, 0.1681436, 0.1067394)
    image = Gaussian(mean=torch.zeros(1, 3, 32, 32), std=torch.full((1, 3, 32, 32), math.log(2)))
    assert kl_to_standard_normal(image).item() == pytest.approx(327.90, abs=0.01)


@pytest.mark.parametrize("stage", range(8))
def test_kl_weight_follows_the_stage(stage: int) -> None:
    progress = stage / 8
    ict = [0.02883, 0.05143, 0.09708, 0.18859, 0.37173, 0.73804, 1.47070, 2.93603][stage]
    coupling = Variational(kl_weight=30)
    assert coupling.penalty_weight(KarrasBins(), InverseGap(), progress) == pytest.approx(30 * ict, rel=2e-4)
    assert coupling.penalty_weight(LognormalGap(), InverseGap(), progress) == pytest.approx(30 * 0.025 * 2**stage)
    assert coupling.penalty_weight(LognormalGap(), Snr(), progress) == 30
    fixed = Variational(kl_weight=30, kl_schedule="constant")
    assert fixed.penalty_weight(LognormalGap(), InverseGap(), progress) == 30


def test_transport_is_the_best_permutation_and_leaves_images_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    x, z = torch.randn(6, 2, generator=generator), torch.randn(6, 2, generator=generator)
    coupling = OptimalTransport()
    matched = coupling.match(x, z)
    assert sorted(map(tuple, matched.tolist())) == sorted(map(tuple, z.tolist()))

    def cost(noise: torch.Tensor) -> float:
        return (x - 80 * noise).square().sum().item()

    best = min(cost(z[list(order)]) for order in permutations(range(6)))
    assert cost(matched) == pytest.approx(best)
    labels = torch.arange(6)
    draw = Draw(t=torch.ones(6), r=torch.zeros(6), z=matched)
    pair = coupling(method_with(), x, labels, draw, lambda x, t, labels: x)
    assert pair.x is x
    assert pair.labels is labels


# --- the teacher of SCT ----------------------------------------------------------------------------------------------


def test_posterior_weights_and_step() -> None:
    bank = Bank(images=levels(0, 1, -1, 0.5)[:, None])
    references, teacher = all_references(bank), PosteriorMean(references="all", bank=bank)
    method, x_t = method_with(teacher=teacher), levels(0.7)[:, None]
    cases = [
        (1.0, 0.5, (0.264906, 0.323557, 0.079788, 0.331748), 0.409643, 0.554822),
        (2.0, 1.0, (0.259744, 0.273061, 0.192423, 0.274773), 0.218025, 0.459012),
    ]
    for t, r, weights, mean, point in cases:
        close(log_likelihood(method.process, x_t, levels(t), bank).softmax(1)[0], *weights, rtol=4e-6)
        pair = Pair(x=levels(0)[:, None], z=x_t / t, labels=None, penalty=levels(0))
        at_r = teacher(method, pair, x_t, Draw(t=levels(t), r=levels(r), z=pair.z, references=references))
        at_0 = teacher(method, pair, x_t, Draw(t=levels(t), r=levels(0), z=pair.z, references=references))
        close(at_r.flatten(), point, rtol=4e-6)
        close(at_0.flatten(), mean, rtol=4e-6)  # at r = 0 the target is the estimate, not the image


def test_learned_noise_of_unit_variance_gives_the_plain_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = Bank(images=torch.randn(5, 3, generator=generator))
    x_t, t = torch.randn(4, 3, generator=generator), torch.tensor([0.3, 1.0, 4.0, 20.0])

    class Standard(nn.Module):
        def forward(self, x: torch.Tensor, labels: None = None) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros_like(x), torch.ones_like(x)

    plain = method_with()
    learned = replace(plain, coupling=Variational(), modules=nn.ModuleDict({"encoder": Standard()}))
    posterior = learned.coupling.noise_posterior(bank.images, None, learned.modules)
    one, other = (
        log_likelihood(m.process, x_t, t, bank, None, g).softmax(1) for m, g in ((plain, None), (learned, posterior))
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


# --- the sampler -----------------------------------------------------------------------------------------------------


def test_sampling_steps() -> None:
    """With D(x, t) = x / 2 every step can be followed by hand."""
    noise = torch.full((2, 1, 1), 0.5, dtype=torch.float32)
    calls: list[float] = []

    def halve(x: torch.Tensor, t: torch.Tensor, labels: None = None) -> torch.Tensor:
        calls.append(t.item())
        return x / 2

    method = method_with()
    assert Multistep()(method, halve, noise[:1]).item() == 20.0
    two = Multistep(sigma_mid=(0.8,))(method, halve, noise).item()
    assert two == pytest.approx((20 + 0.8 * 0.5) / 2)
    ict = Multistep(sigma_mid=(0.8,), renoise="sqrt_diff")(method, halve, noise).item()
    assert ict == pytest.approx((20 + math.sqrt(0.8**2 - 0.002**2) * 0.5) / 2)
    assert calls == pytest.approx([80, 80, 0.8, 80, 0.8])


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (
            ForwardProcess,
            {"sigma": 1},
            "unknown key 'method.part.sigma'. Did you mean: method.part.sigma_min, method.part.sigma_max, ",
        ),
        (ForwardProcess, {"sigma_min": "a"}, "method.part.sigma_min is 'a', must be a number"),
        (ForwardProcess, {"sigma_min": float("nan")}, "must be a number"),
        (ForwardProcess, {"sigma_min": 90}, "must be 0 < min < max"),
        (KarrasBins, {"s0": 2.5}, "must be a whole number"),
        (KarrasBins, {"s0": True}, "must be a whole number"),
        (KarrasBins, {"rho": 0}, "rho is 0, must be from 0.1 to 1000"),
        (KarrasBins, {"rho": -7}, "rho is -7, must be from 0.1 to 1000"),
        (KarrasBins, {"s1": 10**7}, "must be 1 <= s0 <= s1 <= 1000000"),
        (KarrasBins, {"s1": 10**6, "rho": 0.5}, "s1 = 1000000: with rho = 0.5, float32 can hardly tell the neighbours"),
        (LognormalGap, {"k": -4}, "k is -4, must be at least 0"),
        (LognormalGap, {"q": 256}, "q^-8 must be at least 1e-06"),
        (LognormalGap, {"q": 4, "stages": 16}, "q^-16 must be"),
        (LognormalGap, {"q": 256, "stages": 8, "mapping": "smooth"}, "q^-8 must be"),
        (PosteriorMean, {"bank": 1}, "unknown key"),
        (Multistep, {"sigma_mid": 3}, "must be a list in square brackets"),
        (Multistep, {"sigma_mid": [1, 2]}, "noisiest first"),
        (Variational, {"kl_weight": -1}, "must be at least 0"),
    ],
)
def test_bad_options_say_what_is_wrong(part: type, options: dict, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        part_from_options(part, options, "method.part")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.dictionaries(
        st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.floats() | st.text(), max_size=4
    )
)
def test_options_never_fail_otherwise(options: dict) -> None:
    for part in (ForwardProcess, KarrasBins, LognormalGap, Huber, Snr, Variational, PosteriorMean, Multistep):
        with contextlib.suppress(OptionError):
            part_from_options(part, options, "x")
