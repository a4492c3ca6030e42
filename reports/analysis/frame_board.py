"""One metric of a table of results as plots need it: a board without cells, and the values along training."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...benchmarks.common.errors import UsageError, chosen
from .frame_leaderboard import Line, final_values, lines_of
from .statistics import seed_mean, t_interval
from .tables import Board, Compute, Entry, Row, SeedValue, contest, ranked

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [
    *("benchmark", "nfe", "metric", "label", "method", "version", "variant", "source", "cell", "seed", "state"),
    *("budget", "images", "draw", "value", "parameters", "tflop", "device_hours", "device"),
]


@dataclass(frozen=True)
class Trained:
    """A cell by its rows; its group is the label."""

    id: str
    group: str
    seed: int
    state: str
    budget: int


def frame_board(
    results: pd.DataFrame, metric: str | None = None, nfe: int | None = None, baseline: str | None = None
) -> tuple[Board, list[SeedValue]]:
    """The board of one metric, and its values at all snapshots of the table; imported rows are left out.

    metric, nfe: of all in the table, None for the first metric and all NFE. baseline: a label, None for the best.
    Raises UsageError: rows of several benchmarks or of none; a metric, NFE or label that the table does not have.
    """
    rows = [row for row in lines_of(results, COLUMNS) if not row["source"]]
    benchmarks, metrics = ([*dict.fromkeys(row[key] for row in rows)] for key in ("benchmark", "metric"))
    if len(benchmarks) != 1:
        found = f"rows of {len(benchmarks)} benchmarks ({', '.join(benchmarks)})" if benchmarks else "no rows of cells"
        raise UsageError(f"the table has {found}: a plot shows one benchmark")
    name = metrics[0] if metric is None else chosen("metric", metric, metrics)
    own: dict[str, list[Line]] = defaultdict(list)
    for row in rows:
        if row["metric"] == name:
            own[row["label"]].append(row)
    nfes = sorted({row["nfe"] for lines in own.values() for row in lines})
    if nfe is not None:
        nfes = [int(chosen("NFE", str(nfe), [*map(str, nfes)]))]
    baseline = None if baseline is None else chosen("baseline", baseline, own)
    states = {label: Counter({row["cell"]: row["state"] for row in lines}.values()) for label, lines in own.items()}
    failed = {label: count["failed"] for label, count in states.items()}
    last = [row for lines in own.values() for row in lines if row["images"] == row["budget"]]
    finals = {(nfe, name): final_values([row for row in last if row["nfe"] == nfe]) for nfe in nfes}
    entries = ranked((_entry(lines, states[label]) for label, lines in own.items()), name, nfes[0], finals)
    contests = {key: contest(values, name, key[0], failed, baseline) for key, values in finals.items()}
    board = Board(
        benchmark=benchmarks[0],
        metrics=(name,),
        nfes=tuple(nfes),
        cells=(),
        entries=entries,
        rows=tuple(_row(entry, nfe, name, finals[nfe, name]) for nfe in nfes for entry in entries),
        contests=contests,
        reference={},
        common=(),
        errors={},
        baseline=baseline,
    )
    return board, [value for lines in own.values() for value in _values(lines)]


def _entry(lines: Sequence[Line], states: Mapping[str, int]) -> Entry:
    first = lines[0]
    names = {key: first[key] or "" for key in ("label", "method", "variant")}
    return Entry(
        **names, version=first["version"], group=first["label"], seeds=dict(states), compute=_compute(lines), cells=()
    )


def _compute(lines: Sequence[Line]) -> Compute:
    """Costs of a whole training; every image is taken to cost the same."""
    budget = lines[0]["budget"]
    known = {key: row[key] for row in reversed(lines) for key in ("parameters", "device") if row[key] is not None}
    work = next((row["tflop"] / row["images"] * budget for row in lines if row["tflop"] and row["images"]), None)
    hours = {row["cell"]: row["device_hours"] for row in lines if row["images"] == budget and row["device_hours"]}
    return Compute(
        mimg=budget / 1e6,
        pretraining_mimg=None,
        pretraining_tflop=0.0,
        parameters=known.get("parameters"),
        passes_per_step=None,
        tflop=work,
        device_hours=math.fsum(hours.values()) / len(hours) if hours else None,
        device=known.get("device"),
    )


def _row(entry: Entry, nfe: int, metric: str, values: Mapping[str, Mapping[int, float]]) -> Row:
    seeds = dict(sorted(values.get(entry.label, {}).items()))
    return Row(
        entry=entry,
        nfe=nfe,
        seeds={metric: tuple(seeds.values())},
        scores={metric: t_interval(seeds.values())},
        spreads={},
        ranks={},
        best=frozenset(),
        published={},
    )


def _values(lines: Sequence[Line]) -> Iterator[SeedValue]:
    """The values of one configuration and metric, sampling seeds averaged."""
    draws: dict[tuple[Trained, int, int], list[float]] = defaultdict(list)
    for row in lines:
        if row["draw"] is not None:
            cell = Trained(row["cell"], row["label"], row["seed"], row["state"], row["budget"])
            draws[cell, row["nfe"], row["images"]].append(math.nan if row["value"] is None else row["value"])
    for (cell, nfe, images), values in draws.items():
        yield SeedValue(cell, lines[0]["metric"], nfe, images, seed_mean(values))
