"""Text of files and programs as it may be shown in a terminal: nothing in it moves a cursor or hides a character."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """`text` on one line and without characters that cannot be seen (line ends, terminal and bidi controls)."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def visible(text: str) -> str:
    """`text` with its lines and tabs, and a replacement character for all else that cannot be seen."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 cell`, `2 cells`; `plural` where it takes more than an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def without_sections(text: str) -> str:
    """Of the keys in `key=value` texts the last part, `kl_weight=3`; of a kind also what it is of, `times.kind=x`."""
    return re.sub(r"(^|\s)(?:\w+\.)+(?=(?:\w+\.)kind=|(?!kind=)\w+=)", r"\1", text)
