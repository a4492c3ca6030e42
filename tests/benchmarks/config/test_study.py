"""Variants of a study: which cells they make, and which of them are the baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_bench.benchmarks.config.compose import Cell, compose_cells
from consistency_bench.benchmarks.config.study import compose_study, study_of

TUNED = {"train.init": {"method": "edm", "images": 6400}, "train.images": 6400}
VALUES: dict[str, Any] = {
    "train.lr": [1e-3, 2e-3],
    "train.init": [None, "edm", {"method": "edm", "images": 6400}],
    "train.images": [6400, 12800],
    "method.coupling.kl_weight": [1, 10],
    "sample.sigma_mid": [[0.4], [0.8]],
    "network.width": [32, 64],
}
METHODS = ["ect", "vct"]

choose_variant = st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in VALUES.items()})


def composed(*variants: dict[str, Any], **changes: Any) -> list[Cell]:
    content = {"name": "s", "question": "?", "methods": METHODS, "seeds": "0-1", "benchmark": "toy2d"}
    study = study_of({**content, "variants": list(variants), **changes})
    return compose_study(study, Path("study.yaml"), lambda _: None)


def names(cells: list[Cell]) -> list[str]:
    return sorted(cell.name for cell in cells)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.lists(choose_variant, min_size=1, max_size=3), st.randoms())
def test_each_variant_is_the_cells_of_its_settings(variants: list[dict[str, Any]], shuffler: Any) -> None:
    cells = composed(*variants)
    assert len({cell.name for cell in cells}) == len(cells)
    shuffled = list(variants)
    shuffler.shuffle(shuffled)
    assert names(composed(*shuffled)) == names(cells)
    trained = {(cell.config.cell.training or cell.id, cell.seed) for cell in cells}
    expected: set[tuple[str, int]] = set()
    for variant in variants:
        own = {key: value for key, value in variant.items() if not key.startswith("sample.")}
        for method in METHODS:
            keys = [key for key in own if method == "vct" or not key.startswith("method.")]
            typed = [f"{key}={'null' if own[key] is None else str(own[key]).replace(chr(39), '')}" for key in keys]
            alone = compose_cells([method], [0, 1], ["benchmark=toy2d", *typed])
            expected |= {(cell.id, cell.seed) for cell in alone}
    assert trained == expected
    places = {cell.name: place for place, cell in enumerate(cells)}
    starts = [(cell.config.cell.start, places[cell.name]) for cell in cells]
    assert all(places[start.cell] < place for start, place in starts if start is not None)


@pytest.mark.parametrize("key", ["train.lr", "method.coupling.kl_weight", "sample.sigma_mid", "train.init"])
def test_variants_of_one_key_are_its_ablation(key: str) -> None:
    variants = [{key: value} for value in VALUES[key]]
    assert names(composed(*variants)) == names(composed(ablations={key: VALUES[key]}))


def test_what_is_listed_is_run_and_nothing_else() -> None:
    def rows(*variants: dict[str, Any], **changes: Any) -> list[tuple[str, str]]:
        return [(cell.method, cell.config.cell.variant) for cell in composed(*variants, seeds=0, **changes)]

    weights = [{"method.coupling.kl_weight": weight} for weight in (1, 2)]
    of_vct = [("vct", f"method.coupling.kl_weight={weight}") for weight in (1, 2)]
    assert rows(*weights) == [("ect", ""), *of_vct]  # without {}, VCT's default is not run
    assert rows({}, *weights) == [("ect", ""), ("vct", ""), *of_vct]
    assert rows() == rows({}) == [("ect", ""), ("vct", "")]
    rates = {"train.lr": [0.001, 0.003]}
    tuned = "train.images=6400, train.init={method: edm, images: 6400}"
    assert rows({}, TUNED, methods=["ect"], ablations=rates) == [
        ("edm", "train.images=6400"),
        ("ect", ""),  # 0.001 is the default
        ("ect", "train.lr=0.003"),
        ("ect", tuned),
        ("ect", f"{tuned}, train.lr=0.003"),
    ]


@pytest.mark.parametrize("budget", [{"budget": 12800}, {}], ids=["own", "default"])
def test_the_baseline_is_the_row_without_changes(budget: dict[str, int]) -> None:
    content = {"name": "s", "question": "?", "methods": ["edm", "ect"], "benchmark": "toy2d", "seeds": 0}
    for baseline in ("edm", "ect"):
        study = study_of({**content, "variants": [{}, TUNED, {"train.lr": 0.5}], "baseline": baseline, **budget})
        cells = compose_study(study, Path("study.yaml"), lambda _: None)
        (own,) = {cell.config.cell.group for cell in cells if study.is_baseline(cell.config)}
        (plain,) = compose_cells([baseline], [0], study.settings)
        assert own == plain.config.cell.group


def test_a_study_is_the_same_after_it_was_stored() -> None:
    study = study_of({"name": "s", "question": "?", "variants": [{}, TUNED]})
    assert study_of(json.loads(json.dumps(study.to_dict()))) == study
