"""`bench report`: rebuild the page, the leaderboard, plots and the MLflow import from files."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.errors import UsageError
from ..common.files import TakenError
from ..common.redact import without_password
from ..runs.archive import unpacked
from ..runs.damage import Damage
from ..runs.folder import STUDIES, Run, find_cells
from . import options
from .cells import no_cells, say_damage
from .json_output import print_json
from .outcome import print_outcome

if TYPE_CHECKING:
    from ...reports.build import ReportPaths
    from ...reports.plots.paper import Paper

#: Schemes of MLflow's stores; current versions refuse plain folders.
MLFLOW_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
#: Packages whose errors come from the MLflow store.
STORE_PACKAGES = ("mlflow", "sqlalchemy", "sqlite3", "requests", "urllib3")
LONGEST_REASON = 300

app = typer.Typer()


class StoreError(UsageError):
    """MLflow cannot be reached, or refuses; the message names it and says what holds nevertheless."""


@dataclass(frozen=True)
class Tracking:
    """Whether results are imported into MLflow, and into which store (None: an SQLite file in the folder of the runs).

    live: also while cells train.

    Raises UsageError for an address that cannot be MLflow's, before anything is computed.
    """

    wanted: bool = True
    uri: str | None = None
    live: bool = False

    def __post_init__(self) -> None:
        if self.uri and self.uri.partition("://")[0].partition("+")[0] not in MLFLOW_SCHEMES:
            shown = without_password(self.uri)
            raise UsageError(f"--mlflow-uri is {shown!r}, must begin with one of: {', '.join(MLFLOW_SCHEMES)} and ://")

    def hint(self, out: Path) -> str:
        """Where the import is to be seen."""
        if self.uri and self.uri.startswith("http"):
            return f"MLflow: {without_password(self.uri)}"
        store = without_password(self.uri) if self.uri else f"sqlite:///{out}/mlflow.db"
        return f"MLflow: mlflow ui --backend-store-uri {shlex.quote(store)}"


@app.command()
def report(
    out: options.Out = Path("runs"),
    mlflow: options.Mlflow = True,
    mlflow_uri: options.MlflowUri = None,
    readme: Annotated[
        Path | None, typer.Option("--readme", help="Document to update between its leaderboard markers, too.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Results folder whose pages are rebuilt from its cells.zip."),
    ] = None,
    study: options.StudyName = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="NAME", help="Method or configuration to compare with, in this report."),
    ] = None,
    figures: Annotated[
        str | None,
        typer.Option("--figures", help="Files beside every PNG: pdf,svg. png: none. Kept for later reports."),
    ] = None,
    width: Annotated[
        str | None, typer.Option("--width", help="Width of these, such as 3.25in, 8.2cm or 234.8pt.")
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Rebuild leaderboards, pages, plots and MLflow from files.

    Every study has its own.

    Exit status: 0 all cells are in it, 1 files are damaged or missing, which are named.
    """
    from ...reports.build import build_report
    from ...reports.plots.paper import Paper

    tracking, paper = Tracking(mlflow, mlflow_uri), Paper.of(figures, width)
    if results is not None:
        if study is not None or mlflow_uri is not None or out != Path("runs"):
            raise UsageError("--from rebuilds all pages of one folder: leave out --out, --study and --mlflow-uri")
        return _rebuild(results, readme, baseline, paper, as_json)
    if study is not None and baseline is not None:
        raise UsageError("--baseline is for cells without a study: a study names its own in its file")
    if not find_cells(out):
        raise no_cells(out)
    with naming_mlflow(mlflow_uri):
        paths = build_report(
            out,
            mlflow=mlflow,
            mlflow_uri=mlflow_uri,
            readme=readme,
            study=study,
            baseline=baseline,
            paper=paper,
        )
    if as_json:
        print_json(_document(paths, out, study))
        return say_damage(paths.damages, out)
    written = list(paths.studies) if study else [paths.leaderboard, *paths.studies]
    for leaderboard in dict.fromkeys(written):
        print_outcome(leaderboard.parent)
    if mlflow:
        print(tracking.hint(out))
    return say_damage(paths.damages, out)


