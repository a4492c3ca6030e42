"""`bench eval`: evaluate finished trainings by further metrics, step counts or sampling draws."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.errors import UsageError
from ..common.lock import acquire
from ..runs.folder import Record, Run
from ..runs.status import State
from . import options
from .cells import below
from .report import Tracking, refresh_reports

if TYPE_CHECKING:
    from ..config.schema import RunConfig
    from ..metrics.evaluate import Evaluator

app = typer.Typer()


@app.command("eval")
def evaluate(
    runs: options.Runs,
    include: options.Include = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Such as fid50k,kid50k,pr10k. Default: those of the run.")
    ] = None,
    nfe: Annotated[str | None, typer.Option("--nfe", help="Step counts: 1,2,4,8. Default: those of the run.")] = None,
    draws: Annotated[int | None, typer.Option("--draws", min=1, help="Sampling seeds. Default: as in the run.")] = None,
    snapshots: options.Snapshots = "last",
    bootstrap: Annotated[
        int | None,
        typer.Option(
            "--bootstrap", min=0, help="Resamples for the sampling error of new rows. Default: as in the run."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images per batch of sampling.")] = None,
    device: options.Device = "auto",
    mlflow: options.Mlflow = True,
    mlflow_uri: options.MlflowUri = None,
) -> int:
    """Evaluate finished trainings by further metrics or step counts. Existing rows are kept, the report is rebuilt.

    Exit status: 0 all rows are there, 1 a cell was left out (unfinished or diverged), 130 interrupted.
    """
    from ..metrics.registry import expand, parse

    tracking = Tracking(mlflow, mlflow_uri)
    wanted: dict[str, object] = {"curve": () if snapshots == "last" else None}
    if metrics is not None:
        names = expand(name.strip() for name in metrics.split(",") if name.strip())
        for name in names:
            parse(name)
        wanted["metrics"] = tuple(names)
    if nfe is not None:
        wanted["nfe"] = _numbers(nfe)
    numbers = {"draws": draws, "batch": batch, "bootstrap": bootstrap}
    wanted |= {key: value for key, value in numbers.items() if value is not None}
    asked = {cell: _asked(cell, wanted, device) for cell in below(runs)}
    unfinished = [cell for cell in asked if cell.status.state is not State.DONE]
    for cell in unfinished:
        print(
            f"{cell.path} is {cell.status.state} and left out: only finished trainings are evaluated", file=sys.stderr
        )
    pending = {cell: config for cell, config in asked.items() if cell not in unfinished and _is_open(cell, config)}
    if not pending:
        print("all rows are there already" if len(unfinished) < len(asked) else "nothing to evaluate")
        return 1 if unfinished else 0
    left_out = len(unfinished) + _score(pending)
    refresh_reports(list(pending), tracking)
    return 1 if left_out else 0


def _asked(cell: Run, wanted: Mapping[str, Any], device: str) -> RunConfig:
    """The cell's configuration with `wanted` in its section `eval`.

    Raises UsageError for values out of range and as `trusted` does.
    """
    from ..runs.stored import trusted

    config = cell.config if "metrics" in wanted else trusted(cell)
    device = config.run.device if (device, config.run.device) == ("auto", "cpu") else device
    return replace(config, eval=replace(config.eval, **wanted), run=replace(config.run, device=device))


def _is_open(cell: Run, config: RunConfig) -> bool:
    """Whether rows are missing."""
    from ..config import plan

    return plan.missing_rows(config, cell.records) > 0


def _score(pending: dict[Run, RunConfig]) -> int:
    """Evaluate cell after cell, and return how many could not be finished.

    Cells with the same data set and metrics share data, networks and reference.
    """
    from ..common.devices import limit_threads, pick_device
    from ..data.registry import load_dataset
    from ..execution.preflight import check_configurations
    from ..metrics.evaluate import Evaluator

    check_configurations(list(pending.values()))
    limit_threads()
    logging.basicConfig(format="  %(message)s", level=logging.INFO)  # features of large networks take minutes
    left_out = 0
    evaluators: dict[str, Evaluator] = {}
    for cell, config in pending.items():
        key = repr((config.data, config.eval.metrics))
        if key not in evaluators:
            print(f"features of {config.data.name} …", flush=True)
            device = pick_device(config.run.device)
            evaluators[key] = Evaluator(load_dataset(config.data), config.eval.metrics, device)
        left_out += not _score_cell(cell, config, evaluators[key])
    return left_out


def _score_cell(cell: Run, config: RunConfig, evaluator: Evaluator) -> bool:
    """Add the missing rows of a cell and print them. Returns whether all could be computed."""
    from ..common.devices import pick_device
    from ..common.system import hardware
    from ..evaluation.reference import write_reference
    from ..evaluation.scoring import Scorer
    from ..runs.hardware import device_kinds
    from ..training.model import build_model

    lock = acquire(cell.lock_file)
    if lock is None:
        print(f"{cell.path} is left out: another process is working on it", file=sys.stderr)
        return False
    with lock:
        before = Run(cell.path).records
        write_reference(config, evaluator, cell.reference_file)
        device = pick_device(config.run.device)
        model = build_model(config, evaluator.dataset, device)
        now = {"device": str(device), "hardware": hardware()}
        kinds = device_kinds([*cell.history["attempts"], now])
        scorer = Scorer(config, model, evaluator, cell.path, devices=kinds)
        state = scorer.fill_records(should_stop=lambda: not lock.is_ours())
    print(cell.path)
    print_records([row for row in Run(cell.path).records if row not in before])
    return state == State.DONE


def print_records(rows: Iterable[Record]) -> None:
    """One line per row of a cell's records."""
    for row in rows:
        value = "diverged" if row["value"] is None else f"{row['value']:.6g}"
        error = f" ± {row['error']:.2g}" if row["error"] is not None else ""
        key = f"{row['images']:>12,} images  NFE {row['nfe']}  draw {row['draw']}"
        print(f"  {key}  {row['metric']:<24} {value}{error}")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--nfe is {text!r}, must be step counts with commas between them, such as 1,2,4,8") from None
