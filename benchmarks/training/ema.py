"""Exponential moving averages of the weights: for evaluation, and for couplings that predict with the average."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config.schema import TrainConfig


class Averages:
    """All averages of one run, by name.

    weights: the module whose weights are averaged; they are updated in place.
    headline: the module that holds the average `train.ema`; the others start as copies of it.
    """

    def __init__(self, recipe: TrainConfig, weights: nn.Module, headline: nn.Module) -> None:
        self.profiles = recipe.averages
        self.weights = {name: averaged_copy(headline) if name else headline for name in self.profiles}
        # Finding the tensors of a small network takes longer than averaging them.
        self._values = Tensors.of(weights)
        self._means = {name: Tensors.of(average) for name, average in self.weights.items()}

    def update(self, step: int, batch: int) -> None:
        """Update the averages with the weights after update number `step`, counted from 1."""
        for name, profile in self.profiles.items():
            update(self._means[name], self._values, profile.beta(step, batch))

    def state_dict(self) -> dict[str, Any]:
        return {name: average.state_dict() for name, average in self.weights.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, average in self.weights.items():
            average.load_state_dict(state[name])


def averaged_copy(weights: nn.Module) -> nn.Module:
    """A frozen copy in evaluation mode, from which an average starts."""
    return copy.deepcopy(weights).eval().requires_grad_(False)


class Tensors(NamedTuple):
    """The tensors of a module."""

    parameters: list[Tensor]
    buffers: list[Tensor]

    @classmethod
    def of(cls, module: nn.Module) -> Tensors:
        return cls(list(module.parameters()), list(module.buffers()))


@torch.no_grad()
def update(average: Tensors, weights: Tensors, beta: float) -> None:
    """average <- beta · average + (1 - beta) · weights; buffers are copied."""
    # One kernel on a GPU, with the bits of lerp_.
    torch._foreach_lerp_(average.parameters, weights.parameters, 1 - beta)  # type: ignore[attr-defined]
    for old, new in zip(average.buffers, weights.buffers, strict=True):
        old.copy_(new)
