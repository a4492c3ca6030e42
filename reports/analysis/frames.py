"""The results of an output folder as one tidy table: one row per cell, snapshot, NFE, metric and sampling seed."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...benchmarks.common.errors import UsageError
from ...benchmarks.runs.archive import runs_behind
from ...benchmarks.runs.folder import cells_in
from ...benchmarks.runs.imported import Imported, imported_rows
from .cells import FINAL_STATES, Cell, survey
from .tables import Pretraining, common_settings, labels, pretraining, variant

if TYPE_CHECKING:
    import pandas as pd

WHOLE_NUMBERS = ("version", "seed", "budget", "images", "nfe", "draw", "samples", "parameters", "images_total")
NUMBERS = ("value", "error", "tflop", "tflop_total", "device_hours")
COLUMNS = (
    *("benchmark", "method", "version", "variant", "label", "group", "cell", "seed", "state"),
    *("budget", "images", "nfe", "metric", "draw", "value", "error", "samples"),
    *("parameters", "tflop", "device_hours", "device", "images_total", "tflop_total", "source"),
)


def load_results(path: str | Path, snapshots: Literal["last", "all"] = "last") -> pd.DataFrame:
    """The values of all cells in and below a folder, one row per (cell, images, NFE, metric, sampling seed).

    Args:
        path: An output folder, the folder of a benchmark or method, that of one cell, or a results folder, whose cells
            are in a zip file.
        snapshots: "last" keeps the last snapshot of each training, the one that the leaderboard shows; "all" adds the
            earlier ones, the learning curves.

    Returns:
        A table with the columns

        - benchmark, method, version, variant, label: the configuration. `label` is its short name, unique within the
          benchmark; `variant` is what it adds to the method. group: an id that all seeds of it share.
        - cell, seed, state: the training run: its id, its training seed, and "finished", "diverged", "failed",
          "unfinished" or "imported".
        - budget, images: training images planned, and seen at the snapshot.
        - nfe, metric, draw: network calls per sample, name of the metric, sampling seed.
        - value, error: of the metric, and the standard error of the sampling (NaN if it was not estimated).
        - samples: the number of samples that the metric was taken from.
        - parameters, tflop, device_hours, device: of the training up to the snapshot.
        - images_total, tflop_total: images and tflop with the training behind the initial weights; missing where that
          is not known, as of published weights.
        - source: empty for cells of this suite; the origin of rows that `bench import` has added to an output folder.
        - one column for each setting that differs between cells, such as `method.coupling.kl_weight`.

        What a cell should have and has no value for is a row with `value` NaN and `draw` missing. Such are all final
        rows of cells that diverged, failed or are unfinished.

    Raises:
        UsageError: There are no cells below `path`, or all of them are damaged.

    Damaged cells are left out, with a warning that names them.

    Examples:
        >>> results = load_results("runs")
        >>> best = results.query("metric == 'fd_digits_2k' and nfe == 1").groupby("label")["value"].min()
        >>> list(best.index)
        ['ect', 'ict', 'sct', 'vct']
    """
    with runs_behind(Path(path)) as runs:
        cells, damaged = survey(cells_in(runs))
        imported, lost_rows = imported_rows(runs)
        if lost := [*(item for item in damaged if item.blocks), *lost_rows]:
            reasons = "; ".join(dict.fromkeys(item.reason for item in lost))
            warnings.warn(f"results are left out because files are damaged: {reasons}", stacklevel=2)
        if not cells:
            raise UsageError(f"there are no cells{' without damage' if lost else ''} in {path}: nothing to load")
        return frame(cells, imported, every_snapshot=snapshots == "all")


def frame(cells: Sequence[Cell], imported: Iterable[Imported] = (), *, every_snapshot: bool = False) -> pd.DataFrame:
    """The table of `load_results` for cells and imported rows that have been read."""
    import pandas as pd

    settings = dict.fromkeys(key for cell in cells for key in cell.overrides)
    by_benchmark: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_benchmark[cell.benchmark].append(cell)
    rows: list[dict[str, object]] = []
    for own in by_benchmark.values():
        names, common = labels(own), common_settings(own)
        for cell in own:
            facts = _facts(cell) | {"label": names[cell.group], "variant": variant(cell, common), "source": ""}
            values = {key: _setting(cell, key) for key in settings}
            rows += [facts | _costs(cell, row["images"]) | row | values for row in _rows(cell, every_snapshot)]
    rows += map(_foreign, imported)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *settings])
    return table.astype(dict.fromkeys(WHOLE_NUMBERS, "Int64") | dict.fromkeys(NUMBERS, "float64"))


def _facts(cell: Cell) -> dict[str, object]:
    return {
        "benchmark": cell.benchmark,
        "method": cell.method,
        "version": cell.version,
        "group": cell.group,
        "cell": cell.id,
        "seed": cell.seed,
        "state": FINAL_STATES.get(cell.state, "unfinished"),
        "budget": cell.budget,
        "parameters": cell.compute.get("parameters"),
        "device": cell.compute.get("device"),
    }


def _foreign(row: Imported) -> dict[str, object]:
    known = {name: getattr(row, name) for name in ("benchmark", "method", "variant", "label", "nfe", "metric", "value")}
    return {**known, "seed": row.seed, "state": "imported", "source": row.provenance, "group": "", "cell": ""}


def _costs(cell: Cell, images: int) -> dict[str, float | None]:
    """Of the training up to a snapshot: every image is taken to cost the same."""
    flops = cell.compute.get("flops_per_image")
    seconds = cell.compute.get("train_seconds") if cell.state == "done" else None
    tflop = None if flops is None else flops * images / 1e12
    is_known = cell.run.config.train.init is None or "pretraining_images" in cell.compute
    before = pretraining([cell]) if is_known else Pretraining(None, None)
    return {
        "tflop": tflop,
        "device_hours": None if seconds is None else seconds / 3600 * images / cell.budget,
        "images_total": None if before.images is None else images + before.images,
        "tflop_total": None if before.tflop is None or tflop is None else tflop + before.tflop,
    }


def _rows(cell: Cell, every_snapshot: bool) -> Iterator[dict[str, Any]]:
    """The evaluations of a cell, the last of each draw, and rows without a value for what it lacks at its end."""
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in cell.run.records:
        is_final = row["images"] == cell.budget and cell.state == "done"
        if every_snapshot or is_final:
            value = math.nan if row["value"] is None else row["value"]
            kept = {key: row[key] for key in ("images", "nfe", "metric", "draw", "samples")}
            place = row["images"], row["nfe"], row["metric"], row["draw"]
            found[place] = kept | {"value": value, "error": row.get("error")}
    order = {metric: place for place, metric in enumerate(cell.metrics)}
    yield from sorted(found.values(), key=lambda row: (row["images"], row["nfe"], order[row["metric"]], row["draw"]))
    known = {(nfe, metric) for images, nfe, metric, _ in found if images == cell.budget}
    for nfe in cell.nfe:
        for metric in cell.metrics:
            if (nfe, metric) not in known:
                yield {"images": cell.budget, "nfe": nfe, "metric": metric}


def _setting(cell: Cell, key: str) -> object:
    """The value of a setting by its dotted key; None where the cell does not have it. Lists become text."""
    value: object = cell.run.config.to_dict()
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return str(value) if isinstance(value, list | Mapping) else value
