"""What a cell keeps of its samples, of the lines along which points are transported, and of what a coupling learned."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.evaluation.artifacts import posterior_arrays
from consistency_bench.benchmarks.evaluation.posterior import KlParts, kl_parts
from consistency_bench.benchmarks.evaluation.sample import latents
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.runs.folder import Run
from consistency_bench.benchmarks.training.checkpoint import load_snapshot
from consistency_bench.benchmarks.training.model import Model, build_model
from consistency_bench.methods.parts.base import Gaussian

from ..conftest import put, tiny_cell


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def test_points_are_kept_with_the_latents_and_modes_they_belong_to(tmp_path: Path) -> None:
    files = Run(put(tiny_cell("ect"), tmp_path))
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
    files = Run(put(tiny_cell("ect", "data.variant=spiral"), tmp_path))
    run_cell(files.path)
    assert set(arrays(files.samples(1))) == {"samples", "latents"}


def test_a_learned_coupling_is_that_of_the_averaged_encoder(tmp_path: Path) -> None:
    cell = tiny_cell("vct")
    files = Run(put(cell, tmp_path))
    run_cell(files.path)
    kept = arrays(files.coupling)
    dataset = load_dataset(cell.config.data)
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
    files = Run(put(tiny_cell("ict+ot", "train.batch=128"), tmp_path))
    run_cell(files.path)
    kept = arrays(files.coupling)
    for rows in (slice(0, 128), slice(128, 256)):
        noise, coupled = kept["noise"][rows], kept["coupled"][rows]
        assert not np.array_equal(coupled, noise)
        assert np.array_equal(np.unique(coupled, axis=0), np.unique(noise, axis=0))
        assert (kept["x"][rows] * coupled).sum() > (kept["x"][rows] * noise).sum()


# What a coupling has learned

DIGITS = ("benchmark=digits", "eval.metrics=[fd_digits_500]")


class Known(nn.Module):
    """An encoder whose law is known: μ = scale · x + label and s = std. Remembers what it was shown."""

    def __init__(self, scale: float, std: float) -> None:
        super().__init__()
        self.scale, self.std = scale, std
        self.shown: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        self.shown.append((x, labels))
        offset = 0 if labels is None else labels.view(-1, *[1] * (x.ndim - 1))
        return self.scale * x + offset, torch.full_like(x, self.std)


def known(encoder: nn.Module, *settings: str) -> tuple[Model, Dataset]:
    config = tiny_cell("vct", *settings).config
    dataset = load_dataset(config.data)
    model = build_model(config, dataset, torch.device("cpu"))
    model.method.modules["encoder"] = encoder
    return model, dataset


PARTS = ("part_images", "part_kl", "part_information", "part_variance")


def divergence(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Of the normal law from N(0, 1), summed over the elements of a sample."""
    mean, std = mean.reshape(len(mean), -1).astype(float), std.reshape(len(std), -1).astype(float)
    return ((mean**2 + std**2 - 1) / 2 - np.log(std)).sum(1)


@pytest.mark.parametrize("settings", [DIGITS, ()], ids=["images", "points"])
def test_a_learned_law_is_kept_for_the_data_that_every_cell_shows(settings: tuple[str, ...], tmp_path: Path) -> None:
    cell = tiny_cell("vct", *settings)
    files = Run(put(cell, tmp_path))
    run_cell(files.path)
    kept = arrays(files.posterior)
    if settings:
        assert set(kept) == {"x", "mean", "std", "kl", *PARTS}
        assert np.array_equal(kept["x"], arrays(files.real)["samples"][:16])
    else:
        assert set(kept) == {"x", "mean", "std", "kl", "modes", *PARTS}
        lines = arrays(files.coupling)
        assert np.array_equal(kept["x"], lines["x"])
        assert np.array_equal(kept["modes"], lines["modes"])
        assert lines["coupled"] == pytest.approx(kept["mean"] + kept["std"] * lines["noise"], abs=1e-6)
    dataset = load_dataset(cell.config.data)
    averaged = build_model(cell.config, dataset, torch.device("cpu")).averaged()
    load_snapshot(files.path, 2560, averaged.weights)
    with torch.no_grad():
        mean, std = averaged.method.modules["encoder"](dataset.to_model(torch.from_numpy(kept["x"])), None)
    assert kept["mean"] == pytest.approx(mean.numpy(), abs=1e-6)
    assert kept["std"] == pytest.approx(std.numpy(), abs=1e-6)
    assert kept["kl"] == pytest.approx(divergence(kept["mean"], kept["std"]), rel=1e-6)
    assert {name: str(kept[name].dtype) for name in ("mean", "std", "kl")} == dict.fromkeys(
        ("mean", "std", "kl"), "float32"
    )


def test_the_law_of_a_known_encoder() -> None:
    encoder = Known(scale=2.0, std=0.5)
    model, dataset = known(encoder, *DIGITS)
    kept = {
        name: array.numpy() for name, array in posterior_arrays(model, dataset, "digits", conditional=False).items()
    }
    pixels = kept["x"] / 127.5 - 1
    assert kept["x"].shape == (16, 1, 8, 8)
    assert kept["mean"] == pytest.approx(2 * pixels, abs=1e-6)
    assert (kept["std"] == 0.5).all()
    by_hand = (4 * pixels**2 + 0.25 - 1).sum((1, 2, 3)) / 2 + 64 * np.log(2)
    assert kept["kl"] == pytest.approx(by_hand, rel=1e-6)
    # Passes of fixed sizes, whatever batches training and evaluation make: of the images that are kept, and of all.
    assert [len(x) for x, _ in encoder.shown] == [16, 1024, 414]


