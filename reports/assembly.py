"""The pages and plots of each benchmark, written into an output folder one after the other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..benchmarks.common.files import write_text
from ..benchmarks.config.study import Study
from ..benchmarks.runs.imported import Imported
from .analysis.ablations import Ablation, Grid, ablations
from .analysis.cells import Cell
from .analysis.diagnostics import profiles
from .analysis.memorisation import memorisation
from .analysis.posteriors import learned
from .analysis.profiles import performance_profile
from .analysis.rankings import named_group, rankings
from .analysis.tables import Board, Focus, SeedValue, leaderboard, seed_values
from .analysis.transport import crossings, independent_crossings
from .pages.ablations import ablation_page, title
from .pages.captions import ABLATION_CAPTIONS, BASELINE_CAPTIONS, plots_of
from .pages.diagnostics import DiagnosticsPage, diagnostics_part
from .pages.latex import ablation_tex
from .pages.leaderboard import Page, Section
from .pages.profiles import ProfileSection, profile_section
from .plots.ablations import ablation_figures
from .plots.bars import bars
from .plots.costs import network_calls, training_cost
from .plots.curves import curves
from .plots.diagnostics import diagnostic_figures
from .plots.forest import forest
from .plots.memorisation import nearest_plot
from .plots.paper import SCREEN, Paper
from .plots.posteriors import divergence_plot, posterior_plot
from .plots.profiles import profile_plot
from .plots.samples import samples
from .plots.style import Drawings, save_figures
from .plots.transport import coupling_plot, sample_plot

LONGEST_SLUG = 60


@dataclass(frozen=True)
class Assembly:
    """Writes pages and plots below `out`, and lists them. baselines: by benchmark, see `cells.baselines`.

    study: what the cells belong to. root: the path from `out` to the output folder, "" or such as "../../". imported:
    values of others. baseline: what cells without a study are compared with, by name. paper: the files beside the PNGs.
    """

    out: Path
    baselines: Mapping[str, dict[tuple[str, str], float]]
    study: Study | None = None
    root: str = ""
    imported: Sequence[Imported] = ()
    baseline: str | None = None
    paper: Paper = SCREEN
    ablations: list[Path] = field(default_factory=list)
    diagnostics: list[Path] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """All that was written so far."""
        vectors = [path.with_suffix(f".{kind}") for path in self.plots for kind in self.paper.kinds]
        tables = [path.with_suffix(".tex") for path in self.ablations]
        return [*self.ablations, *tables, *self.diagnostics, *self.plots, *vectors]

    def pages(self, cells: Sequence[Cell]) -> list[Page]:
        """Everything shown of the cells of one benchmark, a page for each ranking; plots and ablations are written.

        Ablations, which compare what was swept, are of all cells, and on the first page.
        """
        if self.study is not None:
            return [self._page(cells)]
        ranked = rankings(cells)
        (_, main), others = ranked[0], ranked[1:]
        first = self._page(main, among=cells)
        return [first, *(self._page(own, what, place) for place, (what, own) in enumerate(others, start=2))]

    def _page(self, cells: Sequence[Cell], what: str = "", place: int = 1, among: Sequence[Cell] | None = None) -> Page:
        """A ranking. what: sets it apart from the first one; place: among those of the benchmark."""
        values = seed_values(cells)
        board = self._board(cells, values, what)
        benchmark, stem = board.benchmark, _slug(cells[0].benchmark) + (f"-{place}" if what else "")
        every = board, values
        if among is not None and len(among) > len(cells):
            more = seed_values(among)
            every = self._board(among, more), more
        captions = BASELINE_CAPTIONS if board.baseline else {}
        return Page(
            board=board,
            values=values,
            plots=plots_of(self._draw(_figures(board, values), stem), benchmark, captions=captions),
            memorisation=memorisation(board),
            nearest=plots_of(self._draw({"nearest": lambda width: nearest_plot(board, width)}, stem), benchmark),
            crossings=crossings(board),
            independent_crossings=independent_crossings(board),
            transport=plots_of(self._draw(_transport(board), stem), benchmark),
            learned=learned(board),
            posteriors=plots_of(self._draw(_posteriors(board), stem), benchmark),
            ablations=[] if what else self._ablations(*every),
            diagnostics=self._diagnostics(board, stem),
        )

    def _board(self, cells: Sequence[Cell], values: Sequence[SeedValue], what: str = "") -> Board:
        name = cells[0].benchmark
        board = leaderboard(cells, values, self.baselines.get(name, {}), _focus(self.study, cells, self.baseline))
        imported = tuple(row for row in self.imported if row.benchmark == name and not what)
        return replace(board, benchmark=f"{name}, {what}" if what else name, root=self.root, imported=imported)

    def profile(self, boards: Sequence[Board]) -> ProfileSection | None:
        """The section on all benchmarks together, where there are problems enough; its plot is written."""
        profile = performance_profile(boards)
        if profile is None:
            return None
        drawn = self._draw({"profile": lambda width: profile_plot(profile, width)}, "performance")
        return profile_section(profile, plots_of(drawn, "performance"))

    def _draw(self, drawings: Drawings, stem: str) -> dict[str, Path]:
        paths = save_figures(drawings, self.out / "plots", stem, self.paper)
        self.plots.extend(paths.values())
        return paths

    def _diagnostics(self, board: Board, stem: str) -> list[Section]:
        """The page of variances by noise level and its plots, where cells were diagnosed."""
        about = f"{board.benchmark}, by noise level"
        drawn = [
            (profile, self._draw(diagnostic_figures(profile), f"{stem}-diagnostics-{number}"))
            for number, profile in enumerate(profiles(board), start=1)
        ]
        if not drawn:
            return []
        parts = [diagnostics_part(profile, plots_of(paths, about, "../")) for profile, paths in drawn]
        page = DiagnosticsPage(benchmark=board.benchmark, parts=parts)
        path = self.out / "diagnostics" / f"{stem}.md"
        write_text(path, page.markdown)
        self.diagnostics.append(path)
        first = {kind: file for kind, file in drawn[0][1].items() if kind == "variance"}
        return [Section(f"diagnostics/{path.name}", page, plots_of(first, about))]

    def _ablations(self, board: Board, values: Sequence[SeedValue]) -> list[Section]:
        grids: dict[int, Path] = {}  # by identity: both keys of a heat map show the same one
        return [self._ablation(ablation, values, grids) for ablation in ablations(board, values)]

    def _ablation(self, ablation: Ablation, values: Sequence[SeedValue], grids: dict[int, Path]) -> Section:
        """The page of an ablation and its plots."""
        path = self._ablation_path(ablation)
        drawings, grid = ablation_figures(ablation, values), ablation.grid
        known = grids.get(id(grid))
        if known is not None:
            drawings = {kind: draw for kind, draw in drawings.items() if kind != "grid"}
        drawn = self._draw(drawings, f"ablation-{path.stem}") | ({} if known is None else {"grid": known})
        if "grid" in drawn:
            grids[id(grid)] = drawn["grid"]
        page = ablation_page(ablation, plots_of(drawn, title(ablation), "../", ABLATION_CAPTIONS))
        write_text(path, page.markdown)
        write_text(path.with_suffix(".tex"), ablation_tex(ablation, path.stem))
        self.ablations.append(path)
        shown = {kind: file for kind, file in drawn.items() if kind in _shown(ablation, grid)}
        groups = [point.group for point in ablation.points]
        return Section(f"ablations/{path.name}", page, plots_of(shown, page.title), groups)

    def _ablation_path(self, ablation: Ablation) -> Path:
        name = "-".join(map(_slug, (ablation.board.benchmark, ablation.method, ablation.factor.key)))
        names = itertools.chain([f"{name}.md"], (f"{name}-{number}.md" for number in itertools.count(2)))
        taken = {path.name for path in self.ablations}
        return self.out / "ablations" / next(name for name in names if name not in taken)


def _focus(study: Study | None, cells: Sequence[Cell], baseline: str | None) -> Focus:
    """The headline of a study, and the group of its baseline."""
    if study is None:
        return Focus(baseline=named_group(baseline, cells) if baseline else None)
    groups = {cell.group for cell in cells if study.is_baseline(cell.run.config)}
    return Focus(study.headline.metric, study.headline.nfe, groups.pop() if len(groups) == 1 else None)


def _shown(ablation: Ablation, grid: Grid | None) -> tuple[str, ...]:
    """The kinds that the leaderboard shows: one heat map for two keys."""
    return ("values", "grid") if grid and grid.columns == ablation.factor else ("values",)


def _figures(board: Board, values: Sequence[SeedValue]) -> Drawings:
    """In the order of a report."""
    return {
        "bars": lambda width: bars(board, width),
        "forest": lambda width: forest(board, width),
        "curves": lambda width: curves(board, values, width),
        "cost": lambda width: training_cost(board, values, width),
        "nfe": lambda width: network_calls(board, width),
        "samples": lambda width: samples(board, width),
    }


def _transport(board: Board) -> Drawings:
    return {"transport": lambda width: sample_plot(board, width), "coupling": lambda width: coupling_plot(board, width)}


def _posteriors(board: Board) -> Drawings:
    return {"posterior": lambda width: posterior_plot(board, width), "kl": lambda width: divergence_plot(board, width)}


def _slug(text: str) -> str:
    """`text` as a part of a file name on any system and in any link."""
    return re.sub(r"[^\w.-]", "-", text, flags=re.ASCII)[:LONGEST_SLUG]
