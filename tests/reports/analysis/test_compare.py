"""`bench compare`: what belongs together, what it says, and what it refuses."""

from __future__ import annotations

import math
import re

import pytest

from consistency_bench.benchmarks.cli.compare import compare as command
from consistency_bench.benchmarks.cli.main import main
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.reports.analysis.cells import read_cells
from consistency_bench.reports.analysis.compare import Side, compare, matches
from consistency_bench.reports.analysis.statistics import paired_interval

FD = "fd_digits_2k"


@pytest.fixture
def said(sweep, capsys):
    """Runs the command on the cells of `sweep` and returns what it printed."""

    def run(first, second, **options):
        assert command(first, second, sweep.out, metric=options.get("metric"), nfe=options.get("nfe")) == 0
        return capsys.readouterr().out

    return run


def three(sweep, method, level, step=1.0, **kwargs):
    for seed in range(3):
        sweep.cell(method, seed, level=level + step * seed, **kwargs)


def flat(text):
    """Without the line breaks of a narrow terminal."""
    return " ".join(text.split())


def side(sweep, method):
    return Side.of([cell for cell in read_cells(sweep.out) if cell.method == method])


def test_two_methods_on_their_common_seeds(sweep):
    three(sweep, "ect", 30.0)
    three(sweep, "ict", 40.0, 1.1)
    sweep.cell("ict", 7, level=1.0)
    made = compare(matches(side(sweep, "ect"), side(sweep, "ict")))
    assert [(item.metric, item.nfe) for item in made] == [
        (metric, nfe) for metric in (FD, "kd_digits_2k", "classes_digits_2k") for nfe in (1, 2)
    ]
    found = made[0].difference
    assert (found.interval.n, found.pairs, found.corrected) == (3, 1, pytest.approx(found.p))
    logs = [{seed: math.log(value) for seed, value in own.items()} for own in (made[0].first, made[0].second)]
    assert found.interval.mean == pytest.approx(paired_interval(*logs).mean)
    assert [item.headline for item in made] == [True] + 5 * [False]
    assert (found.verdict, found.reason) == ("better", "")
    assert made[0].names == ("ect", "ict")


def test_the_terminal_shows_seeds_means_and_a_verdict(sweep, said):
    three(sweep, "ect", 30.0)
    three(sweep, "ict", 40.0, 1.1)
    text = said("ect", "ict")
    assert re.search(r"^   1  31\.0  41\.1  −10\.1 *$", text, re.MULTILINE)
    assert re.search(
        r"^  1  31\.0  41\.1 +−24\.6 % \(−25\.[\d]+ to −2[\d.]+\)  3 +100 %  A better *$", text, re.MULTILINE
    )
    assert "At NFE 1 on digits, ect is significantly better than ict in fd_digits_2k" in text
    assert "The other 5 comparisons are exploratory: 3 A better, 0 B better, 2 inconclusive." in flat(text)
    assert max(map(len, text.splitlines())) <= 80
    assert "significantly better" not in said("ect", "ict", metric="classes_digits_2k")
    assert "1.3 %" in text


def test_metric_and_nfe_choose_the_family(sweep, said):
    three(sweep, "ect", 30.0)
    three(sweep, "ict", 40.0, 1.1)
    text = said("ect", "ict", metric=FD, nfe="2")
    assert "kd_digits" not in text
    assert "exploratory" not in text
    assert "At NFE 2 on digits" in text
    [found] = compare(matches(side(sweep, "ect"), side(sweep, "ict")), [FD], [(2, 2)])
    assert (found.difference.pairs, found.headline) == (1, True)


