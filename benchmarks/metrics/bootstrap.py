"""The sampling error of a number that is computed from a set of samples, by resampling them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor


@dataclass(frozen=True)
class Bootstrap:
    """The sampling error of a value.

    standard_error: the standard deviation of the value over resamples.
    low, high:      95 % interval, value ± t · standard_error.
    bias:           the mean over resamples minus the value: the effect of repeated rows.
    """

    standard_error: float
    low: float
    high: float
    bias: float


def bootstrap(value: Callable[[Tensor], float], count: int, resamples: int, seed: int) -> Bootstrap:
    """The bootstrap (Efron 1979) of `value`, a function of row indices, int64 [count] on the CPU.

    A resample draws `count` of `count` rows with repetition. The interval is value ± t · standard error and not the
    percentiles of the resamples: a resample holds only 63 % of the rows, and Fréchet distances grow with fewer rows (as
    kernel distances do with pairs of equal ones), so resampled values lie above the value, often all of them. Their
    spread is informative, their location is not. t has as many degrees of freedom as the smaller of rows and resamples,
    less one. The interval is for the value at this count: it covers neither the bias of a finite count nor the
    variation over training runs.
    Raises ValueError for fewer than two rows or resamples, and if a value is NaN or infinite.
    """
    if count < 2 or resamples < 2:
        raise ValueError(f"a bootstrap needs at least 2 rows and 2 resamples, got {count} and {resamples}")
    generator = torch.Generator().manual_seed(seed)
    whole = value(torch.arange(count))
    values = [value(torch.randint(count, (count,), generator=generator)) for _ in range(resamples)]
    if not all(math.isfinite(number) for number in (whole, *values)):
        raise ValueError("the value of a resample is NaN or infinite")
    resampled = torch.tensor(values, dtype=torch.float64)
    error = float(resampled.std())
    reach = float(stats.t.ppf(0.975, min(count, resamples) - 1)) * error
    return Bootstrap(error, whole - reach, whole + reach, float(resampled.mean()) - whole)
