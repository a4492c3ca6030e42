"""EDM: Karras et al. 2022, arXiv 2206.00364. The diffusion model that the others are measured against.

Denoising score matching at log-normal levels: no target network, r = 0 throughout. Loss λ(σ) ‖D(x + σ z) - x‖² with
λ(σ) = (σ² + σ_data²) / (σ σ_data)², which is the weight `snr`. Sampled with Heun's method.
"""

from __future__ import annotations

from .compose import Context, Parts, assemble
from .parts.base import Method
from .parts.couplings import Independent
from .parts.distances import Squared
from .parts.samplers import Heun
from .parts.teachers import SamePoint
from .parts.times import LognormalDenoising


def edm(parts: Parts, context: Context) -> Method:
    kinds = {"coupling": Independent, "teacher": SamePoint, "distance": Squared, "sampler": Heun}
    return assemble("edm", parts, times=LognormalDenoising, **kinds)
