"""`bench check`: whether a plug-in does what the suite relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.errors import UsageError
from ..common.text import plain

if TYPE_CHECKING:
    from ..config.plugins import Plugin

app = typer.Typer()

Item = tuple[str, str, Callable[[], None]]


@app.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the plug-in, whose code is imported.")],
) -> int:
    """Test a plug-in, its methods as the shipped ones are tested.

    Benchmarks, data sets, presets and metrics have a check each.

    Exit status: 0 all passed, 1 one failed, 2 the folder is no plug-in or cannot be imported.
    """
    from ..config.plugins import activate, active

    activate([path])
    (plugin,) = active()
    failed, number = 0, 0
    for what, title, run in _items(plugin):
        reason = _reason(run, plugin)
        failed, number = failed + (reason is not None), number + 1
        print(
            "ok  " if reason is None else "FAIL",
            what,
            title + ("" if reason is None else f": {plain(reason)}"),
            flush=True,
        )
    print(f"{number} checks, {failed} failed" if failed else f"all {number} checks passed")
    return 1 if failed else 0


def _items(plugin: Plugin) -> Iterator[Item]:
    """What is checked, the sentence of the check, and the check."""
    from ..data.registry import load
    from ..execution import conformance

    digits = load("digits")
    for what in sorted(plugin.provides):
        group, _, name = what.partition("/")
        if group == "method":
            for function in conformance.CHECKS:
                yield what, _title(function), partial(function, name, digits)
        elif other := conformance.OTHERS.get(group):
            yield what, _title(other), partial(other, name)


def _title(function: Callable[..., None]) -> str:
    return " ".join((function.__doc__ or "").split("\n\n")[0].split()).rstrip(".")


def _reason(run: Callable[[], None], plugin: Plugin) -> str | None:
    """Why a check fails; None if it passes. Code of the plug-in may raise anything."""
    from ...methods.parts.options import OptionError
    from ..config.plugins import blamed
    from ..execution.conformance import ConformanceError

    try:
        with blamed([plugin.folder]):
            try:
                run()
            except (ConformanceError, OptionError) as error:
                return str(error)
    except UsageError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None
