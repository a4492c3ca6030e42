"""Names to methods: the only module that lists them all.

A method `foo` is the function `foo(parts, context)` of the module `methods/foo.py`; a `+` composes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from .compose import Context, Parts, generator_augmented, optimal_transport, validated, variational
from .parts import couplings, distances, samplers, teachers, times, weights
from .parts.base import Method, Times
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
    "weight": {"inverse_gap": weights.InverseGap, "snr": weights.Snr},
}

COMPOSITIONS = {"vc": variational, "ot": optimal_transport, "gc": generator_augmented}


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
    builder = getattr(importlib.import_module(f".{base}", __package__), base)
    if not compositions:
        return validated(builder(parts, context))
    method = builder(replace(parts, coupling=couplings.Independent()), context)
    for composition in compositions:
        method = COMPOSITIONS[composition](method, parts.coupling, context)
    return validated(method)


def _timed(part: Times, steps: int) -> Times:
    """Times that count the optimiser steps of the whole budget, where they do."""
    counts = "total_steps" in {field.name for field in fields(part)}  # type: ignore[arg-type]
    return replace(part, total_steps=steps) if counts else part  # type: ignore[type-var]


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
