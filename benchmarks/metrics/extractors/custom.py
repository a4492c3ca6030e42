"""A feature space of the user's own: any function, named as `module:function`."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...common.errors import UsageError
from ...data.base import Dataset
from .base import Extractor
from .network import batched, check_dataset, refuse_protocol


def custom(name: str) -> Callable[[Dataset, torch.device, str], Extractor]:
    """The builder of the extractor `module:function`.

    The function gets uint8 [N, 3, H, W] on the device, grey images repeated, and returns float [N, D]. The module is
    imported, so its code runs: name only what you would run yourself. A digest of its file is part of the features'
    identity; what the file reads in turn is not.
    """

    def build(dataset: Dataset, device: torch.device, protocol: str) -> Extractor:
        """Raises UsageError for data that are not images and for a name that does not lead to a function."""

        refuse_protocol(name, protocol)
        check_dataset(name, dataset)
        function, digest = _resolve(name)

        def features(images: Tensor) -> Tensor:
            values = function(images.expand(-1, 3, -1, -1))
            if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != len(images):
                shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(f"{name} must return a float tensor [{len(images)}, D], it returned {shape}")
            return values

        return Extractor(f"{name} {digest}", batched(features, device), costly=True)

    return build


def _resolve(name: str) -> tuple[Callable[[Tensor], Any], str]:
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name.isidentifier()):
        raise UsageError(f"extractor {name!r}: a function of your own is named as module:function")
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
