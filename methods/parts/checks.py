"""Checks of single options. Each raises ValueError with one sentence that starts with the option's name."""

from __future__ import annotations

from collections.abc import Sequence

from .messages import one_of

MOST_BLOCKS = 1000  # of a network, per level; more is a mistake, and would be built one by one


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is '{value}', must be {one_of(value, choices)}")


def check_above(name: str, value: float, bound: float) -> None:
    if not value > bound:
        raise ValueError(f"{name} is {value:g}, must be above {bound:g}")


def check_at_least(name: str, value: float, bound: float) -> None:
    if not value >= bound:
        raise ValueError(f"{name} is {value:g}, must be at least {bound:g}")


def check_count(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} is {value}, must be from 1 to {most:,}")


def check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value:g}, must be from 0 to 1")


def check_probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value:g}, must be from 0 to below 1")


def check_sigma_range(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min = {sigma_min:g} and sigma_max = {sigma_max:g}: must be 0 < min < max")
