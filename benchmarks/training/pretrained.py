"""Weights that training starts from: published ones by name, prepared once from NVIDIA's files, or those of a cell.

The files are under CC BY-NC-SA 4.0 and are neither shipped nor downloaded here; the user brings them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...methods.networks.checkpoints import CheckpointError, check_names, match_weights, read_pickle
from ...methods.networks.registry import build_factory
from ..common.cache import cache_folder
from ..common.errors import UsageError, unknown
from ..common.files import atomic_path, read_json, write_json
from ..config.settings import choices
from ..runs.folder import Run
from .checkpoint import read_snapshot


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published checkpoint of EDM or EDM2.

    source: where its file is. network, shape, classes: what it is for, as in a configuration.
    prefix: before the network's names in the file. ignorable: names in the file that are not used.
    images: training images behind the weights, None where not stated. sha256: of the file, None where not known.
    """

    source: str
    network: dict[str, Any]
    shape: tuple[int, ...]
    classes: int = 0
    prefix: str = "model."
    ignorable: tuple[str, ...] = ("model.map_augment.weight",)
    images: int | None = None
    sha256: str | None = None


_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"
_EDM2 = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions"
_CIFAR10 = {"kind": "ddpmpp", "channels": 128, "channel_mult": [2, 2, 2], "blocks": 4}
_FFHQ = {**_CIFAR10, "channel_mult": [1, 2, 2, 2]}


def _edm(name: str, network: dict[str, Any], size: int, classes: int = 0) -> dict[str, Published]:
    """Trained on 200 million images, the published code's default, which the published commands do not change."""
    source, shape = f"{_EDM}/{name}.pkl", (3, size, size)
    return {name: Published(source=source, network=network, shape=shape, classes=classes, images=200_000_000)}


def _edm2(size: str, kimg: str, ema: str, channels: int) -> dict[str, Published]:
    """The file's name says after how many thousand images, and averaged over which share of them."""
    name = f"edm2-img64-{size}-{kimg}-{ema}"
    entry = Published(
        source=f"{_EDM2}/{name}.pkl",
        network={"kind": "edm2", "channels": channels},
        shape=(3, 64, 64),
        classes=1000,
        prefix="unet.",
        ignorable=("logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight"),
        images=int(kimg) * 1000,
    )
    return {name: entry}


PUBLISHED: dict[str, Published] = {
    **_edm("edm-cifar10-32x32-uncond-vp", _CIFAR10, 32),
    **_edm("edm-cifar10-32x32-cond-vp", _CIFAR10, 32, classes=10),
    **_edm("edm-ffhq-64x64-uncond-vp", _FFHQ, 64),
    **_edm2("s", "1073741", "0.075", 192),
    **_edm2("m", "2147483", "0.060", 256),
    **_edm2("l", "1073741", "0.040", 320),
    **_edm2("xl", "0671088", "0.040", 384),
}


def prepare(name: str, source: Path, folder: Path | None = None, sha256: str | None = None) -> dict[str, Any]:
    """Convert a published file to `NAME.safetensors` (float32, names of the network) and a report beside it.

    Nothing in the file is executed. Returns the report: `weights` (the new file), `source`, `source_sha256`,
    `matched` (number of tensors), `ignored` (names in the file that are not used), `pretraining_images`.

    sha256: what the file must have, beside the table's value where there is one.

    Raises:
        UsageError: an unknown name; a file that is missing, damaged, refused, or of another network or hash.
    """
    if name not in PUBLISHED:
        raise unknown("weights", name, PUBLISHED)
    published = PUBLISHED[name]
    if not source.is_file():
        raise UsageError(f"--from {source}: there is no such file; {name} is published as {published.source}")
    digest = _sha256(source)
    for wanted in filter(None, (sha256, published.sha256)):
        if digest != wanted.lower():
            raise UsageError(
                f"{source} has the SHA-256 {digest}, not {wanted.lower()}: it is not the file that is meant"
            )
    with torch.device("meta"):
        network = build_factory(published.network, published.shape, published.classes).network()
    try:
        tensors = read_pickle(source)
    except CheckpointError as error:
        raise UsageError(str(error)) from None
    try:
        matched = match_weights(network, tensors, prefix=published.prefix, ignorable=published.ignorable)
    except CheckpointError as error:
        raise UsageError(f"{source} does not fit {name}: {error}") from None
    target = (folder or cache_folder("weights")) / f"{name}.safetensors"
    report = {
        "weights": str(target),
        "name": name,
        "source": source.name,
        "source_sha256": digest,
        "matched": len(matched.weights),
        "ignored": list(matched.ignored),
        "pretraining_images": published.images,
    }
    with atomic_path(target) as temporary:
        save_file(matched.weights, temporary)
    write_json(target.with_suffix(".json"), report)
    return report


