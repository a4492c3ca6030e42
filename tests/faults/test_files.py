"""Files that are cut short, changed or cannot be written: noticed, mended or refused, and never believed."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from consistency_bench.benchmarks.common.files import (
    DamagedError,
    append_jsonl,
    read_json,
    read_jsonl,
    remove_leftovers,
    write_json,
)
from consistency_bench.benchmarks.config.compose import Cell
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.runs.folder import RECORDS, STATUS, TRAIN_LOG, Run
from consistency_bench.benchmarks.training.checkpoint import (
    LAST,
    PREVIOUS,
    load_checkpoint,
    load_snapshot,
    save_checkpoint,
    save_snapshot,
    snapshot_path,
)

from ..benchmarks.conftest import TINY, environment, put
from .conftest import finish, kill, remount, results, start_worker, wait_for

CPU = torch.device("cpu")
Undisturbed = tuple[Cell, dict[str, object]]


def state(images: int) -> dict[str, object]:
    weights = {"a": torch.arange(50.0) + images}
    return {"weights": weights, "averages": {}, "optimizer": {}, "state": {"images": images}}


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, length: int) -> None:
    os.truncate(path, length)


def stopping_after(calls: int) -> Callable[[], bool]:
    counter = itertools.count(1)
    return lambda: next(counter) >= calls


# What the checksums notice


def test_every_bit_of_a_checkpoint_counts(tmp_path: Path) -> None:
    """Each hundredth bit, and all of the last bytes, where the checksum itself is."""
    save_checkpoint(tmp_path, state(1))
    path = tmp_path / "checkpoints" / LAST
    whole = path.read_bytes()
    bits = 8 * len(whole)
    for bit in [*range(0, bits, 101), *range(bits - 8 * 100, bits)]:
        flip(path, bit)
        with pytest.raises(DamagedError, match=r"last\.pt cannot be read"):
            load_checkpoint(tmp_path, CPU)
        path.write_bytes(whole)
    assert load_checkpoint(tmp_path, CPU) is not None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_anywhere_is_noticed(share: float, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1))
    path = tmp_path / "checkpoints" / LAST
    cut(path, int(share * path.stat().st_size))
    with pytest.raises(DamagedError, match=r"last\.pt cannot be read"):
        load_checkpoint(tmp_path, CPU)


def test_no_bit_of_a_snapshot_changes_a_weight(tmp_path: Path) -> None:
    """Each third: it is refused, or (bits of the header that are not read) what is read is what was written."""
    network = nn.Linear(5, 7)
    save_snapshot(tmp_path, 3, network)
    path = snapshot_path(tmp_path, 3)
    whole = path.read_bytes()
    data = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for bit in range(0, 8 * len(whole), 3):
        flip(path, bit)
        read = nn.Linear(5, 7)
        try:
            load_snapshot(tmp_path, 3, read)
        except DamagedError:
            refused += 1
        else:
            assert bit // 8 < data
            assert all(torch.equal(read.state_dict()[name], value) for name, value in network.state_dict().items())
        path.write_bytes(whole)
    assert refused > 0.9 * 8 * len(whole) / 3


def test_a_file_without_its_checksum_is_refused(tmp_path: Path) -> None:
    """As other programs write them: whole, but nothing shows that it is what training wrote."""
    save_checkpoint(tmp_path, state(1))
    torch.save(state(1), tmp_path / "checkpoints" / LAST)
    with pytest.raises(DamagedError, match="its checksum is missing"):
        load_checkpoint(tmp_path, CPU)
    network = nn.Linear(5, 7)
    save_snapshot(tmp_path, 3, network)
    save_file(network.state_dict(), snapshot_path(tmp_path, 3))
    with pytest.raises(DamagedError, match="its checksum is missing"):
        load_snapshot(tmp_path, 3, network)


def test_both_kinds_stay_readable_to_other_programs(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(4))
    path = tmp_path / "checkpoints" / LAST
    assert torch.load(path, weights_only=True)["state"] == {"images": 4}
    assert torch.load(path, weights_only=True, mmap=True)["state"] == {"images": 4}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")
    network = nn.Linear(5, 7)
    save_snapshot(tmp_path, 3, network)
    with safe_open(snapshot_path(tmp_path, 3), "pt") as file:
        assert torch.equal(file.get_tensor("weight"), network.weight)


# Going on with what is left


def damaged_cell(undisturbed: Undisturbed, out: Path, stop: int = 60) -> Path:
    """A cell whose training was stopped after so many steps."""
    folder = put(undisturbed[0], out)
    assert run_cell(folder, should_stop=stopping_after(stop)) == "interrupted"
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "something else"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    how: str, tmp_path: Path, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture
) -> None:
    folder = damaged_cell(undisturbed, tmp_path)
    path = folder / "checkpoints" / LAST
    size = path.stat().st_size
    if how == "cut":
        cut(path, size - 1)
    elif how == "flipped":
        flip(path, random.Random(0).randrange(8 * size))
    else:
        path.write_bytes(b"" if how == "empty" else b"not a checkpoint")
    caplog.set_level(logging.WARNING)
    assert run_cell(folder) == "done"
    assert "last.pt cannot be read" in caplog.text
    assert "resuming from the previous checkpoint, after " in caplog.text
    assert results(folder) == undisturbed[1]


@pytest.mark.slow
def test_with_no_checkpoint_left_training_starts_again_and_says_so(
    tmp_path: Path, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture
) -> None:
    folder = damaged_cell(undisturbed, tmp_path)
    for name in (LAST, PREVIOUS):
        flip(folder / "checkpoints" / name, 4000)
    caplog.set_level(logging.WARNING)
    assert run_cell(folder) == "done"
    assert "no checkpoint is readable: training starts from the beginning" in caplog.text
    assert results(folder) == undisturbed[1]


@pytest.mark.slow
def test_a_damaged_checkpoint_never_becomes_the_previous_one(tmp_path: Path, undisturbed: Undisturbed) -> None:
    folder = damaged_cell(undisturbed, tmp_path)
    flip(folder / "checkpoints" / LAST, 4000)
    assert run_cell(folder, should_stop=stopping_after(1)) == "interrupted"
    for name in (LAST, PREVIOUS):
        assert load_checkpoint(folder, CPU, name) is not None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_snapshot_is_made_again(
    how: str, tmp_path: Path, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture
) -> None:
    folder = put(undisturbed[0], tmp_path)
    assert run_cell(folder) == "done"
    (folder / RECORDS).unlink()
    path = sorted((folder / "snapshots").iterdir())[0]
    if how == "cut":
        cut(path, path.stat().st_size // 2)
    else:
        flip(path, 8 * (path.stat().st_size - 100))
    caplog.set_level(logging.WARNING)
    assert run_cell(folder) == "done"
    assert "is damaged" in caplog.text
    assert "it is going to be made again" in caplog.text
    assert results(folder) == undisturbed[1]


@pytest.mark.slow
def test_a_last_line_that_is_torn_is_mended(tmp_path: Path, undisturbed: Undisturbed) -> None:
    folder = damaged_cell(undisturbed, tmp_path)
    for name in (TRAIN_LOG, RECORDS):
        with (folder / name).open("ab") as file:
            file.write(b'{"images": 1280, "nf\xc3')
    assert run_cell(folder) == "done"
    assert results(folder) == undisturbed[1]
    append_jsonl(folder / TRAIN_LOG, {"images": 0})
    assert read_jsonl(folder / TRAIN_LOG)[-1] == {"images": 0}


# Leftovers

WRITE = """
import sys, time
from pathlib import Path
from consistency_bench.benchmarks.common.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    print(temporary, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path / name)], stdout=subprocess.PIPE, text=True)
        for name in ("killed.png", "living.png")
    ]
    killed, living = (Path(writer.stdout.readline().strip()) for writer in writers if writer.stdout)
    writers[0].kill()
    writers[0].communicate()
    assert killed.exists()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [living]
    writers[1].kill()
    writers[1].communicate()


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_behind_once_it_is_repeated(tmp_path: Path) -> None:
    (temporary := tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "consistency_bench", "run", "--methods", "ect", "--seeds", "0", *TINY]
    command += ["--out", str(tmp_path / "runs")]
    around = {"env": environment(TMPDIR=str(temporary)), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, text=True, **around)
    wait_for(process, lambda: any(temporary.glob("bench-*")))
    kill(process)
    assert any(temporary.glob("bench-*"))
    (runs := tmp_path / "runs").mkdir(exist_ok=True)
    for name in ("plots/forest.png", "mlflow"):  # as a killed report leaves them
        writer = subprocess.Popen([sys.executable, "-c", WRITE, str(runs / name)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        assert Path(writer.stdout.readline().strip()).exists()
        kill(writer)
    done = subprocess.run(command, text=True, check=False, timeout=300, **around)
    assert done.returncode == 0, done.stdout
    assert not list(temporary.glob("bench-*"))
    assert not list(runs.rglob("*.tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_a_worker_lets_it_save(number: int, undisturbed: Undisturbed, tmp_path: Path) -> None:
    folder, process = caught_in_training(undisturbed, tmp_path, tmp_path / "list")
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert read_json(folder / STATUS)["state"] == "interrupted"
    finish(folder, tmp_path / "list")
    assert results(folder) == undisturbed[1]


# Disks


def fill(path: Path) -> Path:
    """A file that leaves no room on the disk of a folder."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


def caught_in_training(undisturbed: Undisturbed, disk: Path, listing: Path) -> tuple[Path, subprocess.Popen[str]]:
    folder = put(undisturbed[0], disk / "runs")
    process = start_worker(folder, listing)
    wait_for(process, (folder / "checkpoints" / PREVIOUS).exists)
    return folder, process


def test_a_full_disk_is_the_reason_that_a_snapshot_gives(disk: Callable[[int], Path]) -> None:
    place = disk(1 << 20)
    with pytest.raises(OSError, match="No space left on device") as error:
        save_snapshot(place, 3, nn.Linear(1000, 1000))
    assert error.value.errno == errno.ENOSPC
    assert str(snapshot_path(place, 3)) in str(error.value)


@pytest.mark.slow
def test_a_full_disk_fails_the_cell_and_loses_nothing(
    disk: Callable[[int], Path], tmp_path: Path, undisturbed: Undisturbed
) -> None:
    place = disk(4 << 20)
    folder, process = caught_in_training(undisturbed, place, tmp_path / "list")
    filler = fill(place)
    said, _ = process.communicate(timeout=120)
    assert "Traceback" not in said
    status = read_json(folder / STATUS)
    assert status["state"] == "failed"
    assert "No space left on device" in status["error"]
    assert any(_readable(folder, name) for name in (LAST, PREVIOUS))
    filler.unlink()
    write_status(folder, "queued")
    finish(folder, tmp_path / "list")
    assert results(folder) == undisturbed[1]
    assert not Run(folder).reserve_file.exists()


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_ends_the_worker_with_a_sentence(
    disk: Callable[[int], Path], tmp_path: Path, undisturbed: Undisturbed
) -> None:
    place = disk(8 << 20)
    folder, process = caught_in_training(undisturbed, place, tmp_path / "list")
    for _ in range(1000):  # busy while a file is open for writing
        try:
            remount(place, "ro")
        except Exception:
            continue
        break
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Read-only file system" in said
    assert "Traceback" not in said
    assert _readable(folder, LAST) or _readable(folder, PREVIOUS)
    remount(place, "rw")
    write_status(folder, "queued")
    finish(folder, tmp_path / "list")
    assert results(folder) == undisturbed[1]


def _readable(folder: Path, name: str) -> bool:
    try:
        return load_checkpoint(folder, CPU, name) is not None
    except DamagedError:
        return False


def write_status(folder: Path, word: str) -> None:
    write_json(folder / STATUS, {**read_json(folder / STATUS), "state": word, "error": None})


# Folders that move


@pytest.mark.slow
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_cell_goes_on_in_another_place(how: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Killed, so that its lock and what it was writing move along."""
    before = put(undisturbed[0], tmp_path / "one")
    process = start_worker(before, tmp_path / "list")
    wait_for(process, (before / "checkpoints" / PREVIOUS).exists)
    kill(process)
    after = tmp_path / "andere Ordner é" / before.relative_to(tmp_path / "one")
    after.parent.mkdir(parents=True)
    (shutil.move if how == "moved" else shutil.copytree)(before, after)
    finish(after, tmp_path / "list")
    assert results(after) == undisturbed[1]
