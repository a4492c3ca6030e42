"""The training step against other programs that do the same, in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config.compose import Cell
from ..config.schema import RunConfig
from ..data.base import Dataset
from ..training.cost import measure_compute
from ..training.model import build_model
from .contest import Spread, contest, ratio
from .machine import rates
from .peer import check_peer, peer_step
from .plain import plain_step
from .steps import Step, bare_step, load_datasets, trainer_step


@dataclass(frozen=True)
class Row:
    """One program. milliseconds: of a step. rate: images per second.

    ratio: how many times as long as it the first program of its method takes; "plain" and "peer" have the data of the
    method's first cell. share: of the machine's best rate of products of its type.
    """

    method: str
    program: str
    milliseconds: Spread
    rate: float
    ratio: Spread
    share: float


@dataclass(frozen=True)
class Result:
    """rows, by method. peaks: FLOPS of single operations. costs: steps of each method over those of the first one."""

    rows: list[Row]
    peaks: dict[str, float]
    costs: dict[str, Spread]


def compare(
    cells: Sequence[Cell], programs: Sequence[str], peer: Path | None, rounds: int, device: torch.device, folder: Path
) -> Result:
    """Time one step of the suite for each cell, and of `programs` ("bare", "plain") for each method.

    peer: a checkout of sony/vct, or None. folder: an empty one, for what the suite's training writes.

    Raises UsageError for a peer that cannot be driven.
    """
    if peer is not None:
        for cell in cells:
            check_peer(peer, cell.config)
    datasets = load_datasets(cells)
    firsts: dict[str, Cell] = {}
    for cell in cells:
        firsts.setdefault(cell.method, cell)
    steps: dict[tuple[str, str], Step] = {}
    owners: dict[tuple[str, str], Cell] = {}  # of the suite's programs: the others are of the first, in float32
    for method, cell in firsts.items():
        dataset = datasets[cell.id]
        if peer is not None:
            steps[method, "peer"] = peer_step(peer, cell.config, dataset, device)
        if "plain" in programs:
            steps[method, "plain"] = plain_step(cell.config, dataset, device)
        for name, own in labels([each for each in cells if each.method == method]).items():
            steps[method, name] = trainer_step(own.config, datasets[own.id], device, folder / own.id)
            owners[method, name] = owners[method, f"{name}, bare"] = own
            if "bare" in programs:
                steps[method, f"{name}, bare"] = bare_step(own.config, datasets[own.id], device)
    named = {" ".join(key): step for key, step in steps.items()}
    seconds = dict(zip(steps, contest(named, rounds).values(), strict=True))

    flops = {cell.id: _flops(cell.config, datasets[cell.id], device) for cell in cells}
    half = any(cell.config.train.precision == "bf16" for cell in cells)
    peaks = rates(device, (torch.float32, *([torch.bfloat16] if half else [])), rounds)
    rows = []
    for (method, name), times in seconds.items():
        base = next(value for (other, _), value in seconds.items() if other == method)
        own, middle = owners.get((method, name)), Spread.of([1000 * value for value in times])
        kind = "bfloat16" if own and own.config.train.precision == "bf16" else "float32"
        cell = own or firsts[method]
        batch = cell.config.train.batch
        rate = 1000 * batch / middle.median
        peak = max(value for key, value in peaks.items() if key.endswith(kind))
        share = rate * flops[cell.id] / peak
        rows.append(Row(method, name, middle, rate, ratio(base, times), share))
    return Result(rows, peaks, costs(seconds, list(firsts)))


def _flops(config: RunConfig, dataset: Dataset, device: torch.device) -> float:
    return measure_compute(build_model(config, dataset, device), config, dataset, device)["flops_per_image"]


def costs(seconds: Mapping[tuple[str, str], Sequence[float]], methods: Sequence[str]) -> dict[str, Spread]:
    """The suite's step of each method over that of the first, by program."""
    first, *others = methods
    own = [name for method, name in seconds if method == first and name not in ("peer", "plain")]
    return {
        f"{method} / {first}, {name}": ratio(seconds[method, name], seconds[first, name])
        for name in own
        for method in others
        if (method, name) in seconds
    }


def labels(cells: Sequence[Cell]) -> dict[str, Cell]:
    """The cells of a method by what they differ in: `suite`, or `suite train.compile=true`."""
    overrides = [dict(cell.config.cell.overrides) for cell in cells]
    keys = sorted({key for each in overrides for key in each})
    swept = [key for key in keys if len({str(each.get(key)) for each in overrides}) > 1]
    names = [" ".join(["suite", *(f"{key}={each[key]}" for key in swept if key in each)]) for each in overrides]
    return dict(zip(names, cells, strict=True))
