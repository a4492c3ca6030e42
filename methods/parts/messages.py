"""Names and values in messages: what was meant by a misspelt name, and any value within one line."""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Collection, Iterable


def near(name: str, choices: Iterable[str]) -> list[str]:
    """Those of `choices` that `name` may be a misspelling of, three at most. Case does not matter."""
    lowered = {choice.lower(): choice for choice in choices}
    return [lowered[found] for found in difflib.get_close_matches(name.lower(), lowered)]


def did_you_mean(names: Iterable[str]) -> str:
    """` Did you mean: lr, lr_decay?`, or nothing for no names."""
    text = ", ".join(names)
    return f" Did you mean: {text}?" if text else ""


def one_of(value: object, choices: Collection[str]) -> str:
    """What a value must be: `one of: adam, radam. Did you mean: adam?`"""
    guess = did_you_mean(near(str(value), choices))
    return f"one of: {', '.join(choices)}{'.' if guess else ''}{guess}"


def cut(text: str, width: int = 80) -> str:
    """`text` with at most `width` characters, and the number of those left out: `…(4,920 more)`."""
    return text if len(text) <= width else f"{text[:width]}…({len(text) - width:,} more)"


def quoted(value: object) -> str:
    """A value as YAML writes it: text in quotes, true, null. Long and nested ones are cut."""
    if isinstance(value, str):
        return repr(cut(value))
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    try:
        return cut(reprlib.repr(value))
    except ValueError:  # Python prints no number of more than 4,300 digits
        return "a number of thousands of digits"
