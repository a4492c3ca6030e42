"""The optimiser of the section `train`, its learning rate, and what is done to gradients before a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config.schema import TrainConfig

OPTIMIZERS = {"radam": torch.optim.RAdam, "adam": torch.optim.Adam}


def make_optimizer(recipe: TrainConfig, weights: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a recipe; network and method modules share one learning rate."""
    beta1, beta2 = recipe.betas
    # foreach halves the optimiser's time for small networks on a CPU, where it is not the default.
    return OPTIMIZERS[recipe.optimizer](weights.parameters(), lr=recipe.lr, betas=(beta1, beta2), foreach=True)


def learning_rate(recipe: TrainConfig, images: int, budget_images: int) -> float:
    """The learning rate of the step that starts after `images` of the budget.

    Constant, or with `lr_decay` falling as 1 / sqrt(images / lr_decay) (EDM2). It also rises linearly from 0 over the
    first `lr_rampup` images (EDM), and falls linearly to 0 over the last share `lr_cooldown` of the budget.
    """
    lr = recipe.lr
    if images < recipe.lr_rampup:
        lr *= images / recipe.lr_rampup
    if recipe.lr_cooldown:
        lr *= min(1.0, (1 - images / budget_images) / recipe.lr_cooldown)
    return lr / math.sqrt(max(images / recipe.lr_decay, 1)) if recipe.lr_decay else lr


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The global 2-norm of the gradients, a scalar on their device."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def zero_nonfinite(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Set gradient entries that are not finite to 0; returns the global norm after that, which may still overflow."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return gradient_norm(parameters)


def clip_gradients(parameters: Sequence[nn.Parameter], norm: Tensor, clip: float | None) -> None:
    """Scale the gradients, whose global norm is `norm`, down to a norm of at most `clip`; None leaves them."""
    if clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
