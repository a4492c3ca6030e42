"""Samples as files: formats that other programs read, the same bytes each time, all or nothing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.data.registry import load
from consistency_bench.benchmarks.evaluation.sample_files import Batch, write_samples
from consistency_bench.benchmarks.execution.cell import run_cell

from ..conftest import Bench, put, tiny_cell

COUNT = 1_003


def samples(channels: int, size: int = 8) -> torch.Tensor:
    return torch.randint(256, (COUNT, channels, size, size), dtype=torch.uint8, generator=torch.manual_seed(channels))


def batches(images: torch.Tensor, labels: torch.Tensor | None = None) -> Iterator[Batch]:
    for start in range(0, len(images), 100):
        yield images[start : start + 100], None if labels is None else labels[start : start + 100]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["made/folder", "file.zip", "file.npz"])
@pytest.mark.parametrize("conditional", [False, True])
def test_images_are_read_back_by_the_benchmark_of_images(
    tmp_path: Path, name: str, channels: int, conditional: bool
) -> None:
    images = samples(channels)
    labels = torch.arange(COUNT) % 7 if conditional else None
    write_samples(tmp_path / name, batches(images, labels), tuple(images.shape[1:]), COUNT)
    read = load("images", tmp_path / name)
    assert torch.equal(read.images, images)
    assert torch.equal(read.labels, torch.zeros(COUNT).long() if labels is None else labels)


@pytest.mark.parametrize("name", ["file.zip", "file.npz"])
def test_the_same_samples_are_the_same_bytes(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for zone in ("UTC", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        (tmp_path / zone).mkdir(parents=True)
        write_samples(tmp_path / zone / name, batches(samples(3)), (3, 8, 8), COUNT)
        written.append((tmp_path / zone / name).read_bytes())
    assert written[0] == written[1]


def test_names_and_classes_are_in_the_layout_of_edm(tmp_path: Path) -> None:
    write_samples(tmp_path / "made", batches(samples(1), torch.arange(COUNT) % 7), (1, 8, 8), COUNT)
    assert (tmp_path / "made" / "00001" / "img00001002.png").is_file()
    with Image.open(tmp_path / "made" / "00000" / "img00000005.png") as image:
        assert (image.mode, image.size) == ("L", (8, 8))
    listed = json.loads((tmp_path / "made" / "dataset.json").read_text())["labels"]
    assert listed[1002] == ["00001/img00001002.png", 1002 % 7]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Batch]:
        yield samples(1)[:10], None
        raise RuntimeError("the network fails")

    for name in ("folder", "file.zip", "file.npz"):
        with pytest.raises(RuntimeError):
            write_samples(tmp_path / name, broken(), (1, 8, 8), COUNT)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.npz").write_text("data")
    for name in ("mine", "mine.npz"):
        with pytest.raises(UsageError, match="exists already"):
            write_samples(tmp_path / name, batches(samples(1)), (1, 8, 8), COUNT)
    assert (tmp_path / "mine.npz").read_text() == "data"
    with pytest.raises(UsageError, match="are not images"):
        write_samples(tmp_path / "points", iter([(torch.zeros(3, 2), None)]), (2,), 3)


@pytest.mark.slow
def test_the_command_draws_what_was_scored_and_twice_the_same(tmp_path: Path, bench: Bench) -> None:
    cell = tiny_cell("ect", "eval.nfe=[1,2]")
    folder = put(cell, tmp_path / "runs")
    for arguments, message in (((), "only a cell that is done"), (("--nfe", "0"), "--nfe")):
        done = bench("sample", folder, "--out", "x.npz", *arguments)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    run_cell(folder)
    for name in ("a.npz", "b.npz"):
        done = bench("sample", cell.id, "--n", "300", "--nfe", "2", "--out", name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    points = np.load(tmp_path / "a.npz")["points"]
    kept = np.load(folder / "samples" / "nfe2.npz")["samples"]
    assert np.array_equal(points[: len(kept)], kept)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None
    assert "are not images" in bench("sample", folder, "--out", "a.zip").stderr
    (snapshot,) = folder.glob("snapshots/*2560.safetensors")
    content = bytearray(snapshot.read_bytes())
    content[-3] ^= 1
    snapshot.write_bytes(content)
    done = bench("sample", folder, "--out", "c.npz")
    assert (done.returncode, "its checksum is missing or not that of its content" in done.stderr) == (2, True)
    assert not (tmp_path / "c.npz").exists()
