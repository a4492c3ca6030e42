"""The bootstrap against standard errors that are known, or measured with fresh draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from consistency_bench.benchmarks.metrics.bootstrap import bootstrap
from consistency_bench.benchmarks.metrics.distances import frechet_of_rows
from consistency_bench.benchmarks.metrics.moments import Moments


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_standard_error_of_a_mean():
    x = normal(400, 1, 0)[:, 0]
    found = bootstrap(lambda rows: float(x[rows].mean()), 400, 2000, seed=1)
    # The bootstrap's own error at 2,000 resamples is 1/√4000, 1.6 %.
    assert found.standard_error == pytest.approx(float(x.std(correction=0)) / 20, rel=0.06)
    assert abs(found.bias) < 4 * found.standard_error / math.sqrt(2000)
    assert (found.low + found.high) / 2 == pytest.approx(float(x.mean()))
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 399) * found.standard_error)


def test_the_standard_error_of_a_frechet_distance_is_that_over_fresh_draws():
    reference = Moments(10**6, torch.zeros(3).double(), torch.eye(3).double())

    def distance(features: torch.Tensor) -> float:
        return frechet_of_rows(reference, features)(torch.arange(len(features)))

    shift = torch.tensor([0.5, 0.0, 0.0])
    fresh = np.std([distance(normal(300, 3, seed) + shift) for seed in range(400)], ddof=1)
    errors = [
        bootstrap(frechet_of_rows(reference, normal(300, 3, 1000 + seed) + shift), 300, 100, seed).standard_error
        for seed in range(10)
    ]
    assert np.mean(errors) == pytest.approx(fresh, rel=0.15)


def test_resamples_of_a_frechet_distance_lie_above_it_and_the_interval_does_not():
    """Why the interval is not that of the percentiles: with more features than the rows can tell, all lie above."""
    features = normal(100, 40, 0)
    value = frechet_of_rows(Moments(10**6, torch.zeros(40).double(), torch.eye(40).double()), features)
    whole = value(torch.arange(100))
    found = bootstrap(value, 100, 50, seed=0)
    assert found.bias > 5 * found.standard_error
    assert found.low < whole < found.high


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    x = normal(50, 1, 0)[:, 0]
    before = torch.get_rng_state()
    first, again, other = (bootstrap(lambda rows: float(x[rows].mean()), 50, 20, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_input_is_refused():
    for count, resamples in ((1, 10), (10, 1)):
        with pytest.raises(ValueError, match="at least 2 rows and 2 resamples"):
            bootstrap(lambda rows: 0.0, count, resamples, seed=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        bootstrap(lambda rows: math.nan if len(rows.unique()) < 10 else 0.0, 10, 10, seed=0)
