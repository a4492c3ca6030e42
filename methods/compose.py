"""Putting parts together: the parts as configured, the record built from them, and compositions `Method -> Method`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from torch import nn

from .parts.bank import Bank
from .parts.base import Coupling, Distance, Method, Sampler, Teacher, Times, Weight
from .parts.couplings import GeneratorAugmented, Independent, OptimalTransport, Variational
from .parts.options import OptionError
from .parts.process import ForwardProcess

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts as configured; a builder says which kinds its paper admits."""

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
    """What a method may need of the benchmark it runs on.

    encoder: makes VCT's encoder of a size ("small", "big", "48x2"): (x, labels) -> mean, standard deviation.
    bank: the training images, for teachers that average over them; with labels where training is conditional.
    steps: optimiser steps of the whole budget, for stage clocks that count them.
    """

    encoder: Callable[[str], nn.Module]
    bank: Bank
    steps: int


def admit(part: object, kind: type[Part], method: str, section: str) -> Part:
    """The part, if it is of the kind that the method is defined with.

    Raises:
        OptionError: it is of another kind.
    """
    if type(part) is not kind:
        raise OptionError(f"'{method}' cannot have method.{section} {type(part).__name__}: it must be {kind.__name__}")
    return part


def assemble(name: str, parts: Parts, **kinds: type) -> Method:
    """The method of these parts, each of `kinds` (part -> class) admitted as above."""
    for section, kind in kinds.items():
        admit(getattr(parts, section), kind, name, section)
    return Method(name=name, **{part.name: getattr(parts, part.name) for part in fields(parts)})


def fitted(method: Method) -> Method:
    """The method with its times within the levels of its process.

    Raises:
        OptionError: options of times or sampler that do not go with the other parts, or do nothing beside them.
    """
    try:
        method = replace(method, times=method.times.bounded(method.process.limit))
    except ValueError as error:
        raise OptionError(f"method.times.{error}") from None
    try:
        method.sampler.suit(method)
    except ValueError as error:
        raise OptionError(f"sample.{error}") from None
    return method


def variational(method: Method, coupling: Coupling, context: Context) -> Method:
    """The method with noise from a learned encoder (VCT)."""
    name = f"{method.name}+vc"
    _must_be_uncoupled(method, name)
    coupling = admit(coupling, Variational, name, "coupling")
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
    _must_be_uncoupled(method, name)
    if method.teacher.needs_density:
        raise OptionError(
            f"'{name}' is refused: minibatch optimal transport has no conditional density p(x_t | x), "
            "which the weights of SCT's target need"
        )
    return replace(method, name=name, coupling=admit(coupling, OptimalTransport, name, "coupling"))


def generator_augmented(method: Method, coupling: Coupling, context: Context) -> Method:
    """The method with some pairs built from its own predictions (GC)."""
    name = f"{method.name}+gc"
    _must_be_uncoupled(method, name)
    if method.teacher.needs_density:
        raise OptionError(
            f"'{name}' is refused: generated images have no conditional density p(x_t | x), "
            "which the weights of SCT's target need"
        )
    if method.times.phases > 1:
        raise OptionError(f"'{name}' needs method.times.phases=1: a phased model predicts no clean image in one step")
    return replace(method, name=name, coupling=admit(coupling, GeneratorAugmented, name, "coupling"))


def _must_be_uncoupled(method: Method, name: str) -> None:
    if type(method.coupling) is not Independent:
        raise OptionError(
            f"'{name}' is refused: '{method.name}' already couples its noise ({type(method.coupling).__name__})"
        )
