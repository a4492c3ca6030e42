"""VCT, variational consistency training: Silvestri et al. 2025, arXiv 2502.18197.

ECT whose noise comes from a small encoder q(z | x), trained by the same loss plus a KL divergence to the prior.
On another base the same coupling is written `ict+vc` or `sct+vc`; `ect+vc` is this method.
"""

from __future__ import annotations

from dataclasses import replace

from .compose import Context, Parts, require_kind, variational
from .ect import ect
from .parts.base import Method
from .parts.couplings import Independent
from .parts.variational import Variational


def vct(parts: Parts, context: Context) -> Method:
    coupling = require_kind(parts.coupling, Variational, "vct", "coupling")
    base = ect(replace(parts, coupling=Independent()), context)
    return replace(variational(base, coupling, context), name="vct")
