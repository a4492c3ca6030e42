"""Every picture at 2 to 24 configurations and in the sizes of papers: nothing overlaps, nothing is cut off."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from consistency_bench.reports.analysis.ablations import ablations
from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.diagnostics import TRAINED, profiles
from consistency_bench.reports.analysis.tables import leaderboard, seed_values
from consistency_bench.reports.plots.ablations import ablation_figures
from consistency_bench.reports.plots.bars import bars
from consistency_bench.reports.plots.costs import network_calls, training_cost
from consistency_bench.reports.plots.curves import curves
from consistency_bench.reports.plots.diagnostics import diagnostic_figures
from consistency_bench.reports.plots.forest import forest
from consistency_bench.reports.plots.memorisation import nearest_plot
from consistency_bench.reports.plots.posteriors import divergence_plot, posterior_plot
from consistency_bench.reports.plots.samples import samples
from consistency_bench.reports.plots.style import FIXED, MOST_LINES, look, styles
from consistency_bench.reports.plots.transport import coupling_plot, sample_plot

from ..conftest import Sweep, write_lines

Draw = Callable[[float | None], Figure | None]
EDGES = (0.002, 0.02, 0.2, 2.0, 20.0, 80.0)


def with_everything(out: Path, count: int) -> Sweep:
    """`count` configurations on images and on points, with all that a cell may keep."""
    sweep = Sweep(out).configurations(count, metrics=("fd_digits_2k", "authenticity_digits_1k"), penalty=0.5)
    sweep.configurations(count, 1, benchmark="toy2d", metrics=("w2_points_2k",), shape=(256, 2), penalty=0.5)
    for place, folder in enumerate(sorted(out.glob("*/*/s*"))):
        rng = np.random.default_rng(place)
        kept = folder / "samples"
        if folder.parts[-3] == "toy2d":
            x, noise = 0.5 * rng.standard_normal((2, 256, 2)).astype(np.float32)
            modes = rng.integers(-1, 8, 256)
            np.savez(kept / "nfe1.npz", samples=x, latents=noise, modes=modes)
            np.savez(kept / "coupling.npz", x=x, noise=noise, coupled=noise[::-1], modes=modes)
            std, kl = np.full_like(x, 0.5), np.ones(256, np.float32)
            np.savez(kept / "posterior.npz", x=x, mean=2 * x, std=std, kl=kl, modes=modes)
            continue
        real = rng.integers(0, 256, (16, 1, 8, 8), dtype=np.uint8)
        mean = rng.standard_normal((16, 1, 8, 8)).astype(np.float32)
        np.savez(kept / "posterior.npz", x=real, mean=mean, std=np.abs(mean), kl=np.ones(16, np.float32))
        near = np.sort(rng.uniform(2, 6, 50)).astype(np.float32)
        pairs = {"samples": real, "training": real, "pair_distances": near[:16]}
        for nfe in (1, 2):
            np.savez(
                kept / f"nearest-nfe{nfe}.npz",
                distances=near,
                baseline=np.linspace(2, 6, 50, dtype=np.float32),
                **pairs,
            )
        write_lines(
            folder / "train.jsonl", [{"images": n, "penalty": 1e6 / n} for n in range(64_000, 1_024_001, 64_000)]
        )
        write_lines(folder / "diagnostics.jsonl", list(_diagnostics(1 + place)))
    return sweep


def _diagnostics(level: float) -> Iterator[dict[str, object]]:
    about = {"weights": TRAINED, "ratio": 4.0, "bins": 5, "samples": 64, "repeats": 8, "error": None}
    whats = ("target_variance", "gradient_variance", "gradient_ratio", "loss", "distance")
    for images, what, (low, high) in itertools.product((512_000, 1_024_000), whats, itertools.pairwise(EDGES)):
        yield {"images": images, "what": what, "t_low": low, "t_high": high, "value": level * high**2} | about


def drawings(out: Path) -> dict[str, Draw]:
    """kind -> what draws it in a width, of all kinds that a report has."""
    cells = read_cells(out)
    images = [cell for cell in cells if cell.benchmark == "digits"]
    values = seed_values(images)
    board = leaderboard(images, values, reference_values(out, "digits"))
    points = [cell for cell in cells if cell.benchmark == "toy2d"]
    plane = leaderboard(points, seed_values(points), {})
    found: dict[str, Draw] = {
        "bars": lambda width: bars(board, width),
        "forest": lambda width: forest(board, width),
        "curves": lambda width: curves(board, values, width),
        "cost": lambda width: training_cost(board, values, width),
        "nfe": lambda width: network_calls(board, width),
        "samples": lambda width: samples(board, width),
        "points": lambda width: samples(plane, width),
        "nearest": lambda width: nearest_plot(board, width),
        "posterior": lambda width: posterior_plot(board, width),
        "posterior-points": lambda width: posterior_plot(plane, width),
        "kl": lambda width: divergence_plot(board, width),
        "transport": lambda width: sample_plot(plane, width),
        "coupling": lambda width: coupling_plot(plane, width),
    }
    for profile in profiles(board):
        found |= {f"diagnostics-{kind}": draw for kind, draw in diagnostic_figures(profile).items()}
    for ablation in ablations(board, values):
        name = f"ablation-{ablation.method}-{ablation.factor.name}"
        found |= {f"{name}-{kind}": draw for kind, draw in ablation_figures(ablation, values).items()}
    return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Draw]]:
    """The pictures of `count` configurations; files are written once."""
    known: dict[int, dict[str, Draw]] = {}

    def of(count: int) -> dict[str, Draw]:
        if count not in known:
            known[count] = drawings(with_everything(tmp_path_factory.mktemp(f"of-{count}"), count).out)
        return known[count]

    return of


def words(figure: Figure) -> list[tuple[str, np.ndarray]]:
    """The texts that are seen, level or upright, with their boxes in pixels: [left, bottom, right, top]."""
    found, hidden = [], set(unseen_labels(figure))
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_visible() and text.get_text().strip() and text.get_rotation() % 90 == 0 and text not in hidden:
            found.append((text.get_text(), np.array(text.get_window_extent().extents)))
    return found


def unseen_labels(figure: Figure) -> Iterator[Text]:
    """Ticks beyond the ends of an axis keep their labels, which are not drawn."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            beyond = not low - 1e-9 * abs(low) <= tick.get_loc() <= high + 1e-9 * abs(high)
            if beyond or not tick.get_visible() or not axis.axes.axison:
                yield from (tick.label1, tick.label2)


