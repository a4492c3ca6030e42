"""What steps were like, added up where they are made: nobody waits for the device until somebody looks."""

from __future__ import annotations

import torch
from torch import Tensor

from ...methods.parts.base import LossTerms

Four = tuple[float, float, float, float]


class Sums:
    """Sums of loss, distance, penalty and gradient norm over steps, in float64 as Python adds, and whether all held.

    before: the sums so far.
    """

    def __init__(self, before: Four, device: torch.device) -> None:
        self._sums = torch.tensor(before, dtype=torch.float64, device=device)
        self._bad = torch.zeros((), dtype=torch.int64, device=device)
        self._wishes: Tensor | int = 0

    def add(self, terms: LossTerms, norm: Tensor, wishes: Tensor | bool) -> None:
        """Take in a step: its terms (scalars), the norm of its gradient, and how many want to stop."""
        values = torch.stack([terms.total, terms.consistency, terms.penalty, norm]).double()
        self._sums += values
        self._bad += ~(torch.isfinite(terms.total) & torch.isfinite(norm))
        self._wishes = self._wishes + wishes

    def look(self) -> tuple[Four, bool] | None:
        """The sums, and whether anybody wants to stop; None where a loss or gradient was not finite. Waits."""
        if self._bad.item():
            return None
        loss, consistency, penalty, norm = self._sums.tolist()
        return (loss, consistency, penalty, norm), bool(self._wishes > 0)
