"""The grammar of metric names."""

import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.metrics import registry
from consistency_bench.benchmarks.metrics.extractors import registry as extractors
from consistency_bench.benchmarks.metrics.extractors.preprocessing import PROTOCOLS
from consistency_bench.benchmarks.metrics.registry import Metric, direction, expand, parse


def test_a_name_holds_distance_extractor_and_count():
    assert parse("fd_digits_2k") == Metric("fd_digits_2k", "fd", "digits", 2000, lower_is_better=True)
    assert parse("modes_points_500") == Metric("modes_points_500", "modes", "points", 500, lower_is_better=False)
    assert parse("kd_digits_50k").samples == 50_000
    assert parse("fd_digits_1500").samples == 1500


def test_inception_has_names_of_its_own_with_protocol_and_reference():
    assert parse("fid50k") == Metric("fid50k", "fd", "inception", 50_000, True, "legacy_tensorflow")
    assert parse("fid50k_clean").protocol == "clean"
    assert parse("precision10k") == Metric("precision10k", "precision", "inception", 10_000, False, "legacy_tensorflow")
    assert (parse("fid2k_clean_ref500").samples, parse("fid2k_clean_ref500").reference) == (2000, 500)
    assert parse("fid50k_clean_refcleanfid").reference == "cleanfid"


def test_extractors_of_the_user_s_own():
    assert parse("kd_my.features:extract_2k").extractor == "my.features:extract"


def test_every_listed_example_is_valid_and_has_a_description_and_a_builder():
    for name in registry.EXAMPLES:
        assert parse(name).distance in registry.DISTANCES
    assert set(registry.EXTRACTORS) | {"inception"} == set(extractors.KINDS)
    assert tuple(PROTOCOLS) == registry.PROTOCOLS
    assert {parse(name).distance for name in registry.EXAMPLES} == set(registry.DISTANCES)
    assert set(registry.DISTANCES) >= registry.HIGHER_IS_BETTER


def test_pairs_are_spelled_out_once():
    assert expand(["pr10k", "fid50k", "precision10k", "dc_digits_2k"]) == [
        "precision10k",
        "recall10k",
        "fid50k",
        "density_digits_2k",
        "coverage_digits_2k",
    ]
    assert expand(["prose", "dc"]) == ["prose", "dc"]


def test_the_better_direction_is_read_from_the_first_word():
    for name in registry.EXAMPLES:
        assert direction(name) == (-1 if parse(name).lower_is_better else 1)
    assert direction("loss") == direction("fidelity") == 0


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fd",
        "fd_digits",
        "fd_digits_0",
        "fd_digits_2K",
        "fd_digits_02k",
        "fd_digits_2k\n",
        "w2_digits_2k",
        "classes_points_2k",
        "fd_inception_2k",
        "fid_inception_50k",
        "fid50k_cleaner",
        "fid50k_ref",
        "fd_digits_2k_clean",
        "fd_a..b:c_2k",
    ],
)
def test_what_is_no_metric_is_refused_with_the_valid_ones(name):
    with pytest.raises(UsageError, match=r"^unknown metric .*Available: fid50k, kid50k, .*fd_digits_2k"):
        parse(name)


def test_a_near_miss_is_guessed():
    with pytest.raises(UsageError, match="Did you mean: fd_digits_2k"):
        parse("fd_digit_2k")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("fd_digits_2000", "write 2000 as 2k"),
        ("fid2k_ref5000", "write 5000 as 5k"),
        ("fid50k_legacy_tensorflow", "write it as fid50k"),
        ("fid1", "at least 2"),
        ("precision3", "at least 4"),
        ("density10k_ref5", "at least 6"),
        ("fidinf10k", "at least 20480"),
        ("fdinf_digits_500", "at least 640"),
        ("w2_points_500_ref500", "leave out _ref500"),
        ("kid50k_refcleanfid", "for fid alone"),
        ("fd_digits_1", "at least 2"),
        ("w2_points_6k", "at most 5k"),
    ],
)
def test_counts_have_one_spelling_and_limits(name, advice):
    with pytest.raises(UsageError, match=advice):
        parse(name)
