"""The rates that this machine reaches in single matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .contest import contest

SIZE = 1024
CHANNELS, PIXELS, BATCH = 128, 28, 16


def rates(device: torch.device, types: tuple[torch.dtype, ...], rounds: int) -> dict[str, float]:
    """Best FLOPS of products of 1,024² matrices and of 3×3 convolutions of 128 channels, by name and type."""
    programs: dict[str, Callable[[], Tensor]] = {}
    flops: dict[str, float] = {}
    for kind in types:
        short = str(kind).removeprefix("torch.")
        a, b = (torch.randn(SIZE, SIZE, device=device, dtype=kind) for _ in range(2))
        x = torch.randn(BATCH, CHANNELS, PIXELS, PIXELS, device=device, dtype=kind)
        w = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device, dtype=kind)
        x, w = (tensor.to(memory_format=torch.channels_last) for tensor in (x, w))
        programs[f"matrix {short}"] = lambda a=a, b=b: a @ b
        flops[f"matrix {short}"] = 2 * SIZE**3
        programs[f"convolution {short}"] = lambda x=x, w=w: F.conv2d(x, w, padding=1)
        flops[f"convolution {short}"] = 2 * 9 * CHANNELS**2 * BATCH * PIXELS**2
    return {name: flops[name] / min(times) for name, times in contest(programs, rounds).items()}
