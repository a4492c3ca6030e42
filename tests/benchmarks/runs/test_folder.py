"""Cells are found while others write beside them."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from consistency_bench.benchmarks.common.files import write_text
from consistency_bench.benchmarks.runs.folder import CONFIG, cells_in, find_cells

CELLS = ("digits/ect/s0-aaaa", "digits/ect/s1-bbbb", "toy2d/vct+ot/s0-cccc")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in (*CELLS, "digits/ect/notes", "digits/ect/.s9-dddd", ".old/ect/s9-eeee", "digits/.lock-1/s9-ffff"):
        write_text(tmp_path / "runs" / name / CONFIG, "cell: {}\n")
    return tmp_path / "runs"


def below(folder: Path, out: Path) -> list[str]:
    return [cell.path.relative_to(out).as_posix() for cell in cells_in(folder)]


def test_cells_are_found_from_every_folder_above_them(out: Path) -> None:
    assert [cell.path.relative_to(out).as_posix() for cell in find_cells(out)] == list(CELLS)
    assert below(out, out) == list(CELLS)
    assert below(out.parent, out) == list(CELLS)
    assert below(out / "digits", out) == list(CELLS[:2])
    assert below(out / CELLS[0], out) == [CELLS[0]]
    assert below(out / CELLS[0] / "samples", out) == []
    assert below(out / CELLS[0] / CONFIG, out) == []


def failing(monkeypatch: pytest.MonkeyPatch, errors: Mapping[str, OSError]) -> None:
    """Have folders whose names begin so fail when they are looked into, after they were listed."""
    scandir = os.scandir

    def look(path: Any) -> Any:
        for begin, error in errors.items():
            if Path(path).name.startswith(begin):
                raise error
        return scandir(path)

    monkeypatch.setattr(os, "scandir", look)


def test_folders_that_go_or_are_others_hold_no_cells_and_what_cannot_be_read_is_said(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, others = FileNotFoundError(errno.ENOENT, "gone"), PermissionError(errno.EACCES, "not yours")
    failing(monkeypatch, {"notes": gone, "toy2d": others})
    assert below(out, out) == list(CELLS[:2])
    monkeypatch.undo()
    stat = os.stat

    def closed(path: Any, **options: Any) -> Any:
        if Path(path).parent.name == "s1-bbbb":
            raise others
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", closed)
    assert below(out, out) == list(CELLS)  # readers name the file that cannot be read
    monkeypatch.undo()
    failing(monkeypatch, {"notes": OSError(errno.EIO, "Input/output error")})
    with pytest.raises(OSError, match="Input/output error"):
        cells_in(out)
