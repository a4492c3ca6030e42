"""`bench report`: rebuild every view from the files."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError


def report(out: Path, *, mlflow: bool, mlflow_uri: str | None) -> int:
    """Exit status 0. Raises UsageError where there is nothing to report."""
    from ...reports.build import build_report

    if not out.is_dir():
        raise UsageError(f"there is no folder {out}: run `bench run` first, or name the folder of the runs with --out")
    try:
        paths = build_report(out, mlflow=mlflow, mlflow_uri=mlflow_uri)
    except LookupError as error:
        raise UsageError(f"{error.args[0]}; run `bench run` first, or name the folder of the runs with --out") from None
    _print_paths(paths.leaderboard, out, mlflow, mlflow_uri)
    return 0


def show_report(out: Path, *, mlflow: bool, mlflow_uri: str | None) -> None:
    """After a run: rebuild the report unless nothing changed, and say where it is."""
    from ...reports.build import build_report, report_is_current

    leaderboard = out / "leaderboard.md"
    if not report_is_current(out, mlflow=mlflow, mlflow_uri=mlflow_uri):
        leaderboard = build_report(out, mlflow=mlflow, mlflow_uri=mlflow_uri).leaderboard
    _print_paths(leaderboard, out, mlflow, mlflow_uri)


def _print_paths(leaderboard: Path, out: Path, mlflow: bool, mlflow_uri: str | None) -> None:
    print(f"leaderboard: {leaderboard}")
    if mlflow:
        print(f"MLflow: mlflow ui --backend-store-uri {mlflow_uri or f'sqlite:///{out}/mlflow.db'}")
