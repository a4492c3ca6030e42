"""The baselines of a benchmark's metrics: their values for two halves of the real data, and for noise."""

from __future__ import annotations

import time
from pathlib import Path

from ..common.distributed import ALONE, Ranks
from ..common.files import read_jsonl, set_aside, write_jsonl
from ..common.lock import acquire
from ..config.schema import RunConfig
from ..metrics.evaluate import Evaluator
from ..metrics.references import StoppedError


def write_reference(config: RunConfig, evaluator: Evaluator, path: Path, ranks: Ranks = ALONE) -> None:
    """Add the baselines that are missing: once per benchmark, data set and metric.

    Raises StoppedError where a process is asked to stop.
    """
    data = evaluator.dataset.fingerprint
    known = read_jsonl(path, []) if ranks.is_writer else []
    held = {row.get("metric") for row in known if row.get("data", data) == data}
    if ranks.broadcast(set(config.eval.metrics) <= held):
        return
    stopped = False
    try:
        evaluator.extract_references()
        if ranks.is_writer:
            _add_reference(config.benchmark.name, evaluator, path)
    except StoppedError:
        stopped = True
    if ranks.agree(stopped):
        raise StoppedError


def _add_reference(name: str, evaluator: Evaluator, path: Path) -> None:
    data = evaluator.dataset.fingerprint
    fresh = [{"benchmark": name, "data": data, **row} for row in evaluator.reference_rows()]
    ours = {row["metric"] for row in fresh}
    path.parent.mkdir(parents=True, exist_ok=True)
    while (lock := acquire(path.with_suffix(".lock"))) is None:  # cells of one benchmark share the file
        time.sleep(0.1)
    with lock:
        damage: list[str] = []
        rows = read_jsonl(path, damage)
        if damage:
            set_aside(path)
        named = [row for row in rows if all(isinstance(row.get(key), str) for key in ("metric", "what"))]
        kept = [row for row in named if row.get("data", data) != data or row["metric"] not in ours]
        write_jsonl(path, sorted(kept + fresh, key=lambda row: (str(row.get("data", "")), row["metric"], row["what"])))
