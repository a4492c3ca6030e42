"""Cells that start from a pre-training: which cells that adds, their ids, and what is refused."""

from __future__ import annotations

import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import Cell, compose_cells
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.config.study import study_of


def by_name(*cells: Cell) -> dict[str, Cell]:
    return {cell.name: cell for cell in cells}


def test_a_pretraining_is_the_cell_of_its_method_and_shared_by_all_methods() -> None:
    notes: list[str] = []
    cells = compose_cells(["edm", "ect", "sct", "vct"], [0, 1], ["train.init=edm"], notes.append)
    assert [cell.method for cell in cells] == ["edm"] * 2 + ["ect"] * 2 + ["sct"] * 2 + ["vct"] * 2
    assert cells[:2] == compose_cells(["edm"], [0, 1], [])
    assert notes == ["train.init=edm applies to the other methods; edm starts from random weights"]
    for cell in cells[2:]:
        start, first = cell.config.cell.start, cells[cell.seed]
        assert start is not None
        assert (start.cell, start.id, start.method, start.images) == (first.name, first.id, "edm", 352_000)
        assert cell.config.cell.variant == "train.init=edm"
        assert RunConfig.from_dict(cell.config.to_dict()) == cell.config
    assert len({cell.config.cell.group for cell in cells}) == 4  # the same for all seeds


def test_it_is_added_where_nobody_asked_for_its_method_before_the_cells_that_need_it() -> None:
    cells = compose_cells(["ect"], [0], ["train.init=null,edm", "eval.nfe=[1]"])
    assert [(cell.method, cell.config.train.init) for cell in cells] == [("edm", None), ("ect", None), ("ect", "edm")]
    assert cells[0].id == compose_cells(["edm"], [0], [])[0].id
    assert cells[0].config.eval.nfe == (1,)


def test_network_and_data_are_those_of_the_cell_and_the_recipe_is_that_of_the_benchmark() -> None:
    settings = ["train.images=128", "train.lr=0.5", "network.width=32", "data.held_out=0.1", "train.precision=bf16"]
    first, _ = compose_cells(["ect"], [0], ["train.init=edm", *settings, "train.resources.devices=2"])
    assert first.id == compose_cells(["edm"], [0], ["network.width=32", "data.held_out=0.1"])[0].id
    assert first.config.train.resources.devices == 2
    first, _ = compose_cells(["ect"], [0], ["preset=paper/ect_cifar10_100k", "train.init=edm"])
    assert first.config.benchmark.name == "cifar10"  # the preset is for another method


def test_budgets_in_every_spelling() -> None:
    def group(init: str) -> tuple[str, str]:
        cell = compose_cells(["ect"], [0], [f"train.init={init}"])[-1]
        return cell.config.cell.group, str(cell.config.train.init)

    assert group("edm") == group("{method: edm}") == group("{version: 1, images: 352000, method: edm}")
    assert group("{method: edm, images: 1000}") == (
        group("{images: 1000, method: edm}")[0],
        "{method: edm, images: 1000}",
    )
    assert group("edm")[0] != group("{method: edm, images: 1000}")[0] != group("null")[0]
    study = study_of({"name": "s", "question": "?", "overrides": {"train.init": {"method": "edm", "images": 1000}}})
    assert compose_cells(["ect"], [0], study.settings) == compose_cells(
        ["ect"], [0], ["train.init={method: edm, images: 1000}"]
    )


def test_a_cell_that_is_named_serves_all_seeds_and_its_place_is_in_no_id() -> None:
    (first,) = compose_cells(["edm"], [5], [])

    def started(place: str, name: str) -> list[Cell]:
        return compose_cells(["ect"], [0, 1], [f"train.init=cell:{name}"], find=lambda asked: (place, first.config))

    here, elsewhere = started(first.name, first.id[:3]), started("/elsewhere/s5-x", "/elsewhere/s5-x")
    assert [cell.id for cell in here] == [cell.id for cell in elsewhere]
    assert len({cell.config.cell.group for cell in here + elsewhere}) == 1
    assert {cell.config.cell.variant for cell in here + elsewhere} == {f"train.init=cell:{first.id}"}
    assert [cell.config.cell.start.cell for cell in elsewhere if cell.config.cell.start] == ["/elsewhere/s5-x"] * 2
    # The same pre-training is the same cell, whatever it is called.
    (own, tuned) = compose_cells(["ect"], [5], ["train.init=edm"])
    again = compose_cells(["ect"], [5], ["train.init=cell:x"], find=lambda _: (own.name, own.config))
    assert [cell.id for cell in again] == [tuned.id]


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("{method: edn}", "unknown method 'edn'. Did you mean: edm?"),
        ("{method: edm, image: 3}", "unknown key 'train.init.image'. Did you mean: train.init.images?"),
        ("{images: 3}", "train.init.method is missing"),
        (
            "{method: edm, images: 3}",
            "train.init={method: edm, images: 3}: train.images is 3, must be at least one batch",
        ),
        ("{method: edm, version: 2}", "train.init asks for version 2 of edm, which has version 1 here"),
        ("{", "train.init is '{', must be a mapping such as {method: edm"),
        ("cell:12345678", "needs an output folder"),
    ],
)
def test_what_is_refused(init: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose_cells(["ect"], [0], [f"train.init={init}"])
    assert message in str(caught.value)


def test_each_method_is_evaluated_at_its_own_nfe_unless_the_user_names_them() -> None:
    def nfe(*settings: str) -> list[tuple[int, ...]]:
        return [cell.config.eval.nfe for cell in compose_cells(["edm", "ect"], [0], settings)]

    assert nfe() == nfe("train.init=edm") == [(1, 2, 4, 8, 18, 35, 79), (1, 2)]
    assert nfe("eval.nfe=[1,4]") == [(1, 4)] * 2
