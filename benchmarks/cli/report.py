"""`bench report`: rebuild every view from the files."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError

#: What MLflow can keep runs in; it refuses plain folders.
MLFLOW_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def report(out: Path, *, mlflow: bool, mlflow_uri: str | None, readme: Path | None = None) -> int:
    """Exit status 0. Raises UsageError where there is nothing to report, or no place in `readme` for it."""
    from ...reports.build import build_report

    check_mlflow_uri(mlflow_uri)
    if not out.is_dir():
        raise UsageError(f"there is no folder {out}: run `bench run` first, or name the folder of the runs with --out")
    try:
        with _naming_mlflow(mlflow_uri):
            paths = build_report(out, mlflow=mlflow, mlflow_uri=mlflow_uri, readme=readme)
    except LookupError as error:
        raise UsageError(f"{error.args[0]}; run `bench run` first, or name the folder of the runs with --out") from None
    _print_paths(paths.leaderboard, out, mlflow, mlflow_uri)
    return 0


def show_report(out: Path, *, mlflow: bool, mlflow_uri: str | None) -> None:
    """After a run: rebuild the report unless nothing changed, and say where it is."""
    from ...reports.build import build_report, report_is_current

    leaderboard = out / "leaderboard.md"
    if not report_is_current(out, mlflow=mlflow, mlflow_uri=mlflow_uri):
        print("writing the report", flush=True)  # imports alone take seconds
        with _naming_mlflow(mlflow_uri):
            leaderboard = build_report(out, mlflow=mlflow, mlflow_uri=mlflow_uri).leaderboard
    _print_paths(leaderboard, out, mlflow, mlflow_uri)


def check_mlflow_uri(uri: str | None) -> None:
    """Raise UsageError for an address that MLflow cannot have, before hours of training end in it."""
    if uri and uri.partition("://")[0].partition("+")[0] not in MLFLOW_SCHEMES:
        raise UsageError(f"--mlflow-uri is {uri!r}, must begin with one of: {', '.join(MLFLOW_SCHEMES)} and ://")


@contextlib.contextmanager
def _naming_mlflow(uri: str | None) -> Iterator[None]:
    """Turn what MLflow and its data base complain of into a UsageError; the other views are written by then."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else minutes pass before a wrong address shows
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("mlflow.", "sqlalchemy.")):
            raise
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"MLflow at {uri or 'its file'}: {reason}; leaderboard and plots are written, `bench report` tries again"
        ) from None


def _print_paths(leaderboard: Path, out: Path, mlflow: bool, mlflow_uri: str | None) -> None:
    print(f"page: {leaderboard.with_name('report.html')}")
    print(f"leaderboard: {leaderboard}")
    if mlflow:
        print(f"MLflow: mlflow ui --backend-store-uri {shlex.quote(mlflow_uri or f'sqlite:///{out}/mlflow.db')}")
