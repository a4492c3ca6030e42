"""The evaluator: what it asks for, what it refuses and what its numbers say."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.data import registry
from consistency_bench.benchmarks.data.base import DataInfo, Dataset
from consistency_bench.benchmarks.metrics import distances, evaluate, kernels, published_statistics
from consistency_bench.benchmarks.metrics.checks import check_metrics
from consistency_bench.benchmarks.metrics.evaluate import Evaluator
from consistency_bench.benchmarks.metrics.extractors import registry as extractors
from consistency_bench.benchmarks.metrics.extractors.base import Extractor, Features
from consistency_bench.benchmarks.metrics.extractors.registry import build
from consistency_bench.benchmarks.metrics.feature_sets import FeatureAccumulator
from consistency_bench.benchmarks.metrics.moments import Moments
from consistency_bench.benchmarks.metrics.published_statistics import PublishedMoments
from consistency_bench.benchmarks.metrics.references import PIECE, StoppedError

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


def scored(evaluator: Evaluator, samples: torch.Tensor) -> dict[str, float]:
    return {name: score.value for name, score in evaluator.score(samples).items()}


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
    scores = [scored(evaluator, noisy(digits, resampled, std)) for std in (0.0, 0.1, 0.2, 0.4, 0.8)]
    for name in ("fd_digits_2k", "kd_digits_2k"):
        values = [score[name] for score in scores]
        assert values == sorted(values)
        assert values[-1] > 50 * max(values[0], 1)
    assert scores[0]["classes_digits_2k"] == 10


def test_blur_and_collapse_are_seen(digits, evaluator, resampled):
    clean = scored(evaluator, resampled)["fd_digits_2k"]
    blurred = torch.nn.functional.avg_pool2d(digits.to_model(resampled), 3, stride=1, padding=1)
    assert scored(evaluator, digits.from_model(blurred))["fd_digits_2k"] > 10 * clean
    few = digits.images[digits.labels < 3]
    collapsed = scored(evaluator, few[torch.arange(2000) % len(few)])
    assert collapsed["classes_digits_2k"] == 3
    assert collapsed["fd_digits_2k"] > 10 * clean


def test_each_metric_takes_exactly_its_own_count(digits, resampled):
    evaluator = Evaluator(digits, ["fd_digits_500", "fd_digits_2k", "kd_digits_500", "fd_digits_2k"])
    assert evaluator.samples_needed() == 2000
    assert evaluator.samples_needed(["fd_digits_500", "kd_digits_500"]) == 500
    assert [metric.name for metric in evaluator.metrics] == ["fd_digits_500", "fd_digits_2k", "kd_digits_500"]
    score = scored(evaluator, resampled)
    extract = build("digits", digits.info, torch.device("cpu"))
    real, fake = extract(digits.images).values, extract(resampled).values
    assert score["fd_digits_2k"] == pytest.approx(distances.frechet_from_features(real, fake), rel=1e-9)
    assert score["fd_digits_500"] == pytest.approx(distances.frechet_from_features(real, fake[:500]), rel=1e-6)
    assert score["kd_digits_500"] == pytest.approx(kernels.kernel_distance(real, fake[:500]), rel=1e-4)
    # More samples than needed change nothing.
    more = torch.cat((resampled, torch.zeros(10, 1, 8, 8, dtype=torch.uint8)))
    assert scored(evaluator, more) == score


def test_samples_of_another_kind_are_refused(evaluator, resampled):
    with pytest.raises(ValueError, match="need 2000 samples, got 1999"):
        scored(evaluator, resampled[:1999])
    with pytest.raises(ValueError, match=r"samples must be torch.uint8 \[N, 1, 8, 8\], got torch.float32"):
        scored(evaluator, resampled.float())
    with pytest.raises(ValueError, match=r"got torch.uint8 \[2000, 8, 8\]"):
        scored(evaluator, resampled[:, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_points_that_are_not_finite_are_refused(bad):
    evaluator = Evaluator(registry.load("toy2d"), ["fd_points_500"])
    points = torch.zeros(500, 2)
    points[499, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        scored(evaluator, points)


def test_metrics_that_a_data_set_cannot_serve_are_refused(digits):
    clothes = Dataset("fashion_mnist", torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.zeros(4).long(), 10)
    with pytest.raises(UsageError, match="'digits' reads grey images of 8×8 pixels, which data set 'fashion_mnist'"):
        Evaluator(clothes, ["fd_digits_2k"])
    with pytest.raises(UsageError, match="'points' reads points in the plane, which data set 'digits'"):
        Evaluator(digits, ["fd_points_2k"])
    with pytest.raises(UsageError, match="needs a mixture"):
        Evaluator(registry.load("toy2d", variant="spiral"), ["modes_points_2k"])
    few = Dataset("toy2d", torch.zeros(100, 2), torch.zeros(100).long(), 1)
    with pytest.raises(UsageError, match="needs 500 real samples, and 'toy2d' has 100"):
        Evaluator(few, ["w2_points_500"])
    with pytest.raises(UsageError, match="at least one metric"):
        Evaluator(digits, [])
    with pytest.raises(UsageError, match="unknown feature extractor 'digit'"):
        build("digit", digits.info, torch.device("cpu"))


@pytest.mark.parametrize(("variant", "modes"), [("two_modes", 2), ("eight_modes", 8)])
def test_points_exact_draws_beat_collapse_and_noise(variant, modes):
    data = registry.load("toy2d", variant=variant)
    evaluator = Evaluator(data, ["fd_points_500", "w2_points_500", "modes_points_500"])
    assert data.exact is not None
    points, labels = data.exact.sample(4000 * modes, torch.Generator().manual_seed(3))
    exact, collapsed = scored(evaluator, points), scored(evaluator, points[labels == 0])
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
    first, second = (scored(Evaluator(data, ["w2_points_500"]), points) for _ in range(2))
    assert first == second
    # Against a single point, W2² is the mean squared length of the real points.
    expected = float(data.images.double().square().sum(dim=1).mean()) ** 0.5
    assert first["w2_points_500"] == pytest.approx(expected, rel=0.05)


def test_pixel_cells_are_means_and_serve_images_of_any_size():
    images = torch.randint(0, 256, (6, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = Dataset("made up", images, torch.zeros(6, dtype=torch.int64), 1)
    values = build("pixels8", data.info, torch.device("cpu"))(images).values
    cells = (images.double() / 127.5 - 1).view(6, 3, 8, 3, 8, 3).mean((3, 5)).flatten(1)
    torch.testing.assert_close(values, cells, rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="reads images"):
        build("pixels8", registry.describe("toy2d"), torch.device("cpu"))


@pytest.mark.parametrize("size", [1, 300, 999, 5000])
def test_batches_of_any_size_give_the_same_scores(digits, resampled, size):
    evaluator = Evaluator(digits, ["fd_digits_1k", "kd_digits_500", "precision_digits_700", "classes_digits_2k"])
    whole = scored(evaluator, resampled)
    for name, score in evaluator.score(resampled.split(size)).items():
        assert score.value == pytest.approx(whole[name], rel=1e-6), name  # one image at a time rounds otherwise


def test_of_many_samples_only_moments_are_kept(digits, resampled):
    extract = build("digits", digits.info, torch.device("cpu"))
    accumulator = FeatureAccumulator(500, frozenset({2000}))
    for batch in resampled.split(150):
        accumulator.add(extract(batch))
    features = accumulator.features()
    assert len(features.first(2000)) == 500
    value = distances.frechet_moments(Moments.of(extract(digits.images).values), features.moments(2000))
    assert value == pytest.approx(scored(Evaluator(digits, ["fd_digits_2k"]), resampled)["fd_digits_2k"], rel=1e-9)


def test_batches_are_read_only_as_far_as_they_are_needed(digits, resampled):
    def batches():
        yield resampled[:600]
        raise AssertionError("600 samples are enough for fd_digits_500")

    Evaluator(digits, ["fd_digits_500"]).score(batches())


def test_a_reference_of_ones_own_is_the_first_samples_of_the_fixed_order(digits, resampled):
    evaluator = Evaluator(digits, ["fd_digits_500_ref300"])
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    extract = build("digits", digits.info, torch.device("cpu"))
    real, others = (extract(digits.images[order[rows]]).values for rows in (slice(300), slice(300, 800)))
    fake = extract(resampled[:500]).values
    assert scored(evaluator, resampled)["fd_digits_500_ref300"] == pytest.approx(
        distances.frechet_from_features(real, fake), rel=1e-6
    )
    halves, noise = evaluator.reference_rows()
    assert halves["value"] == pytest.approx(distances.frechet_from_features(real, others), rel=1e-6)
    assert (halves["samples"], noise["samples"]) == (500, 500)


def test_copies_are_no_authentic_samples_and_are_shown_beside_their_originals(digits):
    evaluator = Evaluator(digits, ["authenticity_digits_500"])
    copies = digits.images[:500]
    assert scored(evaluator, copies)["authenticity_digits_500"] == 0
    found = evaluator.nearest(copies)
    assert torch.equal(found["samples"], found["training"])
    assert float(found["distances"].max()) < 1e-3 < float(found["baseline"].median())
    assert (len(found["distances"]), len(found["baseline"]), len(found["pair_distances"])) == (500, 500, evaluate.PAIRS)
    inverted = 255 - copies
    assert scored(evaluator, inverted)["authenticity_digits_500"] > 0.95
    far = evaluator.nearest(inverted)
    assert float(far["distances"].median()) > float(far["baseline"].median())
    assert (far["pair_distances"].diff() >= 0).all()


def test_a_bootstrap_gives_frechet_distances_an_error(digits, resampled):
    evaluator = Evaluator(digits, ["fd_digits_500", "classes_digits_500"])
    score = evaluator.score(resampled, resamples=30)
    assert evaluator.score(resampled)["fd_digits_500"] == (score["fd_digits_500"].value, None)
    assert score["classes_digits_500"].error is None
    # Distances of fresh draws of 500 scatter by about as much.
    fresh = [
        evaluator.score(digits.images[torch.randint(1797, (500,), generator=torch.Generator().manual_seed(seed))])
        for seed in range(20)
    ]
    spread = float(torch.tensor([one["fd_digits_500"].value for one in fresh]).std())
    assert score["fd_digits_500"].error == pytest.approx(spread, rel=0.6)


@dataclass
class StandIn:
    """Inception's extractor without its network: the pixels, and how many images it was given."""

    costly: bool = True
    seen: int = 0

    def check(self, data: DataInfo, protocol: str) -> None:
        pass

    def build(self, data: DataInfo, device: torch.device, protocol: str) -> Extractor:
        return Extractor("stand-in", self.extract, self.costly)

    def extract(self, images: torch.Tensor) -> Features:
        self.seen += len(images)
        return Features(images.flatten(1)[:, :2048].float() / 255, None)


