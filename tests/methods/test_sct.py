"""SCT's target: golden values, unbiasedness, which references are read, and what the options do."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from consistency_bench.methods.loss import draw, loss
from consistency_bench.methods.parts.bank import Bank, all_references
from consistency_bench.methods.parts.base import Draw, Method, Pair
from consistency_bench.methods.parts.distances import Huber
from consistency_bench.methods.parts.posterior import PosteriorEstimate, log_likelihood, reference_noise_posterior
from consistency_bench.methods.parts.process import ForwardProcess
from consistency_bench.methods.parts.teachers import PosteriorMean, SamePoint
from consistency_bench.methods.parts.times import LognormalGap
from consistency_bench.methods.parts.variational import Variational
from consistency_bench.methods.parts.weights import InverseGap, Snr

from .helpers import ClosedForm, generator, images, method_with, noise


def sct(bank: Bank | None = None, process: ForwardProcess | None = None, **options: object) -> Method:
    teacher = PosteriorMean(bank=bank, **options)  # type: ignore[arg-type]
    return method_with(teacher=teacher, process=process or ForwardProcess(boundary="never"))


def ect_like(method: Method) -> Method:
    return replace(method, teacher=SamePoint())


def blobs(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed)) * 0.5


GAP = InverseGap()
GOLDEN = [
    # t; stage, q, stages, c, weight; own weights; loss, mean distance, gradients of a and b (float64, derived)
    ((1, 3, 20), 3, 2, 8, 1e-8, GAP, (0.983185, 0.453525, 0.335006), (0.785587, 0.166034, -2.736953, -4.591496)),
    ((0.05, 1, 20), 0, 2, 8, 1e-8, GAP, (1, 0.955484, 0.335006), (2.872251, 1.178555, 0.699122, 1.088265)),
    ((0.3, 3, 60), 3, 2, 8, 1e-8, GAP, (1, 0.453525, 0.332937), (1.674922, 0.158899, -3.312145, -4.672980)),
    ((0.3, 3, 60), 3, 4, 4, 0.06, Snr(), (1, 0.453525, 0.332937), (0.0255143, 0.00171390, -0.999943, -1.476574)),
]


@pytest.mark.parametrize(("t", "stage", "q", "stages", "c", "weight", "own", "expected"), GOLDEN)
def test_golden_losses_of_the_posterior_mean(
    t: tuple, stage: int, q: float, stages: int, c: float, weight: InverseGap | Snr, own: tuple, expected: tuple
) -> None:
    method = replace(
        sct(references="batch"), times=LognormalGap(q=q, stages=stages), distance=Huber(c=c), weight=weight
    )
    x, z, levels = images(torch.float64), noise(torch.float64), torch.tensor(t, dtype=torch.float64)
    progress = stage / stages
    drawn = Draw(t=levels, r=method.times.t_to_r(levels, progress), z=z, references=all_references(Bank(images=x)))
    weights = log_likelihood(method.process, x + levels.view(-1, 1, 1, 1) * z, levels, Bank(images=x)).softmax(1)
    torch.testing.assert_close(weights.diagonal(), torch.tensor(own, dtype=torch.float64), rtol=2e-6, atol=1e-6)
    network = ClosedForm().double()
    terms = loss(method, method.process.denoiser(network), x, None, progress, drawn)
    terms.total.backward()
    values = (terms.total, terms.consistency, network.a.grad, network.b.grad)
    for value, wanted in zip(values, expected, strict=True):
        assert value is not None
        assert value.item() == pytest.approx(wanted, rel=5e-6)


def test_off_diagonal_weights_and_displacement_of_the_golden_inputs() -> None:
    x, z = images(torch.float64), noise(torch.float64)
    t = torch.tensor([1.0, 3, 20], dtype=torch.float64)
    method = sct(references="batch")
    x_t = method.process.perturb(x, t, z)
    weights = log_likelihood(method.process, x_t, t, Bank(images=x)).softmax(1)[1]
    torch.testing.assert_close(
        weights, torch.tensor([0.244693, 0.453525, 0.301782], dtype=torch.float64), rtol=2e-6, atol=0
    )
    pair = Pair(x=x, z=z, labels=None, penalty=t.new_zeros(3))
    drawn = Draw(t=t, r=method.times.t_to_r(t, 3 / 8), z=z, references=all_references(Bank(images=x)))
    moved = (method.teacher(method, pair, x_t, drawn) - method.process.perturb(x, drawn.r, z)).flatten(1).norm(dim=1)
    torch.testing.assert_close(
        moved, torch.tensor([0.008533, 0.043850, 0.154588], dtype=torch.float64), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("references", ["sampled:1", "none"])
@pytest.mark.parametrize("kind", ["ve", "li"])
@pytest.mark.parametrize("progress", [0.0, 0.3, 0.999])
def test_one_reference_is_ect_bit_for_bit(references: str, kind: str, progress: float) -> None:
    """Losses and gradients, times and noise drawn from the same generator."""
    bank = Bank(images=images().repeat(4, 1, 1, 1) + 0.01 * torch.arange(12).view(-1, 1, 1, 1))
    process, index = ForwardProcess(kind=kind, boundary="never"), torch.tensor([7, 0, 11])
    one = replace(sct(bank, process, references=references), times=LognormalGap(t_max=80))
    results = []
    for method in (one, ect_like(one)):
        network = ClosedForm()
        x = bank.images[index]
        drawn = draw(method, x, None, progress, generator(5), index)
        terms = loss(method, method.process.denoiser(network), x, None, progress, drawn)
        terms.total.backward()
        results.append((terms.total.item(), network.a.grad, network.b.grad, drawn.t, drawn.z))
    for ours, theirs in zip(*results, strict=True):
        assert ours == theirs if isinstance(ours, float) else torch.equal(ours, theirs)


def estimate(method: Method, x: Tensor, x_t: Tensor, t: Tensor, drawn: Draw, labels: Tensor | None = None) -> Tensor:
    pair = Pair(x=x, z=drawn.z, labels=labels, penalty=x.new_zeros(len(x)))
    assert drawn.references is not None
    found = PosteriorEstimate(process=method.process, pair=pair, references=drawn.references)
    return found(x_t, t, torch.arange(len(x)))


def test_all_batch_and_sampled_agree_when_they_hold_the_same_images() -> None:
    bank = Bank(images=blobs(20))
    index = torch.randperm(20, generator=generator(3))
    x = bank.images[index]
    t = torch.linspace(0.2, 30, 20)
    z = torch.randn(20, 6, generator=generator(1))
    means = []
    for references in ("all", "batch", "sampled:20", "sampled:500"):
        method = sct(bank, references=references)
        drawn = replace(draw(method, x, None, 0.5, generator(2), index), z=z, t=t)
        means.append(estimate(method, x, method.process.perturb(x, t, z), t, drawn))
    for mean in means[1:]:
        torch.testing.assert_close(mean, means[0], rtol=1e-5, atol=1e-6)


def test_order_of_the_references_does_not_matter() -> None:
    x, t, z = blobs(9)[:4], torch.tensor([0.5, 1, 4, 40]), blobs(4, seed=8)
    means = []
    for order in (torch.arange(9), torch.randperm(9, generator=generator())):
        bank = Bank(images=blobs(9)[order])
        method = sct(bank)
        drawn = Draw(t=t, r=t / 2, z=z, references=all_references(bank))
        means.append(estimate(method, x, method.process.perturb(x, t, z), t, drawn))
    torch.testing.assert_close(*means, rtol=1e-5, atol=1e-7)


def test_the_ends_of_the_noise_levels() -> None:
    bank = Bank(images=blobs(30))
    x, z = bank.images[:3], blobs(3, seed=4)
    for level, expected in ((1e-3, x), (1e6, bank.images.mean(0).expand(3, -1))):
        t = torch.full((3,), level)
        method = sct(bank)
        drawn = Draw(t=t, r=t / 2, z=z, references=all_references(bank))
        mean = estimate(method, x, method.process.perturb(x, t, z), t, drawn)
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_sampled_sets_hold_n_images_and_the_own_one_once(n: int) -> None:
    """With logits all equal (an enormous t) every member weighs 1/n, so weights can be read off one-hot images."""
    bank = Bank(images=torch.eye(12))
    index = torch.arange(12)
    method = sct(bank, references=f"sampled:{n}")
    for seed in range(20):
        drawn = draw(method, bank.images, None, 0.5, generator(seed), index)
        t = torch.full((12,), 1e6)
        weights = estimate(method, bank.images, t[:, None] * drawn.z, t, drawn)
        torch.testing.assert_close(weights.diagonal(), torch.full((12,), 1 / n), rtol=1e-3, atol=0)
        torch.testing.assert_close(weights.sum(1), torch.ones(12), rtol=1e-5, atol=0)
        assert ((weights > 0).sum(1) == n).all()


def test_every_other_image_is_drawn_equally_often() -> None:
    bank, index, n, rounds = Bank(images=torch.eye(6)), torch.arange(6), 3, 1000
    method = sct(bank, references=f"sampled:{n}")
    t = torch.full((6,), 1e6)
    counts = torch.zeros(6, 6)
    for seed in range(rounds):
        drawn = draw(method, bank.images, None, 0.5, generator(seed), index)
        counts += estimate(method, bank.images, t[:, None] * drawn.z, t, drawn) > 0
    others = counts[~torch.eye(6, dtype=torch.bool)] / rounds
    expected = (n - 1) / 5
    assert (others - expected).abs().max() < 5 * math.sqrt(expected * (1 - expected) / rounds)


MEANS, SHARES, STD = torch.tensor([-2.0, 1, 3]), torch.tensor([0.3, 0.5, 0.2]), 0.4


def mixture(n: int, rng: torch.Generator) -> Tensor:
    mode = torch.multinomial(SHARES, n, replacement=True, generator=rng)
    return MEANS[mode] + STD * torch.randn(n, generator=rng)


def true_posterior_mean(x_t: Tensor) -> Tensor:
    """E[x | x_t] at t = 1, in closed form."""
    variance = STD**2 + 1
    logits = SHARES.log() - (x_t[:, None] - MEANS) ** 2 / (2 * variance)
    return (logits.softmax(1) * (MEANS + STD**2 / variance * (x_t[:, None] - MEANS))).sum(1)


def test_the_target_is_unbiased_over_its_draws() -> None:
    """The mean error of x̂ over random subsets of references, against the closed form, is within its standard error."""
    rng = generator(1)
    population = mixture(40_000, rng)[:, None]
    bank = Bank(images=population)
    method = sct(bank, references="sampled:4")
    errors = []
    for seed in range(40):
        index = torch.randint(len(bank), (5000,), generator=rng)
        x = bank.images[index]
        drawn = draw(method, x, None, 0.5, generator(seed), index)
        t = torch.ones(len(x))
        x_t = x + drawn.z
        errors.append((estimate(method, x, x_t, t, drawn) - true_posterior_mean(x_t[:, 0])[:, None]).mean())
    mean, se = torch.stack(errors).mean(), torch.stack(errors).std() / math.sqrt(len(errors))
    assert abs(mean) < 4 * se + 0.01  # 0.01: the population is finite
    assert torch.stack(errors).std() > 0


@pytest.mark.parametrize("references", ["all", "batch", "sampled:3"])
def test_other_classes_never_leak(references: str) -> None:
    """NaN in every image of another class changes nothing for the rows of this one."""
    images_, labels = blobs(24), torch.arange(24) % 3
    index = torch.tensor([0, 3, 9])  # all of class 0
    results = []
    for poison in (False, True):
        stored = images_.clone()
        if poison:
            stored[labels != 0] = torch.nan
        bank = Bank(images=stored, labels=labels)
        method = sct(bank, references=references)
        batch = torch.cat([index, torch.tensor([1, 2, 4])])
        drawn = draw(method, stored[batch], labels[batch], 0.5, generator(2), batch)
        pair = Pair(x=stored[batch], z=drawn.z, labels=labels[batch], penalty=torch.zeros(6))
        x_t = method.process.perturb(pair.x, drawn.t, drawn.z)
        results.append(method.teacher(method, pair, x_t, drawn)[:3])
    assert torch.isfinite(results[0]).all()
    assert torch.equal(*results)


def test_a_class_average_is_over_the_class() -> None:
    bank = Bank(images=blobs(30), labels=torch.arange(30) % 3)
    index = torch.arange(6)
    method = sct(bank)
    drawn = draw(method, bank.images[index], bank.labels[index], 0.5, generator(), index)  # type: ignore[index]
    t = torch.full((6,), 1e6)
    mean = estimate(method, bank.images[index], t[:, None] * drawn.z, t, drawn, index % 3)
    for row in range(6):
        torch.testing.assert_close(mean[row], bank.images[row % 3 :: 3].mean(0), rtol=1e-3, atol=1e-4)


def test_a_bank_in_pieces_gives_the_same_and_stays_uint8(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = torch.randint(0, 256, (50, 1, 4, 4), generator=generator(), dtype=torch.uint8)

    def to_model(batch: Tensor) -> Tensor:
        assert batch.dtype == torch.uint8
        sizes.append(len(batch))
        return batch.float() / 127.5 - 1

    sizes: list[int] = []
    index, means = torch.arange(8), []
    monkeypatch.setattr("consistency_bench.methods.parts.bank.CHUNK_ELEMENTS", 16 * 12)
    for whole in (2**26, 0):
        monkeypatch.setattr("consistency_bench.methods.parts.bank.WHOLE_ELEMENTS", whole)
        sizes.clear()
        method = sct(Bank(images=stored, to_model=to_model))
        x = stored[index].float() / 127.5 - 1
        drawn = draw(method, x, None, 0.5, generator(), index)
        t = torch.linspace(0.5, 20, 8)
        means.append(estimate(method, x, method.process.perturb(x, t, drawn.z), t, drawn))
    assert max(sizes) == 12
    torch.testing.assert_close(*means, rtol=1e-5, atol=1e-6)


def test_the_gate_skips_rows_whose_estimate_is_the_image_itself() -> None:
    """Below the gate the own weight is 1 to rounding, so skipping the computation changes no target."""
    bank = Bank(images=blobs(200, d=48, seed=2))
    index = torch.arange(64)
    x, z = bank.images[index], torch.randn(64, 48, generator=generator(7))
    t = torch.logspace(-2, 1.5, 64)
    plain, gated = sct(bank), sct(bank, gate=0.25)
    x_t = plain.process.perturb(x, t, z)
    own = log_likelihood(plain.process, x_t, t, bank).softmax(1)[index, index]
    assert (1 - own[t < 0.25]).abs().max() < 1e-6
    pair = Pair(x=x, z=z, labels=None, penalty=torch.zeros(64))
    drawn = Draw(t=t, r=t * 0.4, z=z, references=all_references(bank))
    with_all, with_gate = (m.teacher(m, pair, x_t, drawn) for m in (plain, gated))
    torch.testing.assert_close(with_all, with_gate, rtol=0, atol=1e-6)
    assert torch.equal(with_gate[t < 0.25], ect_like(plain).teacher(plain, pair, x_t, drawn)[t < 0.25])
    assert not torch.equal(with_all, sct(bank, gate=10).teacher(sct(bank, gate=10), pair, x_t, drawn))


def test_coarse_steps_and_targets_at_zero_can_use_the_image() -> None:
    bank = Bank(images=blobs(40))
    x, z = bank.images[:4], blobs(4, seed=3)
    t = torch.tensor([5.0, 5, 5, 5])
    r = torch.tensor([0.0, 1, 2.5, 4])
    drawn = Draw(t=t, r=r, z=z, references=all_references(bank))
    pair = Pair(x=x, z=z, labels=None, penalty=torch.zeros(4))
    x_t = ForwardProcess(boundary="never").perturb(x, t, z)

    def as_ect(**options: str) -> list[bool]:
        method = sct(bank, **options)
        plain = SamePoint()(method, pair, x_t, drawn)
        return [torch.equal(a, b) for a, b in zip(method.teacher(method, pair, x_t, drawn), plain, strict=True)]

    assert as_ect() == [False] * 4
    assert as_ect(coarse="image") == [False, True, False, False]
    assert as_ect(r0_target="image") == [True, False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ve", "li"])
def test_heun_takes_out_most_of_the_bias_of_a_moderate_step(kind: str) -> None:
    """Against the exact flow of the empirical distribution (tiny Euler steps with the same estimate)."""
    bank = Bank(images=torch.tensor([[-2.0], [-1.0], [1.5], [2.0]]))
    process = ForwardProcess(kind=kind, boundary="never")
    x, z = bank.images, torch.tensor([[0.3], [-0.6], [0.1], [1.2]])
    t, r = torch.full((4,), 4.0), torch.full((4,), 2.8)
    pair = Pair(x=x, z=z, labels=None, penalty=torch.zeros(4))
    exact = process.perturb(x, t, z)
    levels = torch.linspace(4.0, 2.8, 1001, dtype=torch.float64).tolist()
    euler = sct(bank, process)
    for high, low in itertools.pairwise(levels):
        step = Draw(t=torch.full((4,), high), r=torch.full((4,), low), z=z, references=all_references(bank))
        here = Pair(x=x, z=(exact - process.alpha(step.t)[:, None] * x) / high, labels=None, penalty=torch.zeros(4))
        exact = euler.teacher(euler, here, exact, step)
    drawn = Draw(t=t, r=r, z=z, references=all_references(bank))
    x_t = process.perturb(x, t, z)
    heun = sct(bank, process, solver="heun")
    errors = [(m.teacher(m, pair, x_t, drawn) - exact).abs().mean() for m in (euler, heun)]
    assert errors[1] < errors[0] / 2


def test_heun_leaves_r_zero_to_the_estimate() -> None:
    bank = Bank(images=blobs(10))
    x, z, t = bank.images[:2], blobs(2, seed=3), torch.tensor([3.0, 3.0])
    drawn = Draw(t=t, r=torch.tensor([0.0, 1.0]), z=z, references=all_references(bank))
    pair = Pair(x=x, z=z, labels=None, penalty=torch.zeros(2))
    x_t = ForwardProcess(boundary="never").perturb(x, t, z)
    euler, heun = (m.teacher(m, pair, x_t, drawn) for m in (sct(bank), sct(bank, solver="heun")))
    assert torch.isfinite(heun).all()
    assert torch.equal(euler[0], heun[0])
    assert not torch.equal(euler[1], heun[1])


def test_learned_noise_enters_the_weights_as_a_density() -> None:
    """Against the normal density of torch.distributions."""

    class Shrinking(nn.Module):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return 0.3 * x, 0.5 + 0.2 * x.abs()

    bank = Bank(images=blobs(7))
    method = replace(
        sct(bank, references="batch"), coupling=Variational(), modules=nn.ModuleDict({"encoder": Shrinking()})
    )
    t, x_t = torch.tensor([0.4, 2.0, 9.0]), blobs(3, seed=5)
    mean, std = Shrinking()(bank.images)
    centre = bank.images + t[:, None, None] * mean
    expected = torch.distributions.Normal(centre, t[:, None, None] * std).log_prob(x_t[:, None]).sum(2).softmax(1)
    posterior = method.coupling.noise_posterior(bank.images, None, method.modules)
    torch.testing.assert_close(
        log_likelihood(method.process, x_t, t, bank, None, posterior).softmax(1), expected, rtol=1e-4, atol=1e-6
    )
    some = torch.tensor([5, 0, 3])
    torch.testing.assert_close(
        log_likelihood(method.process, x_t, t, bank, some, posterior),
        log_likelihood(method.process, x_t, t, bank, None, posterior)[:, some],
    )


class Changing(nn.Module):
    """An encoder whose output changes at every pass, as with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.passes, self.sizes = 0, []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.passes += 1
        self.sizes.append(len(x))
        return 0.3 * self.passes * x, 0.3 + 0.4 * self.passes * x.abs()


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("classes", [1, 3])
def test_weights_use_the_distribution_that_made_the_pair(solver: str, classes: int) -> None:
    """And without a second pass of the encoder where the pair is the whole batch."""
    x, labels = blobs(12), torch.arange(12) % classes if classes > 1 else None
    encoder = Changing()
    method = replace(
        sct(references="batch", solver=solver), coupling=Variational(), modules=nn.ModuleDict({"encoder": encoder})
    )
    drawn = replace(draw(method, x, labels, 0.5, generator()), t=torch.full((12,), 3.0), r=torch.full((12,), 2.0))
    pair = method.coupling(method, x, labels, drawn, lambda x, t, labels: x)
    x_t = method.process.perturb(x, drawn.t, pair.z)
    got = method.teacher(method, pair, x_t, drawn)
    assert encoder.passes == 1
    assert drawn.references is not None
    posterior = torch.distributions.Normal(x + 3 * 0.3 * x, 3 * (0.3 + 0.4 * x.abs()))
    logits = posterior.log_prob(x_t[:, None]).sum(2)
    if labels is not None:
        logits = logits.masked_fill(labels[:, None] != labels, -torch.inf)
    mean = logits.softmax(1) @ x
    if solver == "euler":
        torch.testing.assert_close(got, mean + 2 / 3 * (x_t - mean), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mean, x, atol=1e-2)


