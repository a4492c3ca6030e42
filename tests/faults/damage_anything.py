"""Damage each file of a finished sweep in each way, and see what four commands make of it.

`python tests/faults/damage_anything.py [--json FILE]` prints a table: cases tried, survived, lost. A case is one file
of one cell, one kind of damage and one command. It is lost if the command shows a stack trace, does not name the
damage, leaves out a sound cell, or ends with the wrong status. `run` must also bring the sweep back as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np

from consistency_bench.benchmarks.cli import main as command
from consistency_bench.benchmarks.runs.damage import damages
from consistency_bench.benchmarks.runs.folder import find_cells

SWEEP = ("--methods", "ect,vct", "--seeds", "0,1", "benchmark=toy2d", "network.width=16", "network.blocks=1")
SWEEP += ("train.images=2560", "eval.metrics=[fd_points_500]", "run.snapshots=2", "eval.nfe=[1,2]")
RUN = ("run", "--launcher", "debug", "--no-mlflow", *SWEEP)
COMMANDS = {
    "run": RUN,
    "report": ("report", "--no-mlflow"),
    "status": ("status",),
    "compare": ("compare", "ect", "vct"),
}
NUMBERS = ("config.yaml", "status.json", "run.json", "records.jsonl")  # without one of these a cell is left out
OTHERS = ("train.jsonl", "diagnostics.jsonl", "samples/nfe1.npz", "samples/real.npz")
UNREAD = ("snapshots/000000002560.safetensors", "checkpoints/last.pt", "log.txt", "lock")  # of a finished cell
FILES = (*NUMBERS, *OTHERS, *UNREAD)


def _flip(path: Path) -> None:
    """One bit of a digit where there is one: the hardest to notice."""
    content = bytearray(path.read_bytes())
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()] if path.suffix != ".npz" else []
    place = digits[2 * len(digits) // 3] if digits else len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)


def _other_values(path: Path) -> None:
    """The right format with another content: that of another cell, or numbers where texts are."""
    if path.suffix == ".npz":
        np.savez(path, samples=np.full((5, 2), 0.5, np.float32))
    elif path.name in ("records.jsonl", "diagnostics.jsonl", "train.jsonl"):
        content = path.read_text()
        path.write_text(content.replace('"images": ', '"images": 1', 1))
    elif path.name == "status.json":
        path.write_text(json.dumps({"state": "done", "images": "many"}))
    elif path.name == "run.json":
        path.write_text(path.read_text().replace('"train_seconds": ', '"train_seconds": "x", "more": '))
    elif path.name == "lock":
        path.write_text(json.dumps({"host": 1, "pid": "one", "born": [], "token": "../../x"}))
    elif path.name == "config.yaml":
        other = next(cell for cell in find_cells(path.parents[3]) if cell.path != path.parent)
        shutil.copyfile(other.config_file, path)
    else:
        path.write_bytes(b"{}")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_text("x")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "bit flipped": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: 2 * path.stat().st_size // 3]),
    "NULs": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "junk": lambda path: path.write_bytes(random.Random(0).randbytes(path.stat().st_size)),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "directory": _directory,
    "other encoding": lambda path: path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16")),
    "other values": _other_values,
}


def said(*arguments: str) -> tuple[int, str]:
    """`bench` in this process: its status and all that it printed. Any exception but its own way out is raised."""
    printed = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["bench", *arguments]),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            command.main()
        except SystemExit as end:
            return int(end.code or 0), printed.getvalue()
    return 0, printed.getvalue()


def finished(folder: Path) -> Path:
    """A finished sweep with its report; one cell has diagnostics and a lock of a process that is gone."""
    out = folder / "runs"
    with contextlib.chdir(folder):
        status, text = said(*RUN)
        assert status == 0, text
        victim = find_cells(Path("runs"))[0]
        status, text = said("diagnose", str(victim.path), "--samples", "16", "--repeats", "4", "--bins", "2")
        assert status == 0, text
        victim.lock_file.write_text("{}")
        os.utime(victim.lock_file, (0, 0))
        status, text = said(*COMMANDS["report"])
        assert status == 0, text
    return out


def numbers(out: Path) -> list[object]:
    """The values of all cells, as the records hold them."""
    return [(run.path.name, row["metric"], row["nfe"], row["value"]) for run in find_cells(out) for row in run.records]


def noticed(file: str, kind: str) -> bool:
    """Whether a finished cell must name the damage: what nothing reads is not looked at."""
    return file not in UNREAD and (file, kind) != ("diagnostics.jsonl", "deleted")  # which not every cell has


def complaints(whole: Path, folder: Path, file: str, kind: str, name: str) -> Iterator[str]:
    """What is wrong with the outcome of one command on a copy of the sweep `whole` with one damaged file."""
    out = folder / "runs"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out)
    victim = find_cells(out)[0].path
    DAMAGE[kind](victim / file)
    with contextlib.chdir(folder):
        try:
            status, text = said(*COMMANDS[name])
        except BaseException as error:
            yield f"{type(error).__name__}: {error}"
            return
        if "Traceback" in text or "unexpected error" in text:
            yield "a stack trace"
        if name == "run":
            yield from _healed(whole, file, kind, status, text)
            return
        if noticed(file, kind):
            if status != 1:
                yield f"status {status}"
            if victim.name not in text or Path(file).name not in text:
                yield "the damage is not named"
        elif status != 0:
            yield f"status {status}: {text[-300:]}"
        kept = 3 if file in NUMBERS else 4
        if name == "report":
            board = Path("runs/leaderboard.md").read_text(encoding="utf-8")
            if f"{kept} cells ({kept} finished)" not in board:
                yield f"the report has not {kept} cells"
            if noticed(file, kind) and Path(file).name not in board:
                yield "the report does not say what it leaves out"
        if name == "status":
            yield from [
                f"{run.path.name} is not shown" for run in find_cells(Path("runs")) if run.path.name not in text
            ]
        if name == "compare" and "seeds" not in text:
            yield "nothing was compared"


def _healed(whole: Path, file: str, kind: str, status: int, text: str) -> Iterator[str]:
    """What is wrong after `bench run`: everything must be as before, and in the report."""
    if status != 0:
        yield f"status {status}: {text[-300:]}"
    if noticed(file, kind) and "are done already" in text:
        yield "it was not mended"
    out = Path("runs")
    if numbers(out) != numbers(whole):
        yield "the values are others than before"
    yield from [item.reason for run in find_cells(out) for item in damages(run)]
    board = (out / "leaderboard.md").read_text(encoding="utf-8")
    if "4 cells (4 finished)" not in board or "Damaged" in board:
        yield "the report is not complete"


@dataclass
class Tally:
    """tried: cases by command. lost: a sentence for each case that was."""

    tried: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)


def damage_anything(folder: Path, say: bool = False) -> Tally:
    """Every file, damage and command."""
    (folder / "whole").mkdir()
    (folder / "copy").mkdir()
    whole, tally = finished(folder / "whole"), Tally()
    for file, kind, name in itertools.product(FILES, DAMAGE, COMMANDS):
        tally.tried[name] += 1
        wrong = "; ".join(complaints(whole, folder / "copy", file, kind, name))
        if wrong:
            tally.lost.append(f"{name}, {file}, {kind}: {wrong}")
            if say:
                print(tally.lost[-1], flush=True)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="damage-anything-") as folder:
        tally = damage_anything(Path(folder), say=True)
    print("| command | tried | survived | lost |\n|:--|--:|--:|--:|")
    for name, tried in tally.tried.items():
        lost = sum(line.startswith(f"{name},") for line in tally.lost)
        print(f"| `bench {name}` | {tried} | {tried - lost} | {lost} |")
    if given.json:
        given.json.write_text(json.dumps(vars(tally)), encoding="utf-8")
    return 1 if tally.lost else 0


if __name__ == "__main__":
    sys.exit(main())