@pytest.fixture
def inception(monkeypatch):
    network = StandIn()
    monkeypatch.setitem(extractors.KINDS, "inception", network)
    return network


def test_kid_comes_with_its_error_and_falls_with_quality(digits, inception, tmp_path):
    """From the names of Inception's metrics to numbers, whatever the network."""
    evaluator = Evaluator(digits, ["kid1100", "fid500_clean"], cache=tmp_path)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(4))
    good, bad = (evaluator.score(noisy(digits, digits.images[order[:1100]], std)) for std in (0.0, 0.3))
    for name in ("kid1100", "fid500_clean"):
        assert good[name].value < bad[name].value
    assert good["kid1100"].error is not None
    assert 0 < good["kid1100"].error < 0.1 * bad["kid1100"].value
    rows = evaluator.reference_rows()
    seen = inception.seen
    assert Evaluator(digits, ["kid1100", "fid500_clean"], cache=tmp_path).reference_rows() == rows
    assert inception.seen == seen  # the rows of costly references are read


def test_metrics_are_checked_without_samples_or_networks(inception):
    digits = registry.describe("digits")
    assert [metric.name for metric in check_metrics(digits, ["fid500", "fid500"])] == ["fid500"]
    for name, complaint in (
        ("fid2k_ref2k", "'fid2k_ref2k' needs 2000 real samples, and 'digits' has 1797"),
        ("fd_digits_1k_ref1797", "leaves no other real samples.*of 'digits' the reference can take at most 1795"),
        ("precision_digits_500_ref1795", "leaves no other real samples.*at most 1793"),
        ("recall_digits_2k", "as many real samples, and 'digits' has 1797: use fewer samples"),
        ("fid500_clean_refcleanfid", "no statistics for 'digits'; it does for: cifar10"),
        ("fd_points_500", "'points' reads points in the plane, which data set 'digits'"),
    ):
        with pytest.raises(UsageError, match=complaint):
            check_metrics(digits, [name])
    with pytest.raises(UsageError, match="'fid50k' needs at least 2 real samples, and 'digits' has 1"):
        check_metrics(replace(digits, count=1), ["fid50k"])
    with pytest.raises(UsageError, match=r"compares with at most 100000 real samples.*authenticity500_ref99k or fewer"):
        check_metrics(replace(digits, count=200_000), ["authenticity500"])


