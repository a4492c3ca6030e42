"""Scoring: samples in, one number per metric out, against the real data of one benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.base import Dataset
from ..errors import UsageError
from . import distances, extractors
from .extractors import Features
from .registry import Metric, parse

SPLITS = 5  # random halvings of the real data that a "halves" row is the mean of
SEED = 0  # of everything random in here, so that every run has the same references


class Evaluator:
    """Scores samples against `dataset` by the metrics of the given names.

    The features of the real data are computed once, here. Raises UsageError for an unknown metric and for one that the
    data set cannot serve.
    """

    def __init__(self, dataset: Dataset, metrics: Sequence[str], device: torch.device | str = "cpu") -> None:
        if not metrics:
            raise UsageError("no metric is asked for: eval.metrics must name at least one")
        self.dataset = dataset
        self.metrics = tuple(parse(name) for name in dict.fromkeys(metrics))
        names = {metric.extractor for metric in self.metrics}
        self._extractors = {name: extractors.build(name, dataset, torch.device(device)) for name in sorted(names)}
        self._real = self._features(dataset.images)
        for metric in self.metrics:
            self._refuse_unservable(metric)
        self._within = {
            name: distances.kernel_within(self._real[name].values)
            for name in {metric.extractor for metric in self.metrics if metric.distance == "kd"}
        }

    @property
    def samples_needed(self) -> int:
        """How many samples `score` reads: the largest count of any metric."""
        return max(metric.samples for metric in self.metrics)

    def score(self, samples: Tensor) -> dict[str, float]:
        """Each metric's value, by name, of the first samples: uint8 [N, C, H, W], or float [N, 2] for points.

        Every metric takes the first n samples of the batch, n its own count; one pass per extractor feeds all of them.
        Raises ValueError for samples of another type or shape than the data's, for NaN or infinity, and for
        fewer than `samples_needed`.
        """
        self._check(samples)
        fake = self._features(samples[: self.samples_needed])
        values = {}
        for metric in self.metrics:
            features = fake[metric.extractor][: metric.samples]
            within = self._within.get(metric.extractor)
            values[metric.name] = _value(metric, self._reference(metric), features, within)
        return values

    def reference_rows(self) -> list[dict[str, Any]]:
        """What each metric says of the real data and of noise: rows with the keys what, metric, value, samples.

        `halves` is the mean over five random splits of the real data in two, one half scored against the other:
        a model that has learnt the data perfectly comes near it. Halves larger than the metric's count are
        cut to it. `noise` scores standard normal noise, quantised as a model's output is.
        """
        generator = torch.Generator().manual_seed(SEED)
        splits = [torch.randperm(len(self.dataset), generator=generator) for _ in range(SPLITS)]
        noise = torch.randn(self.samples_needed, *self.dataset.shape, generator=generator)
        noise_values = self.score(self.dataset.from_model(noise))
        rows = []
        for metric in self.metrics:
            half = min(len(self.dataset) // 2, metric.samples)
            real = self._real[metric.extractor]
            values = [_value(metric, real[order[:half]], real[order[-half:]]) for order in splits]
            for what, value, samples in (
                ("halves", sum(values) / SPLITS, half),
                ("noise", noise_values[metric.name], metric.samples),
            ):
                rows.append({"what": what, "metric": metric.name, "value": value, "samples": samples})
        return rows

    def _features(self, samples: Tensor) -> dict[str, Features]:
        return {name: extract(samples) for name, extract in self._extractors.items()}

    def _reference(self, metric: Metric) -> Features:
        """The real features a metric compares with: all of them, or for w2 a fixed random choice of equal size."""
        real = self._real[metric.extractor]
        if metric.distance != "w2":
            return real
        return real[torch.randperm(len(real), generator=torch.Generator().manual_seed(SEED))[: metric.samples]]

    def _refuse_unservable(self, metric: Metric) -> None:
        name, count = self.dataset.name, len(self.dataset)
        if metric.distance == "w2" and metric.samples > count:
            raise UsageError(f"metric {metric.name!r} needs as many real samples, and {name!r} has {count}")
        if metric.distance in ("classes", "modes") and self._real[metric.extractor].predictions is None:
            raise UsageError(f"metric {metric.name!r} needs a mixture, and this variant of {name!r} has no modes")

    def _check(self, samples: Tensor) -> None:
        shape, real = self.dataset.shape, self.dataset.images
        if tuple(samples.shape[1:]) != shape or samples.dtype != real.dtype:
            raise ValueError(
                f"samples must be {real.dtype} [N, {', '.join(map(str, shape))}], "
                f"got {samples.dtype} {list(samples.shape)}"
            )
        if len(samples) < self.samples_needed:
            raise ValueError(f"the metrics need {self.samples_needed} samples, got {len(samples)}")
        if not torch.isfinite(samples).all():
            raise ValueError("samples hold NaN or infinity")


def _value(metric: Metric, real: Features, fake: Features, within_real: float | None = None) -> float:
    match metric.distance:
        case "fd":
            return distances.frechet_from_features(real.values, fake.values)
        case "kd":
            return distances.kernel_distance(real.values, fake.values, within_real)
        case "w2":
            return distances.w2(real.values, fake.values)
        case _:  # classes and modes
            assert fake.predictions is not None
            return float(distances.coverage(fake.predictions))
