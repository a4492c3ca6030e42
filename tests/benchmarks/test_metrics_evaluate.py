"""The evaluator: what it asks for, what it refuses and what its numbers say."""

import math

import pytest
import torch

from consistency_bench.benchmarks.data import registry
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.errors import UsageError
from consistency_bench.benchmarks.metrics import distances
from consistency_bench.benchmarks.metrics.evaluate import Evaluator
from consistency_bench.benchmarks.metrics.extractors import build

DIGITS_METRICS = ["fd_digits_2k", "kd_digits_2k", "classes_digits_2k"]


@pytest.fixture(scope="module")
def digits():
    return registry.load("digits")


@pytest.fixture(scope="module")
def evaluator(digits):
    return Evaluator(digits, DIGITS_METRICS)


@pytest.fixture(scope="module")
def resampled(digits):
    """2,000 real scans drawn with replacement."""
    return digits.images[torch.randint(len(digits), (2000,), generator=torch.Generator().manual_seed(1))]


def noisy(data: Dataset, images: torch.Tensor, std: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    return data.from_model(data.to_model(images) + std * noise)


def test_reference_rows_span_the_scale(evaluator):
    rows = evaluator.reference_rows()
    assert [(row["what"], row["metric"]) for row in rows] == [
        (what, metric) for metric in DIGITS_METRICS for what in ("halves", "noise")
    ]
    assert {row["samples"] for row in rows if row["what"] == "halves"} == {1797 // 2}
    assert {row["samples"] for row in rows if row["what"] == "noise"} == {2000}
    value = {(row["what"], row["metric"]): row["value"] for row in rows}
    assert 1 < value["halves", "fd_digits_2k"] < 8
    assert value["noise", "fd_digits_2k"] > 100 * value["halves", "fd_digits_2k"]
    assert value["noise", "kd_digits_2k"] > 100 * abs(value["halves", "kd_digits_2k"])
    assert value["halves", "classes_digits_2k"] == 10
    assert value["noise", "classes_digits_2k"] < 10
    assert evaluator.reference_rows() == rows


def test_distances_grow_with_noise(digits, evaluator, resampled):
    scores = [evaluator.score(noisy(digits, resampled, std)) for std in (0.0, 0.1, 0.2, 0.4, 0.8)]
    for name in ("fd_digits_2k", "kd_digits_2k"):
        values = [score[name] for score in scores]
        assert values == sorted(values)
        assert values[-1] > 50 * max(values[0], 1)
    assert scores[0]["classes_digits_2k"] == 10


def test_blur_and_collapse_are_seen(digits, evaluator, resampled):
    clean = evaluator.score(resampled)["fd_digits_2k"]
    blurred = torch.nn.functional.avg_pool2d(digits.to_model(resampled), 3, stride=1, padding=1)
    assert evaluator.score(digits.from_model(blurred))["fd_digits_2k"] > 10 * clean
    few = digits.images[digits.labels < 3]
    collapsed = evaluator.score(few[torch.arange(2000) % len(few)])
    assert collapsed["classes_digits_2k"] == 3
    assert collapsed["fd_digits_2k"] > 10 * clean


def test_each_metric_takes_exactly_its_own_count(digits, resampled):
    evaluator = Evaluator(digits, ["fd_digits_500", "fd_digits_2k", "kd_digits_500", "fd_digits_2k"])
    assert evaluator.samples_needed == 2000
    assert [metric.name for metric in evaluator.metrics] == ["fd_digits_500", "fd_digits_2k", "kd_digits_500"]
    score = evaluator.score(resampled)
    extract = build("digits", digits, torch.device("cpu"))
    real, fake = extract(digits.images).values, extract(resampled).values
    assert score["fd_digits_2k"] == pytest.approx(distances.frechet_from_features(real, fake), rel=1e-9)
    assert score["fd_digits_500"] == pytest.approx(distances.frechet_from_features(real, fake[:500]), rel=1e-6)
    assert score["kd_digits_500"] == pytest.approx(distances.kernel_distance(real, fake[:500]), rel=1e-4)
    # More samples than needed change nothing.
    more = torch.cat((resampled, torch.zeros(10, 1, 8, 8, dtype=torch.uint8)))
    assert evaluator.score(more) == score


def test_scoring_twice_gives_the_same_bits(evaluator, resampled):
    assert evaluator.score(resampled) == evaluator.score(resampled)


def test_samples_of_another_kind_are_refused(evaluator, resampled):
    with pytest.raises(ValueError, match="need 2000 samples, got 1999"):
        evaluator.score(resampled[:1999])
    with pytest.raises(ValueError, match=r"samples must be torch.uint8 \[N, 1, 8, 8\], got torch.float32"):
        evaluator.score(resampled.float())
    with pytest.raises(ValueError, match=r"got torch.uint8 \[2000, 8, 8\]"):
        evaluator.score(resampled[:, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_points_that_are_not_finite_are_refused(bad):
    evaluator = Evaluator(registry.load("toy2d"), ["fd_points_500"])
    points = torch.zeros(500, 2)
    points[499, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluator.score(points)


def test_metrics_that_a_data_set_cannot_serve_are_refused(digits):
    clothes = Dataset("fashion_mnist", torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.zeros(4).long(), 10)
    with pytest.raises(UsageError, match="'digits' reads grey images of 8×8 pixels, which data set 'fashion_mnist'"):
        Evaluator(clothes, ["fd_digits_2k"])
    with pytest.raises(UsageError, match="'points' reads points in the plane, which data set 'digits'"):
        Evaluator(digits, ["fd_points_2k"])
    with pytest.raises(UsageError, match="needs a mixture"):
        Evaluator(registry.load("toy2d", variant="spiral"), ["modes_points_2k"])
    few = Dataset("toy2d", torch.zeros(100, 2), torch.zeros(100).long(), 1)
    with pytest.raises(UsageError, match="needs as many real samples, and 'toy2d' has 100"):
        Evaluator(few, ["w2_points_500"])
    with pytest.raises(UsageError, match="at least one"):
        Evaluator(digits, [])
    with pytest.raises(UsageError, match="unknown feature extractor 'digit'"):
        build("digit", digits, torch.device("cpu"))


@pytest.mark.parametrize(("variant", "modes"), [("two_modes", 2), ("eight_modes", 8)])
def test_points_exact_draws_beat_collapse_and_noise(variant, modes):
    data = registry.load("toy2d", variant=variant)
    evaluator = Evaluator(data, ["fd_points_500", "w2_points_500", "modes_points_500"])
    assert data.exact is not None
    points, labels = data.exact.sample(4000 * modes, torch.Generator().manual_seed(3))
    exact, collapsed = evaluator.score(points), evaluator.score(points[labels == 0])
    rows = {(row["what"], row["metric"]): row["value"] for row in evaluator.reference_rows()}
    assert (exact["modes_points_500"], collapsed["modes_points_500"]) == (modes, 1)
    for name in ("fd_points_500", "w2_points_500"):
        assert exact[name] < collapsed[name]
        assert exact[name] < rows["noise", name]
        assert rows["halves", name] < rows["noise", name]
    assert rows["halves", "modes_points_500"] == modes


def test_w2_compares_with_a_fixed_choice_of_real_points():
    data = registry.load("toy2d", variant="spiral")
    points = torch.zeros(500, 2)
    first, second = (Evaluator(data, ["w2_points_500"]).score(points) for _ in range(2))
    assert first == second
    # Against a single point, W2² is the mean squared length of the real points.
    expected = float(data.images.double().square().sum(dim=1).mean()) ** 0.5
    assert first["w2_points_500"] == pytest.approx(expected, rel=0.05)


def test_pixel_cells_are_means_and_serve_images_of_any_size():
    images = torch.randint(0, 256, (6, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = Dataset("made up", images, torch.zeros(6, dtype=torch.int64), 1)
    values = build("pixels8", data, torch.device("cpu"))(images).values
    cells = (images.double() / 127.5 - 1).view(6, 3, 8, 3, 8, 3).mean((3, 5)).flatten(1)
    torch.testing.assert_close(values, cells, rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="reads images"):
        build("pixels8", registry.load("toy2d"), torch.device("cpu"))


def test_pixel_cells_tell_images_from_noise(digits, resampled):
    evaluator = Evaluator(digits, ["fd_pixels8_1k"])
    value = {row["what"]: row["value"] for row in evaluator.reference_rows()}
    assert value["noise"] > 50 * value["halves"]
    near, far = (evaluator.score(noisy(digits, resampled, std))["fd_pixels8_1k"] for std in (0.05, 0.5))
    assert near < far < value["noise"]
