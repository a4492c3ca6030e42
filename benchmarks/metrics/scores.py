"""One metric of two feature sets: which distance between which features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from . import distances, kernels, neighbours
from .bootstrap import bootstrap
from .feature_sets import FeatureSet
from .references import KEPT
from .registry import Metric

SEED = 0  # of the random subsets within a distance


class Score(NamedTuple):
    """A metric's value, and the standard error of its sampling if known: of KID, and with a bootstrap."""

    value: float
    error: float | None = None


#: Results that metrics of the same two feature sets share: (distances, extractor, …) -> result.
Memo = dict[tuple[Any, ...], Any]


def score(metric: Metric, real: FeatureSet, fake: FeatureSet, memo: Memo, resamples: int = 0) -> Score:
    """The metric of the first `metric.samples` samples of `fake` against `real`.

    memo:      kept by the caller while both feature sets stay the same.
    resamples: number of bootstrap resamples for the standard error of a Fréchet distance; 0 for none.
    """
    match metric.distance:
        case "fd":
            return _frechet(metric, real, fake, resamples)
        case "kd":
            count = _reference(metric, KEPT)
            whole, features = real.first(count).values, fake.first(metric.samples).values
            return Score(kernels.kernel_distance(whole, features, real.within(count)))
        case "kid":
            mean, error = kernels.kid(
                real.first(_reference(metric, KEPT)).values, fake.first(metric.samples).values, seed=SEED
            )
            return Score(mean, error)
        case "fdinf":
            reference = _count(metric)
            features = fake.first(metric.samples).values
            return Score(
                distances.extrapolated_frechet(real.moments(reference), features, SEED, root=real.root(reference))
            )
        case "precision" | "recall":
            pair = _shared(metric, "pr", neighbours.precision_recall, real, fake, memo)
            return Score(pair[metric.distance == "recall"])
        case "density" | "coverage":
            pair = _shared(metric, "dc", neighbours.density_coverage, real, fake, memo)
            return Score(pair[metric.distance == "coverage"])
        case "authenticity":
            whole = real.first(_reference(metric, KEPT)).values
            return Score(neighbours.authenticity(whole, fake.first(metric.samples).values))
        case "w2":
            return Score(distances.w2(real.first(metric.samples).values, fake.first(metric.samples).values))
        case _:  # classes and modes
            predictions = fake.first(metric.samples).predictions
            assert predictions is not None
            return Score(float(distances.coverage(predictions)))


def _frechet(metric: Metric, real: FeatureSet, fake: FeatureSet, resamples: int) -> Score:
    kept = fake.first(metric.samples).values
    if len(kept) < metric.samples:  # moments alone
        reference = _count(metric)
        ours, theirs = real.moments(reference), fake.moments(metric.samples)
        return Score(distances.frechet_moments(ours, theirs, real.root(reference)))
    value = _frechet_of(metric, real, fake, kept)
    if not resamples:
        return Score(value)
    reference = _count(metric)
    resampled = distances.frechet_of_rows(real.moments(reference), kept, real.root(reference))
    return Score(value, bootstrap(resampled, len(kept), resamples, SEED).standard_error)


def _frechet_of(metric: Metric, real: FeatureSet, fake: FeatureSet, features: Tensor) -> float:
    """By the cheapest of three forms of the same value, which depends on the numbers of rows and columns."""
    reference = _count(metric)
    width = features.shape[1]
    if reference is not None and max(reference, len(features)) < width:
        return distances.frechet_from_features(real.first(reference).values, features)
    moments = real.moments(reference)
    if len(features) < width:
        return distances.frechet_mixed(moments, features)
    return distances.frechet_moments(moments, fake.moments(metric.samples), real.root(reference))


def _count(metric: Metric) -> int | None:
    """The number of real samples that the metric compares with, None for all."""
    return metric.reference if isinstance(metric.reference, int) else None


def _reference(metric: Metric, otherwise: int) -> int:
    return metric.reference if isinstance(metric.reference, int) else otherwise


def _shared(
    metric: Metric,
    what: str,
    pair: Callable[[Tensor, Tensor], tuple[float, float]],
    real: FeatureSet,
    fake: FeatureSet,
    memo: Memo,
) -> tuple[float, float]:
    """Both numbers of a pair, computed once."""
    key = (what, metric.extractor, metric.protocol, metric.samples, metric.reference)
    if key not in memo:
        features = real.first(_reference(metric, metric.samples)).values
        memo[key] = pair(features, fake.first(metric.samples).values)
    return memo[key]