def test_published_statistics_are_a_reference(inception, tmp_path):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(3000, 2048, generator=generator).double()
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = Dataset("cifar10", images, torch.zeros(20).long(), 10)
    path = tmp_path / "cifar10_clean_train_32.npz"
    np.savez(path, mu=features.mean(dim=0).numpy(), sigma=torch.cov(features.T).numpy())
    value = scored(Evaluator(data, ["fid20_clean_refcleanfid"], cache=tmp_path), images)["fid20_clean_refcleanfid"]
    assert value == pytest.approx(distances.frechet_from_features(features, inception.extract(images).values), rel=1e-6)
    for content in (b"PK", path.read_bytes()[:-50]):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="does not hold the arrays"):
            Evaluator(data, ["fid20_clean_refcleanfid"], cache=tmp_path)
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((3, 3)))
    with pytest.raises(UsageError, match="statistics of 3 features, not of 2048"):
        Evaluator(data, ["fid20_clean_refcleanfid"], cache=tmp_path)


def test_published_statistics_are_downloaded_once(monkeypatch, tmp_path):
    data, file = registry.describe("cifar10", download=True), "cifar10_clean_train_32.npz"
    served = tmp_path / "served"
    served.mkdir()
    monkeypatch.setattr(published_statistics, "URL", served.as_uri())
    with pytest.raises(UsageError, match=rf"cannot be downloaded .*put the file at .*{file}"):
        PublishedMoments(data, "clean", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    np.savez(served / file, mu=np.zeros(2048), sigma=np.eye(2048))
    assert PublishedMoments(data, "clean", tmp_path / "cache").moments().count == 50_000
    (served / file).unlink()
    assert torch.equal(PublishedMoments(data, "clean", tmp_path / "cache").moments().cov, torch.eye(2048).double())


def test_costly_work_can_be_stopped_between_pieces(digits, inception, tmp_path):
    """Two slow cores take an hour for the reference of a large set: a signal must not wait for it."""
    asked = []
    evaluator = Evaluator(digits, ["fid500"], cache=tmp_path, should_stop=lambda: asked.append(1) or len(asked) > 3)
    with pytest.raises(StoppedError):
        evaluator.reference_rows()
    assert 0 < inception.seen <= 3 * PIECE
    # Finished pieces are not lost.
    before = inception.seen
    Evaluator(digits, ["fid500"], cache=tmp_path).reference_rows()
    assert inception.seen <= before + 1797 + 500


@pytest.mark.parametrize("content", ["", "[]", '[{"what": "halves"}]', "[1]"])
@pytest.mark.usefixtures("inception")
def test_damaged_rows_of_a_reference_are_computed_again(digits, tmp_path, content):
    rows = Evaluator(digits, ["fid500"], cache=tmp_path).reference_rows()
    (path,) = tmp_path.glob("*/rows-fid500.json")
    path.write_text(content)
    assert Evaluator(digits, ["fid500"], cache=tmp_path).reference_rows() == rows


@pytest.mark.parametrize(
    ("name", "seen"), [("fid400", 1438 + 400), ("fid200_ref400", 600 + 200), ("fid200_refheldout", 200 + 359 + 200)]
)
def test_what_is_extracted_ahead_is_what_the_baselines_read(name, seen, inception, tmp_path):
    data = registry.load_dataset(registry.DataOptions(name="digits", held_out=0.2))
    evaluator = Evaluator(data, [name], cache=tmp_path)
    evaluator.extract_references()
    assert inception.seen == seen
    evaluator.reference_rows()
    assert inception.seen == seen


def test_held_out_metrics_compare_with_the_held_out_samples_and_show_copies():
    data = registry.load_dataset(registry.DataOptions(name="digits", held_out=0.2))
    names = ["fd_digits_1k_refheldout", "fd_digits_1k", "precision_digits_200_refheldout"]
    evaluator = Evaluator(data, names)
    copies = scored(evaluator, data.images[:1000])
    assert copies["fd_digits_1k"] < copies["fd_digits_1k_refheldout"]
    assert data.held_out is not None
    swapped = Evaluator(replace(data, images=data.held_out, labels=data.labels[:359], held_out=None), ["fd_digits_1k"])
    assert copies["fd_digits_1k_refheldout"] == pytest.approx(scored(swapped, data.images[:1000])["fd_digits_1k"])
    rows = {(row["what"], row["metric"]): row for row in evaluator.reference_rows()}
    halves = rows["halves", names[0]]
    assert halves["samples"] == 1000
    assert halves["value"] < rows["noise", names[0]]["value"] / 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fd_digits_2k_refheldout", "of 'digits' none are held out: set data.held_out=0.2, or leave out _refheldout"),
        ("authenticity_digits_1k_refheldout", "authenticity compares with training images, leave out _refheldout"),
        ("classes_digits_2k_refheldout", "classes has no choice of its reference, leave out _refheldout"),
    ],
)
def test_held_out_metrics_without_held_out_samples_are_refused(digits, name, message):
    with pytest.raises(UsageError, match=message):
        Evaluator(digits, [name])


def test_neighbours_among_held_out_samples_need_enough_of_them():
    data = registry.load_dataset(registry.DataOptions(name="digits", held_out=0.2))
    with pytest.raises(UsageError, match="held-out part of digits' has 359: use fewer samples"):
        Evaluator(data, ["precision_digits_1k_refheldout"])
