"""`bench eval`: score finished trainings by further metrics, step counts or draws, without training again."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import UsageError
from ..common.files import read_jsonl
from ..common.lock import acquire
from ..config import plan
from ..config.schema import check_values
from ..metrics.registry import expand, parse
from ..runs.folder import RECORDS, REFERENCE, CellFiles, cells_in
from ..runs.stored import stored
from .status import INTERRUPTED

SNAPSHOTS = ("last", "all")


def evaluate(
    runs: Sequence[Path],
    *,
    metrics: str | None,
    nfe: str | None,
    draws: int | None,
    snapshots: str,
    bootstrap: int | None,
    batch: int | None,
    device: str,
) -> int:
    """Exit status: 0 all rows are there, 1 a cell was left out (not trained to its end, diverged), 130 interrupted.

    runs: folders of cells, or folders above them. Raises UsageError for bad input, before anything is computed.
    """
    if snapshots not in SNAPSHOTS:
        raise UsageError(f"--snapshots is {snapshots!r}, must be one of: {', '.join(SNAPSHOTS)}")
    wanted: dict[str, Any] = {"curve": [] if snapshots == "last" else None}
    if metrics is not None:
        wanted["metrics"] = expand(name.strip() for name in metrics.split(",") if name.strip())
        for name in wanted["metrics"]:
            parse(name)
    if nfe is not None:
        wanted["nfe"] = _numbers(nfe)
    wanted |= {
        key: value for key, value in (("draws", draws), ("batch", batch), ("bootstrap", bootstrap)) if value is not None
    }
    cells = find_runs(runs)
    jobs = {cell: _asked(cell, wanted, device) for cell in cells}
    left_out = 0
    open_jobs: dict[CellFiles, dict[str, Any]] = {}
    for cell, config in jobs.items():
        state = cell.status["state"]
        if state != "done":
            print(f"{cell.path}: left out, it is {state}; only trainings that are done can be scored", file=sys.stderr)
            left_out += 1
        elif _missing(cell, config):
            open_jobs[cell] = config
    if not open_jobs:
        print("all rows are there already" if left_out < len(cells) else "there is nothing to score")
        return 1 if left_out else 0
    try:
        left_out += _score(open_jobs)
    except KeyboardInterrupt:
        return INTERRUPTED
    print("`bench report` puts the new rows into the leaderboard")
    return 1 if left_out else 0


def find_runs(runs: Sequence[Path]) -> list[CellFiles]:
    """The cells in these folders and below them, each once. Raises UsageError for a folder without any."""
    found: dict[Path, CellFiles] = {}
    for run in runs:
        cells = cells_in(run)
        if not cells:
            raise UsageError(f"{run} is no folder of a cell and has none below it; `bench status` lists them")
        found |= {(path := cell.path.resolve()): CellFiles(path) for cell in cells}
    return list(found.values())


def _asked(cell: CellFiles, wanted: dict[str, Any], device: str) -> dict[str, Any]:
    """The cell's configuration with another section `eval`; keys that it lacks, being older, have their defaults.

    Raises UsageError for values that cannot be and as `stored` does.
    """
    config = stored(cell, scored="metrics" not in wanted)
    asked = {**config, "eval": {**config["eval"], **wanted}, "run": {**config["run"], "device": device}}
    check_values(asked)
    return asked


def _missing(cell: CellFiles, config: dict[str, Any]) -> bool:
    return any(plan.missing(config, cell.records, evaluation) for evaluation in plan.evaluations(config))


def _score(jobs: dict[CellFiles, dict[str, Any]]) -> int:
    """Score cell after cell and return how many could not be scored to their end.

    Cells of one data set and choice of metrics share data, networks and reference.
    """
    from ..common.devices import pick_device
    from ..data.registry import load_dataset
    from ..evaluation.scoring import fill_records, write_reference
    from ..execution.preflight import check_configurations
    from ..metrics.evaluate import Evaluator
    from ..training.model import build_model

    check_configurations(list(jobs.values()))
    logging.basicConfig(format="  %(message)s", level=logging.INFO)  # features of costly networks take their time
    left_out = 0
    evaluators: dict[str, Evaluator] = {}
    for cell, config in jobs.items():
        device = pick_device(config["run"]["device"])
        key = repr((config["data"], config["eval"]["metrics"]))
        if key not in evaluators:
            print(f"features of {config['data']['name']} …", flush=True)
            evaluators[key] = Evaluator(load_dataset(config), config["eval"]["metrics"], device)
        evaluator = evaluators[key]
        lock = acquire(cell.path / "lock")
        if lock is None:
            print(f"{cell.path}: left out, another process is working on it", file=sys.stderr)
            left_out += 1
            continue
        with lock:
            before = read_jsonl(cell.path / RECORDS)
            write_reference(config, evaluator, cell.path.parents[1] / REFERENCE)
            model = build_model(config, evaluator.dataset, device)
            state = fill_records(
                config, model, evaluator, cell.path, device, should_stop=lambda lock=lock: not lock.is_ours()
            )
            _show(cell.path, before)
            left_out += state != "done"
    return left_out


def _show(folder: Path, before: list[dict[str, Any]]) -> None:
    print(folder)
    for row in read_jsonl(folder / RECORDS):
        if row in before:
            continue
        value = "diverged" if row["value"] is None else f"{row['value']:.6g}"
        error = f" ± {row['error']:.2g}" if row["error"] is not None else ""
        print(
            f"  {row['images']:>12,} images  NFE {row['nfe']}  draw {row['draw']}  {row['metric']:<24} {value}{error}"
        )


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--nfe is {text!r}, must be step counts with commas between them, such as 1,2,4,8") from None
