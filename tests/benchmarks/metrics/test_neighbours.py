"""Neighbours and what is built on them, against brute force and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from consistency_bench.benchmarks.metrics import neighbours


def points(n: int, d: int, seed: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return mean + std * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kth(rows: torch.Tensor, k: int) -> np.ndarray:
    """The distances to the k-th nearest other row by sorting all of them."""
    distances = cdist(rows, rows)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, k - 1]


def prdc(real: torch.Tensor, fake: torch.Tensor, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage from whole distance matrices, as their papers define them."""
    distances = cdist(real, fake)
    in_real = distances <= kth(real, k)[:, None]
    in_fake = distances <= kth(fake, k)[None, :]
    return in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum(0).mean() / k, in_real.any(1).mean()


@pytest.fixture(params=[(5, 3), (2048, 4096)], ids=["small tiles", "large tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(neighbours, "_ROWS", request.param[0])
    monkeypatch.setattr(neighbours, "_COLUMNS", request.param[1])


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_nearest_rows_are_scikit_learns(mean):
    rows, queries = points(83, 7, 0, mean), points(41, 7, 1, mean)
    expected, places = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(rows).kneighbors(queries)
    expected = np.linalg.norm(queries.numpy() - rows.numpy()[places[:, 0]], axis=1)
    distances, indices = neighbours.nearest(queries, rows)
    assert (distances.dtype, indices.dtype) == (torch.float64, torch.int64)
    np.testing.assert_array_equal(indices, places[:, 0])
    np.testing.assert_allclose(distances, expected, rtol=1e-12)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("k", [1, 3, 82])
def test_kth_distances_are_scikit_learns(k):
    rows = points(83, 7, 0)
    model = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(rows)
    np.testing.assert_allclose(neighbours.kth_distances(rows, k), model.kneighbors()[0][:, -1], rtol=1e-12)


@pytest.mark.usefixtures("tiles")
def test_a_row_is_not_its_own_neighbour_unless_it_is_there_twice():
    rows = points(20, 5, 0)
    rows[13] = rows[4]
    distances, indices = neighbours.nearest(rows, rows, exclude_self=True)
    some = neighbours.nearest(rows[:7], rows, exclude_self=True)
    assert torch.equal(some[0], distances[:7])
    assert torch.equal(some[1], indices[:7])
    assert (indices[13], indices[4]) == (4, 13)
    assert distances[13] == distances[4] == 0
    others = torch.tensor([i for i in range(20) if i not in (4, 13)])
    np.testing.assert_allclose(distances[others], kth(rows, 1)[others], rtol=1e-12)
    assert (indices != torch.arange(20)).all()


def test_copies_have_distance_zero_also_where_the_mean_is_large():
    """Of |x|² + |y|² − 2xy rounding would leave a distance of 10⁻⁴ here."""
    rows = points(300, 2048, 0, mean=1e3).float()
    distances, indices = neighbours.nearest(rows[:50], rows)
    assert (distances == 0).all()
    assert torch.equal(indices, torch.arange(50))


@pytest.mark.usefixtures("tiles")
@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(7, 30),
    m=st.integers(7, 30),
    d=st.integers(1, 6),
    k=st.integers(1, 6),
    shift=st.sampled_from([0.0, 1.0, 3.0]),
    seed=st.integers(0, 999),
)
def test_precision_recall_density_and_coverage_are_their_definitions(n, m, d, k, shift, seed):
    real, fake = points(n, d, seed), points(m, d, seed + 1, shift, std=0.7)
    precision, recall, density, coverage = prdc(real, fake, k)
    assert neighbours.precision_recall(real, fake, k) == pytest.approx((precision, recall))
    assert neighbours.density_coverage(real, fake, k) == pytest.approx((density, coverage))
    assert neighbours.precision_recall(fake, real, k) == pytest.approx((recall, precision))


@pytest.mark.usefixtures("tiles")
def test_radii_may_be_given():
    real, fake = points(60, 3, 0), points(50, 3, 1, 0.5)
    assert neighbours.precision_recall(real, fake, radii=neighbours.kth_distances(real, 3)) == (
        neighbours.precision_recall(real, fake)
    )
    assert neighbours.density_coverage(real, fake, radii=neighbours.kth_distances(real, 5)) == (
        neighbours.density_coverage(real, fake)
    )
    wide = torch.full((60,), 100.0, dtype=torch.float64)
    assert neighbours.density_coverage(real, fake, k=5, radii=wide) == (12.0, 1.0)


def test_known_cases():
    real, far = points(200, 4, 0), points(200, 4, 1, mean=100)
    assert neighbours.precision_recall(real, far) == (0, 0)
    assert neighbours.density_coverage(real, far) == (0, 0)
    # One mode of two: everything is precise, half of the data is covered.
    modes = torch.cat((points(100, 2, 2), points(100, 2, 3, mean=50)))
    one = modes[:100] + 1e-9
    precision, recall = neighbours.precision_recall(modes, one)
    assert (precision, recall) == (1, 0.5)
    assert neighbours.density_coverage(modes, one)[1] == 0.5


def test_copies_of_the_data_do_not_hang_on_rounding():
    """A row is on the edge of the balls whose k-th neighbour it is: rounding must not decide."""
    real = points(500, 256, 0, mean=30).float()
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert neighbours.precision_recall(real, real[order]) == (1, 1)
    # Each ball holds its own centre and five neighbours.
    assert neighbours.density_coverage(real, real[order], k=5) == (pytest.approx(6 / 5), 1)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("seed", range(3))
def test_authenticity_is_its_definition(seed):
    real = points(60, 3, seed)
    fake = torch.cat((points(20, 3, seed + 10), real[5:15] + 1e-6, real[20:22]))
    distances = cdist(fake, real)
    nearest = distances.argmin(axis=1)
    expected = (distances.min(axis=1) > kth(real, 1)[nearest]).mean()
    assert neighbours.authenticity(real, fake) == pytest.approx(expected)


def test_copies_are_not_authentic_and_far_samples_are():
    real = points(100, 5, 0)
    twice = torch.cat((real, real))  # a copy of a row that is there twice is as far from it as its twin: 0
    assert neighbours.authenticity(twice, real) == 0
    assert neighbours.authenticity(real, real) == 0
    assert neighbours.authenticity(real, real[:1] + 1e-9) == 0
    assert neighbours.authenticity(real, points(10, 5, 1, mean=50)) == 1


def test_bad_input_is_refused():
    real, nan = torch.randn(6, 3), torch.full((6, 3), float("nan"))
    for distance in (neighbours.precision_recall, neighbours.density_coverage, neighbours.authenticity):
        for other in (torch.randn(6, 4), torch.randn(6), torch.zeros(0, 3)):
            with pytest.raises(ValueError, match="features must be"):
                distance(real, other)
        with pytest.raises(ValueError, match="NaN or infinity"):
            distance(real, nan)
        with pytest.raises(ValueError, match="NaN or infinity"):
            distance(nan, real)
    for k in (0, 6):
        with pytest.raises(ValueError, match="between 1 and 5, the number"):
            neighbours.kth_distances(real, k)
    with pytest.raises(ValueError, match="between 1 and 0, the number"):
        neighbours.authenticity(real[:1], real)
    with pytest.raises(ValueError, match="between 1 and 2, the number"):
        neighbours.precision_recall(real, real[:3])
    with pytest.raises(ValueError, match="queries among the rows"):
        neighbours.nearest(real, real[:3], exclude_self=True)
    with pytest.raises(ValueError, match="one value per real row"):
        neighbours.precision_recall(real, real, radii=torch.zeros(5))
