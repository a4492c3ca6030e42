"""What a cell is going to produce is known from its configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_bench.benchmarks.common.files import write_json, write_jsonl
from consistency_bench.benchmarks.config import plan
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.runs.folder import RECORDS, STATUS, Run, is_finished

PLAIN: dict[str, Any] = {
    "cell": {"id": "1", "group": "2", "benchmark": "toy2d", "method": "ect", "seed": 0},
    "benchmark": {"name": "toy2d", "version": 1},
    "method": {"name": "ect", "version": 1},
    "data": {"name": "toy2d"},
    "network": {"kind": "mlp"},
    "train": {
        "images": 1000,
        "batch": 100,
        "lr": 0.1,
        "ema": {"kind": "constant"},
        "ema_extra": [{"kind": "power", "sigma_rel": 0.05}],
    },
    "run": {"snapshots": 2},
    "eval": {"nfe": [1, 2], "draws": 2, "metrics": ["a", "b"]},
    "sample": {"sigma_mid": [0.4], "renoise": "sigma"},
    "seed": 0,
}


def changed(**changes: Any) -> RunConfig:
    return RunConfig.from_dict(PLAIN | {section: PLAIN[section] | values for section, values in changes.items()})


CONFIG = changed()


@given(st.integers(1, 10**9), st.integers(1, 5000), st.integers(1, 100))
def test_snapshots_share_the_budget_in_whole_batches(images: int, batch: int, count: int) -> None:
    images = max(images, batch)
    points = changed(train={"images": images, "batch": batch}, run={"snapshots": count}).snapshot_images
    assert points == sorted(set(points))
    assert 1 <= len(points) <= count
    assert all(point % batch == 0 and point > 0 for point in points)
    assert images <= points[-1] < images + batch
    for share, point in zip(range(1, count + 1), points, strict=False):
        assert point >= images * share / count


def test_evaluations_come_in_one_order() -> None:
    found = [(item.images, item.nfe, item.draw) for item in plan.evaluations(CONFIG)]
    assert found == [(images, nfe, draw) for images in (500, 1000) for nfe in (1, 2) for draw in (0, 1)]


def row(images: int, nfe: int, draw: int, metric: str, sampler: str | None = None) -> dict[str, Any]:
    sampler = plan.sampler_text(CONFIG) if sampler is None else sampler
    return {"images": images, "nfe": nfe, "draw": draw, "metric": metric, "value": 1.0, "sampler": sampler}


def all_rows() -> list[dict[str, Any]]:
    return [
        row(item.images, item.nfe, item.draw, metric)
        for item in plan.evaluations(CONFIG)
        for metric in CONFIG.eval.metrics
    ]


def test_missing_metrics_are_those_without_a_row_of_the_same_pass() -> None:
    rows = [row(500, 1, 0, "a"), row(500, 2, 0, "b"), row(1000, 1, 0, "b"), row(500, 1, 0, "b", sampler="other")]
    found = plan.missing(CONFIG, rows)
    assert list(found) == list(plan.evaluations(CONFIG))
    assert found[plan.Evaluation(500, 1, 0)] == ["b"]
    assert found[plan.Evaluation(500, 2, 0)] == ["a"]
    assert found[plan.Evaluation(1000, 1, 1)] == ["a", "b"]


def test_the_sampler_of_a_row_does_not_depend_on_the_order_of_its_options() -> None:
    turned = RunConfig.from_dict(PLAIN | {"sample": dict(reversed(PLAIN["sample"].items()))})
    assert plan.sampler_text(turned) == plan.sampler_text(CONFIG)


def finished(folder: Path, state: str, rows: list[dict[str, Any]], **changes: Any) -> bool:
    write_json(folder / STATUS, {"state": state})
    write_jsonl(folder / RECORDS, rows)
    return is_finished(Run(folder), changed(**changes))


def test_a_cell_is_finished_with_all_its_rows(tmp_path: Path) -> None:
    assert not is_finished(Run(tmp_path / "nothing there"), CONFIG)
    assert finished(tmp_path, "done", all_rows())
    assert finished(tmp_path, "done", [*all_rows(), row(500, 1, 0, "of an earlier wish")])
    for lost in range(len(all_rows())):
        assert not finished(tmp_path, "done", all_rows()[:lost] + all_rows()[lost + 1 :])


@pytest.mark.parametrize("state", ["queued", "running", "failed", "interrupted"])
def test_every_other_state_is_not_finished(tmp_path: Path, state: str) -> None:
    assert not finished(tmp_path, state, all_rows())


def test_a_diverged_cell_is_finished_that_is_its_result(tmp_path: Path) -> None:
    assert finished(tmp_path, "diverged", [])


@pytest.mark.parametrize(
    "changes",
    [
        {"eval": {"metrics": ["a", "b", "c"]}},
        {"eval": {"nfe": [1, 2, 3]}},
        {"eval": {"draws": 3}},
        {"sample": {"sigma_mid": [0.5]}},
        {"sample": {"labels": "uniform"}},
        {"eval": {"ema": "power-0.05"}},
        {"eval": {"quantise": "truncate"}},
        {"run": {"snapshots": 4}},
    ],
    ids=str,
)
def test_a_new_wish_opens_a_finished_cell(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert finished(tmp_path, "done", all_rows())
    assert not finished(tmp_path, "done", all_rows(), **changes)


# Guidance by an earlier snapshot


@pytest.mark.parametrize(("share", "guide"), [(0.25, 300), (0.5, 500), (0.75, 800)])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_guide_is_kept_and_later_snapshots_alone_are_evaluated(share: float, guide: int, count: int) -> None:
    guided = changed(sample={"guidance": 1.3, "guide_at": share}, run={"snapshots": count})
    usual = changed(run={"snapshots": count}).snapshot_images
    assert guided.snapshot_images == sorted({guide, *usual})
    assert {item.images for item in plan.evaluations(guided)} == {images for images in usual if images > guide}


def test_without_guidance_there_is_no_guide() -> None:
    unguided = changed(sample={"guide_at": 0.25}, run={"snapshots": 1})
    assert unguided.guide_images is None
    assert unguided.snapshot_images == [1000]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, {}),
        ({"sample": {"guide_at": 0.25}}, {}),
        ({"sample": {"labels": "uniform"}}, {}),
        ({"sample": {"guidance": 1.3}}, {"sample.guidance": 1.3, "sample.guide_at": 0.5}),
        ({"sample": {"labels": "uniform"}, "data": {"conditional": True}}, {"sample.labels": "uniform"}),
        ({"eval": {"ema": "power-0.05"}}, {"eval.ema": "power-0.05"}),
        ({"eval": {"quantise": "truncate"}}, {"eval.quantise": "truncate"}),
    ],
    ids=str,
)
def test_what_keeps_a_number_apart(changes: dict[str, Any], said: dict[str, Any]) -> None:
    assert plan.apart(changed(**changes)) == said
