"""`bench report`: rebuild every view from the files."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from ..common.errors import UsageError
from ..common.files import TakenError

#: What MLflow can keep runs in; it refuses plain folders.
MLFLOW_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
#: Whose errors are the store's.
STRANGERS = ("mlflow", "sqlalchemy", "sqlite3", "requests", "urllib3")
LONGEST_REASON = 300


def report(out: Path, *, mlflow: bool, mlflow_uri: str | None, readme: Path | None = None) -> int:
    """Exit status 0. Raises UsageError where there is nothing to report, or no place in `readme` for it."""
    from ...reports.build import build_report

    check_mlflow_uri(mlflow_uri)
    if not out.is_dir():
        raise UsageError(f"there is no folder {out}: run `bench run` first, or name the folder of the runs with --out")
    try:
        with naming_mlflow(mlflow_uri):
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
        with naming_mlflow(mlflow_uri):
            leaderboard = build_report(out, mlflow=mlflow, mlflow_uri=mlflow_uri).leaderboard
    _print_paths(leaderboard, out, mlflow, mlflow_uri)


def check_mlflow_uri(uri: str | None) -> None:
    """Raise UsageError for an address that MLflow cannot have, before hours of training end in it."""
    from ..common.redact import without_password

    if uri and uri.partition("://")[0].partition("+")[0] not in MLFLOW_SCHEMES:
        shown = without_password(uri)
        raise UsageError(f"--mlflow-uri is {shown!r}, must begin with one of: {', '.join(MLFLOW_SCHEMES)} and ://")


@contextlib.contextmanager
def naming_mlflow(
    uri: str | None, rest: str = "leaderboard and plots are written, `bench report` tries again"
) -> Iterator[None]:
    """Turn what MLflow, its data base and the network complain of into a UsageError. rest: what holds nevertheless."""
    from ..common.redact import without_password

    try:
        yield
    except TakenError as error:
        raise UsageError(f"{error}; {rest}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in STRANGERS:
            raise
        reason = without_password(str(error).splitlines()[0]) if str(error) else type(error).__name__
        place = without_password(uri) if uri else "its file"
        raise UsageError(f"MLflow at {place}: {reason[:LONGEST_REASON]}; {rest}") from None


def _print_paths(leaderboard: Path, out: Path, mlflow: bool, mlflow_uri: str | None) -> None:
    from ..common.redact import without_password

    print(f"page: {leaderboard.with_name('report.html')}")
    print(f"leaderboard: {leaderboard}")
    if not mlflow:
        return
    if mlflow_uri and mlflow_uri.startswith("http"):
        print(f"MLflow: {without_password(mlflow_uri)}")
    else:
        store = without_password(mlflow_uri) if mlflow_uri else f"sqlite:///{out}/mlflow.db"
        print(f"MLflow: mlflow ui --backend-store-uri {shlex.quote(store)}")
