"""What is ranked together, and what a study compares with its baseline."""

from __future__ import annotations

import pytest

from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.analysis.rankings import named_group, rankings
from consistency_bench.reports.analysis.tables import Focus, leaderboard, seed_values
from consistency_bench.reports.pages.leaderboard import excerpt_text
from consistency_bench.reports.pages.results import results
from consistency_bench.reports.pages.spreadsheet import results_csv
from consistency_bench.reports.pages.verdicts import verdict

from ..conftest import Sweep


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"budget": 102_400, "variant": "train.images=102400"}, "train.images=102400"),
        ({"settings": {"network.width": [64, 64]}, "variant": "network.width=[64,64]"}, "network.width=[64, 64]"),
        ({"settings": {"data.flip": True}, "variant": "data.flip=True"}, "data.flip=true"),
        ({"settings": {"train.init": "edm"}, "variant": "train.init=edm"}, "train.init=edm"),
        ({"settings": {"eval.quantise": "truncate"}, "variant": "eval.quantise=truncate"}, "eval.quantise=truncate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cells_that_cannot_be_compared_are_ranked_apart(sweep: Sweep, changes: dict, title: str) -> None:
    for method in ("ect", "vct"):
        sweep.cell(method, 0, **changes)
        assert len(rankings(read_cells(sweep.out))) == 1
    sweep.cell("ect", 1)
    found = rankings(read_cells(sweep.out))
    ranked = {name: sorted((cell.method, cell.seed) for cell in cells) for name, cells in found}
    assert ranked == {"": [("ect", 1)], title: [("ect", 0), ("vct", 0)]}


def test_a_pretraining_alone_is_ranked_with_the_cells_that_start_from_it(sweep: Sweep) -> None:
    first = sweep.cell("edm", 0).name
    start = {"cell": f"digits/edm/{first}", "id": first.partition("-")[2], "method": "edm", "images": 1_024_000}
    tuned = {"settings": {"train.init": "edm", "cell.start": start}, "variant": "train.init=edm"}
    for method in ("ect", "vct"):
        sweep.cell(method, 0, **tuned)
    assert [(name, len(cells)) for name, cells in rankings(read_cells(sweep.out))] == [("", 3)]
    sweep.cell("ict", 0)  # from scratch: the pre-training is not alone any more
    found = [(name, sorted(cell.method for cell in cells)) for name, cells in rankings(read_cells(sweep.out))]
    assert found == [("", ["edm", "ict"]), ("train.init=edm", ["ect", "vct"])]


@pytest.mark.parametrize("key", ["train.lr", "method.coupling.kl_weight"])
def test_what_is_swept_at_equal_budget_stays_together(sweep: Sweep, key: str) -> None:
    sweep.sweep("vct", key, {1: [20, 21], 3: [24, 25]}, 3)
    assert [name for name, _ in rankings(read_cells(sweep.out))] == [""]


def excerpt(out) -> str:
    (_, cells), *_ = rankings(read_cells(out))
    return excerpt_text([leaderboard(cells, seed_values(cells), {})], "")


def test_smoke_runs_and_ablations_leave_the_headline_as_it_was(sweep: Sweep) -> None:
    sweep.default()
    before = excerpt(sweep.out)
    for method in ("ect", "vct"):
        for seed in range(2):
            sweep.cell(method, seed, variant="preset=smoke", budget=102_400, level=900.0 + 500 * seed)
            sweep.cell(method, seed, variant="train.lr=1", settings={"train.lr": 1}, level=90.0 + 50 * seed)
    sweep.cell("vct", 0, variant="method.coupling.kl_weight=9", settings={"method.coupling.kl_weight": 9})
    assert excerpt(sweep.out) == before
    names = {name: len({cell.group for cell in cells}) for name, cells in rankings(read_cells(sweep.out))}
    assert names == {"": 4, "ablations": 3, "train.images=102400": 2}


def test_a_baseline_is_named_by_its_label_or_its_method(sweep: Sweep) -> None:
    plain = sweep.cell("ect", 0)
    sweep.cell("vct", 0, variant="train.lr=1", settings={"train.lr": 1})
    sweep.cell("ect", 0, variant="train.lr=1", settings={"train.lr": 1})
    cells = read_cells(sweep.out)
    group = next(cell.group for cell in cells if cell.run.path == plain)
    assert named_group("ect", cells) == group
    assert named_group("vct", cells) == named_group("vct train.lr=1", cells) != group
    assert named_group("ict", cells) is None


def board_of(sweep: Sweep, baseline: str):
    levels = {"ict": (40, 43, 46.5), "ect": (30, 33, 36), "vct": (20, 23.1, 26), "sct": (29, 34, 36)}
    for method, own in levels.items():
        for seed, level in enumerate(own):
            sweep.cell(method, seed, level=level)
    cells = read_cells(sweep.out)
    group = next(cell.group for cell in cells if cell.method == baseline)
    return leaderboard(cells, seed_values(cells), {}, Focus("kd_digits_2k", 2, group))


def test_a_baseline_is_what_the_others_are_compared_with(sweep: Sweep) -> None:
    board = board_of(sweep, "ect")
    assert (board.baseline, board.metrics[0], board.nfes) == ("ect", "kd_digits_2k", (2, 1))
    table = results(board, 2).ranking
    column = table.header.index("verdict")
    assert table.header[column - 1] == "difference to ect"
    rows = {getattr(row[3], "text", ""): getattr(row[column], "text", "") for row in table.rows}
    assert rows == {
        "vct v1": "significantly better",
        "ect v1": "baseline",
        "sct v1": "inconclusive",
        "ict v1": "significantly worse",
    }
    text = verdict(board, 2)
    assert "At NFE 2, vct has the lowest kd_digits_2k" in text
    assert "Significantly better (family-wise 95 %) than the baseline ect: vct with a difference of −0.0079" in text
    assert "Significantly worse (family-wise 95 %) than the baseline ect: ict with a difference of 0.0081" in text
    assert "Inconclusive against the baseline ect: sct" in text
    lines = [line.split(",") for line in results_csv([board]).splitlines()]
    at = lines[0].index('"verdict"')
    found = {line[1].strip('"'): line[at].strip('"') for line in lines[1:] if line[4:6] == ["2", '"kd_digits_2k"']}
    assert found == {"vct": "better", "ect": "baseline", "sct": "inconclusive", "ict": "worse"}


def test_who_leads_does_not_depend_on_the_baseline(sweep: Sweep) -> None:
    board = board_of(sweep, "ict")
    contest = board.contests[2, "kd_digits_2k"]
    assert (contest.leader, contest.reference, contest.significant) == (
        "vct",
        "ict",
        False,
    )  # only differences to the baseline are tested
    assert sorted(contest.differences) == ["ect", "sct", "vct"]
