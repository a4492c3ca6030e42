"""Distances against closed forms and independent implementations, and the invariances they must have."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_bench.benchmarks.metrics import distances
from consistency_bench.benchmarks.metrics.moments import Moments


def gaussian(n: int, d: int, seed: int, shift: float = 0.0, rank: int | None = None) -> torch.Tensor:
    """Correlated features [n, d], float64, of the given rank."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank or d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, rank or d, generator=generator, dtype=torch.float64) @ mixing + shift


def frechet(mu1: torch.Tensor, cov1: torch.Tensor, mu2: torch.Tensor, cov2: torch.Tensor) -> float:
    """Between Gaussians of full rank: as of very many rows."""
    one, other = (Moments(10**9, mu.double(), cov.double()) for mu, cov in ((mu1, cov1), (mu2, cov2)))
    return distances.frechet_moments(one, other)


def by_sqrtm(a: torch.Tensor, b: torch.Tensor) -> float:
    """The formula as the FID literature computes it."""
    x, y = a.numpy(), b.numpy()
    cov1, cov2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(np.real(root)))


@pytest.mark.parametrize(("n", "m"), [(20, 30), (63, 2), (20, 400)])
def test_frechet_of_fewer_samples_than_dimensions(n, m):
    """Both below D: the nuclear norm. One below D: the covariances. Each against the other way of taking the trace."""
    a, b = gaussian(n, 64, 0), gaussian(m, 64, 1, shift=0.3)
    centred = [(x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    nuclear = np.linalg.svd((centred[0] @ centred[1].T).numpy(), compute_uv=False).sum()
    shift = a.mean(dim=0) - b.mean(dim=0)
    expected = float(shift @ shift + centred[0].square().sum() + centred[1].square().sum()) - 2 * nuclear
    by_covariance = frechet(a.mean(dim=0), a.T.cov(), b.mean(dim=0), b.T.cov())
    assert distances.frechet_from_features(a, b) == pytest.approx(expected, rel=1e-6)
    assert by_covariance == pytest.approx(expected, rel=1e-6)


def test_frechet_closed_forms():
    mu, identity = torch.zeros(4), torch.eye(4)
    # Same covariance: the squared distance of the means.
    assert frechet(mu, identity, mu + 3, identity) == pytest.approx(36)
    # Commuting covariances: the squared distance of the standard deviations.
    first, second = torch.tensor([1.0, 4.0, 9.0, 0.0]), torch.tensor([4.0, 4.0, 1.0, 25.0])
    expected = float((first.sqrt() - second.sqrt()).square().sum())
    assert frechet(mu, first.diag(), mu, second.diag()) == pytest.approx(expected)
    # A point against a Gaussian: its trace.
    assert frechet(mu, 0 * identity, mu, second.diag()) == pytest.approx(float(second.sum()))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), m=st.integers(2, 40), d=st.integers(1, 12), seed=st.integers(0, 999))
def test_frechet_invariances(n, m, d, seed):
    a, b = gaussian(n, d, seed), gaussian(m, d, seed + 1, shift=1.0)
    value = distances.frechet_from_features(a, b)
    scale = float(a.square().sum(dim=1).mean() + b.square().sum(dim=1).mean())
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    # A matrix root halves the digits, so rounding of 1e-16 in a covariance shows as 1e-8 in the distance.
    close = {"rel": 1e-6, "abs": 1e-6 * scale}
    assert value >= 0
    assert distances.frechet_from_features(a[order], b) == pytest.approx(value, **close)
    assert distances.frechet_from_features(b, a) == pytest.approx(value, **close)
    assert distances.frechet_from_features(a, a) == pytest.approx(0, abs=1e-6 * scale)
    rotation, _ = torch.linalg.qr(gaussian(d, d, seed + 2))
    assert distances.frechet_from_features(a @ rotation + 5, b @ rotation + 5) == pytest.approx(value, **close)
    assert distances.frechet_from_features(3 * a, 3 * b) == pytest.approx(9 * value, rel=1e-6, abs=1e-5 * scale)