def test_rows_at_different_nfe_are_compared_on_common_seeds(sweep, said):
    three(sweep, "edm", 60.0)
    three(sweep, "ect", 40.0, 1.1)
    text = said("edm", "ect", metric=FD, nfe="2:1,1:2")
    assert "fd_digits_2k (lower is better) of A at NFE 1 and B at NFE 2, seed by seed" in flat(text)
    assert re.findall(r"^ *(\d+:\d+) ", text, re.MULTILINE) == ["1:2", "2:1"]
    assert "On digits, ect at NFE 2 is significantly better than edm at NFE 1 in fd_digits_2k" in flat(text)
    assert max(map(len, text.splitlines())) <= 80
    (found,) = compare(matches(side(sweep, "edm"), side(sweep, "ect")), [FD], [(2, 1)])
    values = [
        {cell.seed: row["value"] for cell in side(sweep, method).cells for row in cell.records if _is(row, nfe)}
        for method, nfe in (("edm", 2), ("ect", 1))
    ]
    assert (found.nfe, found.second_nfe, [found.first, found.second]) == (2, 1, values)


def _is(row, nfe):
    return (row["metric"], row["nfe"], row["images"]) == (FD, nfe, 1_024_000)


def test_a_run_is_compared_with_itself_at_another_nfe(sweep, said):
    three(sweep, "ect", 30.0)
    text = flat(said("ect", "ect", metric=FD, nfe="2:1"))
    assert "On digits, the comparison of ect at NFE 2 and ect at NFE 1 in fd_digits_2k is" in text
    assert "−20.0 %" in text
    assert "the same configuration" not in text


def test_a_single_seed_is_inconclusive(sweep, said):
    sweep.cell("ect", 0, level=1.0)
    three(sweep, "ict", 40.0)
    assert "the comparison of ect and ict in fd_digits_2k is inconclusive: needs 3 common" in flat(said("ect", "ict"))


def test_diverged_seeds_are_named(sweep, said):
    three(sweep, "ict", 40.0, 1.1)
    sweep.cell("ict", 3, level=43.2)
    for seed in range(4):
        sweep.cell("ect", seed, level=30.0 + seed, state="diverged" if seed == 1 else "done")
    text = said("ect", "ict")
    assert "A  ect (seeds 0, 1, 2, 3; diverged: 1)" in text
    assert "in fd_digits_2k is inconclusive: seeds of the better one diverged." in flat(text)


