"""What a method is: a frozen record of parts, and the protocol of each part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from .bank import References
from .process import Denoise, ForwardProcess


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Diagonal normal distribution N(mean, std²) of the noise given the image; both of the shape of the batch."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Images and the noise they travel with.

    x, z: [B, ...]; labels: [B] or None.
    penalty: [B], cost of the coupling (a KL divergence, summed over the elements of a sample); zeros where none.
    noise_posterior: what z was drawn from given x, where that is learned and holds for every row; else None.
    """

    x: Tensor
    z: Tensor
    labels: Tensor | None
    penalty: Tensor
    noise_posterior: Gaussian | None = None


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Everything random about one batch: times t > r >= 0 [B], noise z [B, ...], the teacher's references.

    coupled: bool [B], the rows that the coupling acts on; None for all of them.

    Drawn for the whole (global) batch, so that splitting it for gradient accumulation changes nothing.
    """

    t: Tensor
    r: Tensor
    z: Tensor
    references: References | None = None
    coupled: Tensor | None = None

    def rows(self, rows: slice) -> Draw:
        """The same draw for a part of the batch; the references stay those of the whole batch."""
        return Draw(
            t=self.t[rows],
            r=self.r[rows],
            z=self.z[rows],
            references=None if self.references is None else self.references.rows(rows),
            coupled=None if self.coupled is None else self.coupled[rows],
        )


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """Scalars: `total` is minimised; batch means of the unweighted distance (`consistency`) and the KL (`penalty`)."""

    total: Tensor
    consistency: Tensor
    penalty: Tensor


class Times(Protocol):
    """Which pairs of noise levels are compared, as training goes on."""

    @property
    def phases(self) -> int:
        """Number of pieces that (0, σ_max] is cut into, each with a consistency function of its own; usually 1."""
        ...

    @property
    def denoises(self) -> bool:
        """Whether r is the phase boundary at every t, so that no target needs a network pass."""
        ...

    def phase_boundary(self, t: Tensor) -> Tensor:
        """The level that the consistency function maps t to, [B] -> [B]: the cleaner end of its phase, or 0."""
        ...

    def sample(self, n: int, progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n pairs t > r >= 0, float32 [n], on the generator's device. progress in [0, 1): share of the budget seen."""
        ...

    def t_to_r(self, t: Tensor, progress: float) -> Tensor:
        """The map t -> r, [B] -> [B], for any t above the cleanest level, also one that `sample` never draws."""
        ...

    def last(self, progress: float) -> tuple[float, float]:
        """The noisiest interval (t, r) of the current stage, that of σ_max."""
        ...

    def limited_to(self, limit: float) -> Times:
        """The same times with no level above `limit`, which is infinite for most processes.

        Raises:
            ValueError: an option asks for such a level, in one sentence.
        """
        ...

    def stage(self, progress: float) -> int:
        """The stage of the curriculum, counted from 0."""
        ...


class Distance(Protocol):
    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """[B, ...], [B, ...] -> one value per sample [B]."""
        ...


class Weight(Protocol):
    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        """[B], [B] -> one value per sample [B]."""
        ...

    def modules(self) -> dict[str, nn.Module]:
        """New modules that are trained with the network, by name; {} for most weights."""
        ...

    def balanced(self, weighted: Tensor, t: Tensor, modules: nn.ModuleDict) -> Tensor:
        """Weighted distances [B] at levels t [B] -> what the loss is the mean of, [B]: the same for most weights.

        modules: those of the method.
        """
        ...

    def penalty_scale(self, t: float, r: float) -> float:
        """Factor of a coupling's penalty that keeps its balance against the weighted distance."""
        ...


class Coupling(Protocol):
    """How an image gets its noise."""

    @property
    def has_density(self) -> bool:
        """Whether p(z | x) is known in closed form (SCT's weights need it)."""
        ...

    @property
    def learns_noise_posterior(self) -> bool:
        """Whether the distribution of z given x is learned, and `noise_posterior` returns it."""
        ...

    @property
    def needs_average(self) -> bool:
        """Whether pairs are made with the averaged network instead of the trained one."""
        ...

    @property
    def share(self) -> float:
        """Share of the rows that are coupled, drawn at random; the others are paired independently."""
        ...

    def match(self, x: Tensor, z: Tensor) -> Tensor:
        """Permute the noise of the whole batch to match the images. No gradient; called once per global batch."""
        ...

    def __call__(self, method: Method, x: Tensor, labels: Tensor | None, draw: Draw, predict: Denoise) -> Pair:
        """The pairs of a batch. predict: the denoiser, of the averaged network if `needs_average`."""
        ...

    def noise_posterior(self, x: Tensor, labels: Tensor | None, modules: nn.ModuleDict) -> Gaussian | None:
        """The learned distribution of z given x; None for the standard normal."""
        ...

    def penalty_weight(self, times: Times, weight: Weight, progress: float) -> float:
        """The factor of the penalty at this point of training."""
        ...


class Teacher(Protocol):
    """Which point at time r the target is computed from."""

    @property
    def needs_density(self) -> bool:
        """Whether the coupling's p(z | x) enters the target."""
        ...

    @property
    def in_batch(self) -> bool:
        """Whether the target is computed from images of the current batch alone."""
        ...

    @property
    def shared_dropout(self) -> bool:
        """Whether the teacher's pass sees the student's dropout mask; false reproduces codes that do not share it."""
        ...

    def draw_references(
        self, x: Tensor, labels: Tensor | None, index: Tensor | None, generator: torch.Generator
    ) -> References | None:
        """What the target averages over, drawn for the whole batch; None where nothing is needed.

        index: where the images of the batch lie in the training set, int64 [B].
        """
        ...

    def __call__(self, method: Method, pair: Pair, x_t: Tensor, draw: Draw) -> Tensor:
        """The teacher's input x_r, of the shape of x_t. Called without gradient, before both network passes."""
        ...


class Sampler(Protocol):
    def check_compatible(self, method: Method) -> None:
        """Raise ValueError, in one sentence, where an option contradicts the method or has no effect with it."""
        ...

    def check_nfe(self, times: Times, nfe: int) -> None:
        """Raise ValueError, in one sentence, where this sampler cannot take `nfe` steps."""
        ...

    def __call__(self, method: Method, denoise: Denoise, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """noise: [nfe, B, ...] standard normal, one slice a step -> samples [B, ...] float32, unclipped."""
        ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method of consistency training: everything that separates one paper from another."""

    name: str
    version: int
    """Bumped when the method's numbers change; printed in every table."""
    process: ForwardProcess
    times: Times
    coupling: Coupling
    teacher: Teacher
    distance: Distance
    weight: Weight
    sampler: Sampler
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    """Trained, averaged and saved with the network (VCT's encoder). Empty for most methods."""
