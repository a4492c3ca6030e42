"""What a cell is going to produce: snapshots and rows of its records, known before it starts. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Keys of the section `sample` that sampling in general has; the others are options of the method's sampler.
COMMON = ("labels", "guidance", "guide_at")


def snapshot_images(config: dict[str, Any]) -> list[int]:
    """At how many images seen the averaged weights are kept: equal shares of the budget, and the guide's place."""
    guide = guide_images(config)
    return sorted({*_regular_snapshots(config), *([] if guide is None else [guide])})


def _regular_snapshots(config: dict[str, Any]) -> list[int]:
    count, total = config["run"]["snapshots"], config["train"]["images"]
    return [_whole_batches(config, total * (k + 1) / count) for k in range(count)]


def _whole_batches(config: dict[str, Any], images: float) -> int:
    """Rounded up to whole batches."""
    batch = config["train"]["batch"]
    return math.ceil(images / batch) * batch


def budget_images(config: dict[str, Any]) -> int:
    """The budget rounded up to whole batches: what the run has seen when it ends."""
    return _whole_batches(config, config["train"]["images"])


def guide_images(config: dict[str, Any]) -> int | None:
    """After how many images the guiding snapshot of the same run is taken; None without guidance."""
    sample = config["sample"]
    return None if sample["guidance"] == 1 else _whole_batches(config, config["train"]["images"] * sample["guide_at"])


@dataclass(frozen=True)
class Evaluation:
    """One pass of sampling; all metrics share its samples."""

    images: int
    nfe: int
    draw: int


def evaluations(config: dict[str, Any]) -> Iterator[Evaluation]:
    """All passes of a cell, in the order of its records. With guidance only snapshots later than the guide count."""
    after = guide_images(config) or 0
    curve = config["eval"].get("curve")  # runs of older versions have none
    for images in snapshot_images(config):
        early = images != budget_images(config) and curve is not None
        for nfe in config["eval"]["nfe"]:
            if early and nfe not in curve:
                continue
            for draw in range(config["eval"]["draws"]):
                if images > after:
                    yield Evaluation(images, nfe, draw)


def sampler_options(config: dict[str, Any]) -> dict[str, Any]:
    """The options of the method's sampler."""
    return {key: value for key, value in config["sample"].items() if key not in COMMON}


def apart(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of sampling and evaluation whose numbers must not share a row with the usual ones, by key.

    They change no training run and so no id, but variant and group.
    """
    sample, evaluation = config["sample"], config["eval"]
    settings = {}
    if sample["guidance"] != 1:
        settings |= {"sample.guidance": sample["guidance"], "sample.guide_at": sample["guide_at"]}
    if config["data"]["conditional"] and sample["labels"] != "data":
        settings["sample.labels"] = sample["labels"]
    if evaluation["ema"] is not None:
        settings["eval.ema"] = evaluation["ema"]
    if evaluation["quantise"] != "round":
        settings["eval.quantise"] = evaluation["quantise"]
    return settings


def sampler_text(config: dict[str, Any]) -> str:
    """The sampling settings of a row, so that a row made with others is never taken for this one."""
    settings = {**config["sample"], **apart(config)}
    if config["sample"].get("recouple") == "ot":  # which assigns within a batch of samples
        settings["eval.batch"] = config["eval"]["batch"]
    return json.dumps(settings, sort_keys=True)


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
