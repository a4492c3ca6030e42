"""Writes files of the structure in which NVIDIA publishes EDM and EDM2: modules pickled with their source."""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def write_edm(path: Path, network: nn.Module, source: str = "raise SystemExit") -> None:
    """EDM: the network below `model`, with the embedding of augmentations that is not used afterwards."""
    augment = Module({"weight": torch.ones(network.get_parameter("map_layer0.weight").shape[1], 9)})
    _write(path, Module(children={"model": persistent(network, map_augment=augment)}, source=source))


def write_edm2(path: Path, network: nn.Module, source: str = "raise SystemExit") -> None:
    """EDM2: float16, the network below `unet`, with the uncertainty head of its training beside it."""
    children = {
        "unet": persistent(network.half()),
        "logvar_fourier": Module({}, buffers={"freqs": torch.ones(128).half(), "phases": torch.zeros(128).half()}),
        "logvar_linear": Module({"weight": torch.ones(1, 128).half()}),
    }
    _write(path, Module(children=children, source=source))


def _write(path: Path, network: Module) -> None:
    with published_modules() as dnnlib:
        content = {
            "ema": network,
            "loss_fn": Module(source="raise SystemExit"),
            "dataset_kwargs": dnnlib.EasyDict(path="datasets/x.zip", use_labels=False),
        }
        path.write_bytes(pickle.dumps(content))


class Module:
    """What pickles as a persistent object: a module's state beside the source of its class."""

    def __init__(
        self,
        parameters: dict[str, Tensor] | None = None,
        buffers: dict[str, Tensor] | None = None,
        children: dict[str, Any] | None = None,
        source: str = "raise SystemExit",
    ) -> None:
        self.source = source
        self.state: dict[str, Any] = {
            **vars(nn.Module()),
            "_parameters": OrderedDict((name, nn.Parameter(value)) for name, value in (parameters or {}).items()),
            "_buffers": OrderedDict(buffers or {}),
            "_modules": OrderedDict(children or {}),
            "sigma_data": np.float64(0.5),
            "frequencies": np.arange(3.0),
            "_init_kwargs": {"dtype": torch.float32},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        from dnnlib.util import EasyDict  # pyright: ignore[reportMissingImports]
        from torch_utils.persistence import _reconstruct_persistent_obj  # pyright: ignore[reportMissingImports]

        meta = EasyDict(type="class", version=6, module_src=self.source, class_name="Net", state=self.state)
        return _reconstruct_persistent_obj, (meta,)


def persistent(module: nn.Module, **more: Any) -> Module | nn.ModuleDict:
    """A module as the file has it: torch's containers as they are, all others persistent. `more`: further children."""
    children = {name: None if child is None else persistent(child) for name, child in module._modules.items()} | more
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        vars(container)["_modules"] = OrderedDict(children)
        return container
    made = Module(children=children)
    made.state |= {"_parameters": module._parameters, "_buffers": module._buffers}
    return made


@contextmanager
def published_modules() -> Iterator[types.ModuleType]:
    """The modules that the file's globals name, for as long as it is written. Yields dnnlib.util."""

    def _reconstruct_persistent_obj(meta: object) -> None:
        raise AssertionError("executed")

    class EasyDict(dict):
        pass

    dnnlib, persistence = types.ModuleType("dnnlib.util"), types.ModuleType("torch_utils.persistence")
    for thing, module in ((EasyDict, dnnlib), (_reconstruct_persistent_obj, persistence)):
        thing.__module__, thing.__qualname__ = module.__name__, thing.__name__
        setattr(module, thing.__name__, thing)
    modules = {"dnnlib": types.ModuleType("dnnlib"), "torch_utils": types.ModuleType("torch_utils")}
    modules |= {"dnnlib.util": dnnlib, "torch_utils.persistence": persistence}
    sys.modules.update(modules)
    try:
        yield dnnlib
    finally:
        for name in modules:
            del sys.modules[name]
