"""`build_report`: everything a reader looks at, rebuilt from the files of an output folder, a report per study."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..benchmarks.common.errors import UsageError, unknown
from ..benchmarks.common.files import (
    DamagedError,
    atomic_path,
    check_writable,
    read_json,
    remove_leftovers,
    write_json,
    write_text,
)
from ..benchmarks.common.redact import without_password
from ..benchmarks.runs.archive import CELLS_FILE
from ..benchmarks.runs.damage import Damage, cure
from ..benchmarks.runs.folder import IMPORTED, REFERENCE, STUDIES, STUDY, Run, find_cells
from ..benchmarks.runs.imported import Imported, imported_rows
from ..benchmarks.runs.studies import Family, families, study_folder
from .plots.paper import SCREEN, Paper
from .standings import Standing

if TYPE_CHECKING:
    from .analysis.cells import Cell
    from .analysis.tables import Board
    from .assembly import Assembly

STAMP = ".report.json"
FOLDERS = ("ablations", "diagnostics", "plots")
PAGES = ("leaderboard.md", "leaderboard.tex", "report.html", "results.csv")
#: Between these lines of a document its excerpt of the leaderboard is kept up to date.
BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"


@dataclass(frozen=True)
class ReportPaths:
    """What was written: pages and plots. `mlflow` is the address of the store, None where there was no import.

    The paths are those of the cells run without a study or, if there are none, of the first study. studies: the
    leaderboards of all studies that were written.
    damages: what is damaged below the output folder; cells whose numbers that concerns are in nothing that was written.
    """

    leaderboard: Path
    html: Path
    ablations: tuple[Path, ...]
    plots: tuple[Path, ...]
    mlflow: str | None
    diagnostics: tuple[Path, ...] = ()
    damages: tuple[Damage, ...] = ()
    studies: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What is in an output folder: families of cells, cells whose numbers can be used by name, baselines, damage.

    records: where links to records lead: the path from `out` to the output folder, or to the archive of its cells.
    """

    out: Path
    families: Sequence[Family]
    cells: Mapping[str, Cell]
    references: Mapping[str, dict[tuple[str, str], float]]
    damages: Sequence[Damage]
    imported: Sequence[Imported]
    baseline: str | None = None
    records: str = ""

    def cells_of(self, family: Family) -> list[Cell]:
        """The usable cells of a family, each with what the family asked for."""
        from .analysis.cells import restricted

        return [restricted(self.cells[name], wanted) for name, wanted in family.members.items() if name in self.cells]

    def damages_of(self, family: Family) -> list[Damage]:
        """The damage that concerns a family. The cells of no study have that which concerns no family, too."""
        return [item for item in self.damages if family in self._concerned(item)]

    def _concerned(self, item: Damage) -> list[Family]:
        found = [family for family in self.families if item.folder in self._folders(family)]
        return found or [family for family in self.families if family.study is None]

    def _folders(self, family: Family) -> set[Path]:
        own = {self.out / name for name in family.members}
        return {*own, *(folder.parents[1] for folder in own)} | ({family.folder} if family.study else set())


