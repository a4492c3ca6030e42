"""The Inception network of FID: own module, weights read as raw tensors out of the files in which they are published.

It is the classifier `inception-2015-12-05` of Szegedy et al. 2016 ("Rethinking the Inception Architecture"), which
Heusel et al. 2017 took for FID. torchvision's network of that name is another one: here the average pools leave out
the border (`count_include_pad=False`), the last block pools the maximum, batch norm has no scale and ε = 10⁻³, and the
classifier has 1,008 classes. The head is not read: features are its inputs.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....methods.networks.pickles import Function, Record, RestrictedUnpickler
from ...common.files import DamagedError
from . import preprocessing
from .network import FeatureNetwork

EPSILON = 1e-3  # of batch norm

#: SHA-256 of all tensors, concatenated in the order of `Inception().state_dict()`. Files of several origins hold the
#: same tensors in different wrappings, so it is these that are compared.
SHA256 = "faa37c74cec4860f41dc8c4119526a526ca710982b3cdf79831003fc5f4382b4"


class Conv(nn.Module):
    """Convolution, batch norm with fixed statistics, ReLU.

    `fold` turns the first two into one convolution with bias: the same function with half the memory traffic.
    """

    weight: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, stride: int = 1, pad: bool = True):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.stride = stride
        self.padding = (height // 2, width // 2) if pad else 0
        self.register_buffer("weight", torch.zeros(outputs, inputs, height, width))
        for name in ("beta", "mean", "var"):
            self.register_buffer(name, torch.zeros(outputs))
        self.bias: Tensor | None = None

    def fold(self) -> None:
        """Multiply batch norm into the convolution; its statistics are removed."""
        scale = (self.var.double() + EPSILON).rsqrt()
        bias = (self.beta.double() - self.mean.double() * scale).float()
        self.weight = (self.weight.double() * scale[:, None, None, None]).float()
        del self.beta, self.mean, self.var, self.bias
        self.register_buffer("bias", bias)

    def affine(self, x: Tensor) -> Tensor:
        """All but ReLU."""
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return x if self.bias is not None else F.batch_norm(x, self.mean, self.var, None, self.beta, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.affine(x))


class Pooled(nn.Module):
    """An average of neighbours, then a 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pool = _average()
        self.conv = Conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return _pool_and_convolve(self.pool, self.conv, x)


