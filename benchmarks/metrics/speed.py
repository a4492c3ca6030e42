"""How fast features and distances are here, beside clean-fid on the same images and beside the machine's own limit.

clean-fid reads PNG files, resizes with its own code and runs its own wrapper of the network, which loads a TorchScript
archive. The archive that it would download is not run: one with the same network, batch norm not folded, is written
in its place, so that both sides hold the same weights and only how they use them differs.

Machines change speed, by a factor of two where others share them. Whatever is divided by each other is therefore
measured in turns, a second apart, and the median of the rounds' ratios counts.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ..common.precision import float32_products
from ..data.base import Dataset
from .distances import frechet_from_features
from .extractors import weight_files as network_files
from .extractors.inception import Inception, inception, load

PROTOCOL = "clean"
ROUNDS = 3  # at least, of extraction: images are taken again where there are too few
ROWS, SIZE = 512, 2048  # of the sets whose distance is timed
STREAMED = 50_000  # rows whose moments are streamed
_BATCH = {"cpu": 64}  # images of a round
_CLEAN_FID_BATCH = {"cpu": 32}  # images that clean-fid takes at once, there its default
_BATCH_ELSEWHERE = 128
_PIXELS = 32
_ADDED = 1000  # rows that the moments get at once
_SIDES = {"cpu": (1024, 2048)}  # of the square matrices that are multiplied
_SIDES_ELSEWHERE = (4096, 8192)


@dataclass(frozen=True)
class Round:
    """One batch of images by either side, and what the machine could do a moment before.

    images:   in the batch.
    ours, clean_fid: seconds for their features.
    matmul:   float32 operations a second of `torch.matmul`, the best of several.
    conv:     the same of that product written as a convolution of 1 × 1, which another library computes on CPUs.
    """

    images: int
    ours: float
    clean_fid: float
    matmul: float
    conv: float


@dataclass(frozen=True)
class Extraction:
    """Features of the same images by the suite's Inception and by clean-fid.

    batch:      images of a round, which clean-fid takes at once and the suite in batches of its own.
    images:     different images in all rounds.
    flops:      of the network for one image, counted; a multiplication and an addition are two.
    difference: the largest between the two sides' features of an image.
    reading:    seconds in which the PNG files of one image are read, a part of clean-fid's time alone.
    """

    batch: int
    images: int
    flops: int
    difference: float
    reading: float
    rounds: tuple[Round, ...]

    @property
    def ours(self) -> float:
        """Images a second of the suite, preparation included."""
        return statistics.median(turn.images / turn.ours for turn in self.rounds)

    @property
    def clean_fid(self) -> float:
        """Images a second of clean-fid, reading and resizing included."""
        return statistics.median(turn.images / turn.clean_fid for turn in self.rounds)

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times as fast as clean-fid the suite is, by rounds."""
        return tuple(turn.clean_fid / turn.ours for turn in self.rounds)

    @property
    def matmul(self) -> float:
        """Operations a second of the matrix product, the best of all rounds."""
        return max(turn.matmul for turn in self.rounds)

    @property
    def conv(self) -> float:
        """Operations a second of the same product as a convolution, the best of all rounds."""
        return max(turn.conv for turn in self.rounds)

    @property
    def shares(self) -> tuple[float, ...]:
        """What share of the matrix product's rate the extractor reaches, by rounds; can be above 1."""
        return tuple(self.flops * turn.images / turn.ours / turn.matmul for turn in self.rounds)

    @property
    def strict_shares(self) -> tuple[float, ...]:
        """The same of the faster of the two ways to multiply matrices."""
        return tuple(self.flops * turn.images / turn.ours / max(turn.matmul, turn.conv) for turn in self.rounds)


@dataclass(frozen=True)
class Distance:
    """The Fréchet distance between two sets of `rows` features in `size` dimensions: seconds, and values."""

    rows: int
    size: int
    ours: float
    clean_fid: float
    value: float
    clean_fid_value: float

    @property
    def ratio(self) -> float:
        """How many times as fast as clean-fid the suite is."""
        return self.clean_fid / self.ours


@dataclass(frozen=True)
class Whole:
    """Seconds for the features of two sets of images and their distance.

    extrapolated: whether fewer images than that were measured.
    """

    images: int
    ours: float
    clean_fid: float
    extrapolated: bool

    @property
    def ratio(self) -> float:
        """How many times as fast as clean-fid the suite is."""
        return self.clean_fid / self.ours


@dataclass(frozen=True)
class Memory:
    """Most memory in bytes of a process that streams the moments of `rows` features in `size` dimensions.

    baseline: of one that imports torch and ends.
    """

    rows: int
    size: int
    peak: int
    baseline: int