def build_report(
    out: Path,
    *,
    mlflow: bool = True,
    mlflow_uri: str | None = None,
    readme: Path | None = None,
    study: str | None = None,
    only_changed: bool = False,
    baseline: str | None = None,
    paper: Paper | None = None,
    into: Path | None = None,
) -> ReportPaths:
    """Write the reports of an output folder: `leaderboard.md` and `.tex`, `report.html`, …

    Those of the cells that were run without a study are in `out`, those of a study in `studies/<name>`. Cells are also
    imported into MLflow.

    readme: a document whose lines between the markers `BEGIN` and `END` become the verdicts and tables; the rest of it
    stays byte for byte. study: write the report of this study alone. only_changed: leave out reports that would only
    repeat what is there. baseline: a method or configuration that the cells without a study are compared with, in this
    report alone. paper: the files beside the PNGs, by default those of the report that is there. into: the results
    folder whose cells `out` holds unpacked: reports are written there, and those of an earlier archive are removed.
    Unfinished sweeps are reported as such, and damaged cells are left out and listed. Raises LookupError where there
    are no cells, DamagedError where all of them are damaged or the document has no pair of markers, OSError where
    something cannot be written, UsageError for an unknown study or baseline; with `into` DamagedError for any damage,
    before anything is written.
    """
    around = None if readme is None else _around_markers(readme)  # before anything is written
    chosen = None if study is None else study_folder(out, study)
    found, unread = _families(out)
    if into is not None:
        check_writable(into, "results", "--from")
        found = [replace(family, folder=into / family.folder.relative_to(out)) for family in found]
    wanted = [family for family in found if chosen is None or family.folder == chosen]
    _refuse_links(wanted)
    if only_changed:
        destination = _destination(mlflow, mlflow_uri)
        wanted = [family for family in wanted if not _is_current(out, family, destination if mlflow else None)]
    # Taken before reading: files that change while the report is made leave it out of date.
    fingerprints = {family.folder: _fingerprint(out, family) for family in wanted}
    survey = replace(_survey(out, found, unread), baseline=baseline, records=f"{CELLS_FILE}#" if into else "")
    if into is not None and survey.damages:
        raise DamagedError(f"{into / CELLS_FILE}: {survey.damages[0].reason.replace(f'{out}{os.sep}', '')}")
    if baseline is not None:
        _check_baseline(survey, baseline)
    papers = {family.folder: paper or _read_paper(family.folder) for family in wanted}
    reports = {
        family.folder: _write(survey, family, papers[family.folder]) for family in wanted if survey.cells_of(family)
    }
    if into is not None:
        _settle(out, into, [file for report in reports.values() for file in report.files])
    if readme is not None and around is not None and wanted and wanted[0].folder in reports:
        _write_excerpt(readme, around, survey, wanted[0], reports)
    address = None
    try:
        if mlflow:
            address = _import(survey, mlflow_uri, reports)
    finally:  # what is written holds also where the import fails
        destination = _destination(address is not None, mlflow_uri)
        for family in wanted:
            if family.folder in reports:
                report = reports[family.folder]
                own = [out / "mlflow.db"] if address is not None and mlflow_uri is None else []
                stamp = "" if survey.damages_of(family) or baseline else fingerprints[family.folder]
                made = {"fingerprint": stamp, "mlflow": destination, "figures": asdict(papers[family.folder])}
                _write_stamp(family.folder, made, [*report.files, *own], report.boards)
    return _paths(survey, reports, address)


@dataclass(frozen=True)
class _Report:
    """What was written for a family. main: the first ranking of each benchmark."""

    main: Sequence[Board]
    boards: Sequence[Board]
    files: Sequence[Path]
    assembly: Assembly


def _write(survey: Survey, family: Family, paper: Paper) -> _Report:
    from .assembly import Assembly
    from .pages.html import report_html
    from .pages.latex import leaderboard_tex
    from .pages.leaderboard import leaderboard_text
    from .pages.spreadsheet import results_csv
    from .pages.studies import study_text

    folder, cells = family.folder, survey.cells_of(family)
    for name in ("", *FOLDERS):
        remove_leftovers(folder / name)
    root = ("../../" if family.study else "") + survey.records
    assembly = Assembly(folder, survey.references, family.study, root, survey.imported, survey.baseline, paper)
    benchmarks = sorted({cell.benchmark for cell in cells})
    pages = [assembly.pages([cell for cell in cells if cell.benchmark == name]) for name in benchmarks]
    profile = assembly.profile([own[0].board for own in pages])
    shown = [page for own in pages for page in own]
    boards = [page.board for page in shown]
    left_out = _left_out(survey, family)
    study = study_text(family.study, boards) if family.study else None
    write_text(folder / "leaderboard.md", leaderboard_text(shown, profile, left_out, study))
    write_text(folder / "leaderboard.tex", leaderboard_tex(boards))
    write_text(folder / "report.html", report_html(shown, folder, profile, left_out, study))
    write_text(folder / "results.csv", results_csv(boards))
    return _Report(
        [own[0].board for own in pages], boards, [*(folder / name for name in PAGES), *assembly.files], assembly
    )


def _settle(out: Path, results: Path, written: Sequence[Path]) -> None:
    """Complete a results folder: the files of its studies, and no page that an earlier archive has left there."""
    for file in sorted((out / STUDIES).glob(f"*/{STUDY}")):
        with atomic_path(results / file.relative_to(out)) as temporary:
            temporary.write_bytes(file.read_bytes())
    studies = [folder for folder in (results / STUDIES).glob("[!.]*/") if not folder.is_symlink()]
    for place in (results, *studies):
        pages = [place / name for name in (*PAGES, STAMP)]
        folders = [place / name for name in FOLDERS if not (place / name).is_symlink()]
        for page in {*pages, *(page for folder in folders for page in folder.glob("[!.]*"))} - set(written):
            if page.is_file():
                page.unlink()
        for folder in [*folders, *([place] if place in studies else [])]:
            with contextlib.suppress(OSError):  # it is not empty, or not there
                folder.rmdir()


