"""A trained cell as a portable folder, from which samples can be drawn without the training data.

    config.json           the configuration; what a sample is: shape, whether a uint8 image, classes; size of the data
    model.safetensors     the averaged weights of the final snapshot, which the leaderboard evaluates
    guide.safetensors     where sampling is guided: the earlier snapshot
    labels.safetensors    of a conditional model: the classes of the training set, from which those of samples are drawn

The layout is that of diffusers: a class name and options in JSON, weights as safetensors. MLflow loads the folder
through `_load_pyfunc`; nothing in it is executed or unpickled.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..common.devices import pick_device
from ..common.errors import UsageError
from ..common.files import DamagedError, naming, read_json, write_json
from ..common.precision import float32_products
from ..config.plugins import require
from ..config.schema import RunConfig
from ..data.base import DataInfo, Dataset
from ..data.registry import describe_dataset, load_dataset
from ..runs.folder import Run, is_cell
from ..runs.status import State
from ..training.checkpoint import read_snapshot, snapshot_path
from ..training.model import Model, build_model
from .sample import Sampler

MODEL, WEIGHTS = "config.json", "model.safetensors"
GUIDE, LABELS = "guide.safetensors", "labels.safetensors"
CLASS = "ConsistencyModel"
COLUMNS = ("n", "nfe", "seed")


def pack(cell: Run, folder: Path) -> None:
    """Write the folder for a finished cell.

    Raises UsageError where the cell is not done, its snapshot is gone, or its data set, which says what a sample looks
    like, is missing.
    """
    weights = _final_weights(cell)
    data = describe_dataset(cell.config.data)
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in weights.items():
        shutil.copyfile(path, folder / name)
    facts = {
        "name": data.name,
        "shape": list(data.shape),
        "quantised": data.quantised,
        "classes": data.classes,
        "count": len(data),
    }
    config = _without_places(cell.config).to_dict()
    write_json(folder / MODEL, {"_class_name": CLASS, "sample": facts, "config": config}, sealed=True)
    if cell.config.data.conditional:
        save_file({"labels": load_dataset(cell.config.data).labels.contiguous()}, folder / LABELS)


def _without_places(config: RunConfig) -> RunConfig:
    """The configuration without paths of the machine that trained it."""
    init = config.train.init and Path(config.train.init).name
    plugins = tuple(replace(plugin, folder=Path(plugin.folder).name) for plugin in config.plugins)
    config = replace(config, plugins=plugins)
    return replace(config, data=replace(config.data, root=None), train=replace(config.train, init=init))


def _final_weights(cell: Run) -> dict[str, Path]:
    """WEIGHTS and, where sampling is guided, GUIDE -> the snapshot. Raises UsageError where there is none."""
    config, state = cell.config, cell.status.state
    if state is not State.DONE:
        raise UsageError(f"{cell.path} is {state}; only a cell that is done has final weights")
    found = {}
    for name, images in {WEIGHTS: config.budget_images, GUIDE: config.guide_images}.items():
        if images is not None:
            found[name] = snapshot_path(cell.path, images, config.evaluated_average)
            if not found[name].is_file():
                raise UsageError(f"the snapshot {found[name]} is missing, and with it weights of {cell.path}")
    return found


@dataclass(frozen=True)
class Served:
    """A packed cell, in memory. Samples are those of `bench run`: same latents, same arithmetic."""

    sampler: Sampler

    def batches(self, n: int, nfe: int, seed: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The samples of `Sampler.sample` in batches, with the classes (int64) of a conditional model."""
        size = self.sampler.config.eval.batch
        for start in range(0, n, size):
            rows = range(start, min(n, start + size))
            with torch.no_grad(), float32_products(tf32=False):
                samples = self.sampler.draw(seed, nfe, rows, size)
            yield samples, self.sampler.classes(seed, rows)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """MLflow's entry point. model_input: a table with the columns n, nfe and seed; each row's samples in turn."""
        rows = zip(*(model_input[column] for column in COLUMNS), strict=True)
        drawn = [self.sampler.sample(int(n), int(nfe), seed=int(seed)) for n, nfe, seed in rows]
        return torch.cat(drawn).numpy()


def load(cell: Run, device: str = "auto") -> Served:
    """The final weights of a finished cell. Raises as `pack` and `unpack` do."""
    require(cell.config)
    weights = _final_weights(cell)
    labels = load_dataset(cell.config.data).labels if cell.config.data.conditional else None
    return _serve(cell.config, describe_dataset(cell.config.data), labels, weights, device)


def load_model(cell: str | Path, device: str = "auto") -> Sampler:
    """The final weights of a trained cell, to draw samples from.

    Args:
        cell: The folder of a finished cell, or one that `bench export --format diffusers` wrote.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        UsageError: There is no such folder, the cell is not finished, or a file is missing or damaged.

    Examples:
        >>> model = load_model("exported")
        >>> model.sample(16, nfe=1).shape
        torch.Size([16, 1, 8, 8])
    """
    folder = Path(cell)
    if (folder / MODEL).is_file():
        return unpack(folder, device).sampler
    if not is_cell(folder):
        raise UsageError(f"{folder} is neither the folder of a cell nor one that `bench export` wrote")
    return load(Run(folder), device).sampler


def unpack(folder: Path, device: str = "auto") -> Served:
    """Load a packed cell. Raises DamagedError, naming the file, where one is missing, damaged or of another network."""
    with naming(folder / MODEL):
        content = read_json(folder / MODEL)
        config, facts = RunConfig.from_dict(content["config"]), content["sample"]
        data = DataInfo(**{**facts, "shape": tuple(facts["shape"])})
        if not all(type(size) is int and 1 <= size < 2**31 for size in (*data.shape, data.classes, data.count)):
            raise ValueError("the shape or the counts of the samples are no sizes")
    labels = _read(folder / LABELS, load_file)["labels"] if config.data.conditional else None
    weights = {WEIGHTS: folder / WEIGHTS} | ({} if config.guide_images is None else {GUIDE: folder / GUIDE})
    return _serve(config, data, labels, weights, device)


def _serve(config: RunConfig, data: DataInfo, labels: Tensor | None, weights: dict[str, Path], device: str) -> Served:
    require(config)
    # All weights come from the files. One repeated sample replaces the training set, which sampling does not use.
    config = replace(config, train=replace(config.train, init=None), data=replace(config.data, flip=False))
    kind = torch.uint8 if data.quantised else torch.float32
    images = torch.zeros(1, *data.shape, dtype=kind).expand(len(data), *data.shape)
    labels = torch.zeros(1).long().expand(len(data)) if labels is None else labels
    dataset = Dataset(data.name, images, labels, data.classes)
    place = pick_device(device)
    model = build_model(config, dataset, torch.device("cpu"))
    guide = _loaded(model, weights[GUIDE], place) if GUIDE in weights else None
    return Served(Sampler(config, _loaded(model, weights[WEIGHTS], place), dataset, guide))


def _load_pyfunc(path: str) -> Served:
    """The entry that MLflow looks for in a loader module."""
    return unpack(Path(path))


def _loaded(model: Model, path: Path, device: torch.device) -> Model:
    averaged = model.averaged()
    weights = averaged.weights
    try:
        weights.load_state_dict(_read(path, read_snapshot))
    except RuntimeError as error:
        raise DamagedError(f"{path} does not fit the network ({str(error).splitlines()[0]})") from None
    weights.to(device)
    return averaged


def _read(path: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return read(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
