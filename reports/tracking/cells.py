"""What a cell is in MLflow: parameters, tags, points of metrics, and a fingerprint."""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ...benchmarks.common.text import without_sections
from ...benchmarks.runs.status import State
from ..analysis.cells import FINAL_STATES, MOST, Cell, flattened, naming
from ..analysis.tables import seed_values
from .artifacts import sampled
from .store import LONGEST_VALUE

#: Sections that may change without making another cell. MLflow's parameters cannot be changed, tags can.
CHANGEABLE = ("cell", "sample", "eval", "run")
RUN_STATES = {
    State.DONE: "FINISHED",
    State.FAILED: "FAILED",
    State.DIVERGED: "FAILED",
    State.INTERRUPTED: "KILLED",
}
LONGEST_NAME = 200
RUNNING = "RUNNING"  # of all other states
FORMAT = "6"  # enters the fingerprint: what is imported differently is imported again

#: (key, step, value)
Point = tuple[str, int, float]


@dataclass(frozen=True)
class Content:
    """What a run holds of a cell, files aside.

    status: one of MLflow's. begun, ended: ms since 1970, None where unknown. points: logged at `begun`, or at 0.
    """

    name: str
    status: str
    begun: int | None
    ended: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[Point]


def params(cell: Cell) -> dict[str, str]:
    """The leaves of the configuration that make the cell what it is."""
    fixed = {key: value for key, value in cell.run.config.to_dict().items() if key not in CHANGEABLE}
    return {_name(key): _text(value) for key, value in flattened(fixed)}


def tags(cell: Cell, sweeps: Sequence[str]) -> dict[str, str]:
    """Who the cell is, its code, where it ran, and the leaves of the configuration that may change."""
    git = (cell.attempts[-1].get("git") if cell.attempts else None) or {}
    status = cell.run.status
    identity = {
        "cell": cell.id,
        "method": cell.method,
        "version": cell.version,
        "variant": cell.variant,
        "seed": cell.seed,
        "group": cell.group,
        "state": cell.state,
        "error": cell.error,
        "git.commit": git.get("commit"),
        "git.dirty": git.get("dirty"),
        "attempts": len(cell.attempts),
        "job": status.job,
        "node": status.node,
        "sweeps": ", ".join(sweeps) or None,
    }
    found = {f"bench.{key}": str(value) for key, value in identity.items() if value is not None}
    if git.get("commit"):
        found["mlflow.source.git.commit"] = str(git["commit"])  # MLflow's page has a place for it
    config = cell.run.config.to_dict()
    changeable = {key: config[key] for key in CHANGEABLE if key != "cell"}
    leaves = flattened({key: value for key, value in changeable.items() if value})
    return {key: _text(value) for key, value in (*found.items(), *((_name(k), v) for k, v in leaves))}


def points(cell: Cell) -> list[Point]:
    """Every point of every metric; steps are training images seen.

    `<metric>_nfe<n>` is the mean over draws, NaN after a divergence; `diverged`, 1 of a cell that did, because MLflow's
    pages hide NaN; `train_loss`; and what was diagnosed, by noise level: `<quantity>/t<low>-<high>`, with the settings
    behind it where they are not the usual ones.
    """
    diverged = [("diverged", cell.images, 1.0)] if cell.state is State.DIVERGED else []
    return [*_losses(cell), *_values(cell), *diverged, *_diagnosed(cell)]


def configuration(cell: Cell) -> str:
    """`vct kl_weight=3`: method and variant."""
    return f"{cell.method} {without_sections(cell.variant)}".strip()[:LONGEST_NAME]


