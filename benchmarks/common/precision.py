"""In which precision numbers are multiplied, float32, TF32 or bfloat16 inside the network alone; and always alike."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...methods.parts.process import Network


@contextlib.contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Within, products of float32 tensors on NVIDIA devices are exact to float32, or take the faster TF32.

    PyTorch's own default is neither: TF32 in convolutions and float32 in matrix products.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within, an NVIDIA device computes the same bits each time, and float32 products are exact to float32.

    An operator without a deterministic implementation raises RuntimeError. On other devices nothing is changed: a CPU
    is deterministic as it is.
    """
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads this when it is first used: the memory it works in is part of what it computes.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn: Any = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fill = cudnn.benchmark, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark = False  # which chooses the algorithm that was fastest this time
    memory.fill_uninitialized_memory = False  # for debugging, and slow
    try:
        with float32_products(tf32=False):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, memory.fill_uninitialized_memory = benchmark, fill


def in_bf16(network: Network) -> Network:
    """The network under autocast to bfloat16, with outputs in float32: the denoiser around it is assembled in that."""

    def call(u: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast(u.device.type, torch.bfloat16):
            return network(u, c_noise, labels).float()

    return call
