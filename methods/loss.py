"""The loss that all methods share, and the draw of everything random in it.

iCT, ECT, SCT, VCT and EDM differ in their parts (`parts.base.Method`) and in nothing else. Everything random is
drawn in `draw`; given the draw, `loss` is a pure function of its arguments (dropout masks aside, which follow the
state of the device's default generator). Golden values, exact resume and paired comparisons depend on this.

Example, for a batch x [B, ...] at half of the budget:

    drawn = draw(method, x, labels, 0.5, generator)
    terms = loss(method, method.process.denoiser(network), x, labels, 0.5, drawn)
    terms.total.backward()
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .parts.base import Draw, LossTerms, Method
from .parts.process import Denoise, consistency_function, per_sample

DRAWN_AT_ONCE = 2**15
"""Where a number of a larger draw comes from depends on the number of multiprocessors. 2¹⁵ need 16 to 22 of them."""


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
    z = standard_normal(x.shape, generator)
    references = method.teacher.draw_references(x, labels, index, generator)
    share = method.coupling.share
    coupled = None if share == 1 else torch.rand(len(x), generator=generator, device=x.device) < share
    return Draw(t=t, r=r, z=method.coupling.match(x, z), references=references, coupled=coupled)


def standard_normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Normal numbers on the generator's device, the same ones on every model of GPU."""
    if generator.device.type != "cuda":
        return torch.randn(shape, generator=generator, device=generator.device)
    z = torch.empty(shape, device=generator.device)
    for piece in z.view(-1).split(DRAWN_AT_ONCE):
        piece.normal_(generator=generator)
    return z


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
    sees x_r. Where r is the level that the function maps to (0, or the boundary of t's phase), the target is the
    teacher's *input*: the image itself for most methods, the posterior mean for SCT. Gradient reaches the coupling
    through the student's input and the penalty alone.

    Args:
        denoise: the preconditioned network D(x_t, t, labels), see `ForwardProcess.denoiser`.
        x, labels, draw: one batch or the same rows of all three; see `draw` above.
        average: the denoiser of the averaged weights, for couplings with `needs_average`.

    Raises:
        ValueError: the coupling needs the averaged weights and `average` is None.
    """
    predict = average if method.coupling.needs_average else denoise
    if predict is None:
        raise ValueError("this coupling predicts with the averaged weights: the loss needs their denoiser")
    pair = method.coupling(method, x, labels, draw, predict)
    x_t = method.process.perturb(pair.x, draw.t, pair.z)
    with torch.no_grad():
        x_r = method.teacher(method, pair, x_t, draw)
    boundary = method.times.phase_boundary(draw.t)

    same_dropout = dropout_replay(x.device) if method.teacher.shared_dropout else contextlib.nullcontext
    student = consistency_function(denoise(x_t, draw.t, pair.labels), x_t, draw.t, boundary)
    with torch.no_grad(), same_dropout():
        target = x_r if method.times.denoises else target_at(method, denoise, x_r, pair.labels, draw.t, draw.r)

    distance = method.distance(student, target)
    penalty = pair.penalty.mean()
    penalty_weight = method.coupling.penalty_weight(method.times, method.weight, progress)
    weighted = method.weight.balanced(method.weight(draw.t, draw.r) * distance, draw.t, method.modules)
    total = weighted.mean() + penalty_weight * penalty
    return LossTerms(total=total, consistency=distance.mean().detach(), penalty=penalty.detach())


def target_at(method: Method, denoise: Denoise, x_r: Tensor, labels: Tensor | None, t: Tensor, r: Tensor) -> Tensor:
    """The target: the consistency function at the teacher's point x_r, or x_r itself where r is the phase boundary.

    x_r: [B, ...]; t, r: [B]. Gradient is the caller's to stop.
    """
    boundary = method.times.phase_boundary(t)
    # At r = 0 the noise label ln(r) is not finite: rows at the boundary are evaluated at t and then replaced.
    at_boundary = r == boundary
    level = torch.where(at_boundary, t, r)
    target = consistency_function(denoise(x_r, level, labels), x_r, level, boundary)
    return torch.where(per_sample(at_boundary, x_r), x_r, target)


def dropout_replay(device: torch.device) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Remember the state of the default generators now; the returned context replays them from there.

    Dropout draws from the default generator of the device it runs on, so a pass inside the context sees the
    masks that a pass started now would see, on CPU and on any accelerator (iCT paper: shared dropout).
    """
    cpu_state = torch.get_rng_state()
    module = torch.get_device_module(device) if device.type not in ("cpu", "meta") else None
    device_state = module.get_rng_state(device) if module else None

    @contextlib.contextmanager
    def replay() -> Iterator[None]:
        torch.set_rng_state(cpu_state)
        if module:
            module.set_rng_state(device_state, device)
        yield

    return replay
