"""The gradient of one global batch: accumulated over passes, and over the processes of a cell.

Neither the number of passes nor that of the processes changes the loss or its gradient, rounding aside.
"""

from __future__ import annotations

import logging
import socket
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...methods.loss import draw, loss
from ...methods.parts.base import Draw, LossTerms
from ...methods.parts.process import Denoise
from ..common.distributed import ALONE, TIMEOUT, Ranks
from ..common.text import count
from .model import Model

log = logging.getLogger(__name__)


class Replica:
    """This process's copy of a model, which computes the gradient for its rows of every global batch.

    With several processes, DistributedDataParallel averages the gradients over gloo or NCCL, and all replicas start
    from the weights of rank 0.

    average: the denoiser of the averaged weights, for couplings that predict with it.
    compile: whether the passes of the network are compiled.
    """

    def __init__(
        self, model: Model, average: Denoise | None = None, ranks: Ranks = ALONE, *, compile: bool = False
    ) -> None:
        self.model, self.ranks = model, ranks
        self.loss: nn.Module = _Loss(model, average, compile)
        self.group = None
        if ranks.size > 1:
            self.group = _group(_backend(ranks, next(model.network.parameters()).device))
            self.loss = DistributedDataParallel(
                self.loss,
                process_group=self.group,
                broadcast_buffers=False,  # they are constants
                gradient_as_bucket_view=True,  # one copy of the gradients instead of two
                # A coupling of a share of the rows may leave its weights without a gradient. To look for them is slow.
                find_unused_parameters=model.method.coupling.share < 1,
            )

    def forward_backward(self, index: Tensor, progress: float, noise: torch.Generator, micro_batch: int) -> LossTerms:
        """Accumulate the gradient of the loss over one global batch, in passes of at most `micro_batch` images.

        Everything random, and everything that looks across the batch, is drawn for the global batch first. Each pass
        is weighted by its share of the images.

        Args:
            index: positions of the global batch in the model's bank, int64 [B].
            progress: share of the training budget seen, in [0, 1).
            noise: a generator on the model's device, in the same state in every process.

        Returns:
            This process's share of the terms: their sum over the processes is that of the global batch.
        """
        x, labels = self.model.batch(index)
        drawn = draw(self.model.method, x, labels, progress, noise, index)
        own = self.ranks.rows(len(x))
        terms = []
        for start in range(own.start, own.stop, micro_batch):
            rows = slice(start, min(start + micro_batch, own.stop))
            share = (rows.stop - rows.start) / len(x)
            with self._synchronising(last=rows.stop == own.stop):
                part = self.loss(x[rows], None if labels is None else labels[rows], progress, drawn.rows(rows))
                # DistributedDataParallel takes the mean over the processes; the sum is needed.
                (part[0] * (share * self.ranks.size)).backward()
            terms.append([share * value.detach() for value in part])
        total, consistency, penalty = (torch.stack(values).sum() for values in zip(*terms, strict=True))
        return LossTerms(total=total, consistency=consistency, penalty=penalty)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over the processes, in one message."""
        if self.group is not None:
            torch.distributed.all_reduce(values, group=self.group)
        return values

    def _synchronising(self, *, last: bool) -> AbstractContextManager[None]:
        """The context of a pass: only the last one of a step exchanges gradients."""
        if isinstance(self.loss, DistributedDataParallel) and not last:
            return self.loss.no_sync()
        return nullcontext()


class _Loss(nn.Module):
    """The loss of some rows as a module, as DistributedDataParallel needs it; a tuple in the order of LossTerms."""

    def __init__(self, model: Model, average: Denoise | None, compile: bool) -> None:
        super().__init__()
        self.weights = model.weights
        self.method, self.denoise, self.average = model.method, model.denoiser(compile=compile), average

    def forward(self, x: Tensor, labels: Tensor | None, progress: float, drawn: Draw) -> tuple[Tensor, Tensor, Tensor]:
        terms = loss(self.method, self.denoise, x, labels, progress, drawn, self.average)
        return terms.total, terms.consistency, terms.penalty


@cache
def _group(backend: str) -> Any:
    """The torch.distributed group of all processes for gradients, created once per process."""
    return torch.distributed.new_group(backend=backend, timeout=TIMEOUT)


def _backend(ranks: Ranks, device: torch.device) -> str:
    """NCCL if every process has a GPU of its own, which NCCL requires, else gloo."""
    if device.type != "cuda":
        return "gloo"
    places = ranks.exchange((socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid)))
    if len(set(places)) == len(places):
        return "nccl"
    if ranks.is_writer:
        log.warning("%d processes share %s: they wait for each other", len(places), count(len(set(places)), "GPU"))
    return "gloo"