def headline_points(cells: Sequence[Cell], metric: str, nfe: int) -> list[Point]:
    """Means over the seeds of each configuration, `<metric>_nfe<n>/<configuration>`, for the parent of these cells.

    Configurations whose cells have all ended, so that no mean changes when more seeds arrive. Seeds without a value at
    a step, such as diverged ones, are left out of its mean.
    """
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.group].append(cell)
    found: list[Point] = []
    for own in groups.values():
        if all(cell.state in FINAL_STATES for cell in own):
            values: dict[int, list[float]] = defaultdict(list)
            for value in seed_values(own):
                if (value.metric, value.nfe) == (metric, nfe) and math.isfinite(value.value):
                    values[value.images].append(value.value)
            key = _name(f"{metric}_nfe{nfe}/{configuration(own[0])}")
            found += [(key, images, statistics.fmean(seeds)) for images, seeds in sorted(values.items())]
    return found


def content(cell: Cell, sweeps: Sequence[str], parent: str) -> Content:
    """All that is imported but the files, for a run below the run `parent`. Raises DamagedError, naming the file."""
    return Content(
        name=f"{configuration(cell)} s{cell.seed}",
        status=RUN_STATES.get(cell.state, RUNNING),
        begun=begun(cell),
        ended=ended(cell),
        params=params(cell),
        tags=tags(cell, sweeps) | {"mlflow.parentRunId": parent},
        points=points(cell),
    )


def fingerprint(cell: Cell, run: Content) -> str:
    """Changes with anything of the cell that is imported: `run`, as it was read, and the files that are kept."""
    digest = hashlib.sha256(f"{FORMAT} {run}".encode())
    for path in (cell.run.config_file, cell.run.diagnostics_file):
        digest.update(hashlib.sha256(path.read_bytes() if cell.has(path) else b"").digest())
    for path in sampled(cell):  # large, and never rewritten without a point that changes
        digest.update(f"{path.name} {path.stat().st_size}".encode())
    return digest.hexdigest()


def begun(cell: Cell) -> int | None:
    """When its first attempt began, in ms; None where none has."""
    return _milliseconds(cell.attempts[0].get("started")) if cell.attempts else None


def ended(cell: Cell) -> int | None:
    """When its last attempt ended, in ms; None where it has not."""
    return _milliseconds(cell.attempts[-1].get("ended")) if cell.attempts else None


def _values(cell: Cell) -> Iterator[Point]:
    for _, metric, nfe, images, value in seed_values([cell]):
        yield _name(f"{metric}_nfe{nfe}"), images, value


def _losses(cell: Cell) -> Iterator[Point]:
    with naming(cell.run.train_log_file):
        # A resumed run may log a stretch twice; the later line is the one that counts.
        losses = {_step(row): row["loss"] for row in cell.train_log}
        yield from [("train_loss", images, float(loss)) for images, loss in losses.items() if loss is not None]


def _diagnosed(cell: Cell) -> Iterator[Point]:
    with naming(cell.run.diagnostics_file):
        found: dict[tuple[str, int], float] = {}
        for row in cell.diagnostics:
            if row["value"] is None:
                continue
            special = [] if row["weights"] == "averaged" else [f"weights {row['weights']}"]
            special += [] if row["ratio"] is None else [f"ratio {row['ratio']:g}"]
            where = " ".join([f"t{row['t_low']:.4g}-{row['t_high']:.4g}", *special])
            key = _name(f"{row['what']}/{where}"), _step(row)
            found[key] = float(row["value"])  # of several precisions the last one of the file, which is sorted
        yield from [(key, images, value) for (key, images), value in found.items()]


def _step(row: Mapping[str, Any]) -> int:
    images = int(row["images"])
    if not 0 <= images <= MOST:
        raise ValueError(f"images is {images}, must be from 0 to {MOST}")
    return images


def _text(value: str) -> str:
    """`value` as MLflow takes it: not too long, and without what is no character (half of a pair, of a file's name)."""
    return value[:LONGEST_VALUE].encode(errors="replace").decode()


def _name(key: str) -> str:
    """`key` with none but the characters that MLflow accepts in names, and no longer than it accepts."""
    return re.sub(r"[^\w\-. /:]", "_", key, flags=re.ASCII)[:250]


def _milliseconds(moment: str | None) -> int | None:
    return None if moment is None else int(datetime.fromisoformat(moment).timestamp() * 1000)
