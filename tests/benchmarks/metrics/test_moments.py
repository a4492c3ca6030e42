"""Streamed moments against NumPy's, however the rows are cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_bench.benchmarks.metrics import moments
from consistency_bench.benchmarks.metrics.moments import MomentAccumulator, Moments


def features(n: int, d: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + mean


def streamed(values: torch.Tensor, cuts: list[int]) -> Moments:
    accumulator = MomentAccumulator()
    for batch in torch.tensor_split(values, cuts):
        accumulator.add(batch)
    return accumulator.moments()


def assert_close(found: Moments, values: torch.Tensor, rtol: float) -> None:
    x = values.double().numpy()
    expected = np.cov(x, rowvar=False).reshape(found.cov.shape)
    # Relative to the spread: a covariance that happens to be near zero has no digits of its own.
    std = np.sqrt(np.diagonal(expected))
    assert found.count == len(x)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=rtol, atol=rtol * float(std.max()))
    assert np.abs(found.cov.numpy() - expected).max() <= rtol * float(std.max()) ** 2


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(2, 60),
    d=st.integers(1, 6),
    seed=st.integers(0, 999),
    mean=st.sampled_from([0.0, 1e3]),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_moments_are_numpys_however_the_rows_are_cut(n, d, seed, mean, cuts):
    values = features(n, d, seed, mean)
    assert_close(streamed(values, sorted(cuts)), values, 1e-10)
    assert_close(Moments.of(values), values, 1e-10)


def test_a_mean_far_from_zero_costs_no_digits():
    """E[x²] − E[x]² would leave none here: the mean is 10⁸ times the spread."""
    values = features(3000, 3, 0) + 1e8
    found = streamed(values, [1, 10, 500])
    assert_close(found, values, 1e-7)
    torch.testing.assert_close(found.cov, Moments.of(values - 1e8).cov, rtol=1e-6, atol=1e-6)


def test_long_batches_are_taken_in_chunks():
    values = features(2 * moments._CHUNK + 7, 5, 2)
    assert_close(Moments.of(values), values, 1e-12)


def test_a_covariance_is_symmetric_to_the_last_bit_and_later_rows_do_not_reach_it():
    accumulator = MomentAccumulator()
    accumulator.add(features(300, 40, 4))
    first = accumulator.moments()
    kept = first.cov.clone(), first.mean.clone()
    assert torch.equal(first.cov, first.cov.T)
    accumulator.add(features(300, 40, 5))
    assert torch.equal(first.cov, kept[0])
    assert torch.equal(first.mean, kept[1])
    assert accumulator.moments().count == 600


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.ones(3), "features must be"),
        (torch.ones(2, 3, 4), "features must be"),
        (torch.ones(2, 4), "3 before, now 4"),
        (torch.tensor([[1.0, 2.0, float("nan")]]), "NaN or infinity"),
        (torch.tensor([[1.0, -float("inf"), 0.0]]), "NaN or infinity"),
    ],
)
def test_what_is_refused_leaves_the_moments_as_they_were(batch, message):
    accumulator = MomentAccumulator()
    accumulator.add(features(10, 3, 7))
    before = accumulator.moments()
    with pytest.raises(ValueError, match=message):
        accumulator.add(batch)
    after = accumulator.moments()
    assert after.count == before.count
    assert torch.equal(after.cov, before.cov)


def test_fewer_than_two_rows_have_no_covariance():
    accumulator = MomentAccumulator()
    with pytest.raises(ValueError, match="at least 2 rows, got 0"):
        accumulator.moments()
    accumulator.add(torch.zeros(0, 3))
    accumulator.add(torch.ones(1, 3))
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        accumulator.moments()


@pytest.mark.parametrize(
    ("count", "mean", "cov", "message"),
    [
        (9, torch.zeros(2).double(), torch.eye(3).double(), "a mean"),
        (9, torch.zeros(2, 1).double(), torch.eye(2).double(), "a mean"),
        (9, torch.zeros(2), torch.eye(2).double(), "float64"),
        (1, torch.zeros(2).double(), torch.eye(2).double(), "at least 2 rows"),
        (9, torch.zeros(2).double(), torch.eye(2).double() * float("nan"), "NaN"),
        (9, torch.tensor([0.0, float("inf")]).double(), torch.eye(2).double(), "infinity"),
        (9, torch.zeros(2).double(), -torch.eye(2).double(), "negative variance"),
    ],
)
def test_what_are_no_moments_is_refused(count, mean, cov, message):
    with pytest.raises(ValueError, match=message):
        Moments(count, mean, cov)
