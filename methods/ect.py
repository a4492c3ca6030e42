"""ECT, easy consistency tuning: Geng et al. 2025, arXiv 2406.14548.

Continuous log-normal times t, and a map t -> r that starts as denoising (r = 0) and closes in a few stages. The
distance is a norm, its weight 1 / (t - r) or the SNR form; the plain EDM preconditioning already has D(x, 0) = x.
"""

from __future__ import annotations

from .compose import Context, Parts, assemble
from .parts.base import Method
from .parts.couplings import Independent
from .parts.teachers import SamePoint
from .parts.times import LognormalGap


def ect(parts: Parts, context: Context) -> Method:
    return assemble("ect", parts, times=LognormalGap, coupling=Independent, teacher=SamePoint)
