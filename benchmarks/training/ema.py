"""Exponential moving averages of the weights: for evaluation, and for couplings that predict with the average."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.schema import TrainConfig


class Averages:
    """All averages of one run, by name.

    headline: the module that holds the average `train.ema`; the others start as copies of it.
    """

    def __init__(self, recipe: TrainConfig, headline: nn.Module) -> None:
        self.profiles = recipe.averages
        self.weights = {name: averaged_copy(headline) if name else headline for name in self.profiles}

    def update(self, weights: nn.Module, step: int, batch: int) -> None:
        """Update the averages with the weights after update number `step`, counted from 1."""
        for name, profile in self.profiles.items():
            update(self.weights[name], weights, profile.beta(step, batch))

    def state_dict(self) -> dict[str, Any]:
        return {name: average.state_dict() for name, average in self.weights.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, average in self.weights.items():
            average.load_state_dict(state[name])


def averaged_copy(weights: nn.Module) -> nn.Module:
    """A frozen copy in evaluation mode, from which an average starts."""
    return copy.deepcopy(weights).eval().requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, weights: nn.Module, beta: float) -> None:
    """average <- beta · average + (1 - beta) · weights; buffers are copied."""
    means: list[Tensor] = list(average.parameters())
    values: list[Tensor] = list(weights.parameters())
    torch._foreach_lerp_(means, values, 1 - beta)  # type: ignore[attr-defined]  # one kernel on a GPU, lerp_'s bits
    for old, new in zip(average.buffers(), weights.buffers(), strict=True):
        old.copy_(new)
