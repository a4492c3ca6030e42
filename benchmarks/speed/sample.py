"""Images per second of sampling, by the number of network calls, and of the features that samples are scored by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..config.compose import Cell
from ..data.base import Dataset
from ..evaluation.sample import Sampler
from ..metrics.evaluate import Evaluator
from ..training.model import build_model
from .contest import Spread, contest, ratio
from .steps import load_datasets
from .train import labels


@dataclass(frozen=True)
class Row:
    """One program. milliseconds: of a batch of `images` images. rate: images per second.

    cost: how many times as long as the first program of its method it takes.
    """

    method: str
    program: str
    images: int
    milliseconds: Spread
    rate: float
    cost: Spread


def measure(cells: Sequence[Cell], rounds: int, device: torch.device) -> list[Row]:
    """Time a batch of samples of each cell with each of its `eval.nfe`, and the features of its `eval.metrics`.

    Weights are the initial ones, images those of the benchmark. A batch has `eval.batch` images, or fewer if the
    metrics need fewer. Distances, which are computed once for all samples, are not part of it.
    """
    programs: dict[tuple[str, str], Callable[[], object]] = {}
    sizes: dict[tuple[str, str], int] = {}
    datasets = load_datasets(cells)
    for method in dict.fromkeys(cell.method for cell in cells):
        for name, cell in labels([each for each in cells if each.method == method]).items():
            own, size = _programs(cell, datasets[cell.id], device)
            for program, run in own.items():
                programs[method, f"{name}, {program}"], sizes[method, f"{name}, {program}"] = run, size
    named = {" ".join(key): run for key, run in programs.items()}
    seconds = dict(zip(programs, contest(named, rounds).values(), strict=True))
    rows = []
    for (method, name), times in seconds.items():
        first = next(value for (other, _), value in seconds.items() if other == method)
        size, middle = sizes[method, name], Spread.of([1000 * value for value in times])
        rows.append(Row(method, name, size, middle, 1000 * size / middle.median, ratio(times, first)))
    return rows


def _programs(cell: Cell, dataset: Dataset, device: torch.device) -> tuple[dict[str, Callable[[], object]], int]:
    """Sampling with each number of network calls, and features; and the images of each call."""
    config = cell.config
    evaluator = Evaluator(dataset, config.eval.metrics, device)
    sampler = Sampler(config, build_model(config, dataset, device), dataset)
    size = min(config.eval.batch, evaluator.samples_needed())
    samples = sampler.draw(0, min(config.eval.nfe), range(size), size)
    programs: dict[str, Callable[[], object]] = {
        f"NFE {nfe}": lambda nfe=nfe: sampler.draw(0, nfe, range(size), size) for nfe in sorted(config.eval.nfe)
    }
    return programs | {"features": lambda: list(evaluator.views(samples, 0))}, size
