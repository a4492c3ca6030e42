"""clean-fid as the yardstick: FID of two folders of PNG files by its code and by the suite's.

clean-fid gets what it would download, and one function that SciPy took away: its resizing, its network interface, its
statistics and its distance are its own.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor, nn

from consistency_bench.benchmarks.cli.score import score
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.metrics import distances
from consistency_bench.benchmarks.metrics.extractors import inception

from ...inception_reference import Layers, reference, weights_file

COUNT = 24  # images a folder; clean-fid's side takes a third of a second for each


class Archive(nn.Module):
    """Stands in for NVIDIA's archive: the independent network, not folded, with the archive's two ways to call it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor, return_features: bool) -> Tensor:
        assert return_features
        assert torch.equal(x, x.round())
        return reference()(x.byte())[0]


def sqrtm(matrix: np.ndarray, disp: bool = True) -> Any:
    """SciPy's matrix root with the argument that SciPy 1.18 has no more and clean-fid gives."""
    root = scipy.linalg.sqrtm(matrix)
    return root if disp else (root, 0.0)


@pytest.fixture
def clean_fid(monkeypatch) -> types.ModuleType:
    """clean-fid's module `fid`, that needs no download and no old SciPy."""
    from cleanfid import fid, inception_torchscript

    monkeypatch.setattr(inception_torchscript, "check_download_inception", lambda fpath: None)
    loader = types.SimpleNamespace(jit=types.SimpleNamespace(load=lambda path: Archive()), __version__="2")
    monkeypatch.setattr(inception_torchscript, "torch", loader)
    monkeypatch.setattr(fid, "linalg", types.SimpleNamespace(sqrtm=sqrtm))
    return fid


def images(seed: int, contrast: float) -> Tensor:
    """Smooth colours with noise upon them, uint8 [COUNT, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(COUNT, 3, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, (32, 32), mode="bicubic", align_corners=True)
    noise = 0.1 * torch.randn(COUNT, 3, 32, 32, generator=generator)
    return (255 * ((smooth - 0.5) * contrast + 0.5 + noise)).clamp(0, 255).round().byte()


def write(folder: Path, images: Tensor) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["clean", "legacy_tensorflow"])
@pytest.mark.filterwarnings("ignore")  # of Pillow and NumPy, on what clean-fid does
def test_fid_is_clean_fid_s(tmp_path, clean_fid, monkeypatch, capsys, protocol):
    monkeypatch.setenv("CONSISTENCY_BENCH_INCEPTION", str(weights_file()))
    real, fake = images(0, 1.0), images(1, 0.7)
    theirs = clean_fid.compute_fid(
        str(write(tmp_path / "real", real)),
        str(write(tmp_path / "fake", fake)),
        mode=protocol,
        num_workers=0,
        batch_size=16,
        device=torch.device("cpu"),
        use_dataparallel=False,
        verbose=False,
    )
    data = Dataset("images", real, torch.zeros(COUNT, dtype=torch.int64), classes=1)
    extract = inception.INCEPTION.build(data.info, torch.device("cpu"), protocol).extract
    ours = distances.frechet_from_features(extract(real).values, extract(fake).values)
    print(f"{protocol}: clean-fid {theirs}, here {ours}, relative difference {ours / theirs - 1:.1e}")
    assert ours > 10
    assert ours == pytest.approx(theirs, rel=1e-3)
    # And by the command, from the same folders.
    capsys.readouterr()
    name = f"fid{COUNT}" + ("_clean" if protocol == "clean" else "")
    assert score(tmp_path / "fake", str(tmp_path / "real"), metrics=name, device="cpu", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)["metrics"][name]["value"]
    assert found == pytest.approx(theirs, rel=1e-3)
