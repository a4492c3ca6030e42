"""What is damaged or missing in the folder of a cell, found without numpy or torch, and how it is set aside.

Weights and checkpoints of a finished cell are not looked at: nothing but a further evaluation reads them, and that
checks their SHA-256.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import DamagedError, naming, read_jsonl, read_yaml, set_aside, write_jsonl
from ..common.seal import check_seal, is_sealed
from ..common.text import count, plain
from ..config import plan
from ..config.schema import RunConfig
from . import checks
from .folder import STUDIES, STUDY, Run, cells_in, is_finished, read_reference
from .status import State


@dataclass(frozen=True)
class Damage:
    """A file that cannot be used. folder: of its cell, or of its benchmark. reason: one sentence with the file's path.

    blocks: whether the numbers of the cell are left out; figures and logs leave them as they are.
    """

    folder: Path
    file: Path
    reason: str
    blocks: bool = True


def damage_of(folder: Path, file: Path, check: Callable[[], object], *, blocks: bool = True) -> list[Damage]:
    """One entry if the check of a file raises DamagedError, OSError or what `naming` takes, else none."""
    try:
        with naming(file):
            check()
    except (DamagedError, OSError) as error:
        reason = str(error) if isinstance(error, DamagedError) else f"{file} cannot be read ({error.strerror})"
        return [Damage(folder, file, plain(reason), blocks)]
    return []


def damages(run: Run) -> list[Damage]:
    """All that is damaged in the folder of a cell, or missing there although the cell has ended."""
    found = damage_of(run.path, run.config_file, lambda: run.config)
    found = found or _copies(run)
    if found:  # what the other files must hold is not known
        return found
    figures = set(run.path.glob("samples/*.npz"))
    with contextlib.suppress(DamagedError):
        figures |= expected_figures(run)
    sealed = any(map(is_sealed, figures))  # earlier versions left them without a checksum
    needed = {run.status_file: _check_status, run.history_file: _check_history, run.records_file: _check_records}
    others = {run.train_log_file: _check_train_log, run.diagnostics_file: _check_diagnostics}
    for file, check in (needed | others).items():
        found += damage_of(run.path, file, lambda check=check: check(run), blocks=file in needed)
    for file in sorted(figures):
        found += damage_of(run.path, file, lambda file=file: _check_figure(file, sealed), blocks=False)
    return found


def _copies(run: Run) -> list[Damage]:
    """One entry if the cell is in the same output folder under its own name, too: it must not count twice."""
    cell = run.config.cell
    own = (cell.benchmark, cell.method, f"s{cell.seed}-{cell.id}")
    if run.path.parts[-3:] == own or len(run.path.parents) < 3:
        return []
    original = run.path.parents[2].joinpath(*own)
    reason = f"{run.config_file} is of a copy of {original}: remove the copy"
    return [Damage(run.path, run.config_file, plain(reason))] if original.is_dir() else []


def evict(run: Run, cell: str) -> None:
    """Set aside all files in the folder of `cell` if they are those of another cell."""
    try:
        other = read_yaml(run.config_file)["cell"]["id"]
        rows = read_jsonl(run.records_file, [])
    except (DamagedError, OSError, TypeError, KeyError):
        return
    if other == cell or any(row.get("cell") == cell for row in rows):
        return
    for path in sorted(run.path.iterdir()):
        if not path.name.startswith(".") and path != run.lock_file and ".damaged" not in path.name:
            set_aside(path)


def needs_run(run: Run, config: RunConfig) -> bool:
    """Whether running a cell has anything to do: rows of `config` to add, or damage to mend, baselines included."""
    if not is_finished(run, config) or damages(run):
        return True
    try:
        known = {row.get("metric") for row in read_reference(run.path.parents[2], run.path.parents[1].name)}
    except DamagedError:
        return True
    return not known.issuperset(config.eval.metrics)


def expected_figures(run: Run) -> set[Path]:
    """The files of samples that a finished cell has, by its rows. Raises DamagedError where these are damaged."""
    if run.status.state is not State.DONE:
        return set()
    config = run.config
    final = [row for row in run.records if row["images"] == config.budget_images and row["draw"] == 0]
    nfes = {row["nfe"] for row in final}
    nearest = {row["nfe"] for row in final if row["metric"] in config.eval.metrics and "authenticity" in row["metric"]}
    return {run.real, *map(run.samples, nfes), *map(run.nearest, nearest)}


def salvage(run: Run) -> None:
    """Set damaged files of a cell aside as NAME.damaged, so that running it makes them again; the caller has its lock.

    Logs keep their sound rows.
    """
    logs = {run.train_log_file: checks.train_log, run.diagnostics_file: checks.diagnostics}
    for item in damages(run):
        sound = _sound_rows(item.file, logs[item.file]) if item.file in logs else []
        if item.file not in (run.status_file, run.config_file):  # which are written again in any case
            set_aside(item.file)
        if sound:
            write_jsonl(item.file, sound)


def mark_lost_rows(run: Run) -> None:
    """Where the log of a training that has ended does not reach its end, add a row that knows no loss."""
    rows, budget = run.train_log, run.config.budget_images
    if not rows or rows[-1]["images"] < budget:
        write_jsonl(run.train_log_file, [*rows, {"images": budget, "loss": None, "lost": True}])


def cure(folder: Path, out: Path) -> str:
    """The command that makes damaged files again: the last one of the cell or, if that is unknown, of one near by."""
    if folder.parent == out / STUDIES:
        return plain(f"bench run {shlex.quote(str(folder / STUDY))} --out {shlex.quote(str(out))}")
    for near in (folder, *folder.parents):
        for cell in cells_in(near):
            with contextlib.suppress(DamagedError, OSError):
                for attempt in reversed(cell.history["attempts"]):
                    return plain(str(attempt.get("command", "bench run")))
        if near == out:
            break
    return f"bench run --out {shlex.quote(str(out))}, with the settings of the cell"


def _sound_rows(file: Path, check: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(file, []) if not damage_of(file.parent, file, lambda row=row: check([row]))]


def _check_status(run: Run) -> None:
    status = run.status
    if status.state is State.DAMAGED:
        raise DamagedError(status.error or "")
    if not run.status_file.exists() and (run.history_file.exists() or run.records_file.exists()):
        raise DamagedError(f"{run.status_file} is missing")


def _check_history(run: Run) -> None:
    is_final = run.status.state.is_final
    if not run.history["attempts"] and is_final:
        raise DamagedError(f"{run.history_file} is missing or has no attempts")


def _check_records(run: Run) -> None:
    state, rows = run.status.state, run.records  # in this order: a cell that ends meanwhile has its rows before
    if state is State.DONE and (missing := plan.missing_rows(run.config, rows)):
        verb = "is" if missing == 1 else "are"
        raise DamagedError(f"the cell is done, but {count(missing, 'row')} of {run.records_file} {verb} missing")
    if state is State.DIVERGED and not rows:
        raise DamagedError(f"the cell has diverged, but the rows of {run.records_file} are missing")
    _check_end(run.records_file)


def _check_train_log(run: Run) -> None:
    state, rows = run.status.state, run.train_log
    if state is State.DONE and (not rows or rows[-1]["images"] < run.config.budget_images):
        raise DamagedError(f"the cell is done, but rows of {run.train_log_file} are missing")
    _check_end(run.train_log_file)


def _check_diagnostics(run: Run) -> None:
    if not run.diagnostics and run.diagnostics_file.exists():
        raise DamagedError(f"{run.diagnostics_file} has no rows")
    _check_end(run.diagnostics_file)


def _check_end(file: Path) -> None:
    """Readers leave a last line out that is incomplete; of a file that is complete none is."""
    if file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        raise DamagedError(f"the last row of {file} is incomplete")


def _check_figure(file: Path, sealed: bool) -> None:
    if not file.exists():
        raise DamagedError(f"{file} is missing")
    checks.archive(file)
    if sealed:
        check_seal(file)