# --- features --------------------------------------------------------------------------------------------------------


def extraction(
    images: int, device: torch.device, *, batch: int | None = None, sides: tuple[int, ...] | None = None
) -> Extraction:
    """Features of `images` random images, in turns by the suite and by clean-fid.

    batch: images a round, which both sides cut as they do: 64 on a CPU, else 128.
    sides: of the square matrices whose product is the machine's limit.
    Raises UsageError where the weights of Inception are missing or damaged, ValueError for no images.
    """
    if images < 1:
        raise ValueError(f"there must be at least one image, got {images}")
    weights = network_files.locate("inception")
    batch = min(images, batch or _BATCH.get(device.type, _BATCH_ELSEWHERE))
    sides = sides or _SIDES.get(device.type, _SIDES_ELSEWHERE)
    pixels = sample_images(images)
    ours = inception(Dataset("speed", pixels, torch.zeros(images, dtype=torch.int64), 1), device, PROTOCOL)
    with tempfile.TemporaryDirectory() as folder:
        at_once = min(batch, _CLEAN_FID_BATCH.get(device.type, _BATCH_ELSEWHERE))
        clean_fid = clean_fid_features(weights, device, at_once, Path(folder))
        files = write_images(pixels, Path(folder))
        # Both once before the clock runs: TorchScript compiles on its first calls, cuDNN chooses its algorithms.
        for _ in range(2):
            clean_fid(files[:batch])
        ours(pixels[:batch])
        rounds: list[Round] = []
        difference = 0.0
        parts = list(zip(pixels.split(batch), _split(files, batch), strict=True))
        for number in range(max(ROUNDS, len(parts))):
            part, names = parts[number % len(parts)]
            matmul, conv = _products(device, sides)
            if number % 2:
                theirs, slow = _timed(lambda names=names: clean_fid(names), device)
                values, fast = _timed(lambda part=part: ours(part).values, device)
            else:
                values, fast = _timed(lambda part=part: ours(part).values, device)
                theirs, slow = _timed(lambda names=names: clean_fid(names), device)
            difference = max(difference, float((values - theirs).abs().max()))
            rounds.append(Round(len(part), fast, slow, matmul, conv))
        reading = _timed(lambda: [_read(file) for file in files], device)[1] / images
    return Extraction(batch, images, network_flops(), difference, reading, tuple(rounds))


def sample_images(count: int) -> Tensor:
    """Smooth colours with noise upon them: uint8 [count, 3, 32, 32], always the same ones."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), (_PIXELS, _PIXELS), mode="bicubic")
    noise = torch.randn(count, 3, _PIXELS, _PIXELS, generator=generator)
    return (255 * smooth + 25 * noise).clamp(0, 255).round().byte()


def write_images(images: Tensor, folder: Path) -> list[str]:
    """Write uint8 images [N, 3, H, W] as PNG files. Returns their paths, in order."""
    files = [str(folder / f"{number:06}.png") for number in range(len(images))]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return files


def clean_fid_features(weights: Path, device: torch.device, batch: int, folder: Path) -> Callable[[list[str]], Tensor]:
    """clean-fid's way from PNG files to features [N, 2048], with its own options and no worker processes.

    weights: the file of Inception's tensors; `folder` gets an archive of the network under the name clean-fid opens.
    """
    from cleanfid.fid import get_files_features
    from cleanfid.inception_torchscript import InceptionV3W

    write_archive(load(weights), folder / "inception-2015-12-05.pt")
    with _quiet():
        network = InceptionV3W(str(folder), download=False, resize_inside=False).to(device).eval()

    def features(files: list[str]) -> Tensor:
        with _quiet(), float32_products(tf32=False):
            values = get_files_features(
                files, network, num_workers=0, batch_size=batch, device=device, mode=PROTOCOL, verbose=False
            )
        return torch.from_numpy(values)

    return features


def write_archive(network: Inception, path: Path) -> None:
    """Write a network as a TorchScript archive whose part `layers` returns features: what clean-fid's wrapper calls."""

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)

    class Archive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = Layers()

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    with _quiet(), torch.no_grad():
        traced: Any = torch.jit.trace(Archive().eval(), torch.zeros(1, 3, 299, 299))
        traced.save(str(path))


def network_flops() -> int:
    """Operations of the network for one image, counted on shapes alone."""
    with torch.device("meta"), torch.no_grad():
        network = Inception().eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 299, 299))
    return counter.get_total_flops()


