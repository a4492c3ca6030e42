"""What every method must do (`benchmarks/execution/conformance.py`), over every registered method and composition."""

from __future__ import annotations

import itertools

import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import ALIASES, parse_methods
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.execution.conformance import CHECKS, Check
from consistency_bench.methods.parts.options import OptionError
from consistency_bench.methods.registry import COMPOSITIONS

from .conftest import METHODS, small_model


def test_the_registry_holds_what_the_project_promises() -> None:
    assert {"ict", "ect", "sct", "vct", "ict+vc", "ict+ot", "ect+ot", "sct+vc", "ict+gc", "ect+gc"} <= set(METHODS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_method_conforms(method_name: str, check: Check, digits: Dataset) -> None:
    check(method_name, digits)


BASES = [name for name in METHODS if "+" not in name]


@pytest.mark.parametrize(("base", "suffix"), list(itertools.product(BASES, COMPOSITIONS)))
def test_every_composition_is_listed_or_refused_with_a_reason(base: str, suffix: str, digits: Dataset) -> None:
    (name,) = parse_methods(f"{base}+{suffix}")
    if name in METHODS:
        assert small_model(name, digits).method.name == name
        assert name == ALIASES.get(f"{base}+{suffix}", f"{base}+{suffix}")
    else:
        with pytest.raises((OptionError, UsageError), match=r"\+.*(density|already couples|no consistency function)"):
            small_model(name, digits)