class Mixed(nn.Module):
    """Parallel branches, their channels concatenated in the order given."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class Split(nn.Module):
    """The blocks at 8×8: two of the branches end in a row filter and a column filter in parallel."""

    def __init__(self, inputs: int, pool: nn.Module) -> None:
        super().__init__()
        self.conv = Conv(inputs, 320)
        self.tower_conv = Conv(inputs, 384)
        self.tower_mixed_conv = Conv(384, 384, (1, 3))
        self.tower_mixed_conv_1 = Conv(384, 384, (3, 1))
        self.tower_1_conv = Conv(inputs, 448)
        self.tower_1_conv_1 = Conv(448, 384, 3)
        self.tower_1_mixed_conv = Conv(384, 384, (1, 3))
        self.tower_1_mixed_conv_1 = Conv(384, 384, (3, 1))
        self.tower_2_pool = pool
        self.tower_2_conv = Conv(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        a = self.tower_conv(x)
        b = self.tower_1_conv_1(self.tower_1_conv(x))
        parts = [
            self.conv(x),
            self.tower_mixed_conv(a),
            self.tower_mixed_conv_1(a),
            self.tower_1_mixed_conv(b),
            self.tower_1_mixed_conv_1(b),
            _pool_and_convolve(self.tower_2_pool, self.tower_2_conv, x),
        ]
        return torch.cat(parts, dim=1)


class Inception(nn.Module):
    """float32 [N, 3, 299, 299], scaled by a protocol, to features [N, 2048].

    Layers carry the names of the original graph, which all files of the weights keep.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(
                conv=Conv(3, 32, 3, stride=2, pad=False),
                conv_1=Conv(32, 32, 3, pad=False),
                conv_2=Conv(32, 64, 3),
                pool0=nn.MaxPool2d(3, 2),
                conv_3=Conv(64, 80),
                conv_4=Conv(80, 192, 3, pad=False),
                pool1=nn.MaxPool2d(3, 2),
                mixed=_at_35(192, 32),
                mixed_1=_at_35(256, 64),
                mixed_2=_at_35(288, 64),
                mixed_3=Mixed(
                    conv=Conv(288, 384, 3, stride=2, pad=False),
                    tower=_chain(Conv(288, 64), Conv(64, 96, 3), Conv(96, 96, 3, stride=2, pad=False)),
                    pool=nn.MaxPool2d(3, 2),
                ),
                mixed_4=_at_17(128),
                mixed_5=_at_17(160),
                mixed_6=_at_17(160),
                mixed_7=_at_17(192),
                mixed_8=Mixed(
                    tower=_chain(Conv(768, 192), Conv(192, 320, 3, stride=2, pad=False)),
                    tower_1=_chain(
                        Conv(768, 192),
                        Conv(192, 192, (1, 7)),
                        Conv(192, 192, (7, 1)),
                        Conv(192, 192, 3, stride=2, pad=False),
                    ),
                    pool=nn.MaxPool2d(3, 2),
                ),
                mixed_9=Split(1280, _average()),
                mixed_10=Split(2048, nn.MaxPool2d(3, 1, padding=1)),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean(dim=(2, 3))

    def fold(self) -> Inception:
        """Fold every batch norm into its convolution, in place; weights become channels last."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.fold()
        return self.to(memory_format=torch.channels_last)


def _chain(*convs: Conv) -> nn.Sequential:
    return nn.Sequential(OrderedDict((f"conv_{i}" if i else "conv", conv) for i, conv in enumerate(convs)))


def _average() -> nn.Module:
    return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)


def _pool_and_convolve(pool: nn.Module, conv: Conv, x: Tensor) -> Tensor:
    """`conv` (1×1) of `pool`. Folded, the average is taken after the convolution: the same on far fewer channels."""
    if conv.bias is None or not isinstance(pool, nn.AvgPool2d):
        return conv(pool(x))
    return F.relu_(pool(conv.affine(x)))


def _at_35(inputs: int, pooled: int) -> Mixed:
    """A block at 35×35 pixels."""
    return Mixed(
        conv=Conv(inputs, 64),
        tower=_chain(Conv(inputs, 48), Conv(48, 64, 5)),
        tower_1=_chain(Conv(inputs, 64), Conv(64, 96, 3), Conv(96, 96, 3)),
        tower_2=Pooled(inputs, pooled),
    )


def _at_17(inner: int) -> Mixed:
    """A block at 17×17 pixels, with 7×7 filters as products of rows and columns."""
    row, column = (1, 7), (7, 1)
    return Mixed(
        conv=Conv(768, 192),
        tower=_chain(Conv(768, inner), Conv(inner, inner, row), Conv(inner, 192, column)),
        tower_1=_chain(
            Conv(768, inner),
            Conv(inner, inner, column),
            Conv(inner, inner, row),
            Conv(inner, inner, column),
            Conv(inner, 192, row),
        ),
        tower_2=Pooled(768, 192),
    )


# --- weights ---------------------------------------------------------------------------------------------------------


def load(path: Path) -> Inception:
    """The network with the weights of a file, not folded, in evaluation mode, on the CPU.

    The file is a TorchScript archive of the network, NVIDIA's or one derived from it. Tensors are read by name as raw
    bytes; the program in the archive is ignored.

    Raises DamagedError for a file that is damaged or whose tensors are not those of the network.
    """
    try:
        tensors = read_archive(path)
    except FileNotFoundError:
        raise DamagedError(f"there is no file {path}") from None
    except Exception as error:  # a damaged archive may fail in any way
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DamagedError(f"{path} is not a readable archive of the Inception weights ({what})") from None
    network = Inception().eval().requires_grad_(False)
    wanted = network.state_dict()
    missing = [name for name, value in wanted.items() if name not in tensors or tensors[name].shape != value.shape]
    if missing:
        raise DamagedError(f"{path} does not hold the Inception network of FID: {missing[0]} is not in it")
    weights = {name: tensors[name] for name in wanted}
    found = digest(weights)
    if found != SHA256:
        raise DamagedError(f"{path} is damaged or holds other weights: its tensors hash to {found}, not to {SHA256}")
    network.load_state_dict(weights)
    return network


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 of the bytes of all tensors, float32 little-endian, in the order given."""
    total = hashlib.sha256()
    for value in weights.values():
        total.update(value.numpy().astype("<f4", copy=False).tobytes())
    return total.hexdigest()


def read_archive(path: Path) -> dict[str, Tensor]:
    """The float32 tensors below `layers` in a TorchScript archive, by their names from there on.

    Raises RefusedError if the archive's index names anything that weights do not need; other errors of a damaged file
    are those of zipfile, pickle and numpy.
    """
    with zipfile.ZipFile(path) as archive:
        (index,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        content = _Index(archive, index).load()
        below = ((name.partition("layers.")[1:], stored) for name, stored in _stored(content))
        return {"".join(name): stored.read() for name, stored in below if all(name)}


class _Stored:
    """A tensor in the archive, not read yet."""

    def __init__(self, storage: tuple[zipfile.ZipFile, str], offset: int, size: tuple, stride: tuple, *_: object):
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)

    def read(self) -> Tensor:
        archive, name = self.storage
        values = np.frombuffer(archive.read(name), "<f4")
        if self.offset or self.stride != _strides(self.size) or len(values) != math.prod(self.size):
            raise ValueError(f"{name} holds {len(values)} numbers, not a whole tensor of the shape {list(self.size)}")
        return torch.from_numpy(values.astype(np.float32).reshape(self.size))


class _BuildStored(Function):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Stored:
        return _Stored(*arguments)


#: What the index of an archive may name, besides modules.
_TABLE = MappingProxyType(
    {
        "torch._utils._rebuild_tensor_v2": _BuildStored(),
        "collections.OrderedDict": OrderedDict,
        "torch.FloatStorage": "FloatStorage",
    }
)


class _Index(RestrictedUnpickler):
    """Reads the index of an archive, with tensors as `_Stored`."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)), _lookup)
        self._archive, self._folder = archive, name.rpartition("/")[0]

    def persistent_load(self, pid: Any, /) -> tuple[zipfile.ZipFile, str]:
        return self._archive, f"{self._folder}/data/{pid[2]}"


def _lookup(name: str) -> Any | None:
    return Record if name.startswith(("__torch__.", "torch.jit._pickle.")) else _TABLE.get(name)


def _stored(module: Record, prefix: str = "") -> Iterator[tuple[str, _Stored]]:
    for name, value in module.state.items():
        if isinstance(value, _Stored):
            yield prefix + name, value
        elif isinstance(value, Record) and isinstance(value.state, dict):
            yield from _stored(value, f"{prefix}{name}.")


def _strides(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(size[i + 1 :]) for i in range(len(size)))


INCEPTION = FeatureNetwork(
    name="inception", digest=SHA256, load=lambda path: load(path).fold(), protocols=preprocessing.PROTOCOLS
)
"""2,048 features of uint8 images [N, C, H, W], C of 1 or 3, of any size."""
