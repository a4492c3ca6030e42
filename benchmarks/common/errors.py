"""The one kind of error that is the user's to mend, and how an unknown name is reported."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A name, value or file the user can put right.

    The message is one clear sentence that names the valid choices. The command prints it without a stack
    trace and exits with status 2.
    """


def unknown(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """The error for a name outside `choices`: `unknown method 'ekt'. Did you mean: ect? Available: ect, ict`.

    `kind` says what the name stands for. Near names are guessed without regard to case; nothing is guessed
    where nothing is near. The caller raises what this returns.
    """
    available = list(choices)
    near = difflib.get_close_matches(name.lower(), available)
    guess = f" Did you mean: {', '.join(near)}?" if near else ""
    return UsageError(f"unknown {kind} {name!r}.{guess} Available: {', '.join(available)}")
