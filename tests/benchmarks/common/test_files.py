"""Small files survive whatever happens to the process that writes them."""

from __future__ import annotations

import math
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import (
    DamagedError,
    append_jsonl,
    atomic_path,
    check_writable,
    read_json,
    read_jsonl,
    read_yaml,
    write_json,
    write_jsonl,
    write_text,
)

ROWS = st.lists(st.dictionaries(st.text(max_size=4), st.one_of(st.integers(), st.text(), st.none()), max_size=3))
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_a_write_makes_its_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "é" / "file.txt"
    write_text(path, "one\n")
    write_text(path, "two\n")
    assert path.read_bytes() == b"two\n"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644  # colleagues can read a shared folder


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_it_writes_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    code = """
import os, signal, sys
from pathlib import Path
from consistency_bench.benchmarks.common.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the n")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_reader_sees_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    contents = {"a" * 100_000, "b" * 100_000}
    write_text(path, "a" * 100_000)
    code = """
import sys
from pathlib import Path
from consistency_bench.benchmarks.common.files import write_text
for n in range(40):
    write_text(Path(sys.argv[1]), "ab"[n % 2] * 100_000)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
        while writer.poll() is None:
            assert path.read_text() in contents
    assert writer.returncode == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}])
def test_what_is_not_json_is_refused_and_the_old_content_stays(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, value)
    assert read_json(path) == {"old": 1}


def test_json_reads_back_and_a_missing_file_is_the_default(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"ü": [1, None, 2.5]})
    assert read_json(tmp_path / "file.json") == {"ü": [1, None, 2.5]}
    assert read_json(tmp_path / "other.json", {"state": "queued"}) == {"state": "queued"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{} {}"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"status\.json is not JSON"):
        read_json(path, {})


@in_one_folder
@given(rows=ROWS)
def test_json_lines_read_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows[: len(rows) // 2])
    for row in rows[len(rows) // 2 :]:
        append_jsonl(path, row)
    assert read_jsonl(path) == rows


def test_a_line_torn_anywhere_is_left_out(tmp_path: Path) -> None:
    """Between any two bytes, the middle of a character of several bytes included."""
    path = tmp_path / "rows.jsonl"
    rows = [{"a": 1}, {"bé": "€ 😀", "c": [1, {"d": None}]}]
    write_jsonl(path, rows)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_jsonl(path) == rows[:1], cut
    path.write_bytes(whole[:-1])  # only the line's end is missing: the row is complete
    assert read_jsonl(path) == rows


@pytest.mark.parametrize("damage", [b'{"b": ', b"x", b'{"b": 2}{"c": 3}', b"\xff"])
def test_damage_elsewhere_is_named_with_its_line(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + damage + b'\n{"d": 4}\n')
    with pytest.raises(DamagedError, match=r"rows\.jsonl: line 3 is not JSON"):
        read_jsonl(path)
    path.write_bytes(b'{"a": 1}\n' + damage + b"\n")  # a finished line, though the last: no crash tears it like that
    with pytest.raises(DamagedError, match=r"rows\.jsonl: line 2"):
        read_jsonl(path)


def test_a_writable_folder_is_accepted_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for folder in (Path("."), Path("here"), Path("new/deep"), tmp_path / "here" / "new"):
        check_writable(folder)
    assert [p.name for p in tmp_path.rglob("*")] == ["here"]


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "new"):
        with pytest.raises(UsageError, match=r"file is not a folder; choose another with --out"):
            check_writable(folder)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc, where no file can be made")
def test_an_unwritable_folder_is_refused_even_to_root() -> None:
    with pytest.raises(UsageError, match=r"/proc is not writable \(.+\); choose another with --out"):
        check_writable(Path("/proc/new"))


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_yaml_of_any_depth_is_named_as_damaged(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(DamagedError, match="nested too deeply"):
        read_yaml(path)
