"""What metrics a data set can serve, found out without reading a sample or loading a network."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import UsageError
from ..data.base import DataInfo
from ..data.distributions import Mixture
from .extractors.registry import extractor_kind
from .published_statistics import check_published
from .references import KEPT
from .registry import HELD_OUT, LEAST, PUBLISHED, Metric, parse

PAIRED = ("precision", "recall", "density", "coverage")  # these compare with as many real samples


def check_metrics(data: DataInfo, names: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics of the given names, no name twice.

    Raises UsageError for no name, an unknown one, a metric that the data set cannot serve, and missing weights.
    """
    if not names:
        raise UsageError("eval.metrics is empty, it must name at least one metric")
    metrics = tuple(parse(name) for name in dict.fromkeys(names))
    for metric in metrics:
        _check_counts(metric, data)
    for extractor, protocol in dict.fromkeys(metric.features for metric in metrics):
        extractor_kind(extractor).check(data, protocol)
    for metric in metrics:
        if metric.distance == "modes" and not isinstance(data.exact, Mixture):
            raise UsageError(f"metric {metric.name!r} needs a mixture, and this variant of {data.name!r} has no modes")
        if metric.reference == PUBLISHED:
            check_published(data)
    return metrics


def _check_counts(metric: Metric, data: DataInfo) -> None:
    name, count, least = data.name, data.count, LEAST.get(metric.distance, 2)
    if metric.reference == HELD_OUT:
        if not data.held_out:
            raise UsageError(
                f"metric {metric.name!r} compares with held-out samples, and of {name!r} none are held out: set "
                "data.held_out=0.2, or leave out _refheldout"
            )
        name, count = f"held-out part of {name}", data.held_out
    needed = metric.samples if metric.distance == "w2" else metric.reference
    if isinstance(needed, int) and needed > count:
        raise UsageError(f"metric {metric.name!r} needs {needed} real samples, and {name!r} has {count}")
    if isinstance(metric.reference, int) and metric.reference + least > min(count, KEPT):
        raise UsageError(
            f"metric {metric.name!r} leaves no other real samples to compare its reference with: of {name!r} the "
            f"reference can take at most {min(count, KEPT) - least}"
        )
    if metric.distance in PAIRED and metric.reference in (None, HELD_OUT) and metric.samples > count:
        raise UsageError(
            f"metric {metric.name!r} compares with as many real samples, and {name!r} has {count}: use fewer samples"
        )
    if metric.distance == "authenticity" and metric.reference is None and count > KEPT:
        raise UsageError(
            f"metric {metric.name!r} compares with at most {KEPT} real samples, and {name!r} has {count}: "
            f"choose a number with {metric.name}_ref{KEPT // 1000 - 1}k or fewer"
        )
    if count < least:
        raise UsageError(f"metric {metric.name!r} needs at least {least} real samples, and {name!r} has {count}")