def _rebuild(results: Path, readme: Path | None, baseline: str | None, paper: Paper | None, as_json: bool) -> int:
    """Write the pages of a results folder from its cells."""
    from ...reports.build import build_report

    if find_cells(results):
        raise UsageError(f"{results} is a folder of runs and not of results: bench report --out {results}")
    with unpacked(results) as runs:
        paths = build_report(runs, mlflow=False, readme=readme, baseline=baseline, paper=paper, into=results)
        if as_json:
            print_json(_document(paths, runs, None))
            return 0
    for leaderboard in dict.fromkeys([paths.leaderboard, *paths.studies]):
        print_outcome(leaderboard.parent)
    return 0


def _document(paths: ReportPaths, out: Path, study: str | None) -> dict[str, object]:
    from ...reports.analysis.cells import survey
    from ...reports.analysis.frame_leaderboard import leaderboard
    from ...reports.analysis.frames import frame
    from ..runs.imported import imported_rows
    from ..runs.studies import study_cells

    cells, _ = survey(study_cells(out, study) if study else find_cells(out))
    results = leaderboard(frame(cells, imported_rows(out)[0]))
    return {
        "page": paths.html,
        "leaderboard": paths.leaderboard,
        "mlflow": paths.mlflow and without_password(paths.mlflow),
        "damaged": [item.reason for item in paths.damages],
        "results": results.astype(object).where(results.notna(), None).to_dict("records"),
    }


def show_report(out: Path, tracking: Tracking, folder: Path | None = None, cells: Collection[str] | None = None) -> int:
    """Bring the reports up to date, and print the outcome. Returns as `say_damage` does.

    folder: that of the report whose outcome is printed, by default all. cells: ids, see `print_outcome`.
    """
    damages = update_reports(out, tracking)
    for place in [folder] if folder else [out, *sorted((out / STUDIES).glob("*/"))]:
        print_outcome(place, cells)
    if tracking.wanted:
        print(tracking.hint(out))
    return say_damage(damages, out)


def update_reports(out: Path, tracking: Tracking) -> Sequence[Damage]:
    """Rebuild the reports of an output folder unless nothing changed. Returns what is damaged.

    Where the import into MLflow fails, a sentence says so.
    """
    from ...reports.build import build_report, report_is_current

    if report_is_current(out, mlflow=tracking.wanted, mlflow_uri=tracking.uri):
        return ()
    print("writing the report", flush=True)  # imports alone take seconds
    try:
        with naming_mlflow(tracking.uri):
            return build_report(out, mlflow=tracking.wanted, mlflow_uri=tracking.uri, only_changed=True).damages
    except StoreError as error:  # the cells are done, and their report is written
        print(f"bench: {error}", file=sys.stderr)
        return build_report(out, mlflow=False, only_changed=True).damages


def refresh_reports(runs: Sequence[Run], tracking: Tracking) -> None:
    """Rebuild the report of each output folder that holds one of these cells."""
    outs: dict[Path, list[str]] = {}
    for run in runs:
        path = run.path.resolve()
        out = path.parents[min(2, len(path.parents) - 1)]
        if path in {cell.path for cell in find_cells(out)}:
            outs.setdefault(out, []).append(run.config.cell.id)
        else:
            print(f"no report has the new rows: {run.path} is not in an output folder")
    for out, cells in outs.items():
        shown = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
        show_report(shown, tracking, cells=cells)


@contextlib.contextmanager
def naming_mlflow(
    uri: str | None, rest: str = "leaderboard and plots are written; `bench report` tries the import again"
) -> Iterator[None]:
    """Turn errors of MLflow, its data base and the network into a StoreError. rest: what holds nevertheless."""
    try:
        yield
    except TakenError as error:
        raise StoreError(f"{error}; {rest}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in STORE_PACKAGES:
            raise
        reason = without_password(str(error).splitlines()[0]) if str(error) else type(error).__name__
        place = without_password(uri) if uri else "its file"
        raise StoreError(f"MLflow at {place}: {reason[:LONGEST_REASON]}; {rest}") from None
