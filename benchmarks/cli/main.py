"""The `bench` command: collects the subcommands, each declared in a module of this package."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Annotated, Any

import typer

from ..common.errors import UsageError
from ..common.redact import without_password
from ..common.system import skip_final_gc
from ..common.text import plain
from ..common.unexpected import describe
from . import (
    cancel,
    check,
    cluster,
    compare,
    diagnose,
    doctor,
    evaluate,
    export,
    imports,
    logs,
    merge,
    new,
    plan,
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

FAILED, BAD_INPUT = 1, 2
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
    plan,
    register,
    export,
    merge,
    imports,
    show,
    check,
    doctor,
)
GROUPS = (new, prepare, speed, cluster)


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
    """Entry point. Whatever happens, the user gets an exit status and at most one sentence, never a stack trace."""
    skip_final_gc()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters that a name or a sentence has
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has what it wanted, as in `bench list | head`
        status = _abandon_output()
    except OSError as error:  # no space left
        _say(f"standard output: {error.strerror}", FAILED)
        status = _abandon_output()
    sys.exit(status)


def _abandon_output() -> int:
    """Send what is left to nowhere, so that Python does not complain as it ends. Returns the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _run() -> int:
    """Run the subcommand. Returns the exit status, after the sentence on stderr if something went wrong."""
    try:
        status = app(prog_name="bench", standalone_mode=False)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        raise
    except UsageError as error:
        return _say(without_password(str(error)), BAD_INPUT)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # no permission, no space left, …
            return _say(f"{os.fsdecode(error.filename)}: {error.strerror}", BAD_INPUT)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # in the middle of a file
            return _say(f"{error.strerror}: the disk or what takes the output is full", FAILED)
        if hasattr(error, "show"):  # of typer: an unknown option, a missing argument
            return _show_usage(error)
        return _say(describe(error), FAILED)
    if status == INTERRUPTED:
        _tell("interrupted; rerun the command to resume\n", status)
    return status


def _show_usage(error: Any) -> int:
    """Print typer's error, with its usage line, and a hint where a setting was typed as an option."""
    text = io.StringIO()
    error.show(file=text)
    name = str(getattr(error, "option_name", "")).lstrip("-")
    hint = f" Settings have no dashes: write {name}=VALUE\n" if name in ("benchmark", "preset") or "." in name else "\n"
    return _tell(without_password(text.getvalue().rstrip("\n")) + hint, error.exit_code)


def _say(message: str, status: int) -> int:
    return _tell(f"bench: {plain(message)}\n", status)


def _tell(text: str, status: int) -> int:
    with contextlib.suppress(OSError):  # stderr is full or gone: the status says it alone
        sys.stderr.write(text)
    return status
