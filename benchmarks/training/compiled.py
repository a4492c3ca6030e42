"""The training pass of a network compiled by `torch.compile`, and what a machine needs for that."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from ...methods.parts.process import Network
from ..common.errors import UsageError

#: Dropout masks come from the generators that eager dropout draws from, so that replaying and resuming hold.
#: One thread: no process outlives a killed worker.
OPTIONS: dict[str, Any] = {"fallback_random": True, "compile_threads": 1}
ADVICE = "install it (Debian: apt-get install g++ python3-dev), or set train.compile=false"


def missing_for_compiling() -> str | None:
    """What this machine lacks to compile, with advice; None where all is there."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"a C++ compiler, and {compiler} is not found: {ADVICE}"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return f"Python.h, the headers of Python: {ADVICE}"
    return None


def compiled(network: nn.Module) -> Network:
    """The network as one graph with gradient (the student's pass) and one without (the teacher's).

    The first calls compile, which takes minutes for a large network; later processes find the result in
    PyTorch's cache. Sums are taken in another order than eagerly, so results agree up to rounding.

    The returned function raises UsageError if the network cannot be compiled.
    """
    torch._dynamo.reset()  # a process that trains cell after cell would reach the limit of graphs
    graph = torch.compile(network, fullgraph=True, dynamic=False, options=OPTIONS)

    def call(u: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        try:
            return graph(u, c_noise, labels)
        except TorchDynamoException as error:
            if missing := missing_for_compiling():
                raise UsageError(f"train.compile=true needs {missing}") from error
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"train.compile=true: this network cannot be compiled ({reason})") from error

    return call
