"""The kinds of exponential moving averages (EMA) of the weights that a configuration may ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...methods.parts.messages import one_of
from ...methods.parts.options import OptionError, part_from_options

HEADLINE = ""
"""The name of the average that is evaluated unless another is asked for, `train.ema`."""


class Profile(Protocol):
    @property
    def name(self) -> str:
        """Kind and value, such as `power-0.05`: how an extra average is asked for."""
        ...

    def beta(self, step: int, batch: int) -> float:
        """What is kept of the average at its step number `step` (from 1), of `batch` images."""
        ...


@dataclass(frozen=True, kw_only=True)
class HalfLife:
    """Half of the average's weight lies on the last `images` images, whatever the batch.

    images: the half-life, in training images.
    rampup: the half-life is at most this share of the images seen before the step (EDM: 0.05), so that the average
        forgets the initial weights early; null: the half-life is constant.
    """

    images: float
    rampup: float | None = None

    def __post_init__(self) -> None:
        if self.images <= 0:
            raise ValueError(f"images is {self.images:g}, must be above 0")
        if self.rampup is not None and self.rampup <= 0:
            raise ValueError(f"rampup is {self.rampup:g}, must be above 0, a share of the images seen, or null")

    @property
    def name(self) -> str:
        return f"halflife-{self.images:.12g}" + ("" if self.rampup is None else f"-rampup-{self.rampup:.12g}")

    def beta(self, step: int, batch: int) -> float:
        if self.rampup is None:
            return 0.5 ** (batch / self.images)
        halflife = min(self.images, self.rampup * (step - 1) * batch)
        return 0.5 ** (batch / halflife) if halflife else 0.0


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A fixed factor a step, as papers state it: 0.99993 in iCT, 0.9999 in ECT.

    factor: what is kept of the average at each step.
    """

    factor: float = 0.9999

    def __post_init__(self) -> None:
        if not 0 <= self.factor < 1:
            raise ValueError(f"factor is {self.factor:g}, must be from 0 to below 1")

    @property
    def name(self) -> str:
        return f"constant-{self.factor:.12g}"

    def beta(self, step: int, batch: int) -> float:
        return self.factor


@dataclass(frozen=True, kw_only=True)
class Power:
    """An average whose profile grows as a power of the step, t^γ (EDM2, Karras et al. 2024): beta = (1 - 1/n)^(γ+1).

    sigma_rel: the profile's standard deviation as a share of the training so far; a profile that is flat has 0.2887.
    inverted: keeps 1 - beta, which is nearly nothing: the average is then the trained network itself, as in VCT's code.
    """

    sigma_rel: float = 0.1
    inverted: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.sigma_rel <= 0.28:
            raise ValueError(f"sigma_rel is {self.sigma_rel:g}, must be above 0 and at most 0.28")

    @property
    def name(self) -> str:
        return f"power-{self.sigma_rel:.12g}" + ("-inverted" if self.inverted else "")

    @property
    def gamma(self) -> float:
        """The exponent: sigma_rel² = (γ + 1) / ((γ + 2)² (γ + 3)), a cubic with one root above -1 (EDM2, eq. 126)."""
        import numpy  # here: the command imports this module, and needs no numpy for most of what it does

        inverse = self.sigma_rel**-2
        return float(numpy.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())

    def beta(self, step: int, batch: int) -> float:
        kept = (1 - 1 / step) ** (self.gamma + 1)
        return 1 - kept if self.inverted else kept


PROFILES: dict[str, type[HalfLife] | type[Constant] | type[Power]] = {
    "halflife": HalfLife,
    "constant": Constant,
    "power": Power,
}


def build_profile(options: Mapping[str, Any], where: str = "train.ema") -> Profile:
    """The profile of a section: `kind` and its options.

    Raises:
        OptionError: an unknown kind or key, or a value it refuses.
    """
    kind = options.get("kind")
    if not isinstance(kind, str) or kind not in PROFILES:
        raise OptionError(f"{where}.kind is {kind!r}, must be {one_of(kind, PROFILES)}")
    return part_from_options(PROFILES[kind], {k: v for k, v in options.items() if k != "kind"}, where)


def build_profiles(ema: Mapping[str, Any], extra: Sequence[Mapping[str, Any]]) -> dict[str, Profile]:
    """All profiles of the section `train`: `ema` under the name HEADLINE, each of `extra` under its own.

    Raises:
        OptionError: as above, or two extra profiles that are the same.
    """
    profiles = {HEADLINE: build_profile(ema)}
    for number, options in enumerate(extra):
        profile = build_profile(options, f"train.ema_extra[{number}]")
        if profile.name in profiles:
            raise OptionError(f"train.ema_extra has {profile.name} twice")
        profiles[profile.name] = profile
    return profiles
