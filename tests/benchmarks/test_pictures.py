"""What a cell keeps of its samples, and of the lines along which points are transported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from consistency_bench.benchmarks.cell import load_dataset, run_cell
from consistency_bench.benchmarks.checkpoint import load_snapshot
from consistency_bench.benchmarks.model import build_model
from consistency_bench.benchmarks.records import CellFiles
from consistency_bench.benchmarks.sample import latents

from .conftest import put, tiny_cell


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def test_points_are_kept_with_the_latents_and_modes_they_belong_to(tmp_path: Path) -> None:
    files = CellFiles(put(tiny_cell("ect"), tmp_path))
    run_cell(files.path)
    kept = arrays(files.samples(2))
    assert {name: array.shape for name, array in kept.items()} == {
        "samples": (256, 2),
        "latents": (256, 2),
        "modes": (256,),
    }
    assert np.array_equal(kept["latents"], latents("toy2d", 0, 1, 256, (2,))[0].numpy())
    distances = np.linalg.norm(kept["samples"][:, None] - [[0, 0.5], [0, -0.5]], axis=2)
    assert np.array_equal(kept["modes"], np.where(distances.min(1) <= 0.15, distances.argmin(1), -1))
    assert arrays(files.real)["samples"].shape == (256, 2)
    assert not files.coupling.exists()  # noise is left as it was drawn


def test_a_distribution_without_modes_has_none(tmp_path: Path) -> None:
    files = CellFiles(put(tiny_cell("ect", "data.variant=spiral"), tmp_path))
    run_cell(files.path)
    assert set(arrays(files.samples(1))) == {"samples", "latents"}


def test_images_have_neither_lines_nor_latents(tmp_path: Path) -> None:
    files = CellFiles(put(tiny_cell("vct", "benchmark=digits", "eval.metrics=[fd_digits_500]"), tmp_path))
    run_cell(files.path)
    assert set(arrays(files.samples(1))) == {"samples"}
    assert not files.coupling.exists()


def test_a_learned_coupling_is_that_of_the_averaged_encoder(tmp_path: Path) -> None:
    cell = tiny_cell("vct")
    files = CellFiles(put(cell, tmp_path))
    run_cell(files.path)
    kept = arrays(files.coupling)
    dataset = load_dataset(cell.config)
    averaged = build_model(cell.config, dataset, torch.device("cpu")).averaged()
    load_snapshot(files.path, 2560, averaged.weights)
    with torch.no_grad():
        mean, std = averaged.method.modules["encoder"](torch.from_numpy(kept["x"]), None)
    coupled = mean + std * torch.from_numpy(kept["noise"])
    assert kept["coupled"] == pytest.approx(coupled.numpy(), abs=1e-6)
    assert set(kept) == {"x", "noise", "coupled", "modes"}
    assert {mode for mode, (_, y) in zip(kept["modes"], kept["x"], strict=True) if y > 0} <= {0, -1}
    real = {tuple(point) for point in dataset.images.tolist()}
    assert all(tuple(point) in real for point in kept["x"].tolist())


def test_transport_reorders_noise_within_batches_of_the_training(tmp_path: Path) -> None:
    files = CellFiles(put(tiny_cell("ict+ot", "train.batch=128"), tmp_path))
    run_cell(files.path)
    kept = arrays(files.coupling)
    for rows in (slice(0, 128), slice(128, 256)):
        noise, coupled = kept["noise"][rows], kept["coupled"][rows]
        assert not np.array_equal(coupled, noise)
        assert np.array_equal(np.unique(coupled, axis=0), np.unique(noise, axis=0))
        assert (kept["x"][rows] * coupled).sum() > (kept["x"][rows] * noise).sum()
