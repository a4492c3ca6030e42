"""Critical values of several t statistics at once: Tukey's for all pairs, Dunnett's for differences to a baseline.

The statistics are differences of k equally variable means over their standard error, which share one estimate of the
variance with `df` degrees of freedom. With s² ~ χ²(df)/df, φ and Φ of the standard normal and w = √2·c·s,

    all pairs:  P(max |t| ≤ c) = E_s ∫ k φ(z) [Φ(z) − Φ(z − w)]^(k−1) dz        (Tukey 1953)
    baseline:   P(max |t| ≤ c) = E_s ∫ φ(z) [Φ(z + w) − Φ(z − w)]^(k−1) dz      (Dunnett 1955, equal n: ρ = 1/2)

Both integrals are sums over evenly spaced points of z and of log s, which converge exponentially.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import chdtri, gammaln, ndtr, stdtr, stdtrit

ERROR = 0.05  # family-wise
_Z = np.linspace(-9, 9, 181)
_POINTS = 129


def exceedance(c: float, k: int, df: int, *, baseline: bool) -> float:
    """The probability that the largest |t| of a family of k equal rows exceeds c."""
    if k == 2:
        return 2 * float(stdtr(df, -c))
    s, weight = _scales(df)
    w = math.sqrt(2) * c * s[:, None]
    inner = (ndtr(_Z + w) if baseline else ndtr(_Z)) - ndtr(_Z - w)
    density = np.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi) * (_Z[1] - _Z[0])
    within = (density * inner ** (k - 1)).sum(1) * (1 if baseline else k)
    return float(min(1.0, max(0.0, 1 - weight @ within)))


@functools.lru_cache(maxsize=4096)
def critical(k: int, df: int, *, baseline: bool) -> float:
    """The c that the largest |t| of a family of k equal rows exceeds with 5 %; infinite without degrees of freedom."""
    if df < 1 or k < 2:
        return math.inf
    alone = float(stdtrit(df, 1 - ERROR / 2))
    if k == 2:
        return alone
    most = float(stdtrit(df, 1 - ERROR / 2 / pair_count(k, baseline=baseline))) + 1e-6  # Bonferroni's
    return root_scalar(
        lambda c: exceedance(c, k, df, baseline=baseline) - ERROR, bracket=(alone, most), method="brentq", xtol=1e-9
    ).root


def pair_count(k: int, *, baseline: bool) -> int:
    """How many differences a family of k rows has."""
    return k - 1 if baseline else k * (k - 1) // 2


def guard_level(k: int) -> float:
    """The level of a pair's own t test in a family of k rows, which guards against rows of unequal variance.

    The least strict of these forms whose family-wise error stays within 6.5 % where rows vary up to ten times as much
    as others (tests/reports/analysis/simulation.py). The last one takes over at 8 rows.
    """
    return ERROR * min(1.0, 2.5 / k, 20 / k**2)


@functools.lru_cache(maxsize=256)
def _scales(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of s = √(χ²(df)/df) and their probabilities."""
    low, high = (0.5 * math.log(float(chdtri(df, tail)) / df) for tail in (1 - 1e-12, 1e-14))
    log_s = np.linspace(low, high, _POINTS)
    density = df * log_s - df / 2 * np.exp(2 * log_s) + df / 2 * math.log(df / 2) - gammaln(df / 2) + math.log(2)
    weight = np.exp(density)
    return np.exp(log_s), weight / weight.sum()
