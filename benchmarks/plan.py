"""What a cell is going to produce: snapshots and rows of its records, known before it starts. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import read_jsonl
from .records import RECORDS, STATUS, CellFiles


def snapshot_images(config: dict[str, Any]) -> list[int]:
    """At how many images seen the averaged weights are kept: equal shares of the budget, in whole batches."""
    batch, total, count = config["train"]["batch"], config["train"]["images"], config["run"]["snapshots"]
    return sorted({math.ceil(total * (k + 1) / count / batch) * batch for k in range(count)})


def budget_images(config: dict[str, Any]) -> int:
    """The budget rounded up to whole batches: what the run has seen when it ends."""
    return snapshot_images(config)[-1]


@dataclass(frozen=True)
class Evaluation:
    """One pass of sampling; all metrics share its samples."""

    images: int
    nfe: int
    draw: int


def evaluations(config: dict[str, Any]) -> Iterator[Evaluation]:
    """All passes of a cell, in the order of its records."""
    for images in snapshot_images(config):
        for nfe in config["eval"]["nfe"]:
            for draw in range(config["eval"]["draws"]):
                yield Evaluation(images, nfe, draw)


def sampler_text(config: dict[str, Any]) -> str:
    """The sampling settings of a row, so that a row made with others is never taken for this one."""
    return json.dumps(config["sample"], sort_keys=True)


def missing(config: dict[str, Any], rows: list[dict[str, Any]], evaluation: Evaluation) -> list[str]:
    """The metrics of one pass that no row holds yet."""
    sampler = sampler_text(config)
    held = {
        row["metric"]
        for row in rows
        if (row["images"], row["nfe"], row["draw"], row["sampler"])
        == (evaluation.images, evaluation.nfe, evaluation.draw, sampler)
    }
    return [metric for metric in config["eval"]["metrics"] if metric not in held]


def is_finished(path: Path, config: dict[str, Any]) -> bool:
    """Whether a cell's folder holds all that `config` asks for (a diverged cell is finished: that is its result)."""
    state = CellFiles(path).status["state"]
    if state != "done" or not (path / STATUS).exists():
        return state == "diverged"
    rows = read_jsonl(path / RECORDS)
    return not any(missing(config, rows, evaluation) for evaluation in evaluations(config))
