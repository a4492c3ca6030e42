"""Kernel distances against brute force, scikit-learn's kernel and torchmetrics' recipe."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import polynomial_kernel

from consistency_bench.benchmarks.metrics import kernels


def features(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + shift


def by_brute_force(a: torch.Tensor, b: torch.Tensor) -> float:
    """Unbiased MMD², pair by pair."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    xx = [kernel(x, y) for x, y in itertools.permutations(a, 2)]
    yy = [kernel(x, y) for x, y in itertools.permutations(b, 2)]
    xy = [kernel(x, y) for x, y in itertools.product(a, b)]
    return float(np.mean(xx) + np.mean(yy) - 2 * np.mean(xy))


def by_sklearn(a: torch.Tensor, b: torch.Tensor) -> float:
    """KID's polynomial MMD (equal sizes only) with scikit-learn's kernel."""
    kxx, kyy, kxy = (polynomial_kernel(x, y, degree=3, coef0=1) for x, y in ((a, a), (b, b), (a, b)))  # gamma is 1/D
    m = len(a)
    within = (kxx.sum() - np.trace(kxx)) + (kyy.sum() - np.trace(kyy))
    return float(within / (m * (m - 1)) - 2 * kxy.sum() / m**2)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 9), m=st.integers(2, 9), d=st.integers(1, 5), seed=st.integers(0, 999))
def test_kernel_distance_equals_brute_force_and_is_invariant(n, m, d, seed):
    a, b = features(n, d, seed), features(m, d, seed + 1, shift=0.5)
    value = kernels.kernel_distance(a, b)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    scale = 1e-9 * max(1.0, float(a.square().sum(dim=1).max() + b.square().sum(dim=1).max()) ** 3)
    assert value == pytest.approx(by_brute_force(a, b), rel=1e-9, abs=scale)
    assert kernels.kernel_distance(a, b[order]) == pytest.approx(value, rel=1e-9, abs=scale)
    assert kernels.kernel_distance(b, a) == pytest.approx(value, rel=1e-9, abs=scale)


@pytest.mark.parametrize("count", [150, kernels._TILE + 7])
def test_kernel_distance_is_the_kid_formula_across_tiles(count):
    a, b = features(count, 16, 0), features(count, 16, 1)
    expected = by_sklearn(a, b)
    assert kernels.kernel_distance(a, b) == pytest.approx(expected, rel=1e-10)
    within = kernels.kernel_within(a)
    assert kernels.kernel_distance(a, b, within_a=within) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_unbiased():
    """Over many draws of one distribution its mean is zero, within its own standard error."""
    values = []
    for seed in range(300):
        x = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))
        values.append(kernels.kernel_distance(x[:20], x[20:]))
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


@pytest.mark.parametrize(
    ("n", "m", "subsets", "size"), [(60, 90, 40, 50), (300, 200, 5, 20), (60, kernels._TILE + 7, 1100, 50)]
)
def test_subsets_are_torchmetrics_subsets(n, m, subsets, size):
    """Its recipe: with the default generator, a permutation of each set per subset, of which the first rows count.

    The second case computes each subset on its own, the others every kernel value once; the last has two tiles.
    """
    a, b = features(n, 8, 0), features(m, 8, 1, shift=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        values = kernels.kid_subsets(a, b, subsets, size, torch.default_generator)
        torch.manual_seed(5)
        expected = []
        for _ in range(subsets):
            chosen_a = a[torch.randperm(n)[:size]]
            chosen_b = b[torch.randperm(m)[:size]]
            expected.append(by_sklearn(chosen_a, chosen_b))
    assert values.dtype == torch.float64
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_kid_is_the_mean_and_its_standard_error():
    a, b = features(80, 6, 0), features(70, 6, 1, shift=0.2)
    values = kernels.kid_subsets(a, b, 30, 40, torch.Generator().manual_seed(3)).numpy()
    mean, error = kernels.kid(a, b, subsets=30, size=40, seed=3)
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(30))
    assert kernels.kid(a, b, subsets=30, size=40, seed=3) == (mean, error)
    assert kernels.kid(a, b, subsets=30, size=40, seed=4) != (mean, error)
    # Each subset is an unbiased estimate of the same number, so their mean nears the value from all rows.
    settled, error = kernels.kid(a, b, subsets=4000, size=40)
    assert error is not None
    assert settled == pytest.approx(kernels.kernel_distance(a, b), abs=5 * error)


def test_a_size_above_the_sets_is_cut_and_all_rows_are_the_whole_distance():
    a, b = features(30, 6, 0), features(30, 6, 1)
    mean, error = kernels.kid(a, b, subsets=5)
    assert mean == pytest.approx(kernels.kernel_distance(a, b), rel=1e-10)
    assert error is None  # and not zero, as if the distance were exact
    for first, second in ((a, b[:20]), (a[:20], b)):  # the smaller set decides
        assert kernels.kid(first, second, subsets=5, size=20)[1] is None
        assert kernels.kid(first, second, subsets=5, size=19)[1]
        cut = kernels.kid_subsets(first, second, 5, 1000, torch.Generator().manual_seed(0))
        assert torch.equal(cut, kernels.kid_subsets(first, second, 5, 20, torch.Generator().manual_seed(0)))


def test_single_precision_is_summed_in_double():
    """At a large mean the differences are lost in single precision."""
    a, b = features(100, 8, 0, shift=100).float(), features(100, 8, 1, shift=100).float()
    assert kernels.kernel_distance(a, b) == pytest.approx(by_sklearn(a.double(), b.double()), rel=1e-9)


@pytest.mark.parametrize("distance", [kernels.kernel_distance, kernels.kid])
def test_what_is_no_pair_of_feature_sets_is_refused(distance):
    a = torch.randn(5, 3)
    for b in (torch.randn(5, 4), torch.randn(1, 3), torch.randn(3)):
        with pytest.raises(ValueError, match="features must be"):
            distance(a, b)
    with pytest.raises(ValueError, match="NaN or infinity"):
        distance(a, torch.full((5, 3), float("nan")))


def test_too_few_subsets_are_refused():
    a = torch.randn(5, 3)
    with pytest.raises(ValueError, match="at least 2 subsets"):
        kernels.kid(a, a, subsets=1)
    for subsets, size in ((0, 5), (3, 1)):
        with pytest.raises(ValueError, match="at least one subset of at least 2"):
            kernels.kid_subsets(a, a, subsets, size, torch.Generator())
