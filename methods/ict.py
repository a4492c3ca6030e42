"""iCT, improved consistency training: Song & Dhariwal 2024, arXiv 2310.14189.

A network learned from random weights, by neighbouring levels of a noise grid that doubles from 10 to 1280 intervals.
The paper's choices are the parts: no averaged teacher, a pseudo-Huber distance over the whole image, weight
1 / (t - r), log-normal levels, boundary preconditioning throughout. No official code exists.
"""

from __future__ import annotations

from .compose import Context, Parts, assemble
from .parts.base import Method
from .parts.couplings import Independent
from .parts.teachers import SamePoint
from .parts.times import KarrasBins


def ict(parts: Parts, context: Context) -> Method:
    return assemble("ict", parts, times=KarrasBins, coupling=Independent, teacher=SamePoint)
