"""A device `cuda` made of host memory, whose operators are computed by those of the CPU.

`null_cuda.c` gives torch a device whose kernels do nothing. Within `Simulation`, each operator on its tensors is
computed on the CPU in place of its kernel. The rules of a real device are kept: tensors and generators of two devices
do not mix, operators that are not deterministic are refused if that is asked for, and memory is torch's own accounting.
Every wait of the host for the device is counted.

Random numbers are those of the CPU: a generator of the device in a fresh state draws what one of the CPU draws from the
same seed. A result on the device is thereby equal to the CPU's, rounding aside.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten

ALLOCATIONS = {
    aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default,
    aten.new_empty_strided.default, aten.detach.default, aten.alias.default, aten._unsafe_view.default,
    aten.resize_.default, aten.set_.source_Storage, aten.set_.source_Storage_storage_offset, aten.set_.source_Tensor,
    aten.set_.default, aten.is_pinned.default, aten.record_stream.default, aten.lift_fresh.default,
    aten._reshape_alias.default,
}  # fmt: skip
"""What needs no kernel: torch itself does it, so that its allocator is the one that is tested."""

WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.is_nonzero.default,
    aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default, aten.equal.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
"""What makes the host wait for the device."""

INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}

NONDETERMINISTIC = ("cumsum", "multinomial", "histc", "bincount", "kthvalue", "upsample_bilinear2d_backward")
"""Names of operators of floats that raise on CUDA under torch.use_deterministic_algorithms; multinomial sums up."""

RANDOM = ("rand", "bernoulli", "multinomial", "native_dropout", "normal_", "uniform_", "exponential_", "random_")


class Simulation(TorchDispatchMode):
    """Within, operators on `cuda` are computed.

    waits: how often the host waited, by (operator, line of the suite). largest_draw: random numbers drawn at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[tuple[str, str]] = collections.Counter()
        self.operators: collections.Counter[str] = collections.Counter()
        self.largest_draw = 0
        self._streams: dict[bytes, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, _ = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        generators = [value for value in flat if isinstance(value, torch.Generator)]
        target = kwargs.get("device")
        creates = target is not None and torch.device(target).type == "cuda"
        if not creates and not any(tensor.is_cuda for tensor in tensors):
            if any(rng.device.type == "cuda" for rng in generators):
                raise RuntimeError(f"{func}: a generator of cuda for a tensor of the CPU")
            return func(*args, **kwargs)
        self.operators[str(func)] += 1
        if func in ALLOCATIONS or func.is_view:
            return func(*args, **kwargs)
        if func is aten.copy_.default:
            return self._copy(*args, **kwargs)
        if func is aten._to_copy.default:
            return self._to(*args, **kwargs)
        self._check(func, args, tensors)
        with self._random(func, generators) as rng:
            results = _computed(func, args, kwargs, creates, rng)
            if rng is not None:
                drawn = [value.numel() for value in tree_flatten(results)[0] if isinstance(value, Tensor)]
                self.largest_draw = max(self.largest_draw, *drawn)
        return _on_device(func, results, args, kwargs)

    def _copy(self, to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        self._count_transfer(source.device, to.device, non_blocking)
        with _disable_current_modes():
            host(to).copy_(host(source))
        return to

    def _to(self, source: Tensor, *, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> Tensor:
        target = torch.device(device) if device is not None else source.device
        self._count_transfer(source.device, target, non_blocking)
        with _disable_current_modes():
            kwargs.pop("pin_memory", None)
            copied = aten._to_copy.default(host(source), **kwargs)
            return _uploaded(copied) if target.type == "cuda" else copied.clone()

    def _count_transfer(self, source: torch.device, target: torch.device, non_blocking: bool) -> None:
        # Memory that is not pinned is staged at once: only what is read back has to be waited for in any case.
        if source.type != target.type and not (non_blocking and target.type == "cuda"):
            self.waits[f"copy from {source.type} to {target.type}", _place()] += 1

    def _check(self, func: Any, args: Any, tensors: list[Tensor]) -> None:
        if func in WAITING:
            self.waits[str(func), _place()] += 1
        if func in INDEXED:
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            strangers = [index for index in args[1] if index is not None and not index.is_cuda]
            if masks or strangers:
                self.waits[f"{func} by {'a mask' if masks else 'positions on the CPU'}", _place()] += 1
        elif any(not tensor.is_cuda and tensor.ndim for tensor in tensors) and "_foreach" not in str(func):
            devices = [(str(tensor.device), tuple(tensor.shape)) for tensor in tensors]
            raise RuntimeError(f"{func}: tensors of two devices: {devices}, at {_place()}")
        name = str(func).removeprefix("aten.").partition(".")[0].rstrip("_")
        floats = any(tensor.is_cuda and tensor.is_floating_point() for tensor in tensors)
        if floats and name in NONDETERMINISTIC and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(f"{func} does not have a deterministic implementation, at {_place()}")

    @contextlib.contextmanager
    def _random(self, func: Any, generators: list[torch.Generator]) -> Iterator[torch.Generator | None]:
        """A generator of the CPU in the place of the one that a random operator draws from; None for any other."""
        if not any(name in str(func) for name in RANDOM) or "backward" in str(func):
            yield None
            return
        own = generators[0] if generators else torch.cuda.default_generators[torch.cuda.current_device()]
        if own.device.type != "cuda":
            raise RuntimeError(f"{func}: a generator of {own.device.type} for a tensor of cuda, at {_place()}")
        with _disable_current_modes():
            state = bytearray(own.get_state().numpy().tobytes())  # seed and offset, eight bytes each
            rng = torch.Generator()
            if bytes(state) in self._streams:
                rng.set_state(self._streams[bytes(state)])
            else:
                rng.manual_seed(int.from_bytes(state[:8], "little"))
        yield rng
        with _disable_current_modes():
            state[8:16] = (int.from_bytes(state[8:16], "little") + 4).to_bytes(8, "little")
            self._streams[bytes(state)] = rng.get_state()
            own.set_state(torch.frombuffer(state, dtype=torch.uint8).clone())


def host(tensor: Tensor) -> Tensor:
    """The memory of a tensor of the device as a tensor of the CPU; a tensor of the CPU itself."""
    if not tensor.is_cuda:
        return tensor
    storage = tensor.untyped_storage()
    if not tensor.numel() or not storage.nbytes():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    size = storage.nbytes() // tensor.element_size() * tensor.element_size()
    memory = (ctypes.c_char * size).from_address(storage.data_ptr())
    values = torch.frombuffer(memory, dtype=torch.uint8).view(tensor.dtype)
    return values.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _computed(func: Any, args: Any, kwargs: Any, creates: bool, rng: torch.Generator | None) -> Any:
    """What the operator returns on the CPU. rng: what random numbers come from."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return host(value)
        if isinstance(value, torch.Generator):
            return rng
        return torch.device("cpu") if isinstance(value, torch.device) else value

    with _disable_current_modes():
        args, kwargs = tree_map(moved, args), tree_map(moved, kwargs)
        if creates:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        kwargs.pop("pin_memory", None)
        if func is aten.native_dropout.default:  # another form than the CPU's own, which is composed
            x, p, _ = args
            kept = torch.empty_like(x).bernoulli_(1 - p, generator=rng)
            return x * (kept / (1 - p)), kept.bool()
        if rng is None or "generator" in kwargs:
            return func(*args, **kwargs)
        if any(argument.name == "generator" for argument in func._schema.arguments):
            return func(*args, **kwargs, generator=rng)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(rng.get_state())
            result = func(*args, **kwargs)
            rng.set_state(torch.get_rng_state())
        return result


def _on_device(func: Any, results: Any, args: Any, kwargs: Any) -> Any:
    """The results as the operator returns them: arguments that it wrote to, else new tensors of the device."""
    written: dict[str, Any] = {}
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            written |= dict.fromkeys(argument.alias_info.before_set, value)

    def returned(declared: Any, value: Any) -> Any:
        aliases = () if declared.alias_info is None else declared.alias_info.before_set
        own = next((written[name] for name in aliases if name in written), None)
        return tree_map(lambda v: _uploaded(v) if isinstance(v, Tensor) else v, value) if own is None else own

    declared = func._schema.returns
    with _disable_current_modes():
        if len(declared) == 1:
            return returned(declared[0], results)
        return tuple(returned(*pair) for pair in zip(declared, results, strict=True)) if declared else results


def _uploaded(tensor: Tensor) -> Tensor:
    if tensor.is_cuda:
        return tensor
    copied = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
    if tensor.numel():
        host(copied).copy_(tensor)
    return copied


def _place() -> str:
    """The innermost line of the suite, else of torch, that is running: path and number."""
    frames = traceback.extract_stack()
    folders: tuple[Callable[[str], bool], ...] = (
        lambda path: any(f"/{folder}/" in path for folder in ("methods", "benchmarks")) and "/tests/" not in path,
        lambda path: "/torch/optim/" in path or "/torch/nn/" in path,
    )
    for belongs in folders:
        for frame in reversed(frames):
            if belongs(frame.filename):
                return f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno} {frame.name}"
    return "elsewhere"
