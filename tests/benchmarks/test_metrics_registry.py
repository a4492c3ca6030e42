"""The grammar of metric names."""

import pytest

from consistency_bench.benchmarks.errors import UsageError
from consistency_bench.benchmarks.metrics import extractors, registry
from consistency_bench.benchmarks.metrics.registry import Metric, parse


def test_a_name_holds_distance_extractor_and_count():
    assert parse("fd_digits_2k") == Metric("fd_digits_2k", "fd", "digits", 2000, lower_is_better=True)
    assert parse("modes_points_500") == Metric("modes_points_500", "modes", "points", 500, lower_is_better=False)
    assert parse("kd_digits_50k").samples == 50_000
    assert parse("fd_digits_1500").samples == 1500


def test_every_listed_example_is_valid_and_has_a_description_and_a_builder():
    for name in registry.EXAMPLES:
        assert parse(name).distance in registry.DISTANCES
    assert set(registry.EXTRACTORS) == set(extractors.BUILDERS)
    assert {parse(name).distance for name in registry.EXAMPLES} == set(registry.DISTANCES)
    assert set(registry.DISTANCES) >= registry.HIGHER_IS_BETTER


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fd",
        "fd_digits",
        "fd_digits_",
        "fd_digits_0",
        "fd_digits_0k",
        "fd_digits_2K",
        "fd_digits_2.5k",
        "fd_digits_-5",
        "fd_digits_02k",
        "fd_digits_2k ",
        "fd_digits_2k\n",
        "w2_digits_2k",
        "classes_points_2k",
        "modes_digits_2k",
        "fd_inception_2k",
    ],
)
def test_what_is_no_metric_is_refused_with_the_valid_ones(name):
    with pytest.raises(UsageError, match=r"^unknown metric .*Available: fd_digits_2k, kd_digits_2k, classes_digits_2k"):
        parse(name)


def test_a_near_miss_is_guessed():
    with pytest.raises(UsageError, match="Did you mean: fd_digits_2k"):
        parse("fd_digit_2k")


@pytest.mark.parametrize("name", ["fid50k", "fid_inception_50k", "kid2k", "fid"])
def test_inception_metrics_are_said_to_be_absent(name):
    with pytest.raises(UsageError, match=r"Inception network.*not available in this version.*fd_digits_2k"):
        parse(name)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("fd_digits_2000", "write it as fd_digits_2k"),
        ("fd_digits_1", "at least 2"),
        ("w2_points_6k", "at most 5k"),
    ],
)
def test_counts_have_one_spelling_and_limits(name, advice):
    with pytest.raises(UsageError, match=advice):
        parse(name)
