"""The `bench` command: collects the subcommands, each declared in a module of this package."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..common.errors import UsageError
from ..common.system import skip_final_gc
from ..common.text import plain
from . import (
    cancel,
    cluster,
    compare,
    diagnose,
    doctor,
    evaluate,
    logs,
    prepare,
    register,
    report,
    retry,
    run,
    sample,
    score,
    show,
    speed,
    status,
    wait,
)

INTERRUPTED = 130  # exit status after Ctrl-C, as in shells

COMMANDS = (
    run,
    status,
    wait,
    cancel,
    retry,
    logs,
    evaluate,
    sample,
    score,
    diagnose,
    report,
    compare,
    register,
    show,
    doctor,
)
GROUPS = (prepare, speed, cluster)


def _exit(status: int, **_: object) -> None:
    """What a subcommand returns is the exit status."""
    raise typer.Exit(status)


app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # with rich, --help takes twice as long
    context_settings={"help_option_names": ["-h", "--help"]},
    result_callback=_exit,
)
for module in (*COMMANDS, *GROUPS):
    app.add_typer(module.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"bench {version('consistency-bench')}")
        raise typer.Exit


@app.callback()
def bench(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train, sample and evaluate consistency models (iCT, ECT, SCT, VCT) under equal conditions, and report results.

    Exit status: 0 all done, 1 a cell failed, diverged or is unfinished, 2 bad input, 130 interrupted.
    """


def main() -> None:
    """Entry point. An error that the user can correct is one sentence on stderr and exit status 2."""
    skip_final_gc()
    try:
        app(prog_name="bench")
    except UsageError as error:
        message = str(error)
    except OSError as error:  # no permission, no space left, …
        if error.filename is None:
            raise
        message = f"{error.filename}: {error.strerror}"
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("interrupted; rerun the command to resume", file=sys.stderr)
        raise
    else:
        return
    print(f"bench: {plain(message)}", file=sys.stderr)
    sys.exit(2)
