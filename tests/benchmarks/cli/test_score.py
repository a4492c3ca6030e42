"""`bench score`: the numbers of the suite for images of any code base, or one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from consistency_bench.benchmarks.cli.score import score
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.data.registry import load, load_dataset
from consistency_bench.benchmarks.evaluation.sample_files import write_samples
from consistency_bench.benchmarks.metrics.evaluate import Evaluator

COUNT = 1_000


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Digits with noise, in a zip file."""

    def make(name: str = "samples.zip", channels: int = 1) -> Path:
        real = load("digits").images[:COUNT].float()
        noisy = real + 20 * torch.randn(real.shape, generator=torch.manual_seed(0))
        pixels = noisy.clamp(0, 255).to(torch.uint8).expand(-1, channels, -1, -1)
        write_samples(tmp_path / name, iter([(pixels, None)]), tuple(pixels.shape[1:]), COUNT)
        return tmp_path / name

    return make


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path, **options: str) -> dict[str, float]:
    assert score(arguments[0], str(arguments[1]), device="cpu", as_json=True, **options) == 0
    return {name: row["value"] for name, row in json.loads(capsys.readouterr().out)["metrics"].items()}


def test_the_values_are_those_of_the_evaluator(
    images: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["fd_digits_1k", "kd_digits_500", "precision_digits_500", "recall_digits_500"]
    path = images()
    (usual,) = compose_cells(["ect"], [0], ["benchmark=digits"])
    digits = load_dataset(usual.config.data)  # some scans are held out, as in training
    expected = Evaluator(digits, names).score(load("images", path).images)
    wanted = {name: found.value for name, found in expected.items()}
    metrics = "fd_digits_1k, kd_digits_500,pr_digits_500"
    assert shown(capsys, path, "digits", metrics=metrics) == wanted
    # The same with the real images in a file, and with grey samples that were saved in colour.
    real = digits.images
    write_samples(tmp_path / "real.npz", iter([(real, None)]), (1, 8, 8), len(real))
    assert shown(capsys, path, tmp_path / "real.npz", metrics=metrics) == wanted
    assert shown(capsys, images("colour.npz", channels=3), "digits", metrics=metrics) == wanted


def test_grey_samples_are_compared_with_colour_images(
    images: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    colour = images("colour.npz", channels=3)
    assert shown(capsys, images(), colour, metrics="fd_pixels8_1k")["fd_pixels8_1k"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("digts", {}, "unknown reference 'digts'. Did you mean: digits?"),
        ("digits", {"metrics": "fd_digits_2k"}, "metric 'fd_digits_2k' needs 2000 samples, and"),
        ("digits", {"metrics": "fd_digit_1k"}, "unknown metric 'fd_digit_1k'"),
        ("toy2d", {"metrics": "fd_pixels8_1k"}, "the reference 'toy2d' holds points, not images"),
        ("wide.npz", {"metrics": "fd_pixels8_1k"}, "has images of 8×8, and the reference of 12×12"),
        ("wide.npz", {"settings": ["data.root=x"]}, "data.root=x is a setting of a benchmark"),
        ("digits", {"settings": ["train.lr=1e-3,2e-3"]}, "train.lr=1e-3,2e-3: only settings of the data apply"),
        ("digits", {"settings": ["data.root=x"]}, "digits"),
    ],
)
def test_what_cannot_be_scored_is_said_in_a_sentence(
    images: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reference: str,
    options: dict,
    message: str,
) -> None:
    np.savez(tmp_path / "wide.npz", images=np.zeros((9, 12, 12), np.uint8))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        score(images(), reference, **{"metrics": "fd_pixels8_1k", "settings": None, "device": "cpu", **options})


def test_colours_are_no_grey_images(tmp_path: Path) -> None:
    pixels = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8)
    write_samples(tmp_path / "colour.zip", iter([(pixels, None)]), (3, 8, 8), 9)
    with pytest.raises(UsageError, match="has colour images, and the reference is grey"):
        score(tmp_path / "colour.zip", "digits", metrics="fd_pixels8_9", device="cpu")