def falling(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Features [n, d] whose standard deviations fall over three orders of magnitude, as those of image networks do."""
    rotation, _ = torch.linalg.qr(gaussian(d, d, 99))
    draws = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draws * torch.logspace(0, -3, d, dtype=torch.float64) @ rotation + shift


@pytest.mark.parametrize("make", [gaussian, falling])
@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 16), (200, 30, 64), (40, 300, 64), (40, 30, 64)])
def test_all_ways_of_taking_the_frechet_distance_agree(make, n, m, d):
    a, b = make(n, d, 0), make(m, d, 1, 0.01)
    expected = by_sqrtm(a, b)
    first, second = Moments.of(a), Moments.of(b)
    values = {
        "moments": distances.frechet_moments(first, second),
        "exchanged": distances.frechet_moments(second, first),
        "root": distances.frechet_moments(first, second, distances.square_root(first.cov)),
        "raw": frechet(first.mean, first.cov, second.mean, second.cov),
        "mixed": distances.frechet_mixed(first, b),
        "mixed, exchanged": distances.frechet_mixed(second, a),
        "features": distances.frechet_from_features(a, b),
        "rows": distances.frechet_of_rows(first, b)(torch.arange(m)),
    }
    # Where both are singular SciPy's root of their product is itself good to 1e-5 only; then the nuclear norm counts.
    assert values["features"] == pytest.approx(expected, rel=1e-6 if max(n, m) > d else 1e-4)
    for value in values.values():
        assert value == pytest.approx(values["features"], rel=1e-6)


@pytest.mark.parametrize("rank", [6, 4, 0])
def test_a_square_root_gives_its_square_back(rank):
    mixing = gaussian(rank, 6, 0) if rank else torch.zeros(1, 6).double()
    cov = mixing.T @ mixing
    root = distances.square_root(cov)
    torch.testing.assert_close(root @ root.T, cov, rtol=1e-12, atol=1e-12)
    slightly_negative = cov - 1e-14 * torch.eye(6)
    root = distances.square_root(slightly_negative)
    torch.testing.assert_close(root @ root.T, cov, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(4, 40), d=st.integers(1, 24), seed=st.integers(0, 999), draw=st.randoms(use_true_random=False))
def test_frechet_of_rows_is_that_of_the_rows(n, d, seed, draw):
    """Any choice, with repeats, in every regime: N above and below 2 D, the choice above and below D."""
    reference, b = Moments.of(gaussian(60, d, seed)), gaussian(n, d, seed + 1, shift=2.0) + 100
    value = distances.frechet_of_rows(reference, b)
    scale = float(reference.cov.trace() + b.var(dim=0).sum())
    for rows in (torch.arange(n), torch.tensor([draw.randrange(n) for _ in range(draw.randint(2, 2 * n))])):
        expected = distances.frechet_moments(reference, Moments.of(b[rows]))
        assert value(rows) == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale)


@pytest.mark.parametrize(("n", "d"), [(20, 30), (40, 30), (90, 30)])
def test_frechet_of_rows_keeps_its_digits_at_a_large_mean(n, d):
    reference, b = gaussian(100, d, 0), gaussian(n, d, 1)
    expected = distances.frechet_moments(Moments.of(reference), Moments.of(b))
    value = distances.frechet_of_rows(Moments.of(reference + 1e7), b + 1e7)
    assert value(torch.arange(n)) == pytest.approx(expected, rel=1e-6)


def test_extrapolation_takes_off_the_bias_of_a_finite_number():
    """Against an exactly known Gaussian: the true distance is 0.25 of the mean, the bias at 2,000 rows some 0.16."""
    d = 16
    reference = Moments(10**9, torch.zeros(d).double(), torch.eye(d).double())
    plain, extrapolated = [], []
    for seed in range(8):
        b = torch.randn(2000, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        b[:, 0] += 0.5
        plain.append(distances.frechet_moments(reference, Moments.of(b)))
        extrapolated.append(distances.extrapolated_frechet(reference, b, seed=0))
    error = np.std(extrapolated, ddof=1) / 8**0.5
    assert np.mean(extrapolated) == pytest.approx(0.25, abs=4 * error)
    assert np.mean(plain) - 0.25 > 4 * error


def test_extrapolation_is_seeded_and_takes_a_root():
    reference, b = Moments.of(gaussian(300, 4, 0)), gaussian(200, 4, 1)
    before = torch.get_rng_state()
    first, again, other = (distances.extrapolated_frechet(reference, b, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert distances.extrapolated_frechet(reference, b, 0, root=distances.square_root(reference.cov)) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_what_does_not_fit_the_reference_is_refused():
    reference, nan = Moments.of(gaussian(20, 3, 0)), torch.full((40, 3), float("nan"))
    for distance in (
        distances.frechet_mixed,
        distances.frechet_of_rows,
        lambda a, b: distances.extrapolated_frechet(a, b, seed=0),
    ):
        with pytest.raises(ValueError, match="equally wide, got 3 and 4"):
            distance(reference, torch.randn(40, 4))
        with pytest.raises(ValueError, match="NaN or infinity"):
            distance(reference, nan)
    with pytest.raises(ValueError, match="equally wide, got 3 and 4"):
        distances.frechet_moments(reference, Moments.of(gaussian(20, 4, 0)))
    with pytest.raises(ValueError, match="at least 2"):
        distances.frechet_mixed(reference, torch.randn(1, 3))
    for size in (3, 30):  # features with and without the shared matrix
        with pytest.raises(ValueError, match="at least 2"):
            distances.frechet_of_rows(reference, torch.randn(size, 3))(torch.tensor([1]))
    with pytest.raises(ValueError, match="at least 30 rows, got 29"):
        distances.extrapolated_frechet(reference, torch.randn(29, 3), seed=0)
    with pytest.raises(ValueError, match="at least 2 points"):
        distances.extrapolated_frechet(reference, torch.randn(29, 3), seed=0, points=1)


def test_w2_equals_the_best_of_all_pairings():
    a, b = gaussian(6, 2, 0), gaussian(6, 2, 1, shift=1.0)
    pairings = (float((a - b[list(order)]).square().sum(dim=1).mean()) for order in itertools.permutations(range(6)))
    assert distances.w2(a, b) == pytest.approx(min(pairings) ** 0.5, rel=1e-12)


def test_w2_closed_forms():
    a = gaussian(100, 2, 0)
    assert distances.w2(a, a[torch.randperm(100)]) == pytest.approx(0, abs=1e-12)
    assert distances.w2(a, a + torch.tensor([3.0, 4.0])) == pytest.approx(5)  # a shift is its own optimal map
    line, other = torch.arange(5.0)[:, None], torch.tensor([[9.0], [1.0], [3.0], [2.0], [0.0]])
    sorted_pairs = float((line - other.sort(dim=0).values).square().mean())
    assert distances.w2(line, other) == pytest.approx(sorted_pairs**0.5)  # on a line: sorted against sorted


def test_coverage_counts_classes_above_their_share():
    predictions = torch.tensor([0] * 980 + [3] * 10 + [4] * 9 + [-1])
    assert distances.coverage(predictions) == 2
    assert distances.coverage(predictions, share=0.005) == 3
    assert distances.coverage(torch.tensor([-1, -1])) == 0


def test_what_is_no_pair_of_feature_sets_is_refused():
    a = torch.randn(5, 3)
    for b in (torch.randn(5, 4), torch.randn(1, 3), torch.randn(3)):
        with pytest.raises(ValueError, match="features must be"):
            distances.frechet_from_features(a, b)
    with pytest.raises(ValueError, match="NaN or infinity"):
        distances.frechet_from_features(a, torch.full((5, 3), float("inf")))


def test_w2_refuses_unequal_sizes():
    with pytest.raises(ValueError, match="equally many"):
        distances.w2(torch.randn(5, 2), torch.randn(4, 2))
