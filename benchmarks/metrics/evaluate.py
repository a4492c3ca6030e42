"""Scoring: samples in, one number per metric out, against the real data of one benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.cache import cache_folder
from ..common.files import DamagedError, read_json, write_json
from ..data.base import Dataset
from .checks import check_metrics
from .extractors import registry as extractors
from .extractors.base import Features
from .feature_sets import ComputedFeatures, FeatureAccumulator, FeatureSet
from .neighbours import nearest
from .published_statistics import PublishedMoments
from .references import KEPT, PIECE, Reference, StoppedError, held_out_samples, noise, real_samples
from .registry import HELD_OUT, PUBLISHED, Metric
from .scores import Memo, Score, score

SPLITS = 5  # random halvings of the real data that the real-vs-real baseline averages over
SEED = 0  # of everything random in here, so that every run has the same references
FEW = 10_000  # up to this many samples, features for a Fréchet distance may be kept; beyond, only their moments
PAIRS = 16  # nearest pairs of sample and training image that are shown

FeatureKind = tuple[str, str]  # extractor and preprocessing protocol
View = tuple[FeatureKind, Features]  # the features of a few samples


class Evaluator:
    """Scores samples against `dataset` by the metrics of the given names.

    Nothing of the real data is computed before it is needed.

    Args:
        cache: folder for features of costly extractors; in the user's cache if None.
        should_stop: called every PIECE samples of a costly extractor; StoppedError is raised if it returns True.

    Raises UsageError for an unknown metric, for one that the data set cannot serve, and for an extractor with missing
    or damaged weights.
    """

    def __init__(
        self,
        dataset: Dataset,
        metrics: Sequence[str],
        device: torch.device | str = "cpu",
        *,
        cache: Path | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.dataset, self.cache, self.should_stop = dataset, cache, should_stop
        self.metrics = check_metrics(dataset.info, metrics)
        self._extractors = {
            (name, protocol): extractors.build(name, dataset.info, torch.device(device), protocol)
            for name, protocol in sorted({metric.features for metric in self.metrics})
        }
        self._references = {
            kind: Reference(real_samples(dataset), extract, cache, should_stop)
            for kind, extract in self._extractors.items()
        }
        self._held_out = {
            metric.features: Reference(held_out_samples(dataset), self._extractors[metric.features], cache, should_stop)
            for metric in self.metrics
            if metric.reference == HELD_OUT
        }
        self._published = {
            metric.protocol: PublishedMoments(dataset.info, metric.protocol, cache or cache_folder("references"))
            for metric in self.metrics
            if metric.reference == PUBLISHED
        }

    def samples_needed(self, names: Collection[str] | None = None) -> int:
        """The number of samples that `score` reads for the metrics of these names (all, if None): the largest count."""
        return max(metric.samples for metric in self.metrics if names is None or metric.name in names)

    def score(
        self, samples: Tensor | Iterable[Tensor], resamples: int = 0, names: Collection[str] | None = None
    ) -> dict[str, Score]:
        """Each metric of the first samples, by its name: uint8 [N, C, H, W], or float [N, 2] for points.

        samples: all at once, or in batches: then one batch is held at a time, and features of one pass serve all
            metrics. Every metric takes the first n, n its own count.
        resamples: of the bootstrap for the standard error of Fréchet distances; 0 for none.
        names: of the metrics to compute; all, if None.

        Raises ValueError for samples of another type or shape than the data's, for NaN or infinity, and for
        fewer than `samples_needed`.
        """
        needed = self.samples_needed(names)

        def views() -> Iterator[View]:
            seen = 0
            for batch in (samples,) if isinstance(samples, Tensor) else samples:
                yield from self.views(batch, seen, names)
                seen += len(batch)
                if seen >= needed:
                    return
            raise ValueError(f"the metrics need {needed} samples, got {seen}")

        return self.score_views(views(), resamples, names)

    def views(self, batch: Tensor, start: int, names: Collection[str] | None = None) -> Iterator[View]:
        """Features for the metrics of these names, of a batch whose first sample is number `start`; piece by piece.

        `score_views` takes the views of all batches in order, whichever process computed them.
        """
        counts = {kind: max(metric.samples for metric in metrics) for kind, metrics in self._by_features(names).items()}
        slow = any(self._extractors[kind].costly for kind in counts)
        self._check(batch)
        for piece in batch.split(PIECE):
            if slow and self.should_stop():
                raise StoppedError
            for kind, count in counts.items():
                if start < count:
                    yield kind, self._extractors[kind](piece[: count - start])
            start += len(piece)

    def score_views(
        self, views: Iterable[View], resamples: int = 0, names: Collection[str] | None = None
    ) -> dict[str, Score]:
        """As `score`, for the `views` of samples; one view is held at a time beyond what metrics read."""
        few = math.inf if resamples else FEW
        accumulators = {kind: _accumulator(metrics, few) for kind, metrics in self._by_features(names).items()}
        for kind, features in views:
            accumulators[kind].add(features)
        fake = {kind: accumulator.features() for kind, accumulator in accumulators.items()}
        memo: Memo = {}
        return {
            metric.name: score(metric, self._real(metric), fake[metric.features], memo, resamples)
            for metric in self._selected(names)
        }

    def _selected(self, names: Collection[str] | None) -> list[Metric]:
        return [metric for metric in self.metrics if names is None or metric.name in names]

    def extract_references(self) -> None:
        """Extract the features of real data and noise that `reference_rows` reads, where they are not on disk.

        Only those of costly extractors. Processes that call this at the same time share the work; pieces that others
        have taken may be unfinished at the end. Raises StoppedError.
        """
        names = [metric.name for metric in self.metrics if self._read_rows(metric) is None]
        for kind, metrics in self._by_features(names).items():
            self._references[kind].extract(max(_real_count(metric, len(self.dataset)) for metric in metrics))
            self._noise(kind).extract(max(metric.samples for metric in metrics))
            if (held_out := self._held_out.get(kind)) is not None:
                held_out.extract(held_out.source.count)

    def _noise(self, kind: FeatureKind) -> Reference:
        # not an attribute: a training that follows needs the memory
        return Reference(noise(self.dataset), self._extractors[kind], self.cache, self.should_stop)

    def _by_features(self, names: Collection[str] | None) -> dict[FeatureKind, list[Metric]]:
        groups: dict[FeatureKind, list[Metric]] = {}
        for metric in self._selected(names):
            groups.setdefault(metric.features, []).append(metric)
        return groups

    @property
    def watches_memory(self) -> bool:
        """Whether a metric detects copies of training images, so that `nearest` can be called."""
        return any(metric.distance == "authenticity" for metric in self.metrics)

    def nearest(self, samples: Tensor) -> dict[str, Tensor]:
        """Samples and their nearest training images, by the features of the first authenticity metric.

        samples: as for `score`. Returns
            distances [N]:  of every sample to its nearest training image;
            baseline [M]:   of training images to the nearest of the others, which is typical of a new image;
            samples, training [PAIRS, ...], pair_distances [PAIRS]: the nearest pairs of all, nearest first.
        """
        metric = next(metric for metric in self.metrics if metric.distance == "authenticity")
        real = self._references[metric.features]
        rows = real.first(metric.reference if isinstance(metric.reference, int) else len(self.dataset)).values
        self._check(samples)
        distances, places = nearest(self._extractors[metric.features](samples).values.to(rows.dtype), rows)
        baseline, _ = nearest(rows[: len(samples)], rows, exclude_self=True)
        closest = distances.argsort()[:PAIRS]
        return {
            "distances": distances.float(),
            "baseline": baseline.float(),
            "samples": samples[closest],
            "training": torch.cat([real.source.samples(place, place + 1) for place in places[closest].tolist()]),
            "pair_distances": distances[closest].float(),
        }

    def reference_rows(self) -> list[dict[str, Any]]:
        """The baselines of each metric: rows with the keys what, metric, value, samples.

        `halves` is the real-vs-real baseline: the mean over five random splits of the real data into halves, scored
        against each other. A model that has learnt the data perfectly comes close to it. Halves larger than the
        metric's count are cut to it. For a metric with a reference of its own, the next real samples are scored against
        the reference, once; for one with held-out samples, the training samples are: the value of perfect copies.
        `noise` is the noise baseline: standard normal noise, quantised as a model's output is.
        """
        rows = {metric: self._read_rows(metric) for metric in self.metrics}
        fresh = [metric for metric, stored in rows.items() if stored is None]
        memo: Memo = {}
        of_noise = {kind: self._noise(kind) for kind in {metric.features for metric in fresh}}
        for metric in fresh:
            value, count = self._real_vs_real(metric)
            noisy = score(metric, self._real(metric), of_noise[metric.features], memo).value
            rows[metric] = [
                {"what": "halves", "metric": metric.name, "value": value, "samples": count},
                {"what": "noise", "metric": metric.name, "value": noisy, "samples": metric.samples},
            ]
            if path := self._rows_path(metric):
                write_json(path, rows[metric])
        return [row for stored in rows.values() for row in stored or ()]

    def _real_vs_real(self, metric: Metric) -> tuple[float, int]:
        """The mean over the splits, and the number of samples in a half."""
        real = self._references[metric.features]
        if metric.reference == HELD_OUT:
            copies = real.first(min(metric.samples, len(self.dataset)))
            return _between(metric, self._held_out[metric.features].first(KEPT), copies), len(copies)
        if isinstance(metric.reference, int):
            features = real.first(metric.reference + metric.samples)
            one, other = features[: metric.reference], features[metric.reference :]
            return _between(metric, one, other), len(other)
        generator = torch.Generator().manual_seed(SEED)
        features = real.first(len(self.dataset))
        half = min(len(features) // 2, metric.samples)
        splits = [torch.randperm(len(features), generator=generator) for _ in range(SPLITS)]
        values = [_between(metric, features[order[:half]], features[order[-half:]]) for order in splits]
        return sum(values) / SPLITS, half

    def _rows_path(self, metric: Metric) -> Path | None:
        folder = self._references[metric.features].folder
        return folder and folder / f"rows-{metric.name}.json"

    def _read_rows(self, metric: Metric) -> list[dict[str, Any]] | None:
        """The rows on disk; None if they are missing or damaged."""
        path = self._rows_path(metric)
        try:
            rows = read_json(path) if path else None
            complete = rows is not None and [(row["what"], row["metric"]) for row in rows] == [
                ("halves", metric.name),
                ("noise", metric.name),
            ]
        except (DamagedError, TypeError, KeyError):
            return None
        return rows if complete else None

    def _real(self, metric: Metric) -> FeatureSet:
        if metric.reference == PUBLISHED:
            return self._published[metric.protocol]
        return (self._held_out if metric.reference == HELD_OUT else self._references)[metric.features]

    def _check(self, samples: Tensor) -> None:
        shape, real = self.dataset.shape, self.dataset.images
        if tuple(samples.shape[1:]) != shape or samples.dtype != real.dtype:
            raise ValueError(
                f"samples must be {real.dtype} [N, {', '.join(map(str, shape))}], "
                f"got {samples.dtype} {list(samples.shape)}"
            )
        if not torch.isfinite(samples).all():
            raise ValueError("samples hold NaN or infinity")


def _real_count(metric: Metric, count: int) -> int:
    """The number of real samples, of `count`, that the reference rows of a metric take."""
    if metric.reference == HELD_OUT:
        return min(metric.samples, count)
    return metric.reference + metric.samples if isinstance(metric.reference, int) else count


def _accumulator(metrics: Sequence[Metric], few: float) -> FeatureAccumulator:
    """For metrics of the same features. few: up to this many samples, features for a Fréchet distance are kept."""
    streamed = frozenset(metric.samples for metric in metrics if metric.distance == "fd" and metric.samples > few)
    kept = [metric.samples for metric in metrics if metric.distance != "fd" or metric.samples <= few]
    return FeatureAccumulator(max(kept, default=0), streamed)


def _between(metric: Metric, real: Features, fake: Features) -> float:
    """The metric of as many samples as `fake` has."""
    return score(replace(metric, samples=len(fake)), ComputedFeatures(real), ComputedFeatures(fake), {}).value
