"""The point x_r at the cleaner level r that the target is computed from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .bank import Bank, References, all_references, batch_references, sampled_references
from .base import Draw, Method, Pair
from .checks import check_at_least, check_choice
from .posterior import PosteriorEstimate, reference_noise_posterior
from .process import per_sample


@dataclass(frozen=True, kw_only=True)
class SamePoint:
    """x_r from the same image and the same noise as x_t (iCT, ECT, VCT).

    shared_dropout: whether both passes see one dropout mask; false is what several ports do.
    """

    shared_dropout: bool = True
    needs_density = False
    in_batch = True

    def draw_references(
        self, x: Tensor, labels: Tensor | None, index: Tensor | None, generator: torch.Generator
    ) -> None:
        return None

    def __call__(self, method: Method, pair: Pair, x_t: Tensor, draw: Draw) -> Tensor:
        return method.process.perturb(pair.x, draw.r, pair.z)


@dataclass(frozen=True, kw_only=True)
class PosteriorMean:
    """x_r one step down the probability flow with an estimated score (SCT, Wang et al. 2024).

    With the estimate x̂ of E[x | x_t] over reference images (`posterior.py`), x_r = α_r x̂ + r (x_t - α_t x̂) / t. At
    r = 0 this is x̂ itself. Conditional rows average over images of their own class.

    references: "all" (the training set), "batch" (the global batch), "sampled:n" (n images: the row's own and others
        drawn for the batch) or "none" (the image alone, which is ECT).
    solver: "euler", or "heun" with a second estimate at r. Heun removes most of the bias of moderate steps (a third
        of it is left at r/t = 0.7 on four points) and makes steps below r/t = 0.4 worse.
    gate: rows below this noise level take the image itself for the estimate and skip its computation. Harmless where
        the own weight is 1 to rounding, below about 2.5 for CIFAR-like images; 0 gates nothing.
    coarse: rows with 0 < r/t < 1/2 use the "estimate" as all others, or the "image", the plain pair of ECT.
    r0_target: the target at r = 0: the "estimate", or the "image", to which other codes fall back.
    shared_dropout: whether both passes see one dropout mask.
    bank: the training set; set by `sct`, not an option.
    """

    references: str = "all"
    solver: str = "euler"
    gate: float = 0.0
    coarse: str = "estimate"
    r0_target: str = "estimate"
    shared_dropout: bool = True
    bank: Bank | None = field(default=None, repr=False, metadata={"option": False})

    def __post_init__(self) -> None:
        if self.references not in ("all", "batch", "none") and not re.fullmatch(r"sampled:[1-9]\d*", self.references):
            raise ValueError(
                f"references is '{self.references}', must be one of: all, batch, none, sampled:<n> with n at least 1"
            )
        check_choice("solver", self.solver, ("euler", "heun"))
        check_choice("coarse", self.coarse, ("estimate", "image"))
        check_choice("r0_target", self.r0_target, ("estimate", "image"))
        check_at_least("gate", self.gate, 0)

    @property
    def needs_density(self) -> bool:
        return self.references != "none"

    @property
    def in_batch(self) -> bool:
        return self.references == "batch"

    def draw_references(
        self, x: Tensor, labels: Tensor | None, index: Tensor | None, generator: torch.Generator
    ) -> References | None:
        match self.references.split(":"):
            case ["none"]:
                return None
            case ["batch"]:
                return batch_references(x, labels)
            case _ if self.bank is None:
                raise ValueError(f"references={self.references} needs the training set")
            case ["all"]:
                return all_references(self.bank)
            case [_, n]:
                if index is None:
                    raise ValueError(f"references={self.references} needs the positions of the batch's images")
                return sampled_references(self.bank, labels, index, int(n), generator)

    def __call__(self, method: Method, pair: Pair, x_t: Tensor, draw: Draw) -> Tensor:
        process, t, r = method.process, draw.t, draw.r
        x_r = process.perturb(pair.x, r, pair.z)
        estimated = self._estimated(t, r)
        rows = _positions(estimated, t, skip=self.gate > 0)
        if draw.references is None or not len(rows):
            return x_r
        estimate = PosteriorEstimate(
            process=process,
            pair=pair,
            references=draw.references,
            noise_posterior=reference_noise_posterior(method, pair, draw.references),
        )
        mean = estimate(x_t, t, rows)
        if estimated is not None:
            mean = torch.where(per_sample(estimated, x_t), mean, pair.x)
        # The same as the formula above, written as ECT's point and a correction: where the estimate is the image
        # itself the two methods agree to the last bit.
        share = process.alpha(r) - process.alpha(t) * r / t
        x_r = x_r + per_sample(share, x_t) * (mean - pair.x)
        if self.solver == "euler":
            return x_r
        above = r > method.times.phase_boundary(t)
        above = above if estimated is None else above & estimated
        rows = _positions(above, t)
        if not len(rows):
            return x_r
        # Heun: the mean of the slopes at both ends. Rows at the boundary are evaluated at t and then dropped.
        level = torch.where(above, r, t)
        half = per_sample((r - t) / 2, x_t)
        step = half * (process.slope(x_r, level, estimate(x_r, level, rows)) - process.slope(x_t, t, mean))
        return torch.where(per_sample(above, x_t), x_r + step, x_r)

    def _estimated(self, t: Tensor, r: Tensor) -> Tensor | None:
        """Whether a row gets an estimate, bool [B]; None if all do."""
        rows = []
        if self.gate:
            rows.append(t >= self.gate)
        if self.coarse == "image":
            rows.append((r == 0) | (r >= t / 2))
        if self.r0_target == "image":
            rows.append(r > 0)
        return torch.stack(rows).all(0) if rows else None


def _positions(chosen: Tensor | None, t: Tensor, *, skip: bool = False) -> Tensor:
    """The positions of the chosen rows (None: all), int64 [b].

    On a device the host would have to wait for their number: without `skip` they are all rows there, and the caller
    drops the others.
    """
    if chosen is None or not (skip or t.device.type == "cpu"):
        return torch.arange(len(t), device=t.device)
    return chosen.nonzero()[:, 0]
