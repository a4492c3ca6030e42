"""What the options of times, couplings and samplers do, and the numbers of the papers behind them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.methods.loss import draw, loss
from consistency_bench.methods.parts.base import Draw, Gaussian, Method
from consistency_bench.methods.parts.couplings import GeneratorAugmented, Independent, OptimalTransport, assign_noise
from consistency_bench.methods.parts.options import OptionError
from consistency_bench.methods.parts.process import Denoise, ForwardProcess, consistency_function
from consistency_bench.methods.parts.samplers import Multistep, Phased, guided
from consistency_bench.methods.parts.teachers import SamePoint
from consistency_bench.methods.parts.times import KarrasBins, LognormalGap
from consistency_bench.methods.parts.variational import Variational, kl_to_standard_normal, posterior_rule
from consistency_bench.methods.parts.weights import InverseGap

from .conftest import small_model
from .helpers import ClosedForm, ClosedFormEncoder, generator, halve, images, method_with, noise

# --- times -----------------------------------------------------------------------------------------------------------


def test_the_paper_s_stage_clock_has_a_longer_last_stage() -> None:
    exact, paper = KarrasBins(), KarrasBins(stage_clock="steps", total_steps=403)
    stages = [paper.stage(k / 403) for k in range(403)]
    assert [stages.count(s) for s in range(8)] == [50] * 7 + [53]
    assert [exact.stage(k / 400) for k in range(400)] == [
        KarrasBins(stage_clock="steps", total_steps=400).stage(k / 400) for k in range(400)
    ]


def test_the_published_ticks_start_stages_one_step_late() -> None:
    times = LognormalGap(stage_clock="ticks", total_steps=200_000)
    assert times.stage(25_000 / 200_000) == 0
    assert times.stage(25_001 / 200_000) == 1
    assert times.stage(50_000 / 200_000) == 1
    assert times.stage(50_001 / 200_000) == 2
    assert times.stage(0.0) == 0


def test_a_first_exponent_of_zero_is_denoising() -> None:
    times = LognormalGap(first_exponent=0)
    t = torch.logspace(-3, 3, 50)
    assert (times.t_to_r(t, 0.0) == 0).all()
    torch.testing.assert_close(times.t_to_r(t, 1 / 8), LognormalGap().t_to_r(t, 0.0))


def test_the_smooth_mapping_has_no_steps_and_the_staircase_s_ends() -> None:
    smooth, stairs, t = LognormalGap(mapping="smooth"), LognormalGap(), torch.tensor([0.1, 1.0, 10.0])
    torch.testing.assert_close(smooth.t_to_r(t, 0.0), stairs.t_to_r(t, 0.0))
    torch.testing.assert_close(smooth.t_to_r(t, 1 - 1e-9), stairs.t_to_r(t, 0.999))
    ratios = torch.stack([smooth.t_to_r(t, u / 1000) / t for u in range(1000)])
    assert (ratios.diff(dim=0) >= 0).all()
    assert ratios.diff(dim=0).max() < 0.01
    assert smooth.last(0.5)[1] == pytest.approx(80 * (1 - 2**-4.5), rel=1e-9)  # 8 sigmoid(-80) is nothing


def test_truncated_times_follow_the_truncated_distribution() -> None:
    whole = LognormalGap().sample(400_000, 0.5, generator())[0]
    cut = LognormalGap(truncate=(0.002, 80)).sample(400_000, 0.5, generator(1))[0]
    assert cut.min() >= 0.002
    assert cut.max() <= 80
    inside = whole[(whole >= 0.002) & (whole <= 80)].log()
    assert cut.log().mean() == pytest.approx(inside.mean().item(), abs=0.015)
    assert cut.log().std() == pytest.approx(inside.std().item(), abs=0.015)


def test_r_min_keeps_r_off_zero_and_below_t() -> None:
    times = LognormalGap(r_min=1e-6)
    t = torch.tensor([1e-7, 1e-3, 1.0])
    r = times.t_to_r(t, 0.0)
    assert (r > 0).all()
    assert (r < t).all()
    assert r[1:].tolist() == pytest.approx([1e-6, 1e-6])


@pytest.mark.parametrize("phases", [1, 2, 4, 8])
@pytest.mark.parametrize("progress", [0.0, 0.5, 0.99])
def test_r_stays_in_its_phase(phases: int, progress: float) -> None:
    times = LognormalGap(phases=phases)
    boundaries = times.phase_boundaries()
    assert boundaries[0] == 0
    assert boundaries[-1] == 80
    assert len(boundaries) == phases + 1
    t, r = times.sample(20_000, progress, generator())
    assert (t > r).all()
    upper = torch.bucketize(t.double(), boundaries).clamp(max=phases)
    assert (r >= boundaries.float()[upper - 1]).all()
    torch.testing.assert_close(times.phase_boundary(t), boundaries.float()[upper - 1])
    # A boundary belongs to the phase below it.
    torch.testing.assert_close(times.phase_boundary(boundaries[1:]), boundaries[:-1])


def test_phase_boundaries_lie_on_the_karras_grid() -> None:
    expected = KarrasBins(s0=4).grid(0.0)
    torch.testing.assert_close(LognormalGap(phases=4).phase_boundaries()[1:], expected[1:])


@pytest.mark.parametrize(("s0", "s1"), [(10, 1280), (10, 1000), (10, 1285), (3, 20), (7, 7), (1, 100)])
@pytest.mark.parametrize("steps", [400, 403, 1000, 999])
def test_the_paper_s_curriculum_formula(s0: int, s1: int, steps: int) -> None:
    """K' = floor(K / (log2(floor(s1 / s0)) + 1)) and N(k) = min(s0 2^floor(k / K'), s1) + 1 nodes (iCT)."""
    times = KarrasBins(s0=s0, s1=s1, stage_clock="steps", total_steps=steps)
    length = math.floor(steps / (math.log2(math.floor(s1 / s0)) + 1))
    for k in range(steps):
        assert len(times.grid(k / steps)) == min(s0 * 2 ** (k // length), s1) + 1


@pytest.mark.parametrize(("s1", "finest"), [(1280, 1280), (1000, 1000), (640, 640), (1279, 1279), (10, 10)])
def test_the_finest_grid_has_s1_intervals(s1: int, finest: int) -> None:
    for clock in ("progress", "steps"):
        times = KarrasBins(s1=s1, stage_clock=clock, total_steps=4000)
        stages = [times.stage(k / 4000) for k in range(4000)]
        assert stages == sorted(stages)
        assert len(times.grid(3999 / 4000)) == finest + 1


@pytest.mark.parametrize("options", [{"q": 9.9, "stages": 6}, {"q": 1000, "stages": 3, "first_exponent": 0}, {"k": 0}])
def test_the_nearest_times_that_are_let_through_are_apart_in_float32(options: dict[str, float]) -> None:
    t, r = LognormalGap(**options).sample(100_000, 0.9999, generator())  # type: ignore[arg-type]
    assert (r < t).all()
    assert torch.isfinite(InverseGap()(t, r)).all()


@pytest.mark.parametrize("method", ["ect", "sct", "vct"])
@pytest.mark.parametrize("sigma_max", [80, 40])
def test_times_of_li_end_where_its_image_does(method: str, sigma_max: int, digits: Dataset) -> None:
    settings = ["method.times.p_mean=4", f"method.process.sigma_max={sigma_max}"]
    li, ve = (small_model(method, digits, *settings, f"method.process.kind={kind}").method for kind in ("li", "ve"))
    t, r = li.times.sample(2000, 0.5, generator())
    assert t.max() == sigma_max
    assert (r < t).all()
    assert (li.process.alpha(t) >= 0).all()
    unbounded, _ = ve.times.sample(2000, 0.5, generator())
    assert torch.equal(t, unbounded.clamp(max=sigma_max))
    assert unbounded.max() > sigma_max


# --- phases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "boundary", "expected"), [(4, 1.5, 0.9375), (4, 1.35, 0.87375), (1.5, 1.5, 2), (4, 0, 0.3)]
)
def test_consistency_function_of_a_phase(t: float, boundary: float, expected: float) -> None:
    """At D = 0.3 and x = 2; the second case lands at 0.9 times the boundary, the last is D itself."""
    arguments = (torch.tensor([value]) for value in (0.3, 2.0, t, boundary))
    assert consistency_function(*arguments).item() == pytest.approx(expected)


def test_a_perfect_phased_model_has_no_loss() -> None:
    """For data at one point every flow is a straight line, so D = 0 is the solution in every phase."""
    method = method_with(times=LognormalGap(phases=4))
    x = torch.zeros(64, 3)
    drawn = draw(method, x, None, 0.4, generator())
    terms = loss(method, lambda x, t, labels: torch.zeros_like(x), x, None, 0.4, drawn)
    assert terms.consistency.item() < 1e-5
    wrong = loss(method, halve, x, None, 0.4, drawn)
    assert wrong.consistency.item() > 1e-2


def test_phased_sampling_goes_from_boundary_to_boundary() -> None:
    levels: list[float] = []

    def zero(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        levels.append(t[0].item())
        return torch.zeros_like(x)

    times = LognormalGap(phases=3)
    method = method_with(times=times, sampler=Phased())
    noise_ = torch.ones(3, 2, 1)
    assert (Phased()(method, zero, noise_) == 0).all()
    boundaries = times.phase_boundaries().tolist()
    assert levels == pytest.approx([boundaries[3], boundaries[2], boundaries[1]])
    levels.clear()
    Phased(eta=0.9)(method, zero, noise_)
    assert levels == pytest.approx([boundaries[3], 0.9 * boundaries[2], 0.9 * boundaries[1]])
    with pytest.raises(ValueError, match="NFE must be 3"):
        Phased()(method, zero, noise_[:2])
    with pytest.raises(ValueError, match=r"sample\.kind=phased"):
        Multistep(sigma_mid=(1.0,))(method, zero, noise_[:2])


# --- guidance, recoupling --------------------------------------------------------------------------------------------


def test_guidance_goes_away_from_the_weaker_model() -> None:
    x, t = torch.tensor([2.0]), torch.tensor([1.0])
    strong, weak = lambda x, t, labels=None: 0.5 * x, lambda x, t, labels=None: 0.25 * x
    assert guided(strong, weak, 1.0)(x, t, None).item() == 1.0
    assert guided(strong, weak, 1.4)(x, t, None).item() == pytest.approx(1.0 + 0.4 * 0.5)


def test_noise_can_be_assigned_again_at_sampling() -> None:
    method = method_with()
    noise_ = torch.randn(2, 16, 3, generator=generator())
    plain, assigned_ = (Multistep(sigma_mid=(2.0,), recouple=how)(method, halve, noise_) for how in ("none", "ot"))
    first = halve(80 * noise_[0], torch.ones(16))
    torch.testing.assert_close(assigned_, halve(first + 2 * assign_noise(first, noise_[1]), torch.ones(16)))
    assert not torch.allclose(plain, assigned_)


# --- couplings -------------------------------------------------------------------------------------------------------


def golden_ect(**parts: object) -> tuple[Method, Draw]:
    method = method_with(**parts)
    t = torch.tensor([0.3, 3.0, 60.0])
    return method, Draw(t=t, r=method.times.t_to_r(t, 3 / 8), z=noise())


def test_transport_in_smaller_batches() -> None:
    x, z = torch.randn(10, 4, generator=generator()), torch.randn(10, 4, generator=generator(1))
    parts = OptimalTransport(batch=4).match(x, z)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        assert torch.equal(parts[rows], assign_noise(x[rows], z[rows]))
    assert torch.equal(OptimalTransport(batch=10).match(x, z), OptimalTransport().match(x, z))


def test_generated_pairs_keep_their_noise() -> None:
    method, drawn = golden_ect(coupling=GeneratorAugmented())
    drawn = replace(drawn, coupled=torch.tensor([True, False, True]), r=torch.tensor([0.0, 2.0, 50.0]))
    calls: list[Tensor] = []

    def predict(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        calls.append(t)
        return x / 2

    pair = method.coupling(method, images(), None, drawn, predict)
    assert pair.z is drawn.z
    assert torch.equal(pair.x[:2], images()[:2])  # r = 0 predicts the image itself; row 1 was not drawn
    torch.testing.assert_close(pair.x[2], (images()[2] + 50 * drawn.z[2]) / 2)
    assert torch.isfinite(calls[0].log()).all()
    assert len(calls) == 1


def test_the_generated_fraction_is_what_it_says() -> None:
    for fraction in (0.0, 0.3, 1.0):
        method = method_with(coupling=GeneratorAugmented(generated_fraction=fraction))
        coupled = draw(method, torch.zeros(50_000, 1), None, 0.5, generator()).coupled
        share = 1.0 if coupled is None else coupled.float().mean().item()
        assert share == pytest.approx(fraction, abs=0.01)


def test_times_and_noise_do_not_depend_on_the_coupling() -> None:
    x = torch.randn(8, 3, generator=generator())
    couplings = (Independent(), Variational(share=0.5), GeneratorAugmented())
    plain, *others = (draw(method_with(coupling=c), x, None, 0.3, generator(9)) for c in couplings)
    for other in others:
        assert torch.equal(plain.t, other.t)
        assert torch.equal(plain.z, other.z)


def test_the_averaged_model_predicts_unless_asked_otherwise() -> None:
    asked: list[str] = []

    def named(name: str) -> Denoise:
        def denoise(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            asked.append(name)
            return x / 2

        return denoise

    for predictor, expected in (("ema", "average"), ("online", "trained")):
        asked.clear()
        method, drawn = golden_ect(coupling=GeneratorAugmented(predictor=predictor))
        loss(method, named("trained"), images(), None, 0.4, drawn, named("average"))
        assert asked == [expected, "trained", "trained"]
    method, drawn = golden_ect(coupling=GeneratorAugmented())
    with pytest.raises(ValueError, match="averaged weights"):
        loss(method, named("trained"), images(), None, 0.4, drawn)


def test_generated_pairs_carry_no_gradient_of_the_prediction() -> None:
    """The gradient is that of the plain loss on the generated images as constants."""
    method, drawn = golden_ect(coupling=GeneratorAugmented(predictor="online"))
    network = ClosedForm()
    denoise = method.process.denoiser(network)
    with torch.no_grad():
        generated = method.coupling(method, images(), None, drawn, denoise).x
    gradients = []
    for coupling, x in ((method.coupling, images()), (Independent(), generated)):
        network.zero_grad()
        loss(replace(method, coupling=coupling), denoise, x, None, 3 / 8, drawn).total.backward()
        assert network.a.grad is not None
        gradients.append(network.a.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.parametrize(("progress", "intervals"), [(0, 1), (0.25, 75), (0.5, 106), (1, 150)])
def test_the_grids_of_consistency_training(progress: float, intervals: int) -> None:
    """ceil(sqrt(u (151² - 2²) + 2²)) nodes: sqrt(5703.25) = 75.5, sqrt(11402.5) = 106.8."""
    times = KarrasBins(s0=2, s1=150, scales="baseline", index="uniform")
    assert len(times.grid(progress)) == intervals + 1
    assert times.probabilities(progress).tolist() == pytest.approx([1 / intervals] * intervals)
    assert len(replace(times, scales="none").grid(progress)) == 151


@pytest.mark.parametrize("index", ["uniform", "lognormal"])
def test_intervals_are_drawn_with_their_probabilities(index: str) -> None:
    times, count = KarrasBins(s0=4, s1=8, index=index), 40_000
    t, _ = times.sample(count, 0.0, torch.Generator().manual_seed(0))
    drawn = torch.bucketize(t, times.grid(0.0)[1:].float()).bincount(minlength=4) / count
    torch.testing.assert_close(drawn.double(), times.probabilities(0.0), atol=0.01, rtol=0)


def vct(**options: object) -> tuple[Method, Draw]:
    coupling = Variational(**options)  # type: ignore[arg-type]
    return golden_ect(coupling=coupling, modules=nn.ModuleDict({"encoder": ClosedFormEncoder()}))


@pytest.mark.parametrize(
    ("rule", "expected"), [("learned", 0.6), ("fixed:0.09", 0.3), ("fixed:1", 1.0), ("scaled:0.25", 0.3)]
)
def test_encoder_variance(rule: str, expected: float) -> None:
    """The rules name variances; the encoder returns, and the posterior holds, standard deviations."""
    mean = torch.full((2, 3), 7.0)
    posterior = posterior_rule(rule)(Gaussian(mean=mean, std=torch.full((2, 3), 0.6)))
    torch.testing.assert_close(posterior.std, torch.full((2, 3), expected))
    assert torch.equal(posterior.mean, mean)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e3])
@pytest.mark.parametrize("variance", [0.09, 0.5, 1.0])
def test_a_matched_variance_keeps_the_second_moment_and_fixes_the_kl(variance: float, scale: float) -> None:
    """Mean square and variance add up to 1 in each sample, so that the KL is -ln(v) / 2 per element."""
    mean = scale * torch.randn(4, 2, 3, 5, generator=generator(), dtype=torch.float64)
    posterior = posterior_rule(f"matched:{variance}")(Gaussian(mean=mean, std=torch.ones_like(mean)))
    second = (posterior.mean**2 + posterior.std**2).flatten(1).mean(1)
    torch.testing.assert_close(second, torch.ones_like(second))
    kl = torch.full_like(second, -30 / 2 * math.log(variance))
    torch.testing.assert_close(kl_to_standard_normal(posterior), kl)
    if variance < 1:  # the direction is the encoder's
        cosine = nn.functional.cosine_similarity(posterior.mean.flatten(1), mean.flatten(1))
        torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_an_encoder_without_a_mean_has_a_finite_matched_distribution() -> None:
    mean = torch.zeros(2, 3, requires_grad=True)
    posterior = posterior_rule("matched:0.5")(Gaussian(mean=mean, std=torch.ones(2, 3)))
    posterior.mean.sum().backward()
    assert mean.grad is not None
    assert torch.isfinite(posterior.mean).all()
    assert torch.isfinite(mean.grad).all()


@pytest.mark.parametrize(
    "rule",
    ["", "fix:1", "fixed", "fixed:", "fixed:0", "fixed:-1", "fixed:nan", "scaled:inf", "matched:0", "matched:1.1"],
)
def test_bad_encoder_variance(rule: str) -> None:
    with pytest.raises(ValueError, match=r"must be one of: learned, fixed:<variance>, scaled:<factor>.*matched:"):
        Variational(encoder_variance=rule)


def test_a_fixed_variance_enters_noise_and_kl() -> None:
    method, drawn = vct(encoder_variance="fixed:0.09")
    pair = method.coupling(method, images(), None, drawn, halve)
    mean, _ = ClosedFormEncoder()(images())
    torch.testing.assert_close(pair.z, mean + 0.3 * drawn.z)
    elements = 0.5 * (0.09 + mean**2 - 1) - math.log(0.3)
    torch.testing.assert_close(pair.penalty, elements.flatten(1).sum(1))


def test_uncoupled_rows_keep_their_noise_and_pay_nothing() -> None:
    method, drawn = vct(share=0.5)
    drawn = replace(drawn, coupled=torch.tensor([True, False, True]))
    pair = method.coupling(method, images(), None, drawn, halve)
    assert torch.equal(pair.z[1], drawn.z[1])
    assert not torch.equal(pair.z[0], drawn.z[0])
    assert pair.penalty[1] == 0
    assert (pair.penalty[[0, 2]] > 0).all()


def test_without_coupled_rows_the_encoder_is_not_used_in_sampling(digits: Dataset) -> None:
    noise_ = torch.randn(2, 16, 1, 8, 8, generator=generator())
    samples = {}
    for name, settings in {
        "none": ["method.coupling.share=0", "sample.recouple=none"],
        "learned": ["method.coupling.share=0"],
        "trained": [],
    }.items():
        model = small_model("vct", digits, *settings).averaged()
        samples[name] = model.method.sampler(model.method, model.denoiser(evaluating=True), noise_)
    assert torch.equal(samples["learned"], samples["none"])
    assert not torch.equal(samples["trained"], samples["none"])


def test_without_coupled_rows_vct_is_ect_bit_for_bit(digits: Dataset) -> None:
    """With dropout: the encoder, which nothing would train, is not run and draws no mask."""
    x, gradients = digits.to_model(digits.images[:32]), []
    for name, settings in (("ect", []), ("vct", ["method.coupling.share=0"])):
        model = small_model(name, digits, *settings)
        drawn = draw(model.method, x, None, 0.4, generator())
        torch.manual_seed(1)
        terms = loss(model.method, model.denoiser(), x, None, 0.4, drawn)
        terms.total.backward()
        assert terms.penalty == 0
        gradients.append(torch.cat([p.grad.flatten() for p in model.network.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


def test_the_kl_warms_up() -> None:
    method, _ = vct(kl_schedule="constant", kl_warmup=0.25)
    weights = [method.coupling.penalty_weight(method.times, method.weight, u) for u in (0, 0.125, 0.25, 0.9)]
    assert weights == pytest.approx([0, 5, 10, 10])


def test_the_encoder_gets_gradient_without_a_kl_weight() -> None:
    method, drawn = vct(kl_weight=0)
    loss(method, method.process.denoiser(ClosedForm()), images(), None, 3 / 8, drawn).total.backward()
    encoder = method.modules["encoder"]
    assert isinstance(encoder, ClosedFormEncoder)
    assert encoder.m.grad is not None
    assert encoder.m.grad.abs() > 0


def test_teacher_without_the_student_s_dropout() -> None:
    drop = nn.Dropout(0.5)
    masks: list[Tensor] = []
    for shared in (True, False):
        method, drawn = golden_ect(teacher=SamePoint(shared_dropout=shared))
        masks.clear()

        def denoise(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            masks.append(drop(torch.ones_like(x)))
            return x * masks[-1]

        loss(method, denoise, images(), None, 3 / 8, drawn)
        assert torch.equal(*masks) is shared


def test_the_time_input_of_the_imagenet_code() -> None:
    seen: list[Tensor] = []

    def network(u: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(c_noise)
        return u

    t = torch.tensor([0.5, 80.0])
    for form in ("quarter_log", "thousand_log"):
        ForwardProcess(time_input=form).denoiser(network)(torch.zeros(2, 1), t, None)
    torch.testing.assert_close(seen[0], t.log() / 4)
    torch.testing.assert_close(seen[1], 1000 * t.log() / 4)


# --- what goes together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "reason"),
    [
        ("sct+vc", ["method.coupling.share=0.5"], "needs method.coupling.share=1"),
        ("sct+vc", ["method.teacher.references=sampled:8"], "references=batch"),
        ("ect+gc", ["method.times.phases=4"], "needs method.times.phases=1"),
        ("sct+gc", [], "no conditional density"),
        ("ect", ["sample.kind=ddim"], "sample.kind is 'ddim', must be one of: multistep, phased"),
        (
            "ect",
            ["method.process.kind=li", "method.times.t_max=100"],
            "method.times.t_max goes to 100, must be at most sigma_max of the process, 10",
        ),
        (
            "vct",
            ["method.process.kind=li", "method.times.truncate=[0.002,90]"],
            "method.times.truncate goes to 90, must",
        ),
        ("ect", ["method.process.kind=li", "method.times.sigma_max=90"], "method.times.sigma_max goes to 90, must"),
        (
            "ict",
            ["method.process.kind=li", "method.times.sigma_max=90"],
            "method.times.sigma_max is 90, must be at most",
        ),
        (
            "vct",
            ["method.process.kind=li", "sample.sigma_mid=[100]"],
            r"sample.sigma_mid is \[100.0\], must be levels of at most sigma_max of the process, 10",
        ),
        (
            "ict",
            ["method.process.eval_shift=0.003"],
            "method.process.eval_shift is 0.003, must be 0 with boundary=always",
        ),
        (
            "ect",
            ["sample.recouple=learned"],
            "sample.recouple is 'learned', must be one of: none, ot, as 'ect' learns no",
        ),
        ("ict+ot", ["sample.recouple=learned"], "as 'ict\\+ot' learns no noise posterior"),
    ],
)
def test_what_cannot_be_together_is_refused_with_its_reason(
    method: str, settings: list[str], reason: str, digits: Dataset
) -> None:
    with pytest.raises(OptionError, match=reason):
        small_model(method, digits, *settings)
