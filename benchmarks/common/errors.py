"""The one kind of error that is the user's to mend, and how names are looked up."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ...methods.parts.messages import did_you_mean, near, quoted


class UsageError(Exception):
    """A name, value or file the user can put right.

    The message is one clear sentence that names the valid choices. The command prints it without a stack
    trace and exits with status 2.
    """


def chosen(kind: str, name: str, choices: Collection[str], hint: str = "") -> str:
    """The one of `choices` that is called `name`. Case does not matter where that leaves a single one.

    Raises UsageError, as `unknown` makes it.
    """
    same = [choice for choice in choices if choice.lower() == name.lower()]
    if name not in choices and len(same) != 1:
        raise unknown(kind, name, choices, hint=hint)
    return name if name in choices else same[0]


def unknown(
    kind: str, name: str, choices: Collection[str], guesses: Iterable[str] | None = None, *, hint: str = ""
) -> UsageError:
    """The error for a name outside `choices`: `unknown method 'ekt'. Did you mean: ect? Available: ect, ict`.

    `kind` says what the name stands for. Near names are guessed without regard to case, unless `guesses` are given;
    nothing is guessed where nothing is near. hint: the end of the sentence. The caller raises what this returns.
    """
    guess = did_you_mean(near(name, choices) if guesses is None else guesses)
    return UsageError(f"unknown {kind} {quoted(name)}.{guess} Available: {', '.join(choices)}{hint}")
