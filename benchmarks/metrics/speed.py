"""Speed and memory of features and distances, ours and clean-fid's, for the same images on this machine.

clean-fid reads PNG files, resizes with its own code and runs a TorchScript archive. Instead of the archive that it
would download, it gets one of our network with batch norm not folded, so both evaluators use the same weights.
"""

from __future__ import annotations

import inspect
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy.linalg
import torch
from PIL import Image
from torch import Tensor, nn

from ..common.precision import float32_products
from ..data.base import DataInfo
from .distances import frechet_from_features
from .extractors import weight_files
from .extractors.inception import INCEPTION, Inception, load

PROTOCOL = "clean"
ROUNDS = 3
ROWS, STREAMED, WIDTH = 512, 50_000, 2048  # features of a distance, of the moments, and their number per image
CLEAN_FID_BATCH = 32  # its default


@dataclass(frozen=True)
class Comparison:
    """One quantity of both evaluators, in `unit`."""

    what: str
    unit: str
    ours: float
    clean_fid: float


def compare_features(images: int, device: torch.device) -> Comparison:
    """Images per second of the features of `images` random images: medians of alternating rounds.

    Raises UsageError if the weights of Inception are missing or damaged.
    """
    pixels = sample_images(images)
    data = DataInfo(name="speed", count=images, shape=tuple(pixels.shape[1:]), classes=1)
    ours = INCEPTION.build(data, device, PROTOCOL)
    with tempfile.TemporaryDirectory() as folder:
        clean_fid = clean_fid_features(weight_files.locate("inception"), device, Path(folder))
        files = write_images(pixels, Path(folder))
        for _ in range(2):  # TorchScript compiles in its first calls
            clean_fid(files[:CLEAN_FID_BATCH])
        ours(pixels[:CLEAN_FID_BATCH])
        rounds = [(_seconds(lambda: ours(pixels)), _seconds(lambda: clean_fid(files))) for _ in range(ROUNDS)]
    fast, slow = (images / statistics.median(times) for times in zip(*rounds, strict=True))
    return Comparison("features", "images/s", fast, slow)


def compare_distances(rows: int = ROWS, width: int = WIDTH) -> Comparison:
    """Seconds for the Fréchet distance between two sets of random features [rows, width]."""
    a, b = (torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    ours = statistics.median(_seconds(lambda: frechet_from_features(a, b)) for _ in range(ROUNDS))
    clean_fid = _seconds(lambda: clean_fid_distance(a, b))
    return Comparison(f"distance of {rows} features", "s", ours, clean_fid)


def compare_memory(rows: int = STREAMED, width: int = WIDTH) -> Comparison:
    """Peak memory of processes that compute the moments of features [rows, width], in GB."""
    ours = f"""
import torch
from {__package__}.moments import MomentAccumulator

accumulator = MomentAccumulator()
for _ in range({rows} // 1000):
    accumulator.add(torch.randn(1000, {width}))
accumulator.moments()
"""
    clean_fid = f"""
import cleanfid.fid, numpy
features = numpy.concatenate([numpy.random.rand(1000, {width}).astype("float32") for _ in range({rows} // 1000)])
numpy.mean(features, axis=0), numpy.cov(features, rowvar=False)
"""
    return Comparison(f"moments of {rows:,} features", "GB", peak_memory(ours) / 1e9, peak_memory(clean_fid) / 1e9)


def sample_images(count: int) -> Tensor:
    """Smooth colours with noise: uint8 [count, 3, 32, 32], always the same ones."""
    generator = torch.Generator().manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(count, 3, 5, 5, generator=generator), (32, 32), mode="bicubic")
    noise = torch.randn(count, 3, 32, 32, generator=generator)
    return (255 * smooth + 25 * noise).clamp(0, 255).round().byte()


def write_images(images: Tensor, folder: Path) -> list[str]:
    """Write uint8 images [N, 3, H, W] as PNG files. Returns their paths, in order."""
    files = [str(folder / f"{number:06}.png") for number in range(len(images))]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return files


def clean_fid_features(weights: Path, device: torch.device, folder: Path) -> Callable[[list[str]], Tensor]:
    """clean-fid's function from PNG files to features [N, 2048], without worker processes.

    weights: the file of Inception's tensors. folder: receives the archive that clean-fid opens.
    """
    from cleanfid.fid import get_files_features
    from cleanfid.inception_torchscript import InceptionV3W

    class Archive(nn.Module):
        def __init__(self, network: Inception) -> None:
            super().__init__()
            self.layers = network

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        traced: Any = torch.jit.trace(Archive(load(weights)).eval(), torch.zeros(1, 3, 299, 299))
        traced.save(str(folder / "inception-2015-12-05.pt"))
        network = InceptionV3W(str(folder), download=False, resize_inside=False).to(device).eval()

    def features(files: list[str]) -> Tensor:
        with warnings.catch_warnings(action="ignore"), float32_products(tf32=False):
            options = {"num_workers": 0, "batch_size": CLEAN_FID_BATCH, "mode": PROTOCOL, "verbose": False}
            return torch.from_numpy(get_files_features(files, network, device=device, **options))

    return features


def clean_fid_distance(a: Tensor, b: Tensor) -> float:
    """clean-fid's Fréchet distance between features [N, D] and [M, D]."""
    from cleanfid import fid

    before = fid.linalg
    if "disp" not in inspect.signature(scipy.linalg.sqrtm).parameters:  # clean-fid passes it, SciPy 1.18 removed it
        fid.linalg = types.SimpleNamespace(sqrtm=lambda matrix, disp: (scipy.linalg.sqrtm(matrix), 0.0))
    try:
        with warnings.catch_warnings(action="ignore"):
            return float(fid.fid_from_feats(a.numpy(), b.numpy()))
    finally:
        fid.linalg = before


def peak_memory(code: str) -> int:
    """Peak memory in bytes of a new Python process that runs `code`.

    A process inherits the peak of the one that started it, so a small one in between starts and measures it.
    """
    launch = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    launch += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, "-c", launch, sys.executable, "-c", code]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()  # features end on the CPU, so nothing is left to wait for
    return time.perf_counter() - start
