"""Features of the user's own: any function, named as `module:function`."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...common.errors import UsageError
from ...data.base import DataInfo
from .base import Extractor, refuse_protocol, require_images
from .network import batched


@dataclass(frozen=True)
class Function:
    """The extractor `name` that a function defines: an `ExtractorKind`.

    The function maps uint8 [N, 3, H, W] on the device, grey images repeated, to float [N, D].
    digest: of its source, which is part of the features' identity.
    """

    name: str
    function: Callable[[Tensor], Any]
    digest: str

    def check(self, data: DataInfo, protocol: str) -> None:
        refuse_protocol(self.name, protocol)
        require_images(self.name, data)

    def build(self, data: DataInfo, device: torch.device, protocol: str) -> Extractor:
        self.check(data, protocol)

        def features(images: Tensor) -> Tensor:
            values = self.function(images.expand(-1, 3, -1, -1))
            if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != len(images):
                shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(f"{self.name} must return a float tensor [{len(images)}, D], it returned {shape}")
            return values

        return Extractor(f"{self.name} {self.digest}", batched(features, device), costly=True)


@dataclass(frozen=True)
class Custom:
    """The extractor `module:function`: an `ExtractorKind`, see `Function`.

    The module is imported, so its code runs. A digest of its file is part of the features' identity; what the file
    reads in turn is not.
    """

    name: str

    def check(self, data: DataInfo, protocol: str) -> None:
        refuse_protocol(self.name, protocol)
        require_images(self.name, data)
        _resolve(self.name)

    def build(self, data: DataInfo, device: torch.device, protocol: str) -> Extractor:
        return Function(self.name, *_resolve(self.name)).build(data, device, protocol)


def _resolve(name: str) -> tuple[Callable[[Tensor], Any], str]:
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name.isidentifier()):
        raise UsageError(f"extractor {name!r}: name a function of your own as module:function")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a command does not have the current folder on the path, `python -m` has
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"extractor {name!r}: module {module_name!r} cannot be imported ({error})") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"extractor {name!r}: module {module_name!r} has no function {function_name!r}")
    source = getattr(module, "__file__", None)
    content = Path(source).read_bytes() if source else b""
    return function, hashlib.sha256(content).hexdigest()[:16]
