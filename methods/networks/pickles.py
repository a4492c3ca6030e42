"""Pickles read without running anything in them: names are looked up in a closed table, and nothing is imported."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import IO, Any


class RefusedError(ValueError):
    """A pickle that names something that weights do not need; one sentence."""


class Record:
    """An inert substitute for an object of a pickle: accepts any arguments and keeps its state."""

    def __init__(self, *_: object, **__: object) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Function:
    """A function that a pickle may call. Without slots or a dictionary, the pickle cannot set attributes of it.

    A pickle can set attributes of whatever it names (the opcode BUILD), and a plain function would keep them.
    """

    __slots__ = ()


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickles `file`. `lookup` maps the full name of a global to its substitute, or to None: RefusedError."""

    def __init__(self, file: IO[bytes], lookup: Callable[[str], Any | None]) -> None:
        super().__init__(file)
        self._lookup = lookup

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module}.{name}"
        found = self._lookup(full)
        if found is None:
            raise RefusedError(f"refused, because it asks for {full}, which weights do not need")
        return found