def _check_baseline(survey: Survey, baseline: str) -> None:
    """Raise UsageError where no configuration without a study has this name."""
    from .analysis.rankings import named_group, rankings
    from .analysis.tables import labels

    cells = [cell for family in survey.families if family.study is None for cell in survey.cells_of(family)]
    ranked = [
        own
        for benchmark in sorted({cell.benchmark for cell in cells})
        for _, own in rankings([cell for cell in cells if cell.benchmark == benchmark])
    ]
    if not any(named_group(baseline, own) for own in ranked):
        raise unknown("baseline", baseline, sorted({name for own in ranked for name in labels(own).values()}))


def _import(survey: Survey, uri: str | None, reports: Mapping[Path, _Report]) -> str:
    """Import the families of these reports into MLflow. Returns the address of the store."""
    from .pages.verdicts import verdict
    from .tracking.importer import export
    from .tracking.sweeps import StudyCells

    cells, files, studies = [], [], []
    for family in survey.families:
        report = reports.get(family.folder)
        if report is None:
            continue
        if family.study is None:
            cells, files = survey.cells_of(family), report.files
        else:
            verdicts = {board.benchmark: verdict(board, board.nfes[0]) for board in report.boards}
            headline = f"{report.boards[0].metrics[0]} at NFE {report.boards[0].nfes[0]}"
            studies.append(StudyCells(family.study, survey.cells_of(family), headline, verdicts, report.files))
    return export(survey.out, cells, uri, files, studies).uri


def _left_out(survey: Survey, family: Family) -> list[str]:
    return [item.reason.replace(f"{survey.out}{os.sep}", "") for item in survey.damages_of(family)]


def _paths(survey: Survey, reports: Mapping[Path, _Report], address: str | None) -> ReportPaths:
    folder = next(iter(reports), survey.families[0].folder if survey.families else survey.out)
    first = reports[folder].assembly if folder in reports else None
    return ReportPaths(
        leaderboard=folder / "leaderboard.md",
        html=folder / "report.html",
        ablations=tuple(first.ablations) if first else (),
        plots=tuple(first.plots) if first else (),
        mlflow=address,
        diagnostics=tuple(first.diagnostics) if first else (),
        damages=tuple(survey.damages),
        studies=tuple(own / "leaderboard.md" for own in reports if own != survey.out),
    )


def _families(out: Path) -> tuple[list[Family], list[Damage]]:
    damages: list[Damage] = []
    return families(out, damages), damages


def _survey(out: Path, found: Sequence[Family], unread: Sequence[Damage]) -> Survey:
    """The cells whose numbers can be used, the baselines of each benchmark, and all damage.

    Raises LookupError or DamagedError if there is no such cell.
    """
    from .analysis.cells import baselines, survey
    from .analysis.figures import with_sound_figures

    names = {name for family in found for name in family.members}
    cells, damages = survey([run for run in find_cells(out) if run.path.relative_to(out).as_posix() in names])
    cells, more = with_sound_figures(cells)
    references, lost = baselines(out, cells)
    imported, unreadable = imported_rows(out)
    damages += [*more, *lost, *unread, *_damaged_sweeps(out), *unreadable]
    if not cells:
        raise _nothing(out, damages)
    named = {cell.run.path.relative_to(out).as_posix(): cell for cell in cells}
    return Survey(out, found, named, references, damages, imported)


def report_is_current(out: Path, *, mlflow: bool = True, mlflow_uri: str | None = None) -> bool:
    """Whether `build_report` with the same arguments would only repeat what is there.

    Hashes inputs and outputs, which are small; imports nothing heavy. A report with damaged cells is never current.
    """
    found, damages = _families(out)
    destination = _destination(mlflow, mlflow_uri) if mlflow else None
    return bool(found) and not damages and all(_is_current(out, family, destination) for family in found)


