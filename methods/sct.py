"""SCT, stable consistency tuning: Wang, Geng & Li 2024, arXiv 2410.18958.

ECT with a target of less variance: the teacher's point follows a score estimated from many reference images rather
than from the one that was noised. Code was never released; what the paper leaves open is an option.
"""

from __future__ import annotations

from dataclasses import replace

from .compose import Context, Parts, require_kind
from .ect import ect
from .parts.base import Method
from .parts.teachers import PosteriorMean, SamePoint


def sct(parts: Parts, context: Context) -> Method:
    teacher = require_kind(parts.teacher, PosteriorMean, "sct", "teacher")
    base = ect(replace(parts, teacher=SamePoint()), context)
    return replace(base, name="sct", teacher=replace(teacher, bank=context.bank))
