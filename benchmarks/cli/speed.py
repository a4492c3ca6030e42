"""`bench speed metrics`: compare our evaluator with clean-fid on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.errors import UsageError

if TYPE_CHECKING:
    from ..metrics.speed import Comparison

IMAGES = 128
DEVICES = ("auto", "cpu", "cuda", "mps")


def metrics(images: int = IMAGES, device: str = "auto") -> int:
    """Measure both evaluators and print a table, line by line; minutes on a CPU. Exit status 0.

    images: for the features, 1 or more.
    Raises UsageError for an unknown or missing device, no images, and if the weights of Inception are missing.
    """
    if images < 1:
        raise UsageError(f"--images is {images}, must be at least 1")
    if device not in DEVICES:
        raise UsageError(f"--device is {device!r}, must be one of: {', '.join(DEVICES)}")
    import torch

    from ..common.devices import check_device, pick_device
    from ..common.system import hardware
    from ..metrics import speed
    from ..metrics.extractors import weight_files

    check_device(device)
    chosen = pick_device(device)
    weight_files.locate("inception")
    found = hardware()
    threads = torch.get_num_threads()
    print(f"{found['cpu']}, {found['cores']} cores, {threads} threads; networks on {chosen}; torch {torch.__version__}")
    print(f"{'':<28} {'ours':>10} {'clean-fid':>10}", flush=True)
    for measure in (lambda: speed.compare_features(images, chosen), speed.compare_distances, speed.compare_memory):
        print(line(measure()), flush=True)
    return 0


def line(row: Comparison) -> str:
    """One row of the table."""
    return f"{f'{row.what}, {row.unit}':<28} {row.ours:>10.3g} {row.clean_fid:>10.3g}"
