"""One damaged file never takes the sound ones down: it is named, left out, and made again by `bench run`.

`damage_anything.py` tries every file, damage and command. Here each file meets each damage in `status` and `compare`,
and a third of them in the slower `report` and `run`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from consistency_bench.benchmarks.common.files import DamagedError, digest_of, read_jsonl, read_yaml
from consistency_bench.benchmarks.common.lock import acquire, is_held
from consistency_bench.benchmarks.common.seal import seal
from consistency_bench.benchmarks.runs.damage import damages
from consistency_bench.benchmarks.runs.folder import Run, find_cells
from consistency_bench.benchmarks.runs.status import State
from consistency_bench.benchmarks.training.checkpoint import load_checkpoint

from .damage_anything import COMMANDS, DAMAGE, FILES, complaints, finished, numbers, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep with its report."""
    return finished(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copied(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the finished sweep, `runs` in the working directory."""
    shutil.copytree(whole, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_of_one_cell_is_named_and_the_rest_is_done(whole: Path, tmp_path: Path, file: str) -> None:
    lost = []
    for place, kind in enumerate(DAMAGE, start=FILES.index(file)):
        for name in COMMANDS if place % 3 == 0 else ("status", "compare"):
            lost += [f"{name}, {kind}: {wrong}" for wrong in complaints(whole, tmp_path, file, kind, name)]
    assert lost == []


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b'{"what": "halves"}\n{}\n', None])
@pytest.mark.usefixtures("copied")
def test_damaged_baselines_are_named_and_made_again(content: bytes | None) -> None:
    path = Path("runs/toy2d/reference.jsonl")
    before = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    status, text = said(*COMMANDS["report"])
    assert status == 1
    assert "4 cells (4 finished)" in Path("runs/leaderboard.md").read_text(encoding="utf-8")
    assert "reference.jsonl" in text
    assert said(*COMMANDS["run"])[0] == 0
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("copied")
def test_damaged_pages_plots_and_stamps_are_written_again() -> None:
    plot, page, stamp = (Path("runs") / name for name in ("plots/toy2d-bars.png", "leaderboard.md", ".report.json"))
    sound = plot.read_bytes(), page.read_bytes()
    plot.write_bytes(b"junk")
    page.unlink()
    page.mkdir()
    assert said(*COMMANDS["run"])[0] == 0
    assert (plot.read_bytes(), page.read_bytes()) == sound
    stamp.unlink()
    stamp.mkdir()
    assert said(*COMMANDS["run"])[0] == 0
    assert stamp.is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("copied")
def test_damaged_sweep_records_leave_the_cells_in_sight() -> None:
    Path("runs/sweeps/one/array-0").mkdir(parents=True)
    for content in (None, "{", '{"arrays": 3}'):
        if content is not None:
            Path("runs/sweeps/one/sweep.json").write_text(content)
        for name in ("status", "report"):
            status, text = said(*COMMANDS[name])
            assert (status, "sweep.json" in text) == (1, True)
        assert "4 cells (4 finished)" in Path("runs/leaderboard.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("copied")
def test_cells_in_the_folders_of_each_other_are_trained_again() -> None:
    before = numbers(Path("runs"))
    first, *_, last = (run.path for run in find_cells(Path("runs")))
    first.rename("aside")
    last.rename(first)
    Path("aside").rename(last)
    assert said(*COMMANDS["status"])[0] == 1
    assert said(*COMMANDS["run"])[0] == 0
    assert numbers(Path("runs")) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vct/{}", "ect/s0-copy-{}"])
@pytest.mark.usefixtures("copied")
def test_a_copy_of_a_cell_does_not_count_twice(name: str) -> None:
    first = find_cells(Path("runs"))[0].path
    end = first.name if name.startswith("vct") else first.name.split("-")[1]
    shutil.copytree(first, first.parents[1] / name.format(end))
    for command in ("status", "compare", "report"):
        status, text = said(*COMMANDS[command])
        assert (status, "remove the copy" in text) == (1, True)
    assert "4 cells (4 finished)" in Path("runs/leaderboard.md").read_text(encoding="utf-8")


def test_an_edited_digit_of_a_row_is_noticed_and_so_is_a_lost_digest(tmp_path: Path) -> None:
    from consistency_bench.benchmarks.common.files import write_jsonl

    path = tmp_path / "records.jsonl"
    write_jsonl(path, [{"value": 2738.0}, {"value": 1.5}])
    sound = path.read_text()
    assert [json.loads(line)["digest"] for line in sound.splitlines()] == [digest_of(row) for row in read_jsonl(path)]
    lost = sound.replace(f', "digest": "{digest_of({"value": 1.5})}"', "")
    for content in (sound.replace("2738", "2739"), sound.replace("1.5", "1.50001"), lost):
        path.write_text(content)
        with pytest.raises(DamagedError, match=r"records\.jsonl: line \d was changed after it was written"):
            read_jsonl(path)
    path.write_text('{"value": 2738.0}\n')  # of a version without digests
    assert read_jsonl(path) == [{"value": 2738.0}]


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        f"seed: {'9' * 5000}",
        f"seed: 0x{'f' * 5000}",
        "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 9))]),
    ],
    ids=["list in itself", "mapping in itself", "digits", "hexadecimal digits", "laughs"],
)
def test_yaml_without_an_end_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(DamagedError, match=r"config\.yaml is not YAML"):
        read_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"[]",
        b"3",
        b'{"pid": "one", "token": "a"}',
        b'{"pid": true, "token": "a"}',
        b'{"pid": 1, "token": "../../x"}',
        b'{"pid": 1e999, "token": "a"}',
        b'{"pid": 1, "token": "a", "restart": "x"}',
        b"[" * 100_000,
    ],
    ids=str,
)
def test_a_lock_without_an_owner_is_waited_for_and_then_removed(tmp_path: Path, content: bytes) -> None:
    import os

    (tmp_path / "cell").mkdir()
    lock = tmp_path / "cell" / "lock"
    lock.write_bytes(content[:30] if content.startswith(b"[[") else content)
    assert is_held(lock)  # for as long as a silent owner has
    os.utime(lock, (0, 0))
    assert not is_held(lock)
    held = acquire(lock)
    assert held is not None
    held.release()
    assert list(tmp_path.iterdir()) == [tmp_path / "cell"]


def test_a_checkpoint_that_asks_for_more_memory_than_there_is_is_damaged(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return bytearray, (1 << 45,)

    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    torch.save({"weights": Bomb(), "averages": {}, "optimizer": {}, "state": {}}, path)
    seal(path)
    with pytest.raises(DamagedError, match=r"the checkpoint .*last\.pt cannot be read"):
        load_checkpoint(tmp_path, torch.device("cpu"))


@pytest.mark.slow
def test_an_unreadable_status_is_a_state_and_stops_no_start(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "runs")
    run = find_cells(tmp_path / "runs")[0]
    run.status_file.write_text('{"state": "done", "images": 1e999}')
    assert run.status.state is State.DAMAGED
    assert [item.file for item in damages(Run(run.path))] == [run.status_file]
    run.set_state(State.QUEUED)
    assert run.status.state is State.QUEUED
