"""The model card of an exported model: how it was trained, what it scores, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..analysis.cells import Cell
from ..analysis.formatting import NOTHING, count_text, number, score_text
from ..analysis.statistics import t_interval
from ..analysis.tables import final_values, labels, seed_values
from .results import machine
from .text import Table, render, texts


def model_card(cell: Cell, cells: Sequence[Cell]) -> str:
    """The README.md of a model. cells: those of its benchmark; its seeds among them are behind the intervals."""
    own = [other for other in cells if other.group == cell.group]
    attempt: dict[str, Any] = cell.attempts[-1] if cell.attempts else {}
    versions, git = attempt.get("versions") or {}, attempt.get("git") or {}
    config = cell.run.config
    return (
        render(
            "model_card.md.j2",
            cell=cell,
            config=config,
            label=labels([cell])[cell.group],
            images=count_text(cell.budget),
            parameters=count_text(cell.compute.get("parameters") or 0),
            seeds=len([other for other in own if other.state == "done"]),
            metrics=_metrics(cell, own),
            init=config.train.init,
            versions=", ".join(f"{name} {version}" for name, version in versions.items()),
            commit=git.get("commit") or "not recorded",
            hardware=machine(attempt.get("hardware") or {}),
            is_own_data=config.data.fingerprint is not None,
        )
        + "\n"
    )


def _metrics(cell: Cell, own: Sequence[Cell]) -> Table:
    """Final values of this cell, and the mean over the seeds of its configuration."""
    finals = final_values(labels(own), seed_values(own), own)
    rows = []
    for nfe in cell.nfe:
        for metric in cell.metrics:
            (values,) = finals[nfe, metric].values()
            value = values.get(cell.seed)
            shown = NOTHING if value is None else number(value)
            rows.append(texts(str(nfe), metric, shown, score_text(t_interval(values.values()))))
    return Table(
        ["NFE", "metric", "this model", "mean over training seeds ± half of the 95 % t interval"], "rlrr", rows
    )
