"""What a cell is going to produce: snapshots and rows of its records, known before it starts. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .schema import RunConfig, canonical


@dataclass(frozen=True)
class Evaluation:
    """One pass of sampling; all metrics share its samples."""

    images: int
    nfe: int
    draw: int


def evaluations(config: RunConfig) -> Iterator[Evaluation]:
    """All passes of a cell, in the order of its records. With guidance only snapshots later than the guide count."""
    after, curve = config.guide_images or 0, config.eval.curve
    for images in config.snapshot_images:
        early = images != config.budget_images
        for nfe in config.eval.nfe:
            if early and curve is not None and nfe not in curve:
                continue
            for draw in range(config.eval.draws):
                if images > after:
                    yield Evaluation(images, nfe, draw)


def apart(config: RunConfig) -> dict[str, Any]:
    """Settings of sampling and evaluation whose numbers must not share a row with the usual ones, by key.

    They change no training run and so no id, but variant and group.
    """
    sample, evaluation = config.sample, config.eval
    settings: dict[str, Any] = {}
    if sample.guidance != 1:
        settings |= {"sample.guidance": sample.guidance, "sample.guide_at": sample.guide_at}
    if config.data.conditional and sample.labels != "data":
        settings["sample.labels"] = sample.labels
    if evaluation.ema is not None:
        settings["eval.ema"] = evaluation.ema
    if evaluation.quantise != "round":
        settings["eval.quantise"] = evaluation.quantise
    return canonical(settings)


def sampler_text(config: RunConfig) -> str:
    """The sampling settings of a row, so that a row made with others is never taken for this one."""
    settings = {**config.to_dict()["sample"], **apart(config)}
    if config.sample.options.get("recouple") == "ot":  # which assigns within a batch of samples
        settings["eval.batch"] = config.eval.batch
    return json.dumps(canonical(settings), sort_keys=True)


def missing(config: RunConfig, rows: Iterable[Mapping[str, Any]]) -> dict[Evaluation, list[str]]:
    """Of every pass of a cell the metrics that no row holds yet."""
    sampler = sampler_text(config)
    usable = [row for row in rows if row.get("sampler") == sampler]
    found = {}
    for one in evaluations(config):
        place = (one.images, one.nfe, one.draw)
        held = {row.get("metric") for row in usable if tuple(map(row.get, ("images", "nfe", "draw"))) == place}
        found[one] = [metric for metric in config.eval.metrics if metric not in held]
    return found


def missing_rows(config: RunConfig, rows: Iterable[Mapping[str, Any]]) -> int:
    """How many rows of all passes are missing."""
    return sum(map(len, missing(config, rows).values()))