def load_prepared(name_or_path: str, network: nn.Module) -> dict[str, Any]:
    """Load prepared weights into a network, buffers included; returns the report to keep with the run.

    A name is searched in the cache; anything that ends in `.safetensors` is a path. Buffers come with the
    weights that were trained with them: an NCSN++ has the file's frequencies afterwards, not its `fourier_scale`.
    The report is that of `prepare`, with `weights` and `matched` alone for a file that was made elsewhere.

    Raises:
        UsageError: an unknown name, weights that were not prepared, a damaged file, or one for another network.
    """
    path = _prepared(name_or_path)
    with _naming(path):
        matched = match_weights(network, load_file(path))
    network.load_state_dict(matched.weights)
    report = read_json(path.with_suffix(".json"), default={})
    return {**report, "weights": str(path), "matched": len(matched.weights)}


def check_prepared(name_or_path: str, network: nn.Module) -> None:
    """Compare names and shapes of prepared weights with a network, which may be on the meta device.

    Only the header of the file is read. Raises as `load_prepared` does.
    """
    path = _prepared(name_or_path)
    with _naming(path):
        check_names(network, _shapes(path))


def _shapes(path: Path) -> dict[str, Tensor]:
    """Tensors on the meta device, of the shapes in a file."""
    with safe_open(path, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  (not a mapping)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def load_trained(cell: Run, images: int, network: nn.Module) -> dict[str, Any]:
    """Load the network of another cell, averaged as it is evaluated by default, after `images` images.

    Returns the report to keep with the run: `weights`, `matched`, and of that cell `cell` (its id), `method` and
    `images`; `pretraining_images` and `pretraining_flops` count the training behind the weights from random ones on,
    None where that is not known.

    Raises UsageError: weights that are missing or damaged, or of another network.
    """
    config, compute = cell.config, cell.history["compute"]
    path = cell.weights(images)
    with _naming(path):
        matched = match_weights(network, _network_of(read_snapshot, path))
    network.load_state_dict(matched.weights)
    per_image = compute.get("flops_per_image")
    return {
        "weights": "/".join(path.parts[-5:]),  # benchmark/method/cell/snapshots/file: results are published
        "matched": len(matched.weights),
        "cell": config.cell.id,
        "method": config.cell.method,
        "images": images,
        "pretraining_images": _sum(images, compute.get("pretraining_images", 0)),
        "pretraining_flops": _sum(per_image and per_image * images, _flops_before(compute)),
    }


def check_trained(cell: Run, images: int, network: nn.Module) -> None:
    """Compare names and shapes of another cell's network with a network, which may be on the meta device.

    Only the header of the file is read. Raises as `load_trained` does.
    """
    path = cell.weights(images)
    with _naming(path):
        check_names(network, _network_of(_shapes, path))


def _network_of(read: Callable[[Path], dict[str, Tensor]], path: Path) -> dict[str, Tensor]:
    """The tensors of the network, by its own names, in a snapshot, which has those of the method's modules, too."""
    prefix = "network."
    return {name.removeprefix(prefix): value for name, value in read(path).items() if name.startswith(prefix)}


def _flops_before(compute: Mapping[str, Any]) -> float | None:
    """The FLOPs of what a cell started from: 0 for random weights."""
    return compute.get("pretraining_flops", 0 if compute.get("pretraining_images") == 0 else None)


def _sum(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file of weights that cannot be read or do not fit."""
    try:
        yield
    except SafetensorError as error:
        raise UsageError(f"{path} is not a safetensors file ({error})") from None
    except CheckpointError as error:
        raise UsageError(f"{path} does not fit the network: {error}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"the weights {path} cannot be read ({error})") from None


def _prepared(name_or_path: str) -> Path:
    if name_or_path.endswith(".safetensors"):
        path = Path(os.path.expanduser(name_or_path))
        if not path.is_file():
            raise UsageError(f"there are no weights {path}: name a safetensors file, or one of {', '.join(PUBLISHED)}")
        return path
    if name_or_path not in PUBLISHED:
        raise unknown("train.init", name_or_path, [*PUBLISHED, *choices("method")], hint=", or cell:ID")
    path = cache_folder("weights") / f"{name_or_path}.safetensors"
    if not path.is_file():
        raise UsageError(
            f"weights {name_or_path!r} are not in {path.parent}: download {PUBLISHED[name_or_path].source} and run "
            f"`bench prepare weights {name_or_path} --from FILE`"
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
