"""Explanations of keys: complete, from the classes themselves, and true."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import yaml

from consistency_bench.benchmarks.cli.explain import commented_yaml, text_of
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.config.keys import Group, Key, all_groups, keys_in, meanings_of, named
from consistency_bench.benchmarks.config.settings import leaves

RESOURCES = ("devices", "nodes", "cpus", "memory", "time_limit")


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    return all_groups()


def one(groups: list[Group], path: str, kind: str = "") -> Key:
    (found,) = {key for group in groups for key in group.keys if (key.path, key.kind) == (path, kind)}
    return found


def test_every_key_has_a_meaning_and_values(groups: list[Group]) -> None:
    assert [f"{key.path} of {key.kind}" for group in groups for key in group.keys if not key.meaning] == []
    assert [f"{key.path} of {key.kind}" for group in groups for key in group.keys if not key.values] == []
    assert [f"{group.section} {group.kind}" for group in groups if not group.summary] == []


@pytest.mark.parametrize("settings", [("ect", []), ("vct", ["benchmark=toy2d"]), ("sct", ["benchmark=imagenet64"])])
def test_every_key_that_is_shown_is_explained(groups: list[Group], settings: tuple[str, list[str]]) -> None:
    method, overrides = settings
    (cell,) = compose_cells([method], [0], overrides)
    values = cell.config.to_dict()
    keys = keys_in(values, groups)
    hidden = ("cell", "benchmark", "seed", "method.name", "method.version", "data.fingerprint", "train.resources")
    shown = [key for key in leaves(values) if not key.startswith(hidden)]
    assert [key for key in shown if key not in keys and not key.startswith("train.ema_extra")] == []
    text = commented_yaml(values, keys)
    assert yaml.safe_load(text) == values  # the comments change nothing
    assert all(len(line) <= 120 for line in text.splitlines() if "#" in line)


def test_values_are_what_the_class_itself_says(groups: list[Group]) -> None:
    said = {
        ("method.coupling.kl_weight", "variational"): "at least 0",
        ("method.times.mapping", "lognormal_gap"): "one of: sigmoid, const, smooth",
        ("method.times.s1", "karras_bins"): "1 <= s0 <= s1 <= 1000000",
        ("method.times.t_max", "lognormal_gap"): "above 0, or null",
        ("method.teacher.shared_dropout", "same_point"): "true or false",
        ("train.lr", ""): "a number above 0",
        ("train.precision", ""): "one of: fp32, tf32, bf16",
        ("run.micro_batch", ""): "at least 1, or null for the whole batch",
        ("network.dropout", "mlp"): "from 0 to below 1",
        ("train.ema.sigma_rel", "power"): "above 0 and at most 0.28",
    }
    assert {place: one(groups, *place).values for place in said} == said
    assert one(groups, "train.ema.kind").values == "one of: halflife, constant, power"
    assert (one(groups, "train.lr").default, one(groups, "train.optimizer").default) == ("", "radam")


def test_keys_are_those_of_the_kind_that_is_configured(groups: list[Group]) -> None:
    values = {"method": {"times": {"kind": "karras_bins"}}, "network": {"kind": "mlp"}}
    paths = set(keys_in(values, groups))
    assert {"method.times.s0", "method.times.kind", "network.width"} <= paths
    assert not {"method.times.q", "network.channels"} & paths


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("train.lr", {"train.lr"}),
        ("method.weight", {f"method.weight.{name}" for name in ("kind", "sigma_data", "channels")}),
        (
            "train.resources",
            {f"train.resources.{name}" for name in ("devices", "nodes", "cpus", "memory", "time_limit")},
        ),
        ("train.l", set()),
        ("nothing", set()),
    ],
)
def test_a_name_stands_for_a_key_a_part_or_a_section(groups: list[Group], name: str, paths: set[str]) -> None:
    chosen = named(name, groups)
    assert {key.path for group in chosen for key in group.keys} == paths
    text = text_of(chosen)
    shown = [line for line in text.splitlines() if line in paths]  # once for each kind that has the option
    assert list(dict.fromkeys(shown)) == sorted(paths, key=text.index)


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A part. first: of a sentence in the text.

    second, third: on two
        lines; of both.

    Nothing: of these.
    """

    first: int = 1
    second: int = 2
    third: int = 3


@dataclass(frozen=True, kw_only=True)
class Child(Parent):
    """Another part.

    first: said again.
    """

    fourth: int = 4
    """Below the field."""


def test_meanings_are_read_from_docstrings_of_classes_and_fields() -> None:
    assert meanings_of(Parent) == {
        "first": "of a sentence in the text.",
        "second": "on two lines; of both.",
        "third": "on two lines; of both.",
    }
    assert meanings_of(Child) == meanings_of(Parent) | {"first": "said again.", "fourth": "Below the field."}
