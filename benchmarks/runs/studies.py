"""Which cells of an output folder belong to which study, and which were asked for without one ("ad hoc").

<out>/studies/<name>/study.yaml    a copy of the study's file
<out>/studies/<name>/cells.json    its definition and its cells, with what was to be measured of each
<out>/studies/cells.json           the cells asked for ad hoc; exists once there is a study
<out>/studies/<name>/...           its report

Cells stay where they are and are shared. Names of cells in these files are compared with the cells that are there, and
no path is made of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import UsageError, unknown
from ..common.files import DamagedError, atomic_path, naming, read_json, write_json
from ..common.lock import acquire
from ..config.plan import sampler_text
from ..config.schema import RunConfig
from ..config.study import Study, read_study, study_of
from .damage import Damage, damage_of
from .folder import MEMBERS, STUDIES, STUDY, Run, find_cells

if TYPE_CHECKING:
    from ..config.compose import Cell


@dataclass(frozen=True)
class Asked:
    """What was to be measured of a cell: fields of `eval`, of which only these add rows to records."""

    nfe: tuple[int, ...]
    curve: tuple[int, ...] | None
    draws: int
    metrics: tuple[str, ...]

    @classmethod
    def of(cls, config: RunConfig) -> Asked:
        """What a configuration asks for."""
        found = config.eval
        return cls(found.nfe, found.curve, found.draws, found.metrics)

    def covers(self, row: Mapping[str, Any], budget: int) -> bool:
        """Whether a row of records is one of those. budget: images of the cell, after which all of nfe count."""
        nfes = self.nfe if row["images"] == budget or self.curve is None else self.curve
        return (
            row["nfe"] in nfes and row["nfe"] in self.nfe and row["draw"] < self.draws and row["metric"] in self.metrics
        )


#: Name of a cell -> what was to be measured of it; None where that is not known.
Members = Mapping[str, Asked | None]


@dataclass(frozen=True)
class Wanted:
    """Which rows of a cell a report shows: those asked for and, where `is_open`, all others but `hidden` ones.

    Without a study, rows that `bench eval` has added are shown; rows that only studies asked for are not.
    """

    asked: Asked | None = None
    hidden: tuple[Asked, ...] = ()
    is_open: bool = True

    @property
    def is_everything(self) -> bool:
        """Whether no row is left out."""
        return self.asked is None or (self.is_open and not self.hidden)

    def covers(self, row: Mapping[str, Any], budget: int) -> bool:
        """Whether a row is shown. budget: images of the cell."""
        if self.asked is None or self.asked.covers(row, budget):
            return True
        return self.is_open and not any(other.covers(row, budget) for other in self.hidden)


EVERYTHING = Wanted()


@dataclass(frozen=True)
class Family:
    """Cells that are reported together in `folder`, by name. study: None for the cells asked for ad hoc."""

    folder: Path
    study: Study | None
    members: Mapping[str, Wanted]

    @property
    def name(self) -> str:
        """The name of the study, "" for the cells asked for ad hoc."""
        return self.study.name if self.study else ""


def families(out: Path, damage: list[Damage] | None = None) -> list[Family]:
    """The studies in `out` by name, after the cells asked for ad hoc, if there are any.

    damage: where complaints go; a study whose cells are not known is left out. Without it they are raised.
    """
    found: list[Damage] = []
    studies: list[Family] = []
    for folder in _folders(out):
        found += _damages(folder, lambda folder=folder: studies.append(_read_family(folder)))
    names = [run.path.relative_to(out).as_posix() for run in find_cells(out)]
    listed: dict[str, Asked | None] = {}
    if _folders(out):
        file = out / STUDIES / MEMBERS
        found += damage_of(out / STUDIES, file, lambda: listed.update(_read_members(file)), blocks=False)
    taken = {name for family in studies for name in family.members}
    # Where the cells of a study are not known, a cell that no list names may be one of them.
    free = [] if len(studies) < len(_folders(out)) else [name for name in names if name not in taken]
    own = {name: _ad_hoc(name, listed, studies) for name in names if name in listed or name in free}
    if damage is None and found:
        raise DamagedError(found[0].reason)
    if damage is not None:
        damage += found
    present = set(names)
    studies = [
        Family(item.folder, item.study, {name: wanted for name, wanted in item.members.items() if name in present})
        for item in studies
    ]
    return [*([Family(out, None, own)] if own else []), *studies]


def _ad_hoc(name: str, listed: Members, studies: Sequence[Family]) -> Wanted:
    shared = [family.members[name].asked for family in studies if name in family.members]
    return Wanted(listed.get(name), tuple(asked for asked in shared if asked is not None))


def study_cells(out: Path, name: str) -> list[Run]:
    """The cells of a study that are in `out`. Raises UsageError for an unknown name, DamagedError for damaged files."""
    members = _read_family(study_folder(out, name)).members
    return [run for run in find_cells(out) if run.path.relative_to(out).as_posix() in members]


def studies_of(run: Run, out: Path) -> list[Study]:
    """The studies of a cell; none for one that was also asked for ad hoc, or where it is not known."""
    name = run.path.resolve().relative_to(out.resolve()).as_posix()
    found = [family for family in families(out, []) if name in family.members]
    return [family.study for family in found if family.study and found[0].study]


def study_folder(out: Path, name: str) -> Path:
    """The folder of a study. Raises UsageError for a name that none in `out` has."""
    known = {folder.name: folder for folder in _folders(out)}
    if name not in known:
        raise unknown("study", name, known) if known else UsageError(f"there are no studies in {out}")
    return known[name]


def study_files(out: Path, name: str | None) -> list[Path]:
    """The files that define a study (None: all studies, and the list of the cells of none)."""
    folders = _folders(out) if name is None else [study_folder(out, name)]
    files = [folder / file for folder in folders for file in (STUDY, MEMBERS)]
    files += [out / STUDIES / MEMBERS] if name is None else []
    return [file for file in files if file.is_file()]


def take_over(theirs: Family, out: Path, names: Collection[str]) -> bool:
    """Add a family of another folder to `out`, with those of its cells that are in `names`. Whether anything is new.

    Raises UsageError if a study of this name with another definition is here, DamagedError for a damaged one.
    """
    folder = out / STUDIES / theirs.name
    members = {name: wanted.asked for name, wanted in theirs.members.items() if name in names}
    with _locked(out):
        known: dict[str, Asked | None] = {}
        if (folder / MEMBERS).exists():
            known = _read_members(folder / MEMBERS)
            if theirs.study and _read_family(folder).study != theirs.study:
                raise UsageError(f"a study '{theirs.name}' with another definition is here")
        elif theirs.study:
            if (theirs.folder / STUDY).is_symlink():
                raise UsageError("it holds links")
            read_study(theirs.folder / STUDY)
            with atomic_path(folder / STUDY) as temporary:
                temporary.write_bytes((theirs.folder / STUDY).read_bytes())
        content = {"study": theirs.study.to_dict()} if theirs.study else {}
        if members.keys() <= known.keys() and (folder / MEMBERS).exists():
            return False
        _write(folder / MEMBERS, content, {**members, **known})
    return True


def register(out: Path, study: Study, file: Path, cells: Sequence[Cell]) -> None:
    """Make these the cells of a study in `out`.

    Raises UsageError where the study is another one of the same name, or would replace rows of other tables.
    """
    content, folder = file.read_bytes(), out / STUDIES / study.name
    with _locked(out):
        check_changes(out, study)
        _check_samplers(out, cells, study.name)
        begin_list(out)
        with atomic_path(folder / STUDY) as temporary:
            temporary.write_bytes(content)
        _write(folder / MEMBERS, {"study": study.to_dict()}, {cell.name: Asked.of(cell.config) for cell in cells})


def register_ad_hoc(out: Path, cells: Sequence[Cell]) -> None:
    """Enter cells that were asked for without a study, where there are studies. Raises UsageError as `register`."""
    if not (out / STUDIES).is_dir():
        return
    with _locked(out):
        _check_samplers(out, cells, "")
        file = out / STUDIES / MEMBERS
        try:
            before = _read_members(file)
        except DamagedError:  # or missing: what no study has is known all the same
            before = {}
        after = {**(before or _existing(out)), **{cell.name: Asked.of(cell.config) for cell in cells}}
        if after != before:
            _write(file, {}, after)


def check_changes(out: Path, study: Study) -> list[str]:
    """A phrase for each key of a study that has changed since it last ran in `out`. Raises UsageError if refused."""
    folder = out / STUDIES / study.name
    if not (folder / MEMBERS).exists():
        return []
    with contextlib.suppress(DamagedError):  # it is written again
        before = _read_family(folder)
        assert before.study is not None
        return study.changes(before.study)
    return []


def _check_samplers(out: Path, cells: Sequence[Cell], name: str) -> None:
    """Raise UsageError if rows that other tables show would be replaced: a cell holds those of one way of sampling."""
    others = [family for family in families(out, []) if family.name != name]
    for cell in cells:
        owner = next((family for family in others if cell.name in family.members), None)
        if owner is None:
            continue
        run = Run(cell.path(out))
        with contextlib.suppress(DamagedError, OSError):
            if sampler_text(run.config) != sampler_text(cell.config):
                tables = f"study '{owner.name}'" if owner.study else "the cells that were run without a study"
                raise UsageError(
                    f"{cell.name} belongs to {tables} in {out} and was sampled with other settings: a cell holds the "
                    "rows of one way of sampling; use another --out"
                )


def _existing(out: Path) -> dict[str, Asked | None]:
    """The cells in `out` that no study has."""
    taken = {name for family in families(out, []) if family.study for name in family.members}
    found: dict[str, Asked | None] = {}
    for run in find_cells(out):
        name = run.path.relative_to(out).as_posix()
        if name not in taken:
            found[name] = None
            with contextlib.suppress(DamagedError, OSError):
                found[name] = Asked.of(run.config)
    return found


def begin_list(out: Path) -> None:
    """List the cells in `out` as asked for ad hoc, if there is no list: those that come later belong to studies."""
    if not (out / STUDIES / MEMBERS).exists():
        _write(out / STUDIES / MEMBERS, {}, _existing(out))


def _folders(out: Path) -> list[Path]:
    """The folders of studies, by name; one of its two files is enough."""
    folders = sorted((out / STUDIES).glob("[!.]*/"))
    return [folder for folder in folders if (folder / STUDY).exists() or (folder / MEMBERS).exists()]


def _damages(folder: Path, read: Callable[[], object]) -> list[Damage]:
    """What is damaged of a study's two files. Its copy of the file is not needed for its report."""
    found = damage_of(folder, folder / MEMBERS, read, blocks=False)
    return found + damage_of(folder, folder / STUDY, lambda: _check_copy(folder, bool(found)), blocks=False)


