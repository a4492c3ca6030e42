"""Which kinds of device have computed a cell, from the attempts in its run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def device_kind(attempt: Mapping[str, Any]) -> str:
    """The model of the GPU, or `CPU`, `MPS`: results are bit-identical on one kind of device only."""
    kind = str(attempt.get("device") or "unknown").partition(":")[0]
    model = (attempt.get("hardware") or {}).get("gpu")
    return str(model) if kind == "cuda" and model else kind.upper()


def device_kinds(attempts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The kinds of device that have computed what a cell holds, in order.

    Attempts before one that had nothing to resume from have left nothing.
    """
    kinds: list[str] = []
    for attempt in attempts:
        if not attempt.get("resumes", True):
            kinds = []
        kinds.append(device_kind(attempt))
    return list(dict.fromkeys(kinds))
