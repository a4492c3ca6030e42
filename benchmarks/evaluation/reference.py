"""The baselines of a benchmark's metrics: their values for two halves of the real data, and for noise."""

from __future__ import annotations

import time
from pathlib import Path

from ..common.distributed import ALONE, Ranks
from ..common.files import read_jsonl, write_jsonl
from ..common.lock import acquire
from ..config.schema import RunConfig
from ..metrics.evaluate import Evaluator
from ..metrics.references import StoppedError


def write_reference(config: RunConfig, evaluator: Evaluator, path: Path, ranks: Ranks = ALONE) -> None:
    """Add the baselines that are missing: once per benchmark, data set and metric.

    Raises StoppedError where a process is asked to stop.
    """
    data = evaluator.dataset.fingerprint
    held = {row["metric"] for row in read_jsonl(path) if row.get("data", data) == data} if ranks.is_writer else set()
    if ranks.broadcast(set(config.eval.metrics) <= held):
        return
    evaluator.work_out_references(ranks)
    stopped = False
    if ranks.is_writer:
        try:
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
        kept = [row for row in read_jsonl(path) if row.get("data", data) != data or row["metric"] not in ours]
        rows = sorted(kept + fresh, key=lambda row: (row.get("data", ""), row["metric"], row["what"]))
        write_jsonl(path, rows)
