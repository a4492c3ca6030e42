"""Results of another output folder, taken over cell by cell. Nothing that is already here changes."""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import UsageError
from ..common.files import owner_mark, read_jsonl, remove_leftovers, write_jsonl
from ..common.lock import acquire
from ..common.text import count, plain
from .archive import files_of
from .damage import Damage, damage_of, damages
from .folder import IMPORTED, MEMBERS, REFERENCE, STUDIES, Run, cells_in, read_reference
from .imported import add_imported
from .studies import Family, begin_list, families, take_over

#: What becomes of a cell.
MERGED, SAME, KEPT_OUT = "merged", "identical", "left out"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell or a file. place: its path below the output folder. reason: why it was left out."""

    place: str
    what: str
    reason: str = ""


def merge(source: Path, out: Path) -> list[Outcome]:
    """Copy the finished cells of another output folder, or of a part of one, into `out`, with baselines and studies.

    A cell that is here with the same values is left as it is. Left out are cells that are damaged, not finished, or
    here with other values: those are a difference between two runs of the same training.

    Raises OSError where something cannot be written.
    """
    roots = list(dict.fromkeys(run.path.resolve().parents[2] for run in cells_in(source)))
    lost: list[Damage] = []
    found = [family for root in roots for family in families(root, lost)]
    if any(family.study for family in found):
        begin_list(out)
    outcomes = [_merge_cell(Run(run.path.resolve()), out) for run in cells_in(source)]
    merged = {outcome.place for outcome in outcomes if outcome.what == MERGED}
    here = {outcome.place for outcome in outcomes if outcome.what != KEPT_OUT}
    for family in found if (out / STUDIES).is_dir() else ():
        outcomes += _merge_family(family, out, here)
    # The zip file of one study has no list of the cells of none.
    lost = [item for item in lost if item.folder.parent.name == STUDIES or item.file.exists()]
    outcomes += [Outcome(f"{STUDIES}/{item.folder.name}", KEPT_OUT, item.reason) for item in lost]
    for root in roots:
        for name in sorted({place.partition("/")[0] for place in merged}):
            theirs = root / name / REFERENCE
            unread = damage_of(root / name, theirs, lambda root=root, name=name: _add_baselines(root, out, name))
            outcomes += [Outcome(f"{name}/{REFERENCE}", KEPT_OUT, item.reason) for item in unread]
        outcomes += [_merge_imported(file, out) for file in sorted((root / IMPORTED).glob("*.csv"))]
    return outcomes


def _merge_family(theirs: Family, out: Path, here: Collection[str]) -> list[Outcome]:
    """What becomes of a study. Of the cells of none, only an error is worth a line."""
    place = f"{STUDIES}/{theirs.name or MEMBERS}"
    try:
        is_new = take_over(theirs, out, here)
    except UsageError as error:
        return [Outcome(place, KEPT_OUT, str(error))]
    return [Outcome(place, MERGED if is_new else SAME)] if theirs.study else []


def _merge_imported(file: Path, out: Path) -> Outcome:
    place = plain(f"{IMPORTED}/{file.name}")
    is_here = (out / IMPORTED / file.name).exists()
    try:
        add_imported(file, out)
    except UsageError as error:
        return Outcome(place, KEPT_OUT, str(error))
    return Outcome(place, SAME if is_here else MERGED)


def _merge_cell(run: Run, out: Path) -> Outcome:
    place = "/".join(run.path.parts[-3:])
    if found := damages(run):
        return Outcome(place, KEPT_OUT, found[0].reason)
    if any(path.is_symlink() for path in run.path.rglob("*")):  # whatever they lead to would become a result
        return Outcome(place, KEPT_OUT, "it holds links")
    cell, state = run.config.cell, run.status.state
    if place != f"{cell.benchmark}/{cell.method}/s{cell.seed}-{cell.id}":
        return Outcome(plain(place), KEPT_OUT, f"its configuration is that of {plain(f'{cell.method}, {cell.id}')}")
    if not state.is_final:
        return Outcome(place, KEPT_OUT, f"it is {state}, and only finished cells are merged")
    ours = Run(out / place)
    if ours.path.exists():
        return _compare(ours, run, place)
    try:
        _copy(run, ours.path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return Outcome(place, KEPT_OUT, "another process has begun to write it here")
    return Outcome(place, MERGED)


def _compare(ours: Run, theirs: Run, place: str) -> Outcome:
    """A cell that is here already: whether its values are those that were to be merged."""
    if damages(ours) or not ours.status.state.is_final:
        return Outcome(place, KEPT_OUT, f"it is here without a result ({ours.status.state}): finish or remove it first")
    here, there = _values(ours), _values(theirs)
    if not here.keys() & there.keys():
        return Outcome(place, KEPT_OUT, "it was sampled with other settings than here")
    different = [key for key in here.keys() & there.keys() if here[key] != there[key]]
    if different:
        images, nfe, draw, metric, _ = key = min(different, key=lambda key: (-key[0], *key[1:]))
        rows = count(len(different), "row")
        example = f"{metric} at NFE {nfe}, {images:,} images, draw {draw}: {here[key]} here, {there[key]} there"
        return Outcome(place, KEPT_OUT, f"its values differ from those of the same training here in {rows} ({example})")
    if ours.status.state is not theirs.status.state:
        return Outcome(place, KEPT_OUT, f"it is {ours.status.state} here and {theirs.status.state} there")
    return Outcome(place, SAME)


def _values(run: Run) -> dict[tuple[Any, ...], float | None]:
    keys = ("images", "nfe", "draw", "metric", "sampler")
    return {tuple(row.get(key, "") for key in keys): row["value"] for row in run.records}


def _copy(run: Run, target: Path) -> None:
    """All of it or nothing: a folder beside the target is renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.{owner_mark()}", suffix=".tmp"))
    try:
        for file in files_of(run, weights=True):
            copy = temporary / file.relative_to(run.path)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        temporary.chmod(0o755)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _add_baselines(source: Path, out: Path, benchmark: str) -> None:
    """Add the baselines of metrics and data that have none here. Of a damaged file nothing is taken."""
    path = out / benchmark / REFERENCE
    fresh = read_reference(source, benchmark)
    while (lock := acquire(path.with_suffix(".lock"))) is None:
        time.sleep(0.1)
    with lock:
        rows = read_jsonl(path)
        known = {_baseline(row) for row in rows}
        added = [row for row in fresh if _baseline(row) not in known]
        if added:
            write_jsonl(path, sorted([*rows, *added], key=_baseline))


def _baseline(row: dict[str, Any]) -> tuple[str, str, str]:
    return str(row.get("data", "")), str(row.get("metric")), str(row.get("what"))
