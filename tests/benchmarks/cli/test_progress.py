"""Progress of cells on this machine: which of how many, with which settings, and the time that is left for all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from consistency_bench.benchmarks.cli import board, display
from consistency_bench.benchmarks.cli.remaining import Cost, Costs, time_left
from consistency_bench.benchmarks.common.text import without_sections
from consistency_bench.benchmarks.runs.folder import STATUS, Run
from consistency_bench.benchmarks.runs.status import State, Status
from consistency_bench.benchmarks.runs.view import CellStatus, View

SETTINGS = [{"method.coupling.kl_weight": 3, "train.lr": 0.1}, {"method.coupling.kl_weight": 10, "train.lr": 0.1}]


def cell(name: str, state: str, out: Path = Path("out"), **status: object) -> CellStatus:
    """A cell with a budget of 1,000 images."""
    found = Status(State(state), total=1000, **status)  # type: ignore[arg-type]
    return CellStatus(name, Run(out / name), found, found.state)


def put(
    out: Path, name: str, state: str, seconds: float = 40, ends: tuple[str | None, ...] = (), **status: object
) -> Run:
    """Files of a cell whose training took some seconds. ends: of its attempts, which began at full hours from 10:00."""
    run = Run(out / name)
    run.path.mkdir(parents=True, exist_ok=True)
    attempts = [{"started": f"2026-11-20T{10 + n}:00:00+00:00", "ended": end} for n, end in enumerate(ends)]
    (run.path / "run.json").write_text(
        json.dumps({"attempts": attempts, "compute": {"images": 1000, "train_seconds": seconds}})
    )
    Status(State(state), total=1000, **status).write(run.path / STATUS)  # type: ignore[arg-type]
    return run


def test_workers_share_what_is_left() -> None:
    """Of a cost of 10 s for training and 5 s for the rest."""
    queued = [cell(f"b/m/s{seed}-0", "queued") for seed in range(5)]
    cost = Cost(0.01, 5.0)
    assert time_left(queued, lambda _: cost, 1) == pytest.approx(75)
    assert time_left(queued, lambda _: cost, 2) == pytest.approx(45)
    assert time_left(queued, lambda _: cost, 9) == pytest.approx(15)
    half = cell("b/m/s9-0", "running", images=500, images_per_s=50.0)  # at half the usual rate
    assert time_left([half], lambda _: cost, 1) == pytest.approx(15)
    assert time_left([half, *queued[:1]], lambda _: cost, 1) == pytest.approx(30)
    scored = cell("b/m/s9-0", "running", phase="score", images=1000, scored=3, to_score=4)
    assert time_left([scored], lambda _: cost, 1) == pytest.approx(1.25)
    resumed = cell("b/m/s9-0", "queued", images=900)
    assert time_left([resumed], lambda _: cost, 1) == pytest.approx(6)
    over = [cell("b/m/s9-0", state) for state in ("done", "failed", "diverged", "interrupted")]
    assert time_left(over, lambda _: None, 1) == 0
    assert time_left([*over, *queued], lambda _: None, 1) is None


def test_costs_are_those_of_the_closest_finished_cells(tmp_path: Path) -> None:
    names = ("b/vct/s0-0", "b/vct/s1-0", "b/ect/s0-0", "b/ict/s0-0")
    put(tmp_path, names[0], "done", 40, ends=("2026-11-20T10:00:50+00:00",))
    put(tmp_path, names[1], "done", 60, ends=("2026-11-20T10:00:30+00:00", "2026-11-20T11:00:50+00:00"))  # resumed
    put(tmp_path, names[2], "done", 10, ends=(None, None), updated=1_795_172_412.0)  # killed, and just ended: 12 s
    put(tmp_path, names[3], "failed", 10, ends=("2026-11-20T10:00:50+00:00",))
    costs = Costs()
    assert costs.of(cell("b/vct/s2-0", "queued")) is None
    costs.learn(cell(name, "failed" if "ict" in name else "done", tmp_path) for name in names)
    assert costs.of(cell("b/vct/s2-0", "queued")) == Cost(0.05, 15.0)
    assert costs.of(cell("b/ect/s2-0", "queued")) == Cost(0.01, 2.0)
    assert costs.of(cell("b/sct/s2-0", "queued")) == Cost(pytest.approx(0.11 / 3), pytest.approx(32 / 3))
    assert costs.of(cell("other/vct/s2-0", "queued")) is None


def test_damaged_files_have_no_cost(tmp_path: Path) -> None:
    run = put(tmp_path, "b/vct/s0-0", "done")
    (run.path / "run.json").write_text("{]")
    costs = Costs()
    costs.learn([cell("b/vct/s0-0", "done", tmp_path)])
    assert costs.of(cell("b/vct/s0-0", "queued")) is None


def test_lines_say_which_cell_of_how_many_and_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [put(tmp_path, f"b/vct/s{seed}-0", "queued") for seed in range(3)]
    put(tmp_path, "b/vct/s0-0", "running", images=500, images_per_s=100.0, loss=0.5)
    lines, local = display.Lines(), display.LocalCells(dict.fromkeys(runs, "method.coupling.kl_weight=3"), tmp_path, 1)
    lines.show(local())
    put(tmp_path, "b/vct/s0-0", "done", 40, ends=("2026-11-20T10:00:50+00:00",), images=1000)
    lines.show(local())
    assert [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "b/vct/s0-0 (1 of 3, kl_weight=3) train 50%, loss 0.5, 100 images/s, 5 s left",
        "0 of 3 done, 1 running, 2 queued, time left: –",
        "b/vct/s0-0 (1 of 3, kl_weight=3) done",
        "1 of 3 done, 2 queued, about 2 min left",
    ]


@pytest.mark.parametrize(("width", "is_shown"), [(40, False), (80, True), (120, True), (200, True)])
def test_the_table_never_cuts_numbers(width: int, is_shown: bool) -> None:
    from rich.console import Console

    cells = []
    for number, variant in enumerate(["kl_weight=3, encoder_variance=scaled:0.25"] * 36, start=1):
        status = cell(f"digits/ict+vc/s{number}-0123abcd", "running", images=500, images_per_s=3.0)
        cells.append(CellStatus(**{**vars(status), "variant": variant, "place": f"{number} of 36"}))
    view = View(tuple(cells), left=3600.0)
    console = Console(width=width, height=24)
    with console.capture() as capture:
        console.print(board.table(view, width, rows=20))
    lines = capture.get().splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    assert all("train" in line and " 50%" in line for line in lines[1:21])
    assert [f"{place} of 36" in lines[place] for place in range(1, 21)] == [is_shown] * 20
    assert ("kl_weight=3" in lines[1]) == is_shown
    assert "0 of 36 done, 36 running, about 60 min left; 16 not shown" in " ".join(" ".join(lines[21:]).split())


def test_a_variant_names_what_cells_do_not_share() -> None:
    from types import SimpleNamespace

    cells = [SimpleNamespace(group=str(number), overrides=own) for number, own in enumerate(SETTINGS)]
    assert board.variants(cells) == [f"method.coupling.kl_weight={value}" for value in (3, 10)]  # type: ignore[arg-type]
    assert board.variants(cells[:1]) == ["method.coupling.kl_weight=3, train.lr=0.1"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("method.coupling.kl_weight=3, train.lr=0.1", "kl_weight=3, lr=0.1"),
        ("method.times.kind=karras_bins, train.ema.kind=power", "times.kind=karras_bins, ema.kind=power"),
        ("preset=paper/x, guided w=1.3 by 50 %", "preset=paper/x, guided w=1.3 by 50 %"),
        ("vct method.coupling.encoder_variance=fixed:0.09", "vct encoder_variance=fixed:0.09"),
        ("data.root=/a.b/c.d=3", "root=/a.b/c.d=3"),
        ("", ""),
    ],
)
def test_keys_lose_their_sections(text: str, short: str) -> None:
    assert without_sections(text) == short


def test_an_unknown_time_is_said_to_be_unknown() -> None:
    assert board.footer(View((), left=math.nan)) == "0 of 0 done, time left: –"
    assert board.footer(View((), left=0.0)) == board.footer(View(())) == "0 of 0 done"
