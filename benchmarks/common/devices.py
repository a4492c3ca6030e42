"""The device a process works on, and whether this machine has it."""

from __future__ import annotations

import torch

from .distributed import ALONE, Ranks
from .errors import UsageError
from .system import available_cores


def pick_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """`auto` is the first accelerator there is, else the CPU. Several processes of a machine take a GPU each.

    A scheduler may show each process its own GPU alone, which then is number 0 to all of them.
    """
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if ranks.size == 1 or device.type != "cuda":
        return device
    device = torch.device("cuda", ranks.local_rank % max(torch.cuda.device_count(), 1))
    torch.cuda.set_device(device)  # where NCCL and what names no device work
    return device


def bf16_unit() -> str | None:
    """The unit that multiplies bfloat16 on this CPU, which makes `train.precision=bf16` fast; None without one."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None


def limit_threads() -> None:
    """Use no more threads than the cores that this process may use: PyTorch does not know the quotas of containers."""
    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


def check_device(name: str) -> None:
    """Raise UsageError for a device that this machine does not have."""
    device = pick_device(name)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        usable = ", ".join(name for name, there in available.items() if there)
        raise UsageError(f"run.device is {name}, which this machine does not have. Available: auto, {usable}")


def refuse_different_devices(ranks: Ranks, device: torch.device) -> None:
    """Raise UsageError unless all processes are on the same kind of device.

    Each draws the whole batch and makes the same update. Generators and products of another kind of device round
    otherwise, so that the copies would come apart, and with them an assignment of noise.
    """
    if ranks.size == 1:
        return
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{device.type} ({torch.backends.cpu.get_cpu_capability()})"
    names = sorted(set(ranks.exchange(name)))
    if len(names) > 1:
        raise UsageError(
            f"the processes of a cell must be on the same kind of device, and they are on {', '.join(names)}"
        )
