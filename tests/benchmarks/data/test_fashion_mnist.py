"""Fashion-MNIST as Debian packages it: the real files."""

from __future__ import annotations

from pathlib import Path

import torch

from consistency_bench.benchmarks.data.registry import load

from ...conftest import require

FOLDER = Path("/usr/share/datasets/fashion-mnist")


def test_the_packaged_files_are_the_published_ones(tmp_path: Path) -> None:
    require(FOLDER.is_dir(), "Fashion-MNIST", "apt-get install dataset-fashion-mnist")
    dataset = load("fashion_mnist", root=tmp_path, download=False)
    assert dataset.images.shape == (60_000, 1, 28, 28)
    assert dataset.images.dtype == torch.uint8
    assert torch.bincount(dataset.labels).tolist() == [6000] * 10
    mean = dataset.images.float().mean().item() / 255
    assert abs(mean - 0.2860) < 5e-5  # the mean that everybody normalises with
