"""Distances against closed forms and independent implementations, and the invariances they must have."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_bench.benchmarks.metrics import distances


def gaussian(n: int, d: int, seed: int, shift: float = 0.0, rank: int | None = None) -> torch.Tensor:
    """Correlated features [n, d], float64, of the given rank."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank or d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, rank or d, generator=generator, dtype=torch.float64) @ mixing + shift


def by_sqrtm(a: torch.Tensor, b: torch.Tensor) -> float:
    """The formula as the FID literature computes it."""
    x, y = a.numpy(), b.numpy()
    cov1, cov2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(np.real(root)))


def by_brute_force(a: torch.Tensor, b: torch.Tensor) -> float:
    """Unbiased MMD², pair by pair."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    xx = [kernel(x, y) for x, y in itertools.permutations(a, 2)]
    yy = [kernel(x, y) for x, y in itertools.permutations(b, 2)]
    xy = [kernel(x, y) for x, y in itertools.product(a, b)]
    return float(np.mean(xx) + np.mean(yy) - 2 * np.mean(xy))


def by_kid_formula(a: torch.Tensor, b: torch.Tensor) -> float:
    """KID's polynomial MMD as torchmetrics and the original code write it (equal sizes only)."""
    x, y = a.numpy(), b.numpy()
    m = len(x)
    kxx, kyy, kxy = ((p @ q.T / x.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    within = (kxx.sum() - np.trace(kxx)) + (kyy.sum() - np.trace(kyy))
    return float(within / (m * (m - 1)) - 2 * kxy.sum() / m**2)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 8), (70, 90, 64), (65, 2000, 64)])
def test_frechet_equals_the_matrix_root(n, m, d):
    a, b = gaussian(n, d, 0), gaussian(m, d, 1, shift=0.3)
    assert distances.frechet_from_features(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (63, 2), (20, 400)])
def test_frechet_of_fewer_samples_than_dimensions(n, m):
    """Both below D: the nuclear norm. One below D: the covariances. Each against the other way of taking the trace."""
    a, b = gaussian(n, 64, 0), gaussian(m, 64, 1, shift=0.3)
    centred = [(x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    nuclear = np.linalg.svd((centred[0] @ centred[1].T).numpy(), compute_uv=False).sum()
    shift = a.mean(dim=0) - b.mean(dim=0)
    expected = float(shift @ shift + centred[0].square().sum() + centred[1].square().sum()) - 2 * nuclear
    by_covariance = distances.frechet(a.mean(dim=0), a.T.cov(), b.mean(dim=0), b.T.cov())
    assert distances.frechet_from_features(a, b) == pytest.approx(expected, rel=1e-6)
    assert by_covariance == pytest.approx(expected, rel=1e-6)


def test_frechet_of_singular_covariances_is_real():
    a, b = gaussian(500, 32, 0, rank=5), gaussian(500, 32, 1, rank=5)
    value = distances.frechet_from_features(a, b)
    assert np.isfinite(value)
    assert value == pytest.approx(by_sqrtm(a, b), rel=1e-4)


def test_frechet_closed_forms():
    mu, identity = torch.zeros(4), torch.eye(4)
    # Same covariance: the squared distance of the means.
    assert distances.frechet(mu, identity, mu + 3, identity) == pytest.approx(36)
    # Commuting covariances: the squared distance of the standard deviations.
    first, second = torch.tensor([1.0, 4.0, 9.0, 0.0]), torch.tensor([4.0, 4.0, 1.0, 25.0])
    expected = float((first.sqrt() - second.sqrt()).square().sum())
    assert distances.frechet(mu, first.diag(), mu, second.diag()) == pytest.approx(expected)
    # A point against a Gaussian: its trace.
    assert distances.frechet(mu, 0 * identity, mu, second.diag()) == pytest.approx(float(second.sum()))


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


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 9), m=st.integers(2, 9), d=st.integers(1, 5), seed=st.integers(0, 999))
def test_kernel_distance_equals_brute_force_and_is_invariant(n, m, d, seed):
    a, b = gaussian(n, d, seed), gaussian(m, d, seed + 1, shift=0.5)
    value = distances.kernel_distance(a, b)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    scale = 1e-9 * max(1.0, float(a.square().sum(dim=1).max() + b.square().sum(dim=1).max()) ** 3)
    assert value == pytest.approx(by_brute_force(a, b), rel=1e-9, abs=scale)
    assert distances.kernel_distance(a, b[order]) == pytest.approx(value, rel=1e-9, abs=scale)
    assert distances.kernel_distance(b, a) == pytest.approx(value, rel=1e-9, abs=scale)


def test_kernel_distance_is_the_kid_formula_across_tiles(monkeypatch):
    a, b = gaussian(150, 16, 0), gaussian(150, 16, 1)
    expected = by_kid_formula(a, b)
    for tile in (7, 150, 1024):
        monkeypatch.setattr(distances, "_TILE", tile)
        assert distances.kernel_distance(a, b) == pytest.approx(expected, rel=1e-10)
    within = distances.kernel_within(a)
    assert distances.kernel_distance(a, b, within_a=within) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_unbiased():
    """Over many draws of one distribution its mean is zero, within its own standard error."""
    values = []
    for seed in range(300):
        x = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))
        values.append(distances.kernel_distance(x[:20], x[20:]))
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


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


@pytest.mark.parametrize("distance", [distances.frechet_from_features, distances.kernel_distance])
def test_what_is_no_pair_of_feature_sets_is_refused(distance):
    a = torch.randn(5, 3)
    for b in (torch.randn(5, 4), torch.randn(1, 3), torch.randn(3)):
        with pytest.raises(ValueError, match="features must be"):
            distance(a, b)


def test_w2_refuses_unequal_sizes():
    with pytest.raises(ValueError, match="equally many"):
        distances.w2(torch.randn(5, 2), torch.randn(4, 2))
