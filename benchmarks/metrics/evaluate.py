"""Scoring: samples in, one number per metric out, against the real data of one benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.distributed import Ranks
from ..common.errors import UsageError
from ..common.files import DamagedError, read_json, write_json
from ..data.base import Dataset
from .accumulator import Collector, Held, Side
from .extractors import registry as extractors
from .extractors.base import Features
from .neighbours import nearest
from .published_statistics import PublishedSide
from .references import KEPT, PIECE, Reference, StoppedError, default_folder, noise, real_samples
from .registry import LEAST, PUBLISHED, Metric, parse
from .scores import Memo, Score, score

SPLITS = 5  # random halvings of the real data that a "halves" row is the mean of
SEED = 0  # of everything random in here, so that every run has the same references
FEW = 10_000  # up to so many samples a Fréchet distance may keep their features, beyond it takes their moments alone
PAIRED = ("precision", "recall", "density", "coverage")  # of equal counts alone
PAIRS = 16  # nearest pairs of sample and training image that are shown

Space = tuple[str, str]  # extractor and protocol
View = tuple[Space, Features]  # of a few samples


class Evaluator:
    """Scores samples against `dataset` by the metrics of the given names.

    Nothing of the real data is computed before it is needed.

    Args:
        cache: where features of costly extractors are kept; `references.default_folder()` if None.
        should_stop: asked every PIECE samples of a costly extractor; where it says so, StoppedError is raised.

    Raises UsageError for an unknown metric, for one that the data set cannot serve, and for an extractor whose weights
    are missing.
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
        if not metrics:
            raise UsageError("no metric is asked for: eval.metrics must name at least one")
        self.dataset, self.cache, self.should_stop = dataset, cache, should_stop
        self.metrics = tuple(parse(name) for name in dict.fromkeys(metrics))
        for metric in self.metrics:
            self._refuse_too_few(metric)
        spaces = sorted({_space(metric) for metric in self.metrics})
        self._extractors = {
            (name, protocol): extractors.build(name, dataset, torch.device(device), protocol)
            for name, protocol in spaces
        }
        for metric in self.metrics:
            self._refuse_unservable(metric)
        self._references = {
            space: Reference(real_samples(dataset), extract, cache, should_stop)
            for space, extract in self._extractors.items()
        }
        self._published = {
            metric.protocol: PublishedSide(dataset, metric.protocol, cache or default_folder())
            for metric in self.metrics
            if metric.reference == PUBLISHED
        }

    def samples_needed(self, names: Collection[str] | None = None) -> int:
        """How many samples `score` reads for the metrics of these names, or all: the largest count of any."""
        return max(metric.samples for metric in self.metrics if names is None or metric.name in names)

    def score(
        self, samples: Tensor | Iterable[Tensor], resamples: int = 0, names: Collection[str] | None = None
    ) -> dict[str, Score]:
        """Each metric of the first samples, by its name: uint8 [N, C, H, W], or float [N, 2] for points.

        samples: all at once, or in batches: then no more than one of them is held, and features of one pass feed all
            metrics. Every metric takes the first n, n its own count.
        resamples: of the bootstrap that gives Fréchet distances a standard error; 0 for none.
        names: of the metrics that are wanted; all, if None.

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
        """What the metrics of these names see of a batch, the samples from number `start` on; piece by piece, in order.

        The views of all batches, in their order, are what `score_views` takes; who makes which is all the same.
        """
        metrics = self._wanted(names)
        counts = {space: _count(space, metrics) for space in dict.fromkeys(map(_space, metrics))}
        slow = any(self._extractors[space].costly for space in counts)
        self._check(batch)
        for piece in batch.split(PIECE):
            if slow and self.should_stop():
                raise StoppedError
            for space, count in counts.items():
                if start < count:
                    yield space, self._extractors[space](piece[: count - start])
            start += len(piece)

    def score_views(
        self, views: Iterable[View], resamples: int = 0, names: Collection[str] | None = None
    ) -> dict[str, Score]:
        """As `score`, of samples that have been looked at; no more than one view is held beyond what metrics read."""
        metrics = self._wanted(names)
        few = math.inf if resamples else FEW
        collectors = {space: _collector(space, metrics, few) for space in dict.fromkeys(map(_space, metrics))}
        for space, features in views:
            collectors[space].add(features)
        sides = {space: collector.side() for space, collector in collectors.items()}
        memo: Memo = {}
        return {
            metric.name: score(metric, self._real(metric), sides[_space(metric)], memo, resamples) for metric in metrics
        }

    def _wanted(self, names: Collection[str] | None) -> list[Metric]:
        return [metric for metric in self.metrics if names is None or metric.name in names]

    def work_out_references(self, ranks: Ranks) -> None:
        """Let several processes work out features of real data and noise that `reference_rows` takes on rank 0.

        Those of costly extractors alone: these lie on disk, where rank 0 finds them. Does nothing for a single process.
        Raises StoppedError in all of them where one is asked to stop.
        """
        if ranks.size == 1:
            return
        wanted = [] if not ranks.is_writer else [metric for metric in self.metrics if self._kept_rows(metric) is None]
        names = ranks.broadcast([metric.name for metric in wanted])
        references: list[Reference] = []
        missing: list[tuple[int, int]] = []  # of which reference, and which piece
        for space, metrics in self._by_space(names).items():
            fresh = Reference(noise(self.dataset), self._extractors[space], self.cache)
            real_count = max(_real_count(metric, len(self.dataset)) for metric in metrics)
            noise_count = max(metric.samples for metric in metrics)
            for reference, count in ((self._references[space], real_count), (fresh, noise_count)):
                missing += [(len(references), number) for number in reference.missing_pieces(count)]
                references.append(reference)
        missing = ranks.broadcast(missing)
        for start in range(0, len(missing), ranks.size):
            if ranks.agree(self.should_stop()):
                raise StoppedError
            if start + ranks.rank < len(missing):
                which, number = missing[start + ranks.rank]
                references[which].make_piece(number)
        ranks.barrier()

    def _by_space(self, names: Collection[str]) -> dict[Space, list[Metric]]:
        spaces: dict[Space, list[Metric]] = {}
        for metric in self._wanted(names):
            spaces.setdefault(_space(metric), []).append(metric)
        return spaces

    @property
    def watches_memory(self) -> bool:
        """Whether a metric asks for copies of training images, and so `nearest` has something to say."""
        return any(metric.distance == "authenticity" for metric in self.metrics)

    def nearest(self, samples: Tensor) -> dict[str, Tensor]:
        """The samples beside the training images they are nearest to, in the space of the first authenticity metric.

        samples: as `score` takes them. Returns
            distances [N]:  of every sample to its nearest training image;
            baseline [M]:   of training images to the nearest of the others, what a fresh image has to expect;
            samples, training [PAIRS, ...], pair_distances [PAIRS]: the nearest pairs of all, nearest first.
        """
        metric = next(metric for metric in self.metrics if metric.distance == "authenticity")
        real = self._references[_space(metric)]
        rows = real.first(metric.reference if isinstance(metric.reference, int) else len(self.dataset)).values
        self._check(samples)
        distances, places = nearest(self._extractors[_space(metric)](samples).values.to(rows.dtype), rows)
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
        """What each metric says of the real data and of noise: rows with the keys what, metric, value, samples.

        `halves` is the mean over five random splits of the real data in two, one half scored against the other:
        a model that has learnt the data perfectly comes near it. Halves larger than the metric's count are
        cut to it. Where a metric has a reference of its own, the next samples are scored against it, once.
        `noise` scores standard normal noise, quantised as a model's output is.
        """
        rows = {metric: self._kept_rows(metric) for metric in self.metrics}
        fresh = [metric for metric, held in rows.items() if held is None]
        memo: Memo = {}
        of_noise = {  # not kept: a training that follows needs the memory
            space: Reference(noise(self.dataset), self._extractors[space], self.cache, self.should_stop)
            for space in map(_space, fresh)
        }
        for metric in fresh:
            value, count = self._halves(metric)
            noisy = score(metric, self._real(metric), of_noise[_space(metric)], memo).value
            rows[metric] = [
                {"what": "halves", "metric": metric.name, "value": value, "samples": count},
                {"what": "noise", "metric": metric.name, "value": noisy, "samples": metric.samples},
            ]
            if path := self._rows_path(metric):
                write_json(path, rows[metric])
        return [row for held in rows.values() for row in held or ()]

    def _halves(self, metric: Metric) -> tuple[float, int]:
        """The mean over the splits, and how many samples a half has."""
        real = self._references[_space(metric)]
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
        folder = self._references[_space(metric)].folder
        return folder and folder / f"rows-{metric.name}.json"

    def _kept_rows(self, metric: Metric) -> list[dict[str, Any]] | None:
        """The rows on disk; None where there are none, or no whole ones: they are made anew then."""
        path = self._rows_path(metric)
        try:
            held = read_json(path) if path else None
            whole = held is not None and [(row["what"], row["metric"]) for row in held] == [
                ("halves", metric.name),
                ("noise", metric.name),
            ]
        except (DamagedError, TypeError, KeyError):
            return None
        return held if whole else None

    def _real(self, metric: Metric) -> Side:
        if metric.reference == PUBLISHED:
            return self._published[metric.protocol]
        return self._references[_space(metric)]

    def _refuse_too_few(self, metric: Metric) -> None:
        name, count = self.dataset.name, len(self.dataset)
        least = LEAST.get(metric.distance, 2)
        wanted = metric.samples if metric.distance == "w2" else metric.reference
        if isinstance(wanted, int) and wanted > count:
            raise UsageError(f"metric {metric.name!r} needs {wanted} real samples, and {name!r} has {count}")
        if isinstance(metric.reference, int) and metric.reference + least > min(count, KEPT):
            raise UsageError(
                f"metric {metric.name!r} leaves no other real samples to compare its reference with: at most "
                f"{min(count, KEPT) - least} of {name!r} can be one"
            )
        if metric.distance in PAIRED and metric.reference is None and metric.samples > count:
            raise UsageError(
                f"metric {metric.name!r} compares with as many real samples, and {name!r} has {count}: ask for fewer"
            )
        if metric.distance == "authenticity" and metric.reference is None and count > KEPT:
            raise UsageError(
                f"metric {metric.name!r} looks at {KEPT} real samples at most, and {name!r} has {count}: say of how "
                f"many with {metric.name}_ref{KEPT // 1000 - 1}k or fewer"
            )
        if count < least:
            raise UsageError(f"metric {metric.name!r} needs at least {least} real samples, and {name!r} has {count}")

    def _refuse_unservable(self, metric: Metric) -> None:
        if metric.distance in ("classes", "modes"):
            extract = self._extractors[_space(metric)]
            if extract(self.dataset.images[:1]).predictions is None:
                raise UsageError(
                    f"metric {metric.name!r} needs a mixture, and this variant of {self.dataset.name!r} has no modes"
                )

    def _check(self, samples: Tensor) -> None:
        shape, real = self.dataset.shape, self.dataset.images
        if tuple(samples.shape[1:]) != shape or samples.dtype != real.dtype:
            raise ValueError(
                f"samples must be {real.dtype} [N, {', '.join(map(str, shape))}], "
                f"got {samples.dtype} {list(samples.shape)}"
            )
        if not torch.isfinite(samples).all():
            raise ValueError("samples hold NaN or infinity")


def _count(space: Space, metrics: Sequence[Metric]) -> int:
    """How many samples are looked at in a space."""
    return max(metric.samples for metric in metrics if _space(metric) == space)


def _real_count(metric: Metric, count: int) -> int:
    """How many of `count` real samples the reference rows of a metric take."""
    return metric.reference + metric.samples if isinstance(metric.reference, int) else count


def _collector(space: Space, metrics: Sequence[Metric], few: float) -> Collector:
    """few: up to so many samples the features for a Fréchet distance are kept."""
    ours = [metric for metric in metrics if _space(metric) == space]
    streamed = frozenset(metric.samples for metric in ours if metric.distance == "fd" and metric.samples > few)
    kept = [metric.samples for metric in ours if metric.distance != "fd" or metric.samples <= few]
    return Collector(max(kept, default=0), streamed)


def _between(metric: Metric, real: Features, fake: Features) -> float:
    """The metric of as many samples as `fake` has."""
    return score(replace(metric, samples=len(fake)), Held(real), Held(fake), {}).value


def _space(metric: Metric) -> Space:
    return metric.extractor, metric.protocol
