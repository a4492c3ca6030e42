"""`bench speed metrics`: how fast features and distances are here, beside clean-fid and the machine's limit."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from ..common.errors import UsageError

if TYPE_CHECKING:
    import torch

    from ..metrics.speed import Distance, Extraction, Memory, Whole

DEVICES = ("auto", "cpu", "cuda", "mps")
PACKAGES = ("numpy", "scipy", "pillow", "clean-fid")
IMAGES = 128


class Wanted(NamedTuple):
    """A figure, what it is wanted to be, and whether it is."""

    what: str
    found: str
    bound: str
    met: bool


def metrics(images: int = IMAGES, device: str = "auto") -> int:
    """Measure and print, each part when it is done; minutes on a CPU. Exit status 0, whatever the figures are.

    images: for the features, 1 or more; from 1,024 on nothing is extrapolated.
    Raises UsageError for an unknown or missing device, no images, and where the weights of Inception are missing.
    """
    if images < 1:
        raise UsageError(f"--images is {images}, must be at least 1")
    where = _device(device)
    from ..metrics import speed
    from ..metrics.extractors import weight_files as network_files

    network_files.locate("inception")  # where it is missing, before anything is said
    _print(*machine(where))
    features = speed.extraction(images, where)
    _print(*extraction_lines(features))
    frechet = speed.distance()
    total = speed.whole(features, frechet)
    _print(*distance_lines(frechet, total, features))
    memory = speed.streamed_moments()
    _print(*memory_lines(memory))
    _print("", *wanted_lines(wanted(features, frechet, total, memory)))
    return 0


def machine(device: torch.device) -> list[str]:
    """What the figures were measured on and with."""
    import torch

    from ..common.system import hardware

    found = hardware()
    processor = found["gpu"] if device.type == "cuda" else "the CPU"
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        f"machine   {found['cpu']}, {found['cores']} cores, {torch.get_num_threads()} threads; networks on {processor}",
        f"versions  Python {platform.python_version()}, torch {torch.__version__}, {packages}",
    ]


def extraction_lines(features: Extraction) -> list[str]:
    """What was measured of features."""
    low, high = min(features.ratios), max(features.ratios)
    rate = features.flops * features.ours
    return [
        f"features  {features.ours:.2f} images/s, clean-fid {features.clean_fid:.2f} images/s: medians of "
        f"{len(features.rounds)} rounds in turns of {features.batch} images, {features.images} images of 32 × 32; "
        f"ratios {low:.2f} to {high:.2f}",
        "          ours: uint8 in memory, resize batched, batch norm folded, channels last; clean-fid: PNG files, its "
        "own resize, TorchScript of the same network",
        f"          clean-fid's reading of PNG files: {1000 * features.reading:.2f} ms an image; "
        f"largest difference between the features {features.difference:.1e}",
        f"matrices  {features.matmul / 1e9:.1f} GFLOP/s of torch.matmul, {features.conv / 1e9:.1f} GFLOP/s of the same "
        "product as a 1 × 1 convolution; float32, the best of all rounds",
        f"          the network takes {features.flops / 1e9:.3f} GFLOP an image, counted: {rate / 1e9:.1f} GFLOP/s",
    ]


def distance_lines(frechet: Distance, total: Whole, features: Extraction) -> list[str]:
    """What was measured of the distance, and what follows for the whole."""
    how = (
        f"extrapolated from the rates of {features.images} images"
        if total.extrapolated
        else f"at the rates of {features.images} images"
    )
    change = abs(frechet.value / frechet.clean_fid_value - 1)
    return [
        f"distance  {frechet.ours:.3f} s, clean-fid {frechet.clean_fid:.1f} s (once): {frechet.rows} against "
        f"{frechet.rows} rows of {frechet.size:,} random features, values equal to {change:.1e}",
        f"whole     {total.ours:.1f} s, clean-fid {total.clean_fid:.1f} s: features of {total.images:,} images and the "
        f"distance, {how}",
    ]


def memory_lines(memory: Memory) -> list[str]:
    """What was measured of memory."""
    return [
        f"memory    {memory.peak / 1e9:.2f} GB at most in a process that streams the moments of {memory.rows:,} × "
        f"{memory.size:,} features; {memory.baseline / 1e9:.2f} GB in one that imports torch alone"
    ]


def wanted(features: Extraction, frechet: Distance, total: Whole, memory: Memory) -> list[Wanted]:
    """The figures that have a bound. Shares and ratios of features are medians of the rounds' own."""
    from statistics import median

    return [
        _at_least("features, times clean-fid's rate", median(features.ratios), 2.2),
        _at_least("features, share of torch.matmul's rate", median(features.shares), 0.75, percent=True),
        _at_least("features, share of the faster product's rate", median(features.strict_shares), 0.75, percent=True),
        _at_least("distance, times clean-fid's rate", frechet.ratio, 10),
        _at_least("whole, times clean-fid's rate" + (", extrapolated" if total.extrapolated else ""), total.ratio, 3),
        Wanted("memory of streamed moments", f"{memory.peak / 1e9:.2f} GB", "< 2.5 GB", memory.peak < 2.5e9),
    ]


def wanted_lines(figures: list[Wanted]) -> list[str]:
    """A line for each figure, in columns."""
    texts = [(figure.what, figure.found, figure.bound) for figure in figures]
    left, middle, right = (max(map(len, column)) for column in zip(*texts, strict=True))
    return [
        f"{what:<{left}}  {found:>{middle}}  wanted {bound:<{right}}  {'met' if met else 'NOT MET'}"
        for what, found, bound, met in figures
    ]


def _at_least(what: str, value: float, bound: float, *, percent: bool = False) -> Wanted:
    if percent:
        return Wanted(what, f"{value:.1%}", f"≥ {bound:.0%}", value >= bound)
    return Wanted(what, f"{value:.2f} ×", f"≥ {bound:g} ×", value >= bound)


def _device(name: str) -> torch.device:
    if name not in DEVICES:
        raise UsageError(f"--device is {name!r}, must be one of: {', '.join(DEVICES)}")
    import torch

    from ..common.devices import pick_device

    device = pick_device(name)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[device.type]:
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise UsageError(f"--device is {name}, which this machine does not have. Available: auto, {usable}")
    return device


def _print(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)
