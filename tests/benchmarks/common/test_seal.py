"""The SHA-256 of an archive as its comment."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.seal import SealingWriter, check_seal, seal


@pytest.mark.parametrize("step", [1, 21, 22, 23, 1000])
def test_an_archive_that_is_sealed_while_it_is_written_is_the_one_that_is_sealed_afterwards(
    tmp_path: Path, step: int
) -> None:
    plain, written = tmp_path / "plain.zip", tmp_path / "written.zip"
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("weights", bytes(range(256)))
    content = memoryview(plain.read_bytes())
    with written.open("wb", buffering=0) as file:
        writer = SealingWriter(file)
        for start in range(0, len(content), step):
            writer.write(content[start : start + step])
        writer.seal()
    check_seal(written)
    seal(plain)
    assert written.read_bytes() == plain.read_bytes()


def test_what_is_no_archive_is_not_sealed(tmp_path: Path) -> None:
    with (tmp_path / "text").open("wb", buffering=0) as file:
        writer = SealingWriter(file)
        writer.write(memoryview(b"no archive, but long enough to be one"))
        with pytest.raises(ValueError, match="does not end as a zip archive does"):
            writer.seal()