def _products(device: torch.device, sides: tuple[int, ...], repeats: int = 3) -> tuple[float, float]:
    """float32 operations a second of a matrix product and of the same as a convolution: the best size and time."""
    matmul, conv = 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    for side in sides:
        a, b = (torch.randn(side, side, generator=generator).to(device) for _ in range(2))
        # Rows of the matrix are the pixels of several small images, because one image alone takes a slower way.
        x = a.view(-1, 8, 8, side).permute(0, 3, 1, 2)
        kernel = b[:, :, None, None].contiguous(memory_format=torch.channels_last)
        for _ in range(repeats + 1):  # the first is to warm up, and never the best
            with float32_products(tf32=False):
                matmul = max(matmul, 2 * side**3 / _timed(lambda a=a, b=b: a @ b, device)[1])
                conv = max(conv, 2 * side**3 / _timed(lambda x=x, kernel=kernel: F.conv2d(x, kernel), device)[1])
    return matmul, conv


# --- distance --------------------------------------------------------------------------------------------------------


def distance(rows: int = ROWS, size: int = SIZE, repeats: int = 5) -> Distance:
    """The Fréchet distance between two sets of features, by the suite (median of `repeats`) and once by clean-fid.

    Both get features [rows, size] in float32 and fit their moments themselves.
    """
    a, b = sample_features(rows, size, seed=0), sample_features(rows, size, seed=1)
    times = []
    value = frechet_from_features(a, b)
    for _ in range(repeats):
        start = time.perf_counter()
        value = frechet_from_features(a, b)
        times.append(time.perf_counter() - start)
    with scipy_as_clean_fid_knows_it() as fid:
        start = time.perf_counter()
        theirs = fid.fid_from_feats(a.numpy(), b.numpy())
        seconds = time.perf_counter() - start
    return Distance(rows, size, statistics.median(times), seconds, value, float(theirs))


def sample_features(rows: int, size: int, seed: int) -> Tensor:
    """Random features like those of a network: float32 [rows, size], positive, of variances over three decades."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(0, -1.5, size)
    return (0.4 + 0.1 * seed + 0.3 * spread * torch.randn(rows, size, generator=generator)).clamp_min(0)


@contextmanager
def scipy_as_clean_fid_knows_it() -> Iterator[types.ModuleType]:
    """clean-fid's module `fid`, whose `sqrtm` has within the argument that clean-fid gives and SciPy 1.18 has no more.

    Nothing else of it is touched, and nothing at all where SciPy still has the argument.
    """
    from cleanfid import fid

    before = fid.linalg
    if "disp" not in inspect.signature(scipy.linalg.sqrtm).parameters:
        fid.linalg = types.SimpleNamespace(sqrtm=_sqrtm)
    try:
        with _quiet():
            yield fid
    finally:
        fid.linalg = before


def _sqrtm(matrix: np.ndarray, disp: bool = True) -> Any:
    root = scipy.linalg.sqrtm(matrix)
    return root if disp else (root, 0.0)


def whole(features: Extraction, frechet: Distance) -> Whole:
    """Two sets of images to a distance: their features at the rates measured, and the distance as measured."""
    images = 2 * frechet.rows
    return Whole(
        images,
        images / features.ours + frechet.ours,
        images / features.clean_fid + frechet.clean_fid,
        extrapolated=features.images < images,
    )


# --- memory ----------------------------------------------------------------------------------------------------------

#: Runs a command and prints how much memory it held at most. A process starts with the peak of the one that started
#: it, which may be large; this one between them is small.
_LAUNCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

_STREAM = """
import sys
import torch
from {package}.moments import Accumulator

rows, size, added = map(int, sys.argv[1:])
accumulator = Accumulator()
for first in range(0, rows, added):
    accumulator.add(torch.randn(min(added, rows - first), size))
assert accumulator.moments().count == rows
"""


def streamed_moments(rows: int = STREAMED, size: int = SIZE) -> Memory:
    """Memory of the moments of features [rows, size] that come in batches of 1,000, measured in a process of its own.

    Raises OSError or subprocess.CalledProcessError where that process cannot be measured.
    """
    code = _STREAM.format(package=__package__)
    return Memory(
        rows, size, peak_memory(code, str(rows), str(size), str(_ADDED)), baseline=peak_memory("import torch")
    )


def peak_memory(code: str, *arguments: str) -> int:
    """Bytes of memory that a new Python process held at most while it ran `code`, its own code included."""
    code += "\nimport os; os._exit(0)"  # torch touches another 100 MB only to leave in good order
    command = [sys.executable, "-c", _LAUNCH, sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return int(done.stdout) * unit


# --- small things ----------------------------------------------------------------------------------------------------


def _timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What `work` returns, and its seconds until the device is done with it."""
    _finish(device)
    start = time.perf_counter()
    result = work()
    _finish(device)
    return result, time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def _split(items: list[str], size: int) -> list[list[str]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _read(file: str) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of Pillow, NumPy and PyTorch on what clean-fid does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
