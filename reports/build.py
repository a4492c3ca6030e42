"""`build_report`: everything a reader looks at, rebuilt from the files of an output folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

from ..benchmarks.files import read_json, write_json, write_text
from ..benchmarks.records import CONFIG, RECORDS, REFERENCE, RUN, STATUS, find_cells

STAMP = ".report.json"
CAPTIONS = {
    "bars": "End of training: mean and 95 % t interval over seeds, each seed a dot.",
    "curves": "Progress: mean over seeds against training images seen; the band spans the seeds.",
    "samples": "Real data, and samples from common latents, of the lowest seed that all configurations share.",
}


@dataclass(frozen=True)
class ReportPaths:
    """What was written. `mlflow` is the address of the MLflow store, None where there was no import."""

    leaderboard: Path
    plots: tuple[Path, ...]
    mlflow: str | None


def build_report(out: Path, *, mlflow: bool = True, mlflow_uri: str | None = None) -> ReportPaths:
    """Write `leaderboard.md` and `plots/` into `out` and import its cells into MLflow.

    Unfinished sweeps are reported as such. Raises LookupError where there are no cells, DamagedError (one line,
    with the file's path) where a file is damaged, OSError where `out` cannot be written.
    """
    from .cells import read_cells, reference_values
    from .markdown import Plot, leaderboard_text
    from .plots import save_plots
    from .tables import leaderboard, seed_values

    # Taken before reading: files that change while the report is made leave it out of date.
    fingerprint = _fingerprint(out)
    cells = read_cells(out)
    pages, plots = [], []
    for benchmark in sorted({cell.benchmark for cell in cells}):
        own = [cell for cell in cells if cell.benchmark == benchmark]
        values = seed_values(own)
        board = leaderboard(own, values, reference_values(out, benchmark))
        drawn = save_plots(board, values, out / "plots", re.sub(r"[^\w-]", "-", benchmark))
        pictures = [Plot(f"plots/{path.name}", f"{benchmark}: {kind}", CAPTIONS[kind]) for kind, path in drawn.items()]
        pages.append((board, pictures))
        plots += drawn.values()
    write_text(out / "leaderboard.md", leaderboard_text(pages))
    address = None
    if mlflow:
        from .mlflow_export import export

        address = export(out, cells, mlflow_uri).uri
    files = ["leaderboard.md", *(f"plots/{path.name}" for path in plots)]
    if mlflow and mlflow_uri is None:
        files.append("mlflow.db")
    write_json(
        out / STAMP,
        {"fingerprint": fingerprint, "mlflow": _destination(mlflow, mlflow_uri), "files": files},
    )
    return ReportPaths(out / "leaderboard.md", tuple(plots), address)


def report_is_current(out: Path, *, mlflow: bool = True, mlflow_uri: str | None = None) -> bool:
    """Whether `build_report` with the same arguments would only repeat what is there.

    Hashes the small input files and looks whether the outputs exist; imports nothing heavy.
    """
    try:
        stamp = read_json(out / STAMP, {})
        return (
            stamp.get("fingerprint") == _fingerprint(out)
            and (not mlflow or stamp.get("mlflow") == _destination(mlflow, mlflow_uri))
            and all((out / name).exists() for name in stamp["files"])
        )
    except (ValueError, TypeError, AttributeError, KeyError):
        return False  # a stamp that cannot be read says nothing


def _destination(mlflow: bool, uri: str | None) -> str:
    return (uri or "here") if mlflow else "none"


def _fingerprint(out: Path) -> str:
    digest = hashlib.sha256(importlib.metadata.version("consistency-bench").encode())
    folders = [cell.path for cell in find_cells(out)]
    paths = [folder / name for folder in folders for name in (CONFIG, STATUS, RUN, RECORDS)]
    for path in [*paths, *sorted(out.glob(f"*/{REFERENCE}"))]:
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"{path.relative_to(out).as_posix()} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()
