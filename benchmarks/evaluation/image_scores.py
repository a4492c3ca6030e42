"""Images of any code base against a reference, by the metrics of this suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..common.devices import pick_device
from ..common.errors import UsageError, unknown
from ..config.compose import choices, compose_cells
from ..data.arrays import from_array
from ..data.base import Dataset
from ..data.registry import check_options, load, load_dataset
from ..metrics.evaluate import Evaluator
from ..metrics.registry import expand, parse
from ..metrics.scores import Score

BATCH = 500

#: Images as a path (folder, zip file or npz file), or as a uint8 array.
Images = str | Path | Tensor | np.ndarray


def score(
    images: Images, reference: Images, metrics: str | Sequence[str] | None = None, *, device: str = "auto"
) -> dict[str, Score]:
    """Score images of any code base. A metric takes the first of them, in the order of their names.

    Args:
        images: A folder, zip file or npz file, or a uint8 array [N, H, W], [N, H, W, C] or [N, C, H, W].
        reference: The same, or the name of a benchmark, whose training set it stands for ("./NAME" is a path).
        metrics: Names, as a list or separated by commas; "pr10k" stands for precision and recall. Default: FID of all
            samples.
        device: "auto", "cpu", "cuda" or "mps".

    Returns:
        The value of each metric by its name, and its standard error where the metric has one.

    Raises:
        UsageError: A name is unknown, images or weights of a network are missing, or sizes do not match.

    Examples:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).integers(0, 256, (1000, 8, 8), dtype=np.uint8)
        >>> round(score(noise, "digits", "fd_digits_1k")["fd_digits_1k"].value)
        1198
    """
    name = str(images) if isinstance(images, str | Path) else "the array"
    return score_images(read_images(images), read_reference(reference), metrics, device, name=name)


def score_images(
    samples: Tensor, real: Dataset, metrics: str | Sequence[str] | None, device: str, *, name: str
) -> dict[str, Score]:
    """Score samples, uint8 [N, C, H, W]. name: of the samples in messages. Raises UsageError as `score` does."""
    wanted = metrics or f"fid{_count(len(samples))}"
    names = expand(wanted.replace(" ", "").split(",") if isinstance(wanted, str) else wanted)
    for metric in map(parse, names):
        if metric.samples > len(samples):
            raise UsageError(f"metric {metric.name!r} needs {metric.samples} samples, and {name} has {len(samples)}")
    matching = _matching(samples, real, name)
    return Evaluator(real, names, pick_device(device)).score(matching.split(BATCH))


def read_images(images: Images) -> Tensor:
    """Images at a path or in an array, as uint8 [N, C, H, W]. Raises UsageError where there are none."""
    return load("images", Path(images)).images if isinstance(images, str | Path) else from_array(images)


def read_reference(reference: Images, settings: Sequence[str] = ()) -> Dataset:
    """The real images: those at a path or in an array, or the training set of a benchmark with these settings.

    Raises UsageError for an unknown name, for settings of a path, and where images are missing.
    """
    if not isinstance(reference, str | Path):
        pixels = from_array(reference)
        return Dataset("images", pixels, torch.zeros(len(pixels)).long(), 1)
    name = str(reference)
    if name in choices("benchmark"):
        if others := [setting for setting in settings if not setting.startswith("data.")]:
            raise UsageError(f"{others[0]}: only settings of the data apply, such as data.root=PATH")
        cells = compose_cells(["ect"], [0], [f"benchmark={name}", *settings])
        check_options(cells[0].config.data)
        if len(cells) > 1:
            raise UsageError(f"the settings describe {len(cells)} data sets, must describe one")
        return load_dataset(cells[0].config.data)
    if not Path(name).exists():
        raise UsageError(f"{unknown('reference', name, choices('benchmark'))}; or a folder or file of images")
    if settings:
        raise UsageError(f"{settings[0]} is a setting of a benchmark, and the reference {name} is a path")
    return load("images", Path(name))


def _matching(samples: Tensor, real: Dataset, name: str) -> Tensor:
    """The samples with the number of channels of the reference. Raises UsageError for another size."""
    if not real.quantised:
        raise UsageError(f"the reference {real.name!r} holds points, not images")
    wanted, found = real.shape, tuple(samples.shape[1:])
    if wanted[1:] != found[1:]:
        sizes = f"{found[1]}×{found[2]}", f"{wanted[1]}×{wanted[2]}"
        raise UsageError(f"{name} has images of {sizes[0]}, and the reference of {sizes[1]}: scale one of them first")
    if found[0] < wanted[0]:
        return samples.expand(-1, wanted[0], -1, -1)
    if found[0] > wanted[0]:
        if not bool((samples == samples[:, :1]).all()):
            raise UsageError(f"{name} has colour images, and the reference is grey")
        return samples[:, :1]
    return samples


def _count(number: int) -> str:
    """As metrics write it: 50k for 50,000."""
    return f"{number // 1000}k" if number % 1000 == 0 else str(number)
