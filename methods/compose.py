"""From parts to a method: the parts as configured, the record built from them, and compositions `Method -> Method`.

A composition replaces one part and is written with a `+`: `optimal_transport(ict(parts, context), …)` is `ict+ot`. A
combination that makes no sense is refused when it is built, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from torch import nn

from .parts.bank import Bank
from .parts.base import Coupling, Distance, Method, Sampler, Teacher, Times, Weight
from .parts.couplings import GeneratorAugmented, Independent, OptimalTransport
from .parts.options import OptionError
from .parts.process import ForwardProcess
from .parts.variational import Variational

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts as configured; a builder requires the kinds that its paper defines."""

    version: int
    process: ForwardProcess
    times: Times
    coupling: Coupling
    teacher: Teacher
    distance: Distance
    weight: Weight
    sampler: Sampler


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method needs from the benchmark that it is trained on.

    encoder: builds VCT's encoder of a size ("small", "big", "48x2"): (x, labels) -> mean, standard deviation.
    bank: the training images, for teachers that average over them; with labels where training is conditional.
    steps: optimiser steps of the whole budget, for stage clocks that count them.
    """

    encoder: Callable[[str], nn.Module]
    bank: Bank
    steps: int


def require_kind(part: object, kind: type[Part], method: str, section: str) -> Part:
    """The part, which must be of the kind that the method is defined with.

    Raises:
        OptionError: it is of another kind.
    """
    if type(part) is not kind:
        raise OptionError(f"'{method}' cannot have method.{section} {type(part).__name__}: it must be {kind.__name__}")
    return part


def assemble(name: str, parts: Parts, **kinds: type) -> Method:
    """The method of these parts, each of `kinds` (part -> class) required as above."""
    for section, kind in kinds.items():
        require_kind(getattr(parts, section), kind, name, section)
    modules = nn.ModuleDict(parts.weight.modules())
    return Method(name=name, modules=modules, **{part.name: getattr(parts, part.name) for part in fields(parts)})


def validated(method: Method) -> Method:
    """The method with its times limited to the levels of its process.

    Raises:
        OptionError: options of times or sampler that contradict the other parts or have no effect with them.
    """
    try:
        method = replace(method, times=method.times.limited_to(method.process.limit))
    except ValueError as error:
        raise OptionError(f"method.times.{error}") from None
    try:
        method.sampler.check_compatible(method)
    except ValueError as error:
        raise OptionError(f"sample.{error}") from None
    return method


def variational(method: Method, coupling: Coupling, context: Context) -> Method:
    """The method with noise from a learned encoder (VCT)."""
    name = f"{method.name}+vc"
    _require_uncoupled(method, name)
    coupling = require_kind(coupling, Variational, name, "coupling")
    if method.teacher.needs_density and not method.teacher.in_batch:
        raise OptionError(
            f"'{name}' needs method.teacher.references=batch: the encoder must see every reference at every step"
        )
    if method.teacher.needs_density and not coupling.has_density:
        raise OptionError(
            f"'{name}' needs method.coupling.share=1: noise of two kinds has no density that it could use"
        )
    modules = nn.ModuleDict({**method.modules, "encoder": context.encoder(coupling.encoder)})
    return replace(method, name=name, coupling=coupling, modules=modules)


def optimal_transport(method: Method, coupling: Coupling, context: Context) -> Method:
    """The method with noise assigned to images by minibatch optimal transport."""
    name = f"{method.name}+ot"
    _require_uncoupled(method, name)
    _require_no_density(method, name, "minibatch optimal transport has")
    return replace(method, name=name, coupling=require_kind(coupling, OptimalTransport, name, "coupling"))


def generator_augmented(method: Method, coupling: Coupling, context: Context) -> Method:
    """The method with some pairs built from its own predictions (GC)."""
    name = f"{method.name}+gc"
    _require_uncoupled(method, name)
    _require_no_density(method, name, "generated images have")
    if method.times.phases > 1:
        raise OptionError(f"'{name}' needs method.times.phases=1: a phased model predicts no clean image in one step")
    return replace(method, name=name, coupling=require_kind(coupling, GeneratorAugmented, name, "coupling"))


def _require_uncoupled(method: Method, name: str) -> None:
    if method.times.denoises:
        raise OptionError(f"'{name}' is refused: '{method.name}' trains no consistency function")
    if type(method.coupling) is not Independent:
        raise OptionError(
            f"'{name}' is refused: '{method.name}' already couples its noise ({type(method.coupling).__name__})"
        )


def _require_no_density(method: Method, name: str, coupling_has: str) -> None:
    if method.teacher.needs_density:
        raise OptionError(
            f"'{name}' is refused: {coupling_has} no conditional density p(x_t | x), "
            "which the weights of SCT's target need"
        )
