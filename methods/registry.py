"""Names to methods: the only module that lists them all.

A method `foo` is the function `foo(parts, context)` of the module `methods/foo.py`, here or in a plug-in; a `+`
composes.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from .compose import Context, Parts, generator_augmented, optimal_transport, validated, variational
from .networks.registry import NETWORKS, NetworkOptions
from .parts import couplings, distances, samplers, teachers, times, weights
from .parts.base import Coupling, Distance, Method, Sampler, Teacher, Times, Weight
from .parts.messages import one_of
from .parts.options import OptionError, option_names, part_from_options
from .parts.process import ForwardProcess
from .parts.variational import Variational

#: The kinds of every part, by the name that configurations use.
KINDS: dict[str, dict[str, type]] = {
    "process": {"ve": ForwardProcess, "li": ForwardProcess},
    "times": {
        "karras_bins": times.KarrasBins,
        "lognormal_gap": times.LognormalGap,
        "lognormal_denoising": times.LognormalDenoising,
    },
    "coupling": {
        "independent": couplings.Independent,
        "optimal_transport": couplings.OptimalTransport,
        "variational": Variational,
        "generator_augmented": couplings.GeneratorAugmented,
    },
    "teacher": {"same_point": teachers.SamePoint, "posterior_mean": teachers.PosteriorMean},
    "distance": {
        "huber": distances.Huber,
        "huber_elementwise_sum": distances.HuberElementwiseSum,
        "huber_elementwise_mean": distances.HuberElementwiseMean,
        "squared": distances.Squared,
    },
    "weight": {"inverse_gap": weights.InverseGap, "snr": weights.Snr, "uncertainty": weights.Uncertainty},
}

#: The sections that a plug-in can add kinds to, with their tables, and the protocol of each.
TABLES: dict[str, dict[str, type]] = {
    **{section: kinds for section, kinds in KINDS.items() if section != "process"},
    "network": NETWORKS,  # type: ignore[dict-item]
    "sample": samplers.KINDS,
}
PROTOCOLS: dict[str, type] = {
    "times": Times,
    "coupling": Coupling,
    "teacher": Teacher,
    "distance": Distance,
    "weight": Weight,
    "network": NetworkOptions,
    "sample": Sampler,
}
SHIPPED_PARTS = {section: tuple(table) for section, table in TABLES.items()}

#: The methods of plug-ins.
BUILDERS: dict[str, Callable[[Parts, Context], Method]] = {}

COMPOSITIONS = {"vc": variational, "ot": optimal_transport, "gc": generator_augmented}


def extend(
    builders: Iterable[Mapping[str, Callable[[Parts, Context], Method]]],
    parts: Iterable[Mapping[str, Mapping[str, type]]],
) -> None:
    """Add methods, and kinds of parts by section, in place of what was added before."""
    BUILDERS.clear()
    for own in builders:
        BUILDERS.update(own)
    for section, table in TABLES.items():
        for kind in set(table) - set(SHIPPED_PARTS[section]):
            del table[kind]
    for own in parts:
        for section, kinds in own.items():
            TABLES[section].update(kinds)


def lacking(part: object, section: str) -> str | None:
    """What a class lacks to be a part of that section, as the end of a sentence; None if it lacks nothing."""
    if not isinstance(part, type) or not dataclasses.is_dataclass(part):
        return "is no dataclass"
    wanted = [name for name in vars(PROTOCOLS[section]) if name == "__call__" or not name.startswith("_")]
    known = {field.name for field in fields(part)}
    missing = [name for name in wanted if name not in known and not _has(part, name)]
    return f"has no {', '.join(missing)} (methods/parts/base.py describes them)" if missing else None


def _has(part: type, name: str) -> bool:
    return any(name in vars(base) for base in part.__mro__)  # every class has `__call__`, that of `type`


def build(options: Mapping[str, Any], sampler: Mapping[str, Any], context: Context) -> Method:
    """The method that a configuration describes.

    Args:
        options: the section `method`: name, version, and one mapping a part with its `kind`.
        sampler: the section `sample`.

    Raises:
        OptionError: an unknown name, kind or key, a value of the wrong type or range, or incompatible parts.
    """
    name, version = options["name"], options["version"]
    unknown = set(options) - {"name", "version", *KINDS}
    if unknown:
        raise OptionError(f"unknown key 'method.{min(unknown)}'. Available: {', '.join(KINDS)}")
    parts = Parts(
        version=version,
        sampler=_of_kind(samplers.KINDS, {"kind": "multistep", **sampler}, "sample"),
        times=_timed(_part("times", options["times"]), context.steps),
        **{section: _part(section, options[section]) for section in KINDS if section != "times"},
    )
    base, *compositions = name.split("+")
    builder = _builder(base)
    method = builder(parts if not compositions else replace(parts, coupling=couplings.Independent()), context)
    if not isinstance(method, Method):
        raise OptionError(f"{base}(parts, context) returned {type(method).__name__}, must return a Method")
    for composition in compositions:
        method = COMPOSITIONS[composition](method, parts.coupling, context)
    return validated(method)


def _timed(part: Times, steps: int) -> Times:
    """Times that count the optimiser steps of the whole budget, where they do."""
    counts = "total_steps" in {field.name for field in fields(part)}  # type: ignore[arg-type]
    return replace(part, total_steps=steps) if counts else part  # type: ignore[type-var]


def _builder(name: str) -> Callable[[Parts, Context], Method]:
    if name in BUILDERS:
        return BUILDERS[name]
    if not name.isidentifier() or importlib.util.find_spec(f".{name}", __package__) is None:
        raise OptionError(f"there is no method '{name}'")
    return getattr(importlib.import_module(f".{name}", __package__), name)


def _part(section: str, options: Mapping[str, Any]) -> Any:
    """One part of `method` from its section: `kind` chooses the class, the other keys are its options."""
    return _of_kind(KINDS[section], options, f"method.{section}")


def _of_kind(kinds: Mapping[str, type], options: Mapping[str, Any], where: str) -> Any:
    kind = options["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise OptionError(f"{where}.kind is '{kind}', must be {one_of(kind, kinds)}")
    part = kinds[kind]
    values = dict(options) if "kind" in option_names(part) else {k: v for k, v in options.items() if k != "kind"}
    return part_from_options(part, values, where)
