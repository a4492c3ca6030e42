"""`build_report`: everything a reader looks at, rebuilt from the files of an output folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benchmarks.common.files import DamagedError, atomic_path, read_json, write_json, write_text
from ..benchmarks.common.redact import without_password
from ..benchmarks.runs.folder import CONFIG, DIAGNOSTICS, RECORDS, REFERENCE, RUN, STATUS, TRAIN_LOG, find_cells

if TYPE_CHECKING:
    from .analysis.ablations import Ablation
    from .analysis.cells import Cell
    from .analysis.tables import Board, SeedValue
    from .pages.markdown import Page, Plot, Section

STAMP = ".report.json"
FOLDERS = ("ablations", "diagnostics", "plots")
LONGEST_SLUG = 60
#: Between these lines of a document its excerpt of the leaderboard is kept up to date.
BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
CAPTIONS = {
    "bars": "End of training: mean and 95 % t interval over seeds, each seed a dot.",
    "forest": "How far each configuration is behind the best mean of its NFE, paired on n common seeds; right of zero "
    "is worse. Thick: 95 % interval; thin: the same after Holm's correction over all pairs, to be read with zero only. "
    "Filled: certainly worse; hollow: inconclusive. Of many configurations the first 16.",
    "curves": "Progress: mean over seeds against training images seen; the band spans the seeds.",
    "cost": "Progress against what training costs: mean over seeds, the band spans the seeds. Every image is taken to "
    "cost the same: the cost of one seed's whole training, in proportion. Of many configurations the first 12.",
    "nfe": "End of training against the network calls of an image, configurations side by side: mean and 95 % t "
    "interval over seeds; one that leaves the picture goes on. Of many configurations the first 12.",
    "samples": "Real data, and samples from common latents, of the lowest seed that all configurations share; of many "
    "configurations the first 24.",
    "nearest": "Curves: the share of samples within a distance of their nearest training image, and of real images "
    "within it of the nearest other real one (grey). Images: the nearest pairs of all, nearest first, the sample above "
    "its training image, the distance below. Of the lowest seed that all configurations share.",
    "transport": "Lines from the same noise to its samples at NFE 1, coloured by the mode they end in (grey: none), "
    "over real data (black); one seed.",
    "coupling": "Lines from the same data to the noise that training pairs them with, coloured by the mode of the "
    "data; one seed.",
    "posterior": "The law N(μ, s²) of the noise that the coupling has learned for data that all configurations share, "
    "by the averaged encoder, in units of the prior's standard deviation, averaged over colours; of the lowest seed "
    "that all share, of many configurations the first 8.",
    "kl": "Divergence of the coupling's noise given the data from the standard normal in the course of training, "
    "unweighted, of the rows that are coupled: mean over seeds; the band spans the seeds.",
    "variance": "Against the noise level: mean over seeds, the band spans the seeds; what is below a "
    "hundred-thousandth of the largest value is drawn there, at the lower edge. Same images, noise and times for all.",
    "losses": "Against the noise level: mean over seeds, the band spans the seeds.",
    "course": "In the course of training: mean over seeds, a line for each bin of the noise level, the noisiest "
    "darkest.",
    "values": "End of training against the swept value: mean and 95 % t interval over seeds, each seed a dot.",
    "profile": "Share of the problems in which a configuration is within a factor τ of the best one; at the left edge "
    "those that it wins, ties included.",
    "grid": "End of training for both swept keys: the mean, below it half the width of its 95 % t interval; the "
    "default is framed.",
}
ABLATION_CAPTIONS = CAPTIONS | {"curves": "Progress of each value: mean over seeds against training images seen."}


@dataclass(frozen=True)
class ReportPaths:
    """What was written: pages and pictures. `mlflow` is the address of the store, None where there was no import."""

    leaderboard: Path
    html: Path
    ablations: tuple[Path, ...]
    plots: tuple[Path, ...]
    mlflow: str | None
    diagnostics: tuple[Path, ...] = ()


def build_report(
    out: Path, *, mlflow: bool = True, mlflow_uri: str | None = None, readme: Path | None = None
) -> ReportPaths:
    """Write `leaderboard.md`, `report.html`, `results.csv`, `ablations/`, `plots/` into `out`; its cells into MLflow.

    readme: a document whose lines between the markers `BEGIN` and `END` become the verdicts and tables; the rest of it
    stays byte for byte.
    Unfinished sweeps are reported as such. Raises LookupError where there are no cells, DamagedError (one line,
    with the file's path) where a file is damaged or the document has no pair of markers, OSError where something
    cannot be written.
    """
    from .analysis.cells import read_cells
    from .pages.html import report_html
    from .pages.markdown import excerpt_text, leaderboard_text
    from .pages.spreadsheet import results_csv

    between = None if readme is None else _around_markers(readme)  # before anything is written

    for name in FOLDERS:
        if (out / name).is_symlink():
            raise DamagedError(f"{out / name} is a link: a report writes into folders of its own")
    # Taken before reading: files that change while the report is made leave it out of date.
    fingerprint = _fingerprint(out)
    cells = read_cells(out)
    pages, written = [], _Written([], [], [])
    for benchmark in sorted({cell.benchmark for cell in cells}):
        pages.append(_page(out, [cell for cell in cells if cell.benchmark == benchmark], written))
    profile = _profile(out, [page.board for page in pages], written)
    write_text(out / "leaderboard.md", leaderboard_text(pages, profile))
    write_text(out / "report.html", report_html(pages, out, profile))
    write_text(out / "results.csv", results_csv([page.board for page in pages]))
    if readme is not None and between is not None:
        before, after = between
        way = Path(os.path.relpath(out.resolve(), readme.resolve().parent)).as_posix()
        excerpt = excerpt_text([page.board for page in pages], way)
        with atomic_path(readme.resolve()) as temporary:
            temporary.write_bytes(before + b"\n\n" + excerpt.strip().encode() + b"\n\n" + after)
    files = [
        "leaderboard.md",
        "report.html",
        "results.csv",
        *(path.relative_to(out).as_posix() for path in (*written.ablations, *written.diagnostics, *written.plots)),
    ]
    address = None
    if mlflow:
        from .tracking.importer import export

        address = export(out, cells, mlflow_uri, [out / name for name in files]).uri
    if mlflow and mlflow_uri is None:
        files.append("mlflow.db")
    write_json(
        out / STAMP,
        {"fingerprint": fingerprint, "mlflow": _destination(mlflow, mlflow_uri), "files": files},
    )
    return ReportPaths(
        leaderboard=out / "leaderboard.md",
        html=out / "report.html",
        ablations=tuple(written.ablations),
        plots=tuple(written.plots),
        mlflow=address,
        diagnostics=tuple(written.diagnostics),
    )


def _around_markers(path: Path) -> tuple[bytes, bytes]:
    """What comes before and after the lines between the markers, markers included."""
    content = path.read_bytes()
    begin, end = BEGIN.encode(), END.encode()
    if (content.count(begin), content.count(end)) != (1, 1) or content.index(begin) > content.index(end):
        raise DamagedError(f"{path} must hold the line {BEGIN} once and after it {END} once: the tables go between")
    return content[: content.index(begin) + len(begin)], content[content.index(end) :]


@dataclass(frozen=True)
class _Written:
    """The files of a report beside the leaderboard, as they come."""

    ablations: list[Path]
    plots: list[Path]
    diagnostics: list[Path]
    grids: dict[int, Path] = field(default_factory=dict)  # by identity: both keys of a heat map show the same one


def _page(out: Path, cells: Sequence[Cell], written: _Written) -> Page:
    """What the leaderboard says of the cells of one benchmark; their pictures and ablations are written."""
    from .analysis.ablations import ablations
    from .analysis.cells import reference_values
    from .analysis.memorisation import memorisation
    from .analysis.posteriors import learned
    from .analysis.tables import leaderboard, seed_values
    from .analysis.transport import crossings, crossings_apart
    from .pages.markdown import Page
    from .plots.costs import save_cost_plots
    from .plots.forest import save_forest
    from .plots.memorisation import save_nearest_plot
    from .plots.posteriors import save_posterior_plots
    from .plots.style import save_plots
    from .plots.transport import save_transport_plots

    benchmark = cells[0].benchmark
    values = seed_values(cells)
    board = leaderboard(cells, values, reference_values(out, benchmark))
    stem = _slug(benchmark)
    drawn = save_plots(board, values, out / "plots", stem) | save_forest(board, out / "plots", stem)
    drawn |= save_cost_plots(board, values, out / "plots", stem)
    drawn = {kind: drawn[kind] for kind in CAPTIONS if kind in drawn}  # in the order of a report
    transport = save_transport_plots(board, out / "plots", stem)
    nearest = save_nearest_plot(board, out / "plots", stem)
    posteriors = save_posterior_plots(board, out / "plots", stem)
    written.plots.extend([*drawn.values(), *nearest.values(), *transport.values(), *posteriors.values()])
    found = ablations(board, values)
    written.grids.clear()
    sections = [_section(out, ablation, values, written) for ablation in found]
    return Page(
        board=board,
        values=values,
        plots=_pictures(drawn, benchmark, CAPTIONS),
        ablations=sections,
        memorisation=memorisation(board),
        nearest=_pictures(nearest, benchmark, CAPTIONS),
        crossings=crossings(board),
        crossings_apart=crossings_apart(board),
        transport=_pictures(transport, benchmark, CAPTIONS),
        learned=learned(board),
        posteriors=_pictures(posteriors, benchmark, CAPTIONS),
        diagnostics=_diagnostics(out, board, stem, written),
    )


def _profile(out: Path, boards: Sequence[Board], written: _Written) -> dict[str, Any] | None:
    """What the report says of all benchmarks together, where there are problems enough; its picture is written."""
    from .analysis.profiles import performance_profile
    from .pages.profiles import profile_content
    from .plots.profiles import save_profile_plot

    profile = performance_profile(boards)
    if profile is None:
        return None
    drawn = save_profile_plot(profile, out / "plots", "performance")
    written.plots.extend(drawn.values())
    return profile_content(profile, _pictures(drawn, "performance", CAPTIONS))


def _diagnostics(out: Path, board: Board, stem: str, written: _Written) -> list[Section]:
    """Write the page of variances by noise level and its pictures, where cells were diagnosed."""
    from .analysis.diagnostics import profiles
    from .pages.diagnostics import diagnostics_content, diagnostics_page, reading, setting_text
    from .pages.markdown import Section
    from .plots.diagnostics import save_diagnostic_plots

    found = profiles(board)
    if not found:
        return []
    about = f"{board.benchmark}, by noise level"
    drawn = []
    for number, profile in enumerate(found, start=1):
        paths = save_diagnostic_plots(profile, out / "plots", f"{stem}-diagnostics-{number}")
        written.plots.extend(paths.values())
        drawn.append((profile, paths))
    path = out / "diagnostics" / f"{stem}.md"
    parts = [(profile, _pictures(paths, about, CAPTIONS, "../")) for profile, paths in drawn]
    content = diagnostics_content(board.benchmark, parts)
    write_text(path, diagnostics_page(content))
    written.diagnostics.append(path)
    profile, paths = drawn[0]
    shown = _pictures({kind: paths[kind] for kind in ("variance",) if kind in paths}, about, CAPTIONS)
    link = f"diagnostics/{path.name}"
    about = f"Variances and losses of {board.benchmark}"
    return [Section(link, about, setting_text(profile), reading(profile), shown, content)]


def _section(out: Path, ablation: Ablation, values: Sequence[SeedValue], written: _Written) -> Section:
    """Write the page of an ablation and its pictures."""
    from .pages.ablations import ablation_content, ablation_page, listed, reading, title
    from .pages.markdown import Section
    from .plots.ablations import save_ablation_plots

    name = f"{_slug(ablation.board.benchmark)}-{_slug(ablation.method)}-{_slug(ablation.factor.key)}"
    taken = {path.name for path in written.ablations}
    path = next(p for n in itertools.count(1) if (p := out / "ablations" / _numbered(name, n)).name not in taken)
    known = written.grids.get(id(ablation.grid))
    drawn = save_ablation_plots(ablation, values, out / "plots", f"ablation-{path.stem}", grid=known is None)
    if known is not None:
        drawn["grid"] = known
    elif "grid" in drawn:
        written.grids[id(ablation.grid)] = drawn["grid"]
    about = title(ablation)
    content = ablation_content(ablation, _pictures(drawn, about, ABLATION_CAPTIONS, "../"))
    write_text(path, ablation_page(content))
    written.ablations.append(path)
    written.plots.extend(path for path in drawn.values() if path != known)
    grid = ablation.grid
    kinds = ("values", "grid") if grid and grid.columns == ablation.factor else ("values",)  # one map for two keys
    shown = {kind: drawn[kind] for kind in kinds if kind in drawn}
    pictures = _pictures(shown, about, ABLATION_CAPTIONS)
    groups = [point.group for point in ablation.points]
    return Section(f"ablations/{path.name}", about, listed(ablation), reading(ablation), pictures, content, groups)


def _pictures(drawn: Mapping[str, Path], about: str, captions: Mapping[str, str], up: str = "") -> list[Plot]:
    from .pages.markdown import Plot

    return [Plot(f"{up}plots/{path.name}", f"{about}: {kind}", captions[kind]) for kind, path in drawn.items()]


def _slug(text: str) -> str:
    """`text` as a part of a file name on any system and in any link."""
    return re.sub(r"[^\w.-]", "-", text, flags=re.ASCII)[:LONGEST_SLUG]


def _numbered(name: str, number: int) -> str:
    return f"{name}.md" if number == 1 else f"{name}-{number}.md"


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
    return (without_password(uri) if uri else "here") if mlflow else "none"


def _fingerprint(out: Path) -> str:
    digest = hashlib.sha256(importlib.metadata.version("consistency-bench").encode())
    folders = [cell.path for cell in find_cells(out)]
    paths = [folder / name for folder in folders for name in (CONFIG, STATUS, RUN, RECORDS, TRAIN_LOG, DIAGNOSTICS)]
    for path in [*paths, *sorted(out.glob(f"*/{REFERENCE}"))]:
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"{path.relative_to(out).as_posix()} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()