def check(figure: Figure, width: float | None, kind: str) -> None:
    """No text lies on another, and none is cut off at the edge of a picture of given width."""
    figure.draw_without_rendering()
    found = words(figure)
    boxes = np.array([box for _, box in found])
    for place, (text, box) in enumerate(found):
        others = boxes[place + 1 :]
        common = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        on = np.flatnonzero((common > 1).all(1))
        assert not len(on), f"{kind}: {text!r} lies on {found[place + 1 + on[0]][0]!r}"
    if width is not None:
        assert figure.get_figwidth() == pytest.approx(width)
        edges = np.array([0, 0, *figure.bbox.size])
        out = (boxes[:, :2] < edges[:2] - 1).any(1) | (boxes[:, 2:] > edges[2:] + 1).any(1)
        assert not out.any(), f"{kind}: cut off: {[found[k][0] for k in np.flatnonzero(out)]}"


MAIN = ("bars", "forest", "curves", "cost", "nfe", "samples")


@pytest.mark.parametrize(
    ("count", "width", "is_main"),
    [
        *((2, None, False), (2, 3.25, True), (4, 6.75, True)),
        pytest.param(12, None, True, marks=pytest.mark.slow),
        pytest.param(12, 3.25, False, marks=pytest.mark.slow),
        pytest.param(24, 6.75, False, marks=pytest.mark.slow),
    ],
)
def test_no_text_overlaps_and_none_is_cut_off(shown, count, width, is_main):
    with matplotlib.rc_context(look(width)):
        for kind, draw in shown(count).items():
            figure = draw(width) if kind in MAIN or not is_main else None
            if figure is not None:
                check(figure, width, kind)


def test_twelve_lines_have_twelve_colours():
    for names in (FIXED, [f"vct x={place}" for place in range(MOST_LINES)], [*FIXED[:2], *map(str, range(10))]):
        assert len({style.color for style in styles(names).values()}) == len(names)
