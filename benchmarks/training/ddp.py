"""How a pass of training is made: by one process on its own, or by several with copies of the same weights.

Both give the gradient of the same loss, that of the whole global batch; they differ in who computes which rows.
"""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...methods.loss import loss
from ...methods.parts.base import Draw, LossTerms
from ...methods.parts.process import Denoise
from ..common.distributed import ALONE, TIMEOUT, Ranks
from .model import Model


class Passes(Protocol):
    """Passes over rows of a global batch, by one process among `ranks.size`."""

    @property
    def ranks(self) -> Ranks: ...

    def __call__(
        self, x: Tensor, labels: Tensor | None, progress: float, draw: Draw, average: Denoise | None
    ) -> LossTerms:
        """The loss of some rows, with a gradient; the arguments are those of `methods.loss.loss`."""
        ...

    def within(self, *, last: bool) -> AbstractContextManager[Any]:
        """What a pass and its gradient are computed in; `last` of those that make up a step."""
        ...

    def settle(self, terms: LossTerms, stopping: bool) -> tuple[LossTerms, Tensor | bool]:
        """The terms of the global batch from those of this process's rows, and how many want to stop.

        The number may be on the device, where looking at it would wait for all that is queued there.
        """
        ...


class OwnPasses:
    """All rows, in this process."""

    ranks = ALONE

    def __init__(self, model: Model) -> None:
        self.method, self.denoise = model.method, model.denoiser()

    def __call__(
        self, x: Tensor, labels: Tensor | None, progress: float, draw: Draw, average: Denoise | None
    ) -> LossTerms:
        return loss(self.method, self.denoise, x, labels, progress, draw, average)

    def within(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def settle(self, terms: LossTerms, stopping: bool) -> tuple[LossTerms, Tensor | bool]:
        return terms, stopping


class _Loss(nn.Module):
    """The loss of some rows as a module, as DistributedDataParallel needs it. Averaged weights are no part of it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.weights = model.weights
        self.passes = OwnPasses(model)

    def forward(
        self, x: Tensor, labels: Tensor | None, progress: float, draw: Draw, average: Denoise | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        terms = self.passes(x, labels, progress, draw, average)
        return terms.total, terms.consistency, terms.penalty


class SharedPasses:
    """This process's rows; gradients are averaged over all processes while the last pass of a step computes them.

    group: of torch.distributed, the processes.
    """

    def __init__(self, model: Model, ranks: Ranks, group: Any) -> None:
        self.ranks, self.group = ranks, group
        # Which weights a pass reaches is up to the method: those that nobody's passes reached get no gradient, as with
        # one process, and those that somebody's did get theirs everywhere.
        self.copy = DistributedDataParallel(_Loss(model), process_group=group, find_unused_parameters=True)

    def __call__(
        self, x: Tensor, labels: Tensor | None, progress: float, draw: Draw, average: Denoise | None
    ) -> LossTerms:
        total, consistency, penalty = self.copy(x, labels, progress, draw, average)
        return LossTerms(total=total, consistency=consistency, penalty=penalty)

    def within(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.copy.no_sync()

    def settle(self, terms: LossTerms, stopping: bool) -> tuple[LossTerms, Tensor | bool]:
        values = torch.stack([terms.total, terms.consistency, terms.penalty, torch.full_like(terms.total, stopping)])
        torch.distributed.all_reduce(values, group=self.group)
        total, consistency, penalty, wishes = values
        return LossTerms(total=total, consistency=consistency, penalty=penalty), wishes


def passes_of(model: Model, ranks: Ranks, device: torch.device) -> Passes:
    """How this process makes its passes. Several begin with the weights of rank 0."""
    if ranks.size == 1:
        return OwnPasses(model)
    return SharedPasses(model, ranks, _group(_backend(ranks, device)))


@cache
def _group(backend: str) -> Any:
    """All processes, for gradients alone: made once in the life of a process."""
    return torch.distributed.new_group(backend=backend, timeout=TIMEOUT)


def _backend(ranks: Ranks, device: torch.device) -> str:
    """NCCL where every process has a GPU to itself, which it insists on, else gloo."""
    if device.type != "cuda":
        return "gloo"
    places = ranks.exchange((socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid)))
    return "nccl" if len(set(places)) == len(places) else "gloo"
