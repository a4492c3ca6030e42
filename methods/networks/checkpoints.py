"""Published checkpoints: reading NVIDIA's pickles without executing anything in them, and matching weights by name.

The pickles of EDM and EDM2 hold modules together with their Python source, which unpickling normally executes. Here
every global of the file is looked up in a closed table: tensors are rebuilt, modules become inert records of their
state, and anything else is refused by name. `pickle.load` is never called on such a file.
"""

from __future__ import annotations

import io
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _rebuild_tensor_v2

from .pickles import Function, Record, RefusedError, RestrictedUnpickler

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A file with other content than expected, or with content that must not be executed; one sentence."""


# --- reading ---------------------------------------------------------------------------------------------------------


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of the averaged network in a pickle of EDM or EDM2, under the names of its state_dict().

    Raises:
        CheckpointError: not such a pickle, damaged, or with a global outside the table.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            content = RestrictedUnpickler(file, _lookup).load()
            return dict(_tensors(content["ema"]))
        except (CheckpointError, RefusedError) as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:  # a damaged pickle may fail in any way
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(f"{path} is not a readable pickle of EDM or EDM2 ({what})") from None


class _Persistent(Record):
    """An object saved with its source; the source stays text."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        super().__init__()
        self.state = meta["state"]


#: What becomes an inert record, besides everything in `torch.nn`.
_INERT = frozenset(
    f"{module}.{name}"
    for module, names in {
        "numpy": ("dtype", "ndarray"),
        "numpy.core.multiarray": ("scalar", "_reconstruct"),
        "numpy._core.multiarray": ("scalar", "_reconstruct"),
        "torch": ("Size", "device", "float16", "bfloat16", "float32", "float64", "uint8", "int32", "int64", "bool"),
    }.items()
    for name in names
)


class _BuildTensor(Function):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> Tensor:
        return _rebuild_tensor_v2(*arguments)


class _BuildParameter(Function):
    __slots__ = ()

    def __call__(self, data: Tensor, *_: object) -> Tensor:
        return data


class _LoadStorage(Function):
    __slots__ = ()

    def __call__(self, content: bytes) -> Any:
        # Storages are files within the file; the default would unpickle them freely.
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:
            raise RefusedError("refused, because a tensor's storage in it holds something else") from None


#: The globals that a file may name, beside the inert records. None accepts attributes: types of the standard library
#: do not, functions are as above, and `_Persistent` defines `__setstate__`, which needs an instance.
_TABLE: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "torch._utils._rebuild_tensor_v2": _BuildTensor(),
        "torch._utils._rebuild_parameter": _BuildParameter(),
        "torch.storage._load_from_bytes": _LoadStorage(),
        "torch_utils.persistence._reconstruct_persistent_obj": _Persistent,
        "collections.OrderedDict": OrderedDict,
        "dnnlib.util.EasyDict": dict,
        "builtins.set": set,
        "__builtin__.set": set,  # its name up to protocol 2
    }
)


def _lookup(name: str) -> Any | None:
    if name in _TABLE:
        return _TABLE[name]
    return Record if name in _INERT or name.startswith("torch.nn.") else None


def _tensors(record: Record, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    state = record.state
    for name, parameter in state["_parameters"].items():
        if parameter is not None:
            yield prefix + name, _checked(prefix + name, parameter)
    for name, buffer in state["_buffers"].items():
        if buffer is not None and name not in state.get("_non_persistent_buffers_set", ()):
            yield prefix + name, _checked(prefix + name, buffer)
    for name, module in state["_modules"].items():
        if module is not None:
            yield from _tensors(module, f"{prefix}{name}.")


def _checked(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{name} is not a tensor")
    return value


# --- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Parameters and buffers under the names of a network, float32; `ignored`: names of the file that are not used."""

    weights: dict[str, Tensor]
    ignored: tuple[str, ...]


def check_names(
    network: nn.Module, tensors: Mapping[str, Tensor], *, prefix: str = "", ignorable: Collection[str] = ()
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A file's tensors by the network's names, and the names that are left out. Both may be on the meta device.

    Raises:
        CheckpointError: names of the network that are missing, further names that are not ignorable, other shapes.
    """
    wanted = network.state_dict()
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    missing = [name for name in wanted if name not in found]
    ignored = tuple(name for name in tensors if not (name.startswith(prefix) and name.removeprefix(prefix) in wanted))
    unexpected = [name for name in ignored if name not in ignorable]
    if missing or unexpected:
        kinds = {"of the network missing": missing, "that the network does not have": unexpected}
        raise CheckpointError(
            "; ".join(f"{_count(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names)
        )
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise CheckpointError(f"{name} has the shape {list(found[name].shape)}, the network's {list(value.shape)}")
    return found, ignored


def match_weights(
    network: nn.Module, tensors: Mapping[str, Tensor], *, prefix: str = "", ignorable: Collection[str] = ()
) -> Matched:
    """The weights for a network (which may be on the meta device) out of a file's tensors.

    prefix: of the network's names in the file. ignorable: full names that may be present and are not used.

    Raises:
        CheckpointError: names of the network that are missing, further names that are not ignorable, other shapes,
            values that are not finite in float32.
    """
    found, ignored = check_names(network, tensors, prefix=prefix, ignorable=ignorable)
    wanted = network.state_dict()
    weights = {
        # A copy, since tensors of a file may share memory, which a safetensors file cannot say.
        name: found[name].detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name in wanted
    }
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{name} holds values that are not finite")
    _log_fourier_scale(wanted, weights)
    return Matched(weights=weights, ignored=ignored)


FOURIER = "map_noise.freqs"
"""The buffer of NCSN++ with the frequencies of its noise embedding."""


def _log_fourier_scale(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Log the scale of the frequencies that come with the weights: `network.fourier_scale` is that of random ones.

    EDM's is 16, where consistency training from random weights diverges and needs 0.02 (iCT, Song & Dhariwal 2024).
    """
    if FOURIER in weights:
        before = "" if wanted[FOURIER].is_meta else f", in place of {_scale(wanted[FOURIER]):.3g}"
        log.info("the weights bring a Fourier scale of about %.3g%s", _scale(weights[FOURIER]), before)


def _scale(frequencies: Tensor) -> float:
    """The standard deviation about 0, of which `network.fourier_scale` is the expected value."""
    return frequencies.double().square().mean().sqrt().item()


def _count(names: Collection[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
