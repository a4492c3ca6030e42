"""The plots of a report from a table of results: `consistency_bench.plots`.

Each function takes a table of `load_results`, or any selection of its rows of one benchmark, and returns a matplotlib
`Figure`. Nothing is written, and pyplot is not involved: `figure.savefig("bars.pdf")` saves it. Common arguments:

- metric: Default: the first one of the table.
- nfe: Default: a panel for each NFE of the table.
- width: Of the figure, as a number of inches or text such as "3.25in" and "8.5cm", in the font size of papers.
  Default: one that suits the number of panels.

All raise UsageError where the table has rows of several benchmarks, where it does not have the metric, NFE or
baseline, and where it has nothing to draw. Imported rows are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from ...benchmarks.common.errors import UsageError
from ..analysis.frame_board import frame_board
from ..analysis.tables import Board, SeedValue
from . import bars as _bars
from . import costs as _costs
from . import curves as _curves
from . import forest as _forest
from .paper import Paper, inches
from .style import look

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["bars", "curves", "forest", "network_calls", "training_cost"]

Width = float | str | None


def bars(results: pd.DataFrame, metric: str | None = None, nfe: int | None = None, *, width: Width = None) -> Figure:
    """The end of training: a bar per configuration with the 95 % t interval of the mean, and every training seed.

    Examples:
        >>> figure = plots.bars(load_results("runs"), nfe=1, width="3.25in")
        >>> float(figure.get_figwidth())
        3.25
    """
    board, _ = frame_board(results, metric, nfe)
    return _drawn(lambda inches: _bars.bars(board, inches), board, width)


def forest(
    results: pd.DataFrame,
    metric: str | None = None,
    nfe: int | None = None,
    baseline: str | None = None,
    *,
    width: Width = None,
) -> Figure:
    """The difference of each configuration to the best, paired on common seeds, with 95 % intervals and verdicts.

    baseline: The label that they are compared with instead, see `leaderboard`. Of many configurations the best 16 are
    drawn.

    Examples:
        >>> figure = plots.forest(load_results("runs"), baseline="ect")
        >>> figure.axes[0].get_title()
        'NFE 1'
    """
    board, _ = frame_board(results, metric, nfe, baseline)
    return _drawn(lambda inches: _forest.forest(board, inches), board, width)


def network_calls(results: pd.DataFrame, metric: str | None = None, *, width: Width = None) -> Figure:
    """The end of training against NFE: mean and 95 % t interval over seeds. Of many the best 12 are drawn.

    Examples:
        >>> plots.network_calls(load_results("runs")).axes[0].get_xlabel()
        'NFE: network calls per image'
    """
    board, _ = frame_board(results, metric)
    if len(board.nfes) < 2:
        raise UsageError(f"the table has one NFE of {board.metrics[0]}: there is nothing to plot against NFE")
    return _drawn(lambda inches: _costs.network_calls(board, inches), board, width)


def curves(results: pd.DataFrame, metric: str | None = None, nfe: int | None = None, *, width: Width = None) -> Figure:
    """Learning curves: mean over seeds against training images, with a band from the lowest to the highest seed.

    results: With `snapshots="all"`, as others have the end of training alone. A seed that diverged is drawn by itself.
    Of many configurations the best 12 are drawn.

    Examples:
        >>> figure = plots.curves(load_results("runs", snapshots="all"), nfe=1)
        >>> figure.axes[0].get_xlabel()
        'training images seen'
    """
    board, values = frame_board(results, metric, nfe)
    _require_snapshots(values)
    return _drawn(lambda inches: _curves.curves(board, values, inches), board, width)


def training_cost(
    results: pd.DataFrame, metric: str | None = None, nfe: int | None = None, *, width: Width = None
) -> Figure:
    """Learning curves at one NFE, by default the lowest, against device-hours and FLOP of the training.

    results: With `snapshots="all"`. What has no known cost is left out.

    Examples:
        >>> figure = plots.training_cost(load_results("runs", snapshots="all"))
        >>> len(figure.axes)
        2
    """
    board, values = frame_board(results, metric, nfe)
    _require_snapshots(values)
    return _drawn(lambda inches: _costs.training_cost(board, values, inches), board, width)


def _require_snapshots(values: Sequence[SeedValue]) -> None:
    if len({value.images for value in values}) < 2:
        raise UsageError('the table has one snapshot of each training: load it with load_results(…, snapshots="all")')


def _drawn(draw: Callable[[float | None], Figure | None], board: Board, width: Width) -> Figure:
    """Drawn in the look of the reports, whatever the user's settings of matplotlib are."""
    wide = Paper(width=inches(width) if isinstance(width, str) else width).width
    with matplotlib.rc_context(look(wide)):
        figure = draw(wide)
        if figure is not None:
            figure.draw_without_rendering()  # ticks take the look of the moment when they are first drawn
    if figure is None:
        raise UsageError(f"the table has nothing to draw: no configuration has a value of {board.metrics[0]} there")
    return figure