def test_two_folders_are_compared_configuration_by_configuration(sweep, tmp_path, said):
    other = type(sweep)(tmp_path / "other")
    for where, shift in ((sweep, 0.0), (other, 10.0)):
        three(where, "ect", 30.0 + shift)
        three(where, "ict", 40.0 + shift, 1.1)
    other.cell("vct", 0)
    found = matches(Side.of(read_cells(sweep.out)), Side.of(read_cells(other.out)))
    assert [(benchmark, names) for benchmark, names, *_ in found] == [
        ("digits", ("ect", "ect")),
        ("digits", ("ict", "ict")),
    ]
    text = said(str(sweep.out), str(other.out), metric=FD, nfe="1")
    assert "A (ect)" in text
    assert "A and B are the same configuration: both ran on" in flat(text)
    pairs = matches(Side.of(read_cells(sweep.out)), Side.of(read_cells(other.out)))
    assert {item.difference.pairs for item in compare(pairs, [FD], [(1, 1)])} == {2}
    assert all(item.same for item in compare(pairs))
    assert f"A  {sweep.out.name}: ect (seeds 0, 1, 2)" in text
    assert re.search(rf"^seed +{sweep.out.name} +other +A − B *$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80


def test_one_configuration_on_two_machines_measures_hardware(sweep, tmp_path, said):
    other = type(sweep)(tmp_path / "other")
    for where, shift in ((sweep, 0.0), (other, 0.3)):
        three(where, "ect", 30.0 + shift)
    for path in other.out.glob("*/*/*/run.json"):
        path.write_text(path.read_text().replace("Example CPU", "Other CPU"))
    text = flat(said(str(sweep.out), str(other.out), metric=FD, nfe="1"))
    assert "A and B are the same configuration: A ran on Example CPU (2 cores), B on Other CPU (2 cores)." in text
    assert "Their differences measure hardware, software and nondeterminism, not methods." in text


def test_folders_of_one_name_are_told_apart(sweep, tmp_path, said):
    other = type(sweep)(tmp_path / "elsewhere" / sweep.out.name)
    for where in (sweep, other):
        three(where, "ect", 30.0)
    text = said(str(sweep.out), str(other.out))
    heads = re.search(r"^seed +(\S+) +(\S+) +A − B *$", text, re.MULTILINE)
    assert heads
    assert heads[1] != heads[2]


def test_the_names_that_it_prints_are_names_that_it_takes(sweep, said):
    """Also where the settings of one side would not tell its configurations apart."""
    three(sweep, "ect", 30.0, variant="train.lr=0.1")
    three(sweep, "ict", 40.0, 1.1)
    three(sweep, "ict", 45.0, 1.1, variant="train.lr=0.1")
    for first, second in (("ect", "ict"), ("ect", sweep.cell("ict", 3, variant="train.lr=0.1").name.partition("-")[2])):
        shown = re.findall(r"^  [AB]  (.+) \(seeds", said(first, second), re.MULTILINE)
        assert shown[0] == "ect train.lr=0.1"
        assert re.findall(r"^  [AB]  (.+) \(seeds", said(*shown), re.MULTILINE) == shown


def test_two_swept_methods_are_compared_setting_by_setting(sweep):
    for method, level in (("ect", 30.0), ("ict", 40.0)):
        three(sweep, method, level)
        three(sweep, method, level + 5, variant="train.lr=0.1")
    three(sweep, "ict", 50.0, variant="train.lr=0.2")
    names = [names for _, names, *_ in matches(side(sweep, "ect"), side(sweep, "ict"))]
    assert names == [("ect", "ict"), ("ect train.lr=0.1", "ict train.lr=0.1")]


def test_configurations_cells_and_folders_are_found_by_name(sweep, said):
    three(sweep, "ect", 30.0)
    three(sweep, "ect", 40.0, 1.1, variant="train.lr=0.1")
    folder = sweep.cell("ict", 0)
    assert "A  ect (seeds 0, 1, 2)" in said("ect", "ect train.lr=0.1")
    assert "ict (seeds 0)" in said("ect", folder.name.partition("-")[2])
    assert "ict (seeds 0)" in said("ect", str(folder))


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        ("ekt", "ict", {}, "unknown run 'ekt'. Did you mean: ect? Available: ect, ict, vct"),
        ("ect", "ect", {}, "are the same runs"),
        ("ect", "vct", {}, "ect ran on digits and vct on toy2d: only runs of one benchmark compare"),
        ("ect", "ict", {"metric": "fid50k"}, "unknown metric 'fid50k'. Available: fd_digits_2k"),
        ("ect", "ict", {"nfe": "1,3"}, "unknown NFE '3'. Available: 1, 2"),
        ("ect", "ict", {"nfe": "x"}, "unknown NFE 'x'. Available: 1, 2"),
        ("ect", "ict", {"nfe": "35:1"}, "unknown NFE of A '35'. Available: 1, 2"),
        ("ect", "ict", {"nfe": "1:"}, "--nfe is '1:', must be numbers such as 1,2, or 35:1 for A at 35 and B at 1"),
        ("ect", "ect", {"nfe": "2:1,1"}, "are the same runs"),
        ("ect", ".", {}, "is not a folder of a cell"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(sweep, tmp_path, monkeypatch, first, second, options, message):
    for method in ("ect", "ict"):
        sweep.cell(method, 0)
    sweep.cell("vct", 0, benchmark="toy2d", metrics=("w2_toy2d",), shape=(64, 2))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(UsageError, match=re.escape(message)):
        command(first, second, sweep.out, metric=options.get("metric"), nfe=options.get("nfe"))


def test_nothing_finished_is_said(sweep):
    for method in ("ect", "ict"):
        sweep.cell(method, 0, state="running")
    with pytest.raises(UsageError, match="no values of finished trainings in common"):
        command("ect", "ict", sweep.out, metric=None, nfe=None)
    with pytest.raises(UsageError, match="no cells below"):
        command("ect", "ict", sweep.out / "nowhere", metric=None, nfe=None)


def test_the_command_ends_with_status_two_for_what_the_user_can_mend(sweep, monkeypatch, capsys):
    sweep.cell("ect", 0)
    monkeypatch.setattr("sys.argv", ["bench", "compare", "ect", "no-such", "--out", str(sweep.out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
