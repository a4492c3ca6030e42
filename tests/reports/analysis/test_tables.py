"""Rows, ranks and bold marks from synthetic cells."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_bench.benchmarks.common.files import DamagedError
from consistency_bench.benchmarks.metrics.registry import direction
from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.formatting import short
from consistency_bench.reports.analysis.published import (
    NAMES,
    NETWORKS,
    Setup,
    compare_published,
    main_values,
    orientation,
    read_published,
)
from consistency_bench.reports.analysis.tables import (
    common_settings,
    contest,
    labels,
    leaderboard,
    seed_values,
    variant,
)


def board_of(out, benchmark="digits"):
    cells = read_cells(out)
    return leaderboard(cells, seed_values(cells), reference_values(out, benchmark))


def row_of(board, label, nfe=1):
    return next(row for row in board.rows if (row.entry.label, row.nfe) == (label, nfe))


def test_the_default_sweep(sweep):
    board = board_of(sweep.default().out)
    assert board.nfes == (1, 2)
    assert board.metrics == ("fd_digits_2k", "kd_digits_2k", "classes_digits_2k")
    assert len(board.rows) == 8
    means = [row.scores["fd_digits_2k"].mean for row in board.rows if row.nfe == 1]
    assert means == sorted(means)
    assert row_of(board, "ict").entry.seeds == {"finished": 2, "diverged": 1}
    assert row_of(board, "sct").entry.seeds == {"finished": 2, "unfinished": 1}
    score = row_of(board, "ict").scores["fd_digits_2k"]
    assert (score.n, score.lost) == (2, 1)
    assert board.reference["halves", "fd_digits_2k"] == 4.0


def test_compute_columns(sweep):
    sweep.cell("ect", 0)
    compute = board_of(sweep.out).entries[0].compute
    assert compute.parameters == 141_000
    assert compute.mimg == 1.024
    assert compute.tflop == pytest.approx(1.536)
    assert compute.device_hours == pytest.approx(50 / 3600)


@pytest.mark.parametrize(
    ("compute", "charged"),
    [
        ({"pretraining_images": 200_000_000}, 200.0),
        ({"pretraining_images": 0}, None),
        ({"pretraining_images": None}, math.nan),
        ({}, None),
    ],
)
def test_pretraining_is_charged(sweep, compute, charged):
    sweep.cell("ect", 0, compute=compute)
    (entry,) = board_of(sweep.out).entries
    assert entry.compute.pretraining_mimg == pytest.approx(charged, nan_ok=True)


def test_a_cell_that_has_just_begun_hides_no_cost(sweep):
    begun = sweep.cell("ect", 0, state="running")
    sweep.cell("ect", 1)
    run = json.loads((begun / "run.json").read_text())
    (begun / "run.json").write_text(json.dumps({**run, "compute": {"pretraining_images": 0, "parameters": None}}))
    assert board_of(sweep.out).entries[0].compute.parameters == 141_000


def test_a_budget_that_is_no_multiple_of_the_batch_ends_with_a_whole_batch(sweep):
    sweep.cell("ect", 0, level=30.0, settings={"train.images": 1_023_900})  # rows end at 1,024,000 = 4,000 batches
    assert row_of(board_of(sweep.out), "ect").scores["fd_digits_2k"].mean == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ""),
        ({"sample.guidance": 1, "sample.guide_at": 0.5, "eval.ema": None}, ""),
        ({"sample.guidance": 1.3, "sample.guide_at": 0.5}, "guided w=1.3 by 50 %"),
        ({"sample.guidance": 2.0}, "guided w=2 by 50 %"),
        ({"eval.ema": "power-0.05"}, "EMA power-0.05"),
        ({"sample.guidance": 1.3, "sample.guide_at": 0.25, "eval.ema": "a\nb"}, "guided w=1.3 by 25 %, EMA a b"),
    ],
)
def test_special_sampling_is_in_the_label(sweep, settings, words):
    sweep.cell("sct", 0, variant="train.lr=0.1", settings=settings)
    assert list(labels(read_cells(sweep.out)).values()) == [f"sct train.lr=0.1{', ' * bool(words)}{words}"]


@pytest.mark.parametrize(
    ("variant", "label"),
    [
        ("eval.ema=p, sample.guidance=1.3, sample.guide_at=0.5", "sct guided w=1.3 by 50 %, EMA p"),
        (
            "data.conditional=true, eval.ema=p, sample.guidance=1.3",
            "sct data.conditional=true, guided w=1.3 by 50 %, EMA p",
        ),
        ("sample.guide_at=0.5, train.lr=1", "sct train.lr=1, guided w=1.3 by 50 %, EMA p"),
    ],
)
def test_special_sampling_is_not_said_twice(sweep, variant, label):
    settings = {"sample.guidance": 1.3, "sample.guide_at": 0.5, "eval.ema": "p"}
    sweep.cell("sct", 0, variant=variant, settings=settings)
    assert list(labels(read_cells(sweep.out)).values()) == [label]


def test_headline_is_the_last_snapshot_even_where_an_earlier_one_is_better(sweep):
    folder = sweep.cell("ect", 0, level=30.0)
    records = folder / "records.jsonl"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    for row in rows:
        if row["images"] < 1_024_000 and row["metric"] == "fd_digits_2k":
            row["value"] = 1.0
    records.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert row_of(board_of(sweep.out), "ect").scores["fd_digits_2k"].mean == pytest.approx(30.0)


def test_draws_are_averaged_within_the_seed(sweep):
    for seed in range(2):
        sweep.cell("ect", seed, level=30.0, draws=3)
    score = row_of(board_of(sweep.out), "ect").scores["fd_digits_2k"]
    assert score.n == 2
    assert score.mean == pytest.approx(30.001)


def test_a_row_that_is_there_twice_is_refused(sweep):
    path = sweep.cell("ect", 0, level=30.0) / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[-6] | {"value": 55.0}]))
    with pytest.raises(DamagedError, match=r"records\.jsonl: row 49 is there twice"):
        read_cells(sweep.out)


def test_bold_needs_every_paired_interval(sweep):
    for seed, (ict, ect) in enumerate([(40.0, 30.0), (50.0, 40.1), (60.0, 49.9)]):
        sweep.cell("ict", seed, level=ict)
        sweep.cell("ect", seed, level=ect)
    # The spread over seeds is wide, but every pair differs by 10: pairing makes it certain.
    board = board_of(sweep.out)
    assert "fd_digits_2k" in row_of(board, "ect").best
    assert not row_of(board, "ict").best
    assert "classes_digits_2k" not in row_of(board, "ect").best  # equal values
    sweep.cell("vct", 0, level=35.0)  # one seed: cannot be told apart from anything
    assert not row_of(board_of(sweep.out), "ect").best


@pytest.mark.slow
def test_all_pairs_of_a_large_sweep_are_one_family(sweep):
    cells = [cell for cell in read_cells(sweep.many(160).out) if cell.benchmark == "digits"]
    board = leaderboard(cells, seed_values(cells), {})
    found = board.contests[1, "fd_digits_2k"]
    assert len(board.entries) == 16
    assert found.family.size == 16 * 15 / 2
    assert {difference.pairs for difference in found.differences.values()} == {120}
    places = [row.ranks["fd_digits_2k"] for row in board.rows if row.nfe == 1]
    assert all(rank.low <= rank.place <= rank.high for rank in places)


def test_directions():
    assert [direction(name) for name in ("fd_digits_2k", "kd_x", "fid50k", "kid2k", "w2_toy2d")] == [-1] * 5
    assert [direction(name) for name in ("classes_digits_2k", "modes_8", "precision", "recall", "coverage")] == [1] * 5
    assert direction("loss") == 0


def test_higher_is_better_leads_with_the_higher():
    found = contest({"a": {0: 7.0, 1: 7.1, 2: 7.0}, "b": {0: 9.0, 1: 9.1, 2: 9.2}}, "classes_x", 1)
    assert (found.leader, found.significant) == ("b", True)
    assert found.differences["a"].interval.mean == pytest.approx(2.0667, abs=1e-3)


def test_unknown_direction_leads_nothing():
    assert contest({"a": {0: 1.0, 1: 1.0}, "b": {0: 2.0, 1: 2.0}}, "something", 1).leader is None


def test_a_leader_with_a_diverged_seed_is_not_certain():
    values = {"a": {0: 1.0, 1: 1.1, 2: math.nan}, "b": {0: 9.0, 1: 9.1, 2: 9.0}}
    assert not contest(values, "fd_x", 1).significant


def test_a_leader_with_a_failed_cell_is_not_certain():
    values = {"a": {0: 1.0, 1: 1.1, 2: 1.05}, "b": {0: 9.0, 1: 9.2, 2: 9.0}}
    assert contest(values, "fd_x", 1).significant
    found = contest(values, "fd_x", 1, {"a": 1})
    assert (found.significant, found.broken) == (False, 1)
    assert contest(values, "fd_x", 1, {"b": 1}).significant


def test_a_rival_that_always_diverged_is_no_rival_and_one_without_values_is_not_yet_beaten():
    leader, rival = {0: 1.0, 1: 1.1, 2: 1.0}, {0: 9.0, 1: 9.2, 2: 9.0}
    gone = dict.fromkeys(leader, math.nan)
    found = contest({"a": leader, "b": gone, "c": rival}, "fd_x", 1)
    assert (found.significant, found.diverged) == (True, ("b",))
    assert not contest({"a": leader, "b": gone}, "fd_x", 1).significant  # better than what?
    assert not contest({"a": leader, "b": {}}, "fd_x", 1).significant
    assert not contest({"a": leader}, "fd_x", 1).significant


def test_a_single_seed_heads_no_table(sweep):
    for seed in range(3):
        sweep.cell("ect", seed, level=30.0 + seed)
        sweep.cell("ict", seed, level=40.0 + 0.9 * seed)
    sweep.cell("vct", 0, level=10.0)
    board = board_of(sweep.out)
    assert [entry.label for entry in board.entries] == ["ect", "ict", "vct"]
    assert [row_of(board, label).ranks["fd_digits_2k"].place for label in ("ect", "ict", "vct")] == [1, 2, None]
    found = board.contests[1, "fd_digits_2k"]
    assert (found.leader, found.significant, found.undecided) == ("ect", False, ("vct",))
    assert found.differences["vct"].reason == "needs 3 common seeds"


def test_where_all_have_a_single_seed_the_best_value_leads_and_nothing_is_ranked():
    found = contest({"a": {0: 2.0}, "b": {0: 1.0}, "c": {0: math.nan}}, "fd_x", 1)
    assert (found.leader, found.significant, found.undecided, found.diverged) == ("b", False, ("a",), ("c",))


def test_seeds_times_draws_and_their_spread(sweep):
    for seed in range(3):
        sweep.cell("ect", seed, level=30.0 + seed, draws=2)
    spread = row_of(board_of(sweep.out), "ect").spreads["fd_digits_2k"]
    assert (spread.seeds, spread.draws) == (3, (2, 2))
    assert spread.seed == pytest.approx(1.0)
    assert spread.draw == pytest.approx(0.001 / math.sqrt(2))


def test_labels_are_short_and_unique(sweep):
    sweep.cell("ect", 0)
    sweep.cell("ect", 0, variant="train.lr=0.1")
    sweep.cell("ict", 0, version=1)
    sweep.cell("ict", 0, version=2)
    sweep.cell("vct", 0)
    sweep.cell("vct", 0, budget=8192)
    names = sorted(labels(read_cells(sweep.out)).values())
    assert names[:4] == ["ect", "ect train.lr=0.1", "ict v1", "ict v2"]
    assert [name.split("#")[0] for name in names[4:]] == ["vct v1 ", "vct v1 "]
    assert len(set(names)) == 6


def test_a_row_says_what_it_was_tuned_from(sweep):
    def tuned(method, name, init):
        start = {"cell": "digits/edm/s0-x", "id": name, "method": "edm", "images": 176_000}
        settings = {"train.init": init, "cell.start": start, "train.lr": 0.1}
        sweep.cell(method, 0, variant=f"train.init={init}, train.lr=0.1", settings=settings)

    sweep.cell("edm", 0)
    tuned("ect", "x", "edm")
    tuned("vct", "y", "cell:y")
    assert sorted(labels(read_cells(sweep.out)).values()) == [
        "ect tuned from edm, 176,000 images, train.lr=0.1",
        "edm",
        "vct tuned from edm y, 176,000 images, train.lr=0.1",
    ]
    assert short("ect tuned from edm, 176,000 images, train.lr=0.1").splitlines() == [
        "ect",
        "tuned from edm, 176,000 images,",
        "lr=0.1",
    ]


def test_nothing_finished_gives_rows_without_values(sweep):
    sweep.cell("ect", 0, state="queued")
    sweep.cell("ict", 0, state="running")
    board = board_of(sweep.out)
    assert {row.scores["fd_digits_2k"].n for row in board.rows} == {0}
    assert board.contests[1, "fd_digits_2k"].leader is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("records.jsonl", "{}\n", "the entry 'cell' is missing"),
        ("records.jsonl", "3\n", "line 1 is not an object"),
        ("records.jsonl", '{"cell": 1\n{}\n', "line 1 is not JSON"),
        ("records.jsonl", "\x00\udcff\n", "line 1 is not JSON"),
        ("records.jsonl", '{"cell": "0"}\n', "belongs to cell '0'"),
        ("status.json", "[]", "must have a state"),
        ("status.json", "{", "Expecting"),
        ("config.yaml", "cell: [", "flow node"),
        ("config.yaml", "cell: {}", "the section 'benchmark' is missing"),
        ("run.json", "{}", "'attempts' is missing"),
    ],
)
def test_damage_is_named_by_file(sweep, name, content, message):
    folder = sweep.cell("ect", 0)
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        read_cells(sweep.out)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("value", "12"), ("value", True), ("images", 1.5), ("nfe", None), ("metric", 3)]
)
def test_damaged_rows_are_named(sweep, key, value):
    records = sweep.cell("ect", 0) / "records.jsonl"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    rows[4][key] = value
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=f"row 5 has {key}") as caught:
        read_cells(sweep.out)
    assert str(records) in str(caught.value)


def test_published_values_are_matched_by_method_data_nfe_and_metric():
    [value] = main_values("ect", "cifar10", 1, "fid50k")
    assert (value.value, value.training_mimg, value.source_kind) == (3.60, 51.2, "primary")
    assert [row.value for row in main_values("ict", "cifar10", 2, "fid50k")] == [2.46]
    assert [row.value for row in main_values("ict+ot", "cifar10", 1, "fid50k")] == [6.75]
    # What OCR, an index or a summary says stands beside no result.
    assert not main_values("sct", "cifar10", 1, "fid50k")
    assert not main_values("vct", "cifar10", 2, "fid50k")
    assert [row.value for row in main_values("sct", "imagenet64", 2, "fid50k")] == [1.55]  # of the abstract
    assert not main_values("ect", "cifar10", 1, "fid10k")
    assert not main_values("ect", "digits", 1, "fid50k")
    assert not main_values("ict+vc", "cifar10", 1, "fid50k")
    assert not main_values("ict", "imagenet64", 1, "precision")  # only attributed, never confirmed


CIFAR10 = {"kind": "ddpmpp", "channels": 128, "channel_mult": [2, 2, 2], "blocks": 4, "dropout": 0.2}
EDM = "edm-cifar10-32x32-uncond-vp"


@pytest.mark.parametrize(
    ("changes", "differs", "unknown"),
    [
        ({}, (), ()),
        ({"mimg": 51.3}, (), ()),
        ({"mimg": 25.6}, ("budget",), ()),
        ({"network": {**CIFAR10, "channels": 64}}, ("network",), ()),
        ({"network": {}}, ("network",), ()),
        ({"init": None}, ("init",), ()),
        ({"init": "edm2-img64-s-1073741-0.075"}, ("init",), ()),
        ({"conditional": True}, ("labels",), ()),
        ({"sampling": "guided w=2"}, ("sampling",), ()),
        ({"method": "ict", "mimg": 1.0, "init": None}, ("budget", "network"), ()),
    ],
)
def test_what_differs_from_a_published_value_is_flagged(changes, differs, unknown):
    ours = dataclasses.replace(Setup("ect", "cifar10", 51.2, CIFAR10, EDM, False, ""), **changes)
    values = compare_published(ours, 2, "fid50k", 4.0)
    assert values
    for found in values:
        assert (found.differs, found.unknown) == (differs, unknown)
        assert found.delta == pytest.approx(4.0 - found.published.value)


def test_another_evaluator_is_flagged_and_another_count_is_another_metric():
    ours = Setup("ect", "cifar10", 51.2, CIFAR10, EDM, False, "")
    [found] = compare_published(ours, 1, "fid50k_clean", math.nan)
    assert (found.published.value, found.differs, found.delta) == (3.60, ("evaluator",), None)
    assert compare_published(ours, 1, "fid10k", 4.0) == ()
    assert compare_published(ours, 4, "fid50k", 4.0) == ()


def test_every_published_network_is_known_and_every_row_has_a_source():
    rows = read_published()
    assert {row.network for row in rows} - {*NETWORKS, ""} == {"ADM double depth"}  # a network that we do not have
    assert all(row.source for row in rows)
    assert {row.source_kind for row in rows} == {"primary", "secondary", "unverified"}


def test_every_published_name_is_in_the_file():
    assert {*NAMES.values()} <= {row.method for row in read_published()}


def test_orientation_has_a_line_per_published_variant():
    lines = orientation(["ict", "ect", "sct", "vct", "ect+vc"])
    assert [row.method for row, _ in lines] == ["iCT", "ECT"]
    assert lines[1][1] == {1: 3.60, 2: 2.11}


def test_what_all_configurations_share_is_in_no_label(sweep):
    sweep.cell("ect", 0, variant="method.x=[1, 2], train.batch=8, train.images=1600")
    sweep.cell("ect", 0, variant="method.x=[1, 3], train.batch=8, train.images=1600")
    sweep.cell("ict", 0, variant="train.batch=8, train.images=1600, train.lr=2")
    sweep.cell("vct", 0, variant="train.batch=8, train.images=1600")
    board = board_of(sweep.out)
    assert board.common == ("train.batch=8", "train.images=1600")
    expected = ["ect method.x=[1, 2]", "ect method.x=[1, 3]", "ict train.lr=2", "vct"]
    assert sorted(labels(board.cells).values()) == sorted(entry.label for entry in board.entries) == expected
    assert sorted(entry.variant for entry in board.entries) == ["", "method.x=[1, 2]", "method.x=[1, 3]", "train.lr=2"]
    sweep.cell("sct", 0)  # at the defaults: nothing is common any more
    assert board_of(sweep.out).common == ()


def test_special_sampling_is_said_even_where_all_share_it(sweep):
    settings = {"eval.ema": "power-0.05"}
    for method in ("ect", "sct"):
        sweep.cell(method, 0, variant="eval.ema=power-0.05, train.lr=1", settings=settings)
    board = board_of(sweep.out)
    assert board.common == ("train.lr=1",)
    assert sorted(entry.label for entry in board.entries) == ["ect EMA power-0.05", "sct EMA power-0.05"]


def test_one_configuration_keeps_its_label(sweep):
    for seed in range(2):
        sweep.cell("ect", seed, variant="train.batch=8")
    assert board_of(sweep.out).common == ()


@dataclass(frozen=True)
class Named:
    """What names a cell."""

    group: str
    method: str
    settings: tuple[str, ...]
    version: int = 1
    sampling: str = ""


@given(st.lists(st.tuples(st.sampled_from(["ect", "ict"]), st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)))))
def test_labels_tell_all_groups_apart(configurations):
    cells = [
        Named(str(place), method, tuple(f"{key}={value}" for key, value in settings.items()))
        for place, (method, settings) in enumerate(configurations)
    ]
    names = labels(cells)
    assert len(set(names.values())) == len(cells)
    common = common_settings(cells)
    full, short = ({(c.method, variant(c, left)) for c in cells} for left in ((), common))
    assert len(full) == len(short)
    assert all({*common} <= {*cell.settings} for cell in cells)


def edited(folder, change):
    """The records of a cell with each row passed through `change`."""
    path = folder / "records.jsonl"
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_sampling_errors_are_medians_of_the_last_snapshots(sweep):
    def known(first, second):
        def change(row):
            error = (first, second)[row["draw"]] if row["images"] == 1_024_000 else 99.0
            return row | {"error": error if (row["nfe"], row["metric"]) == (1, "fd_digits_2k") else None}

        return change

    for seed, errors in enumerate([(1.0, 3.0), (5.0, None), (9.0, 9.0)]):
        edited(sweep.cell("ect", seed, draws=2), known(*errors))
    edited(sweep.cell("vct", 0, state="diverged"), lambda row: row | {"error": 50.0})
    sweep.cell("ict", 0)  # of a version without the column
    assert board_of(sweep.out).errors == {(1, "fd_digits_2k"): 5.0}


def test_without_errors_there_are_none(sweep):
    sweep.cell("ect", 0)
    edited(sweep.cell("vct", 0), lambda row: row | {"error": None})
    assert board_of(sweep.out).errors == {}


def test_a_damaged_error_is_named(sweep):
    edited(sweep.cell("ect", 0), lambda row: row | {"error": "0.1"})
    with pytest.raises(ValueError, match=r"row 1 has error '0\.1'"):
        read_cells(sweep.out)
