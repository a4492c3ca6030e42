"""In which precision numbers are multiplied: float32, TF32, or bfloat16 inside the network alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

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


def in_bf16(network: nn.Module) -> Network:
    """The network under autocast to bfloat16, with outputs in float32: the denoiser around it is assembled in that."""

    def call(u: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast(u.device.type, torch.bfloat16):
            return network(u, c_noise, labels).float()

    return call
