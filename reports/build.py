"""`build_report`: everything a reader looks at, rebuilt from the files of an output folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..benchmarks.common.files import DamagedError, atomic_path, read_json, remove_leftovers, write_json, write_text
from ..benchmarks.common.redact import without_password
from ..benchmarks.runs.damage import Damage, cure
from ..benchmarks.runs.folder import IMPORTED, REFERENCE, find_cells
from ..benchmarks.runs.imported import imported_rows

if TYPE_CHECKING:
    from .analysis.cells import Cell

STAMP = ".report.json"
FOLDERS = ("ablations", "diagnostics", "plots")
PAGES = ("leaderboard.md", "report.html", "results.csv")
#: Between these lines of a document its excerpt of the leaderboard is kept up to date.
BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"


@dataclass(frozen=True)
class ReportPaths:
    """What was written: pages and plots. `mlflow` is the address of the store, None where there was no import.

    damages: what is damaged below the output folder; cells whose numbers that concerns are in nothing that was written.
    """

    leaderboard: Path
    html: Path
    ablations: tuple[Path, ...]
    plots: tuple[Path, ...]
    mlflow: str | None
    diagnostics: tuple[Path, ...] = ()
    damages: tuple[Damage, ...] = ()


def build_report(
    out: Path, *, mlflow: bool = True, mlflow_uri: str | None = None, readme: Path | None = None
) -> ReportPaths:
    """Write `leaderboard.md`, `report.html`, `results.csv`, `ablations/`, `plots/` into `out`; its cells into MLflow.

    readme: a document whose lines between the markers `BEGIN` and `END` become the verdicts and tables; the rest of it
    stays byte for byte.
    Unfinished sweeps are reported as such, and damaged cells are left out and listed. Raises LookupError where there
    are no cells, DamagedError where all of them are damaged or the document has no pair of markers, OSError where
    something cannot be written.
    """
    from .assembly import Assembly
    from .pages.html import report_html
    from .pages.leaderboard import excerpt_text, leaderboard_text
    from .pages.spreadsheet import results_csv

    around = None if readme is None else _around_markers(readme)  # before anything is written
    _refuse_links(out)
    for folder in (out, *(out / name for name in FOLDERS)):
        remove_leftovers(folder)
    # Taken before reading: files that change while the report is made leave it out of date.
    fingerprint = _fingerprint(out)
    cells, references, damages = _survey(out)
    imported, lost = imported_rows(out)
    damages += lost
    assembly = Assembly(out, references, imported)
    benchmarks = sorted({cell.benchmark for cell in cells})
    pages = [assembly.page([cell for cell in cells if cell.benchmark == name]) for name in benchmarks]
    boards = [page.board for page in pages]
    profile = assembly.profile(boards)
    left_out = [item.reason.replace(f"{out}{os.sep}", "") for item in damages]
    write_text(out / "leaderboard.md", leaderboard_text(pages, profile, left_out))
    write_text(out / "report.html", report_html(pages, out, profile, left_out))
    write_text(out / "results.csv", results_csv(boards))
    if readme is not None and around is not None:
        _write_excerpt(readme, around, excerpt_text(boards, _link(readme, out), left_out))
    files = [*(out / name for name in PAGES), *assembly.files]
    address = None
    if mlflow:
        from .tracking.importer import export

        address = export(out, cells, mlflow_uri, files).uri
    if mlflow and mlflow_uri is None:
        files.append(out / "mlflow.db")
    _write_stamp(out, "" if damages else fingerprint, _destination(mlflow, mlflow_uri), files)
    return ReportPaths(
        leaderboard=out / "leaderboard.md",
        html=out / "report.html",
        ablations=tuple(assembly.ablations),
        plots=tuple(assembly.plots),
        mlflow=address,
        diagnostics=tuple(assembly.diagnostics),
        damages=tuple(damages),
    )


def _survey(out: Path) -> tuple[list[Cell], dict[str, dict[tuple[str, str], float]], list[Damage]]:
    """The cells whose numbers can be used, the baselines of each benchmark, and all damage.

    Raises LookupError or DamagedError if there is no such cell.
    """
    from .analysis.cells import baselines, survey
    from .analysis.figures import with_sound_figures

    cells, damages = survey(find_cells(out))
    cells, more = with_sound_figures(cells)
    references, lost = baselines(out, cells)
    damages += [*more, *lost, *_damaged_sweeps(out)]
    if not cells:
        raise _nothing(out, damages)
    return cells, references, damages


def report_is_current(out: Path, *, mlflow: bool = True, mlflow_uri: str | None = None) -> bool:
    """Whether `build_report` with the same arguments would only repeat what is there.

    Hashes inputs and outputs, which are small; imports nothing heavy. A report with damaged cells is never current.
    """
    try:
        stamp = read_json(out / STAMP, {})
        return (
            stamp.get("fingerprint") == _fingerprint(out)
            and (not mlflow or stamp.get("mlflow") == _destination(mlflow, mlflow_uri))
            and all(_digest(out / name) == digest for name, digest in stamp["files"].items())
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


def _refuse_links(out: Path) -> None:
    for name in FOLDERS:
        if (out / name).is_symlink():
            raise DamagedError(f"{out / name} is a link: a report writes only into its own folders")


def _around_markers(path: Path) -> tuple[bytes, bytes]:
    """What comes before and after the lines between the markers, markers included."""
    content = path.read_bytes()
    begin, end = BEGIN.encode(), END.encode()
    if (content.count(begin), content.count(end)) != (1, 1) or content.index(begin) > content.index(end):
        raise DamagedError(f"{path} must hold the line {BEGIN} once and after it {END} once: the tables go between")
    return content[: content.index(begin) + len(begin)], content[content.index(end) :]


def _link(readme: Path, out: Path) -> str:
    return Path(os.path.relpath(out.resolve(), readme.resolve().parent)).as_posix()


def _write_excerpt(readme: Path, around: tuple[bytes, bytes], text: str) -> None:
    before, after = around
    with atomic_path(readme.resolve()) as temporary:
        temporary.write_bytes(before + b"\n\n" + text.encode() + b"\n\n" + after)


def _write_stamp(out: Path, fingerprint: str, destination: str, files: Iterable[Path]) -> None:
    digests = {path.relative_to(out).as_posix(): _digest(path) for path in files}
    write_json(out / STAMP, {"fingerprint": fingerprint, "mlflow": destination, "files": digests})


def _destination(mlflow: bool, uri: str | None) -> str:
    return (without_password(uri) if uri else "here") if mlflow else "none"


def _fingerprint(out: Path) -> str:
    digest = hashlib.sha256(importlib.metadata.version("consistency-bench").encode())
    runs = find_cells(out)
    paths = [path for run in runs for path in (*run.data_files, *sorted(run.path.glob("samples/*.npz")))]
    for path in [*paths, *sorted(out.glob(f"*/{REFERENCE}")), *sorted(out.glob(f"{IMPORTED}/*.csv"))]:
        digest.update(f"{path.relative_to(out).as_posix()} {_digest(path)}\n".encode())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    """SHA-256 of a file, "" where there is none; MLflow's store, which other commands write, only counts as there."""
    if path.name == "mlflow.db":
        return str(path.exists())
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
