"""From a section of the configuration to a part, with names and types checked."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from .messages import cut, did_you_mean, near, quoted


class OptionError(ValueError):
    """An invalid option: one sentence for the user, with the valid choices."""


def option_names(part: type) -> list[str]:
    """The fields of a part's dataclass that a configuration may set: all but those marked `{"option": False}`."""
    return [f.name for f in dataclasses.fields(part) if f.metadata.get("option", True)]


def part_from_options(part: type, options: Mapping[str, Any], where: str) -> Any:
    """Build a part (a frozen dataclass) from its section.

    Args:
        options: option name -> plain value.
        where: the section's name for messages, such as "method.times"; empty for a whole configuration.

    Raises:
        OptionError: an unknown name, a value of the wrong type, or one that the part rejects.
    """
    fields, hints = option_names(part), typing.get_type_hints(part)
    values = {}
    for option, value in options.items():
        key = f"{where}.{option}" if where else option
        if option not in fields:
            choices = ", ".join(fields) or "none, this part has no options"
            guess = did_you_mean(f"{where}.{name}".strip(".") for name in near(str(option), fields))
            raise OptionError(f"unknown key '{cut(key)}'.{guess} Available: {choices}")
        values[option] = _converted(value, hints[option], key)
    for field in dataclasses.fields(part):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in values:
            raise OptionError(f"{where}.{field.name} is missing" if where else f"{field.name} is missing")
    try:
        return part(**values)
    except ValueError as error:
        raise OptionError(f"{where}.{error}") from None


#: What a value must be, by the type of its field.
WANTED: dict[type, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    tuple: "a list in square brackets",
    Mapping: "a mapping such as {kind: …}",
}


def _converted(value: Any, hint: Any, where: str) -> Any:
    optional = isinstance(hint, types.UnionType)
    if optional:
        if value is None:
            return None
        hint = next(member for member in hint.__args__ if member is not types.NoneType)
    kind: type = typing.get_origin(hint) or hint
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return part_from_options(kind, value, where)
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_converted(item, hint.__args__[0], f"{where}[{at}]") for at, item in enumerate(value))
    # Comparing, unlike `math.isfinite`, is possible for whole numbers beyond those of a float.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        if kind is float:
            return float(value)
        if kind is int and value == int(value) and abs(value) < 2**63:
            return int(value)
    if kind in (str, bool, Mapping) and isinstance(value, kind):
        return value
    wanted = WANTED.get(kind, "a mapping")
    raise OptionError(f"{where} is {quoted(value)}, must be {wanted}" + (" or null" if optional else ""))
