"""What a method is, and the one loss that all of them share.

A consistency method is a frozen record of parts (`Method`). iCT, ECT, SCT and VCT differ in these parts and in
nothing else; the loss below is the same function for all of them. Randomness is drawn in `draw`, arithmetic is
done in `loss`: with its draw given, the loss is a pure function of its arguments (dropout masks aside, which
follow the state of the device's default generator). Golden values, exact resume and paired comparisons rest on that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from .parts.bank import References
from .parts.kernels import Denoise, Kernel, per_sample


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Diagonal normal law of the noise given the image, N(mean, std²); both of the shape of the batch."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Images and the noise they travel with.

    x, z: [B, ...]; labels: [B] or None; penalty: [B], what the coupling costs (a KL divergence, summed over
    the elements of a sample); zeros where pairing is free. law: what z was drawn from given x, where that was learned
    and holds for every row; None otherwise.
    """

    x: Tensor
    z: Tensor
    labels: Tensor | None
    penalty: Tensor
    law: Gaussian | None = None


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
        """Into how many pieces the noise levels are cut, each with a consistency function of its own; mostly 1."""
        ...

    def edge(self, t: Tensor) -> Tensor:
        """[B] -> [B]: the level that t is mapped to, the cleaner end of its phase; 0 everywhere in a single phase."""
        ...

    def sample(self, n: int, progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n pairs t > r >= 0, float32 [n], on the generator's device. progress in [0, 1): share of the budget seen."""
        ...

    def cleaner(self, t: Tensor, progress: float) -> Tensor:
        """The r that goes with any t [B] above the cleanest level, also with one that `sample` never draws: [B]."""
        ...

    def last(self, progress: float) -> tuple[float, float]:
        """The noisiest interval (t, r) of the current stage, that of σ_max."""
        ...

    def bounded(self, limit: float) -> Times:
        """The same times with no level above `limit`, which is infinite for most kernels.

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

    def penalty_scale(self, t: float, r: float) -> float:
        """What a coupling's penalty is multiplied by, so that it keeps its balance against the weighted distance."""
        ...


class Coupling(Protocol):
    """How an image gets its noise."""

    @property
    def has_density(self) -> bool:
        """Whether p(z | x) is known in closed form (SCT's weights need it)."""
        ...

    @property
    def learns_law(self) -> bool:
        """Whether the law of z given x is learned, so that `noise_law` can be asked for it."""
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
        """Reorder the noise of the whole batch to suit the images. No gradient; called once per global batch."""
        ...

    def __call__(self, method: Method, x: Tensor, labels: Tensor | None, draw: Draw, predict: Denoise) -> Pair:
        """The pairs of a batch. predict: the denoiser, of the averaged network if `needs_average`."""
        ...

    def noise_law(self, x: Tensor, labels: Tensor | None, modules: nn.ModuleDict) -> Gaussian | None:
        """The learned law of z given x; None for the standard normal."""
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
    def suit(self, method: Method) -> None:
        """Raise ValueError, in one sentence, where an option does not go with the method or does nothing with it."""
        ...

    def check(self, times: Times, nfe: int) -> None:
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
    kernel: Kernel
    times: Times
    coupling: Coupling
    teacher: Teacher
    distance: Distance
    weight: Weight
    sampler: Sampler
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    """Trained, averaged and saved with the network (VCT's encoder). Empty for most methods."""


def draw(
    method: Method,
    x: Tensor,
    labels: Tensor | None,
    progress: float,
    generator: torch.Generator,
    index: Tensor | None = None,
) -> Draw:
    """Draw everything random about one global batch.

    Args:
        x: images [B, ...] in model units, on the generator's device.
        labels: class indices [B] or None.
        progress: share of the training budget seen, in [0, 1).
        index: where the images lie in the training set, int64 [B]; needed by `references=sampled:n` alone.
    """
    t, r = method.times.sample(len(x), progress, generator)
    z = torch.randn(x.shape, generator=generator, device=x.device)
    references = method.teacher.draw_references(x, labels, index, generator)
    share = method.coupling.share
    coupled = None if share == 1 else torch.rand(len(x), generator=generator, device=x.device) < share
    return Draw(t=t, r=r, z=method.coupling.match(x, z), references=references, coupled=coupled)


def loss(
    method: Method,
    denoise: Denoise,
    x: Tensor,
    labels: Tensor | None,
    progress: float,
    draw: Draw,
    average: Denoise | None = None,
) -> LossTerms:
    """The loss of consistency training, common to all methods.

    The student sees x_t, the noisier point; the teacher (the same weights, no gradient, the same dropout mask)
    sees x_r. Where r is the level that the function maps to (0, or the edge of t's phase), the target is the
    teacher's *input*: the image itself for most methods, the posterior mean for SCT. Gradient reaches the coupling
    through the student's input and the penalty alone.

    Args:
        denoise: the preconditioned network D(x_t, t, labels), see `Kernel.denoiser`.
        x, labels, draw: one batch or the same rows of all three; see `draw` above.
        average: the denoiser of the averaged weights, for couplings with `needs_average`.

    Raises:
        ValueError: the coupling needs the averaged weights and `average` is None.
    """
    predict = average if method.coupling.needs_average else denoise
    if predict is None:
        raise ValueError("this coupling predicts with the averaged weights: the loss needs their denoiser")
    pair = method.coupling(method, x, labels, draw, predict)
    x_t = method.kernel.perturb(pair.x, draw.t, pair.z)
    with torch.no_grad():
        x_r = method.teacher(method, pair, x_t, draw)
    edge = method.times.edge(draw.t)

    same_dropout = dropout_replay(x.device) if method.teacher.shared_dropout else contextlib.nullcontext
    student = to_edge(denoise(x_t, draw.t, pair.labels), x_t, draw.t, edge)
    with torch.no_grad(), same_dropout():
        target = target_at(method, denoise, x_r, pair.labels, draw.t, draw.r)

    distance = method.distance(student, target)
    penalty = pair.penalty.mean()
    penalty_weight = method.coupling.penalty_weight(method.times, method.weight, progress)
    total = (method.weight(draw.t, draw.r) * distance).mean() + penalty_weight * penalty
    return LossTerms(total=total, consistency=distance.mean().detach(), penalty=penalty.detach())


def target_at(method: Method, denoise: Denoise, x_r: Tensor, labels: Tensor | None, t: Tensor, r: Tensor) -> Tensor:
    """What the student is compared with: the function at the teacher's point x_r, or x_r itself where r is the edge.

    x_r: [B, ...]; t, r: [B]. Gradient is the caller's to stop.
    """
    edge = method.times.edge(t)
    # At r = 0 the noise label ln(r) is not finite: rows at the edge are evaluated at t and then replaced.
    at_edge = r == edge
    level = torch.where(at_edge, t, r)
    target = to_edge(denoise(x_r, level, labels), x_r, level, edge)
    return torch.where(per_sample(at_edge, x_r), x_r, target)


def to_edge(denoised: Tensor, x: Tensor, t: Tensor, edge: Tensor) -> Tensor:
    """f(x, t) = D + (edge / t) (x - D): from x at level t to `edge` [B] along the line to the denoised image.

    D itself where the edge is 0; phased consistency models (the PCM papers, and SCT's phased option) have others.
    """
    return denoised + per_sample(edge / t, x) * (x - denoised)


def dropout_replay(device: torch.device) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Remember the state of the default generators now; the returned context replays them from there.

    Dropout draws from the default generator of the device it runs on, so a pass inside the context sees the
    masks that a pass started now would see, on CPU and on any accelerator (iCT paper: shared dropout).
    """
    cpu_state = torch.get_rng_state()
    module = torch.get_device_module(device) if device.type != "cpu" else None
    device_state = module.get_rng_state(device) if module else None

    @contextlib.contextmanager
    def replay() -> Iterator[None]:
        torch.set_rng_state(cpu_state)
        if module:
            module.set_rng_state(device_state, device)
        yield

    return replay