def test_a_part_of_the_batch_keeps_its_distribution_among_the_references() -> None:
    """Its own images keep the pair's distribution, the others get that of one more pass, for every solver."""
    x, encoder = blobs(10), Changing()
    method = replace(
        sct(references="batch", solver="heun"), coupling=Variational(), modules=nn.ModuleDict({"encoder": encoder})
    )
    drawn = replace(draw(method, x, None, 0.5, generator()), t=torch.full((10,), 3.0), r=torch.full((10,), 2.0))
    rows = slice(4, 7)
    part = drawn.rows(rows)
    pair = method.coupling(method, x[rows], None, part, lambda x, t, labels: x)
    x_t = method.process.perturb(pair.x, part.t, pair.z)
    method.teacher(method, pair, x_t, part)
    assert encoder.sizes == [3, 10]
    encoder.passes = 1
    assert part.references is not None
    posterior = reference_noise_posterior(method, pair, part.references)
    assert posterior is not None
    factor = torch.full((10, 1), 2.0)
    factor[rows] = 1.0
    torch.testing.assert_close(posterior.mean, 0.3 * factor * x)
    torch.testing.assert_close(posterior.std, 0.3 + 0.4 * factor * x.abs())


@pytest.mark.slow
def test_weights_with_dropout_in_the_encoder_are_unbiased() -> None:
    """x̂ = E[x | x_t] is orthogonal to what it leaves of x; over rows and masks its mean product with that is 0."""

    class Dropping(nn.Module):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return nn.functional.dropout(torch.ones_like(x), 0.5), torch.full_like(x, 0.5)

    method = replace(sct(references="batch"), coupling=Variational(), modules=nn.ModuleDict({"encoder": Dropping()}))
    x, t, products = torch.tensor([[-1.0], [0.0], [0.5], [1.0]]), torch.ones(4), []
    torch.manual_seed(0)
    for seed in range(2000):
        drawn = replace(draw(method, x, None, 0.5, generator(seed)), t=t, r=torch.zeros(4))
        pair = method.coupling(method, x, None, drawn, lambda x, t, labels: x)
        mean = method.teacher(method, pair, method.process.perturb(x, t, pair.z), drawn)
        products.append((mean * (mean - x)).sum())
    values = torch.stack(products)
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))


def test_weights_stay_in_full_precision_under_autocast() -> None:
    bank = Bank(images=blobs(100, d=64))
    index = torch.arange(16)
    x, t = bank.images[index], torch.full((16,), 0.05)
    method = sct(bank)
    drawn = replace(draw(method, x, None, 0.5, generator(), index), t=t, r=t / 2)
    pair = Pair(x=x, z=drawn.z, labels=None, penalty=torch.zeros(16))
    x_t = method.process.perturb(x, t, drawn.z)
    plain = method.teacher(method, pair, x_t, drawn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(method.teacher(method, pair, x_t, drawn), plain)
    assert torch.is_autocast_enabled("cpu") is False