def test_the_parts_of_the_divergence_of_a_known_encoder() -> None:
    """z = 2 x + 0.5 e of all images, which are far apart: z tells the image, and the aggregate has their variance."""
    model, dataset = known(Known(scale=2.0, std=0.5), *DIGITS)
    kept = posterior_arrays(model, dataset, "digits", conditional=False)
    pixels = dataset.to_model(dataset.images).double().flatten(1)
    assert kept["part_images"] == 1438
    variance = 0.25 + 4 * pixels.var(0, correction=0).mean()
    assert kept["part_variance"].item() == pytest.approx(variance.item(), rel=1e-6)
    kl = (4 * pixels**2 + 0.25 - 1).sum(1).mean() / 2 + 64 * math.log(2)
    assert kept["part_kl"].item() == pytest.approx(kl.item(), rel=1e-6)
    assert 0.9 * math.log(1438) < kept["part_information"].item() <= math.log(1438)


@pytest.mark.parametrize("std", [1.0, 1.0001])
def test_near_the_prior_no_divergence_is_lost_in_rounding(std: float) -> None:
    model, dataset = known(Known(scale=0.0, std=std), *DIGITS)
    kept = posterior_arrays(model, dataset, "digits", conditional=False)
    assert (kept["kl"] >= 0).all()
    assert kept["kl"].numpy() == pytest.approx(divergence(kept["mean"].numpy(), kept["std"].numpy()), rel=1e-3, abs=0)


def test_a_conditional_encoder_is_told_the_labels_of_the_images() -> None:
    encoder = Known(scale=0.0, std=1.0)
    model, dataset = known(encoder, *DIGITS, "data.conditional=true")
    kept = posterior_arrays(model, dataset, "digits", conditional=True)
    labels = kept["mean"][:, 0, 0, 0].long()
    assert len(labels.unique()) > 2
    for x, label in zip(kept["x"], labels, strict=True):
        (place,) = [place for place, image in enumerate(dataset.images) if torch.equal(image, x)]
        assert dataset.labels[place] == label


@pytest.mark.parametrize(("scale", "std"), [(float("nan"), 1.0), (1.0, float("inf")), (1.0, 0.0), (1e30, 1.0)])
def test_a_law_that_is_not_finite_is_not_kept(scale: float, std: float) -> None:
    model, dataset = known(Known(scale, std), *DIGITS)
    assert posterior_arrays(model, dataset, "digits", conditional=False) == {}


@pytest.mark.parametrize("share", [1, 0.25])
def test_the_log_holds_the_divergence_over_all_rows_whatever_its_weight(share: float, tmp_path: Path) -> None:
    """Of an encoder that is not trained; rows that are not coupled count as 0 in the log, and warm-up does not."""
    options = (f"method.coupling.share={share}", "method.coupling.kl_warmup=1", "train.lr=1e-12", "eval.nfe=[1]")
    files = Run(put(tiny_cell("vct", *options), tmp_path))
    run_cell(files.path)
    penalties = [row["penalty"] for row in files.train_log]
    assert np.mean(penalties) == pytest.approx(share * arrays(files.posterior)["kl"].mean(), rel=0.1)


@pytest.mark.parametrize(
    ("method", "settings"), [("ect", ()), ("ict+ot", ()), ("ect+gc", ()), ("vct", ("method.coupling.share=0",))]
)
def test_without_a_learned_law_there_is_no_file(method: str, settings: tuple[str, ...], tmp_path: Path) -> None:
    files = Run(put(tiny_cell(method, "eval.nfe=[1]", *settings), tmp_path))
    run_cell(files.path)
    assert files.samples(1).exists()
    assert not files.posterior.exists()


def parts_of(mean: list[list[float]], std: list[list[float]]) -> KlParts:
    posterior = Gaussian(mean=torch.tensor(mean).repeat(2000, 1), std=torch.tensor(std).repeat(2000, 1))
    return kl_parts(posterior, torch.Generator().manual_seed(0))


def test_a_noise_without_a_coupling_has_no_information() -> None:
    parts = parts_of([[0.5, -1.0]], [[0.5, 2.0]])
    assert parts.information == pytest.approx(0, abs=1e-9)
    assert parts.kl == pytest.approx((0.25 + 0.25 - 1 + 1 + 4 - 1) / 2 - math.log(0.5) - math.log(2))
    assert parts.variance == pytest.approx((0.25 + 4) / 2)


def test_the_information_of_two_noises_agrees_with_quadrature() -> None:
    """Half of the data have N(0.5, 0.6²), half N(-0.5, 0.8²): I = entropy of the mixture - mean of the entropies."""
    parts = parts_of([[0.5], [-0.5]], [[0.6], [0.8]])
    z = np.linspace(-8, 8, 200_001)
    density = (
        sum(np.exp(-(((z - m) / s) ** 2) / 2) / (s * np.sqrt(2 * np.pi)) for m, s in ((0.5, 0.6), (-0.5, 0.8))) / 2
    )
    entropy = -np.trapezoid(density * np.log(density), z)
    own = math.log(0.6 * 0.8) / 2 + math.log(2 * math.pi * math.e) / 2
    assert parts.information == pytest.approx(entropy - own, abs=0.03)
    assert parts.variance == pytest.approx((0.36 + 0.64) / 2 + 0.25)


def test_noises_far_apart_tell_the_sample() -> None:
    posterior = Gaussian(mean=torch.arange(8.0)[:, None] * 100, std=torch.full((8, 1), 0.1))
    parts = kl_parts(posterior, torch.Generator().manual_seed(0))
    assert parts.information == pytest.approx(math.log(8), abs=1e-9)
