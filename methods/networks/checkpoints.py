"""Published checkpoints: NVIDIA's pickles read without running anything in them, and the rule by which weights load.

The pickles of EDM and EDM2 hold modules together with their Python source, which unpickling normally executes. Here
every global of the file is looked up in a closed table: tensors are rebuilt, modules become inert records of their
state, and anything else is refused by name. `pickle.load` is never called on such a file.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch._utils import _rebuild_tensor_v2


class CheckpointError(ValueError):
    """A file that does not hold what it should, or holds what must not be run; one sentence."""


# --- reading ---------------------------------------------------------------------------------------------------------


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of the averaged network in a pickle of EDM or EDM2, under the names of its state_dict().

    Raises:
        CheckpointError: not such a pickle, damaged, or with a global outside the table.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            content = _Reader(file).load()
            return dict(_tensors(content["ema"]))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:  # a damaged pickle may fail in any way
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(f"{path} is not a readable pickle of EDM or EDM2 ({what})") from None


class _Record:
    """Stands in for an object of the file: takes any arguments, keeps its state, does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Persistent(_Record):
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


class _Reader(pickle.Unpickler):
    """Unpickles through the table below and imports nothing.

    The table holds bound methods, types of the standard library and `_Record`, whose attributes a file cannot reach.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._table: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch.storage._load_from_bytes": self._storage,
            "torch_utils.persistence._reconstruct_persistent_obj": _Persistent,
            "collections.OrderedDict": OrderedDict,
            "dnnlib.util.EasyDict": dict,
            "builtins.set": set,
        }

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module}.{name}"
        if full in self._table:
            return self._table[full]
        if full in _INERT or module == "torch.nn" or module.startswith("torch.nn."):
            return _Record
        raise CheckpointError(f"refused, because it asks for {full}, which no checkpoint of EDM or EDM2 needs")

    def _tensor(self, *arguments: Any) -> Tensor:
        return _rebuild_tensor_v2(*arguments)

    def _parameter(self, data: Tensor, *_: object) -> Tensor:
        return data

    def _storage(self, content: bytes) -> Any:
        # Storages are files within the file; the default would unpickle them freely.
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:
            raise CheckpointError("refused, because a tensor's storage in it holds something else") from None


def _tensors(record: _Record, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
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
    """Weights under the names of a network, float32, parameters and buffers; names of the file that were left out."""

    weights: dict[str, Tensor]
    ignored: tuple[str, ...]


def match_weights(
    network: nn.Module, tensors: Mapping[str, Tensor], *, prefix: str = "", ignorable: Collection[str] = ()
) -> Matched:
    """The weights for a network (which may be on the meta device) out of a file's tensors.

    prefix: what the file puts before the network's names. ignorable: full names that may be there and are not used.

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
    weights = {
        # A copy, since tensors of a file may share memory, which a safetensors file cannot say.
        name: found[name].detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name in wanted
    }
    return Matched(weights=weights, ignored=ignored)


def _count(names: Collection[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