def _is_current(out: Path, family: Family, destination: str | None) -> bool:
    """destination: of the import into MLflow, None where there is to be none."""
    try:
        stamp = read_json(family.folder / STAMP, {})
        return (
            isinstance(stamp.get("standings"), list)
            and stamp.get("fingerprint") == _fingerprint(out, family)
            and (destination is None or stamp.get("mlflow") == destination)
            and all(_digest(family.folder / name) == digest for name, digest in stamp["files"].items())
        )
    except (ValueError, TypeError, AttributeError, KeyError):
        return False  # a stamp that cannot be read is no stamp


def _nothing(out: Path, damages: Sequence[Damage]) -> Exception:
    if not damages:
        return LookupError(f"there are no cells in {out}: nothing to report yet (`bench run` makes some)")
    return DamagedError(f"all cells in {out} are damaged, {damages[0].reason}; rerun {cure(damages[0].folder, out)}")


def _damaged_sweeps(out: Path) -> list[Damage]:
    from ..slurm import sweeps

    found: list[Damage] = []
    sweeps.read(out, found)
    return found


def _refuse_links(wanted: Sequence[Family]) -> None:
    written = [family.folder / name for family in wanted for name in FOLDERS]
    studies = [path for family in wanted if family.study for path in (family.folder, family.folder.parent)]
    for path in [*written, *studies]:
        if path.is_symlink():
            raise DamagedError(f"{path} is a link: a report writes only into its own folders")


def _around_markers(path: Path) -> tuple[bytes, bytes]:
    """What comes before and after the lines between the markers, markers included."""
    content = path.read_bytes()
    begin, end = BEGIN.encode(), END.encode()
    if (content.count(begin), content.count(end)) != (1, 1) or content.index(begin) > content.index(end):
        raise DamagedError(f"{path} must hold the line {BEGIN} once and after it {END} once: the tables go between")
    return content[: content.index(begin) + len(begin)], content[content.index(end) :]


def _link(readme: Path, out: Path) -> str:
    return Path(os.path.relpath(out.resolve(), readme.resolve().parent)).as_posix()


def _write_excerpt(
    readme: Path, around: tuple[bytes, bytes], survey: Survey, family: Family, reports: Mapping[Path, _Report]
) -> None:
    from .pages.leaderboard import excerpt_text

    text = excerpt_text(reports[family.folder].main, _link(readme, family.folder), _left_out(survey, family))
    before, after = around
    with atomic_path(readme.resolve()) as temporary:
        temporary.write_bytes(before + b"\n\n" + text.encode() + b"\n\n" + after)


def _write_stamp(out: Path, made: Mapping[str, object], files: Iterable[Path], boards: Iterable[Board]) -> None:
    """made: from which files the report was made, and how."""
    digests = {Path(os.path.relpath(path, out)).as_posix(): _digest(path) for path in files}
    write_json(out / STAMP, {**made, "files": digests, "standings": [asdict(Standing.of(board)) for board in boards]})


def _read_paper(folder: Path) -> Paper:
    """What the report in this folder was made with; later reports keep it."""
    try:
        return Paper.read(read_json(folder / STAMP, {})["figures"])
    except (ValueError, TypeError, AttributeError, KeyError, UsageError):
        return SCREEN


def read_standings(folder: Path) -> list[Standing]:
    """The outcome of the report in this folder, the main ranking first; none where there is no report."""
    try:
        return [Standing.read(item) for item in read_json(folder / STAMP, {})["standings"]]
    except (ValueError, TypeError, AttributeError, KeyError):
        return []  # a stamp that cannot be read is no stamp


def _destination(mlflow: bool, uri: str | None) -> str:
    return (without_password(uri) if uri else "here") if mlflow else "none"


def _fingerprint(out: Path, family: Family) -> str:
    about = importlib.metadata.version("consistency-bench"), family.study, sorted(family.members.items(), key=str)
    digest = hashlib.sha256(str(about).encode(errors="replace"))
    runs = [Run(out / name) for name in family.members]
    paths = [path for run in runs for path in (*run.data_files, *sorted(run.path.glob("samples/*.npz")))]
    others = {*(run.path.parents[1] / REFERENCE for run in runs), *out.glob(f"{IMPORTED}/*.csv")}
    for path in [*paths, *sorted(others)]:
        digest.update(f"{path.relative_to(out).as_posix()} {_digest(path)}\n".encode())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    """SHA-256 of a file, "" where there is none; MLflow's store, which other commands write, only counts as there."""
    if path.name == "mlflow.db":
        return str(path.exists())
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