def _check_copy(folder: Path, is_alone: bool) -> None:
    try:
        study = read_study(folder / STUDY)
    except UsageError as error:
        raise DamagedError(str(error)) from None
    if not is_alone and study != _read_family(folder).study:
        raise DamagedError(f"{folder / STUDY} was changed after the study ran: run it again")


def _read_family(folder: Path) -> Family:
    file = folder / MEMBERS
    members = _read_members(file)
    with naming(file):
        try:
            study = study_of(read_json(file)["study"])
        except UsageError as error:
            raise ValueError(str(error)) from None
        if study.name != folder.name:
            raise ValueError("its folder has another name")
    return Family(folder, study, {name: Wanted(asked, is_open=False) for name, asked in members.items()})


def _read_members(file: Path) -> dict[str, Asked | None]:
    """Raises DamagedError where a file is missing or holds anything else."""
    content = read_json(file)
    if content is None:
        raise DamagedError(f"{file} is missing")
    with naming(file):
        return {str(name): _asked(group) for group in content["asked"] for name in group["cells"]}


def _asked(group: Mapping[str, Any]) -> Asked | None:
    if "metrics" not in group:
        return None
    curve = None if group["curve"] is None else tuple(map(int, group["curve"]))
    return Asked(tuple(map(int, group["nfe"])), curve, int(group["draws"]), tuple(map(str, group["metrics"])))


def _write(file: Path, content: dict[str, Any], members: Members) -> None:
    groups: dict[Asked | None, list[str]] = {}
    for name, asked in sorted(members.items()):
        groups.setdefault(asked, []).append(name)
    found = [{**(asdict(asked) if asked else {}), "cells": names} for asked, names in groups.items()]
    write_json(file, {**content, "asked": found}, sealed=True)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of the lists in `out`: two commands that start at once must not lose each other's cells."""
    (out / STUDIES).mkdir(parents=True, exist_ok=True)
    while (lock := acquire(out / STUDIES / "lock")) is None:
        time.sleep(0.1)
    with lock:
        yield
