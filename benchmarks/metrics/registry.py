"""Metrics by name: `fid50k`, `precision10k`, or for other features than Inception's `<distance>_<extractor>_<count>`.

A name holds everything that a number depends on, so that two protocols never share a column: the distance, the
extractor of the features, the number of generated samples (Fréchet distances are biased at small counts, so only equal
counts are comparable), and, if these are not the usual ones, how images are resized (`fid50k_clean`) and the number of
real samples in the reference (`fid2k_ref2k`; `fd_digits_2k_refheldout`: held-out ones). Importing this module is cheap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..common.errors import UsageError, unknown

DISTANCES = {
    "fd": "Fréchet distance between Gaussians fitted to the features",
    "kd": "kernel distance: unbiased squared MMD with the cubic kernel of KID, over all samples at once",
    "kid": "mean of the unbiased squared MMD with a cubic kernel over 100 random subsets of 1,000, with its error",
    "fdinf": "Fréchet distance extrapolated to infinitely many samples",
    "precision": "share of the samples within the neighbourhoods (k = 3) of as many real ones",
    "recall": "share of the real ones within the neighbourhoods (k = 3) of the samples",
    "density": "number of neighbourhoods (k = 5) of real ones that a sample lies in, over k",
    "coverage": "share of the real ones whose neighbourhood (k = 5) holds a sample",
    "authenticity": "share of the samples that are no nearer to a training image than its own nearest other is",
    "w2": "exact 2-Wasserstein distance to as many real samples",
    "classes": "number of classes that get at least 1 % of the samples, by the extractor's classifier",
    "modes": "number of modes that get at least 1 % of the samples within three standard deviations",
}

#: Distances that are never negative, and whose ratios mean something: they are compared on a log scale, in per cent.
#: Unbiased and extrapolated ones can be below zero.
LOG_SCALE = frozenset({"fd", "w2"})

HIGHER_IS_BETTER = frozenset({"precision", "recall", "density", "coverage", "authenticity", "classes", "modes"})

#: Pairs of metrics with a common short name.
PAIRS = {"pr": ("precision", "recall"), "dc": ("density", "coverage")}

NEIGHBOURS = ("precision", "recall", "density", "coverage", "authenticity")
_ANY_FEATURES = ("fd", "kd", "fdinf", *NEIGHBOURS)

#: Each feature extractor with the distances that its features allow. Inception's metrics have names of their own.
EXTRACTORS: dict[str, tuple[str, ...]] = {
    "digits": (*_ANY_FEATURES, "classes"),
    "points": ("fd", "kd", "w2", "modes"),
    "pixels8": _ANY_FEATURES,
    "dinov2": _ANY_FEATURES,
}

SHIPPED_EXTRACTORS = tuple(EXTRACTORS)


def admit(extractors: Iterable[str]) -> None:
    """Admit the metrics of further extractors of image features, in place of those admitted before."""
    for name in [name for name in EXTRACTORS if name not in SHIPPED_EXTRACTORS]:
        del EXTRACTORS[name]
    EXTRACTORS.update(dict.fromkeys(extractors, _ANY_FEATURES))


#: Metrics of Inception's features by name: only these may be called FID and KID.
INCEPTION = {"fid": "fd", "kid": "kid", "fidinf": "fdinf", **{name: name for name in NEIGHBOURS}}

#: How images are resized to Inception's 299 × 299, see `extractors.preprocessing`. The first one is the default.
PROTOCOLS = ("legacy_tensorflow", "clean", "legacy_pytorch")

#: Reference statistics that others publish.
PUBLISHED = "cleanfid"

#: The samples that `data.held_out` keeps out of training, as reference.
HELD_OUT = "heldout"

#: Distances without a choice of the real samples that they compare with.
WHOLE = ("w2", "classes", "modes")

#: Assignment costs the cube of the count: seconds at 2,000, minutes at 5,000 far from the data, hours at 50,000.
W2_LIMIT = 5_000

#: The least count a distance can be taken from: neighbourhoods need k + 1.
LEAST = {"precision": 4, "recall": 4, "density": 6, "coverage": 6, "fdinf": 100}

#: Number of features. With fewer than ten samples per feature FID∞ is less accurate than the plain distance.
WIDTHS = {
    "inception": 2048,
    "dinov2": 1024,
    "pixels8": 192,
    "digits": 64,
}


def _example_count(distance: str, extractor: str) -> str:
    if distance == "fdinf":
        return f"{max(2, -(-WIDTHS[extractor] // 100))}k"
    return "1k" if extractor == "digits" and distance in NEIGHBOURS else "2k"  # there are 1,797 digits


EXAMPLES = (
    *(f"{name}{'10k' if distance in NEIGHBOURS else '50k'}" for name, distance in INCEPTION.items()),
    "fid50k_clean",
    "fid2k_ref2k",
    *(
        f"{distance}_{extractor}_{_example_count(distance, extractor)}"
        for extractor, distances in EXTRACTORS.items()
        for distance in distances
    ),
)

#: Names in the error for an unknown one; `bench list` shows all.
_CHOICES = tuple(
    name
    for name in EXAMPLES
    if not name.endswith("_2k") or name.startswith("fd_") or name.split("_")[1] in ("digits", "points")
)

_COUNT = r"[1-9][0-9]{0,9}k?"
_TAIL = rf"(?:_ref(?P<reference>{_COUNT}|{PUBLISHED}|{HELD_OUT}))?"
_INCEPTION = re.compile(rf"(?P<distance>[a-z]+)(?P<count>{_COUNT})(?:_(?P<protocol>{'|'.join(PROTOCOLS)}))?{_TAIL}")
_OTHER = re.compile(rf"(?P<distance>[a-z0-9]+)_(?P<extractor>[A-Za-z0-9_.:]+?)_(?P<count>{_COUNT}){_TAIL}")
_CUSTOM = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Metric:
    """A parsed metric name.

    samples:   the exact number of generated samples the metric is taken from.
    protocol:  how images are prepared, "" for extractors with one way to do so.
    reference: the number of training samples in the reference; None for all, "cleanfid" for published statistics,
        "heldout" for all held-out samples.
    """

    name: str
    distance: str
    extractor: str
    samples: int
    lower_is_better: bool
    protocol: str = ""
    reference: int | str | None = None

    @property
    def features(self) -> tuple[str, str]:
        """Which features it compares: extractor and preprocessing protocol."""
        return self.extractor, self.protocol


def parse(name: str) -> Metric:
    """The metric called `name`. Counts are exact: `500` is 500, `2k` is 2,000 and `50k` is 50,000.

    Every metric has one spelling (`2k`, not `2000`). Raises UsageError for a name that is not a metric of this suite.
    """
    distance, extractor, protocol = None, "", ""
    if match := _INCEPTION.fullmatch(name):
        extractor, protocol = "inception", match["protocol"] or PROTOCOLS[0]
        distance = INCEPTION.get(match["distance"])
        if match["protocol"] == PROTOCOLS[0]:
            raise UsageError(
                f"metric {name!r}: write it as {name.replace('_' + PROTOCOLS[0], '')}, that is its protocol"
            )
    elif match := _OTHER.fullmatch(name):
        extractor, protocol = match["extractor"], ""
        admitted = _ANY_FEATURES if _CUSTOM.fullmatch(extractor) else EXTRACTORS.get(extractor, ())
        distance = match["distance"] if match["distance"] in admitted else None
    if match is None or distance is None:
        raise unknown("metric", name, _CHOICES)
    samples = _count(name, match["count"])
    reference = match["reference"]
    if reference is not None and distance in WHOLE:
        raise UsageError(f"metric {name!r}: {distance} has no choice of its reference, leave out _ref{reference}")
    if reference == PUBLISHED:
        if (distance, extractor) != ("fd", "inception"):
            raise UsageError(f"metric {name!r}: {PUBLISHED} publishes statistics for fid alone")
    elif reference == HELD_OUT:
        if distance == "authenticity":
            raise UsageError(f"metric {name!r}: authenticity compares with training images, leave out _ref{HELD_OUT}")
    elif reference is not None:
        reference = _count(name, reference)
    least = LEAST.get(distance, 2)
    if distance == "fdinf" and extractor in WIDTHS:
        least = 10 * WIDTHS[extractor]
    for count, bound in ((samples, least), (reference, LEAST.get(distance, 2))):
        if isinstance(count, int) and count < bound:
            raise UsageError(f"metric {name!r}: the count must be at least {bound}")
    if distance == "w2" and samples > W2_LIMIT:
        raise UsageError(f"metric {name!r}: w2 is an exact assignment, whose count is at most {W2_LIMIT // 1000}k")
    return Metric(name, distance, extractor, samples, distance not in HIGHER_IS_BETTER, protocol, reference)


def expand(names: Iterable[str]) -> list[str]:
    """The names with `pr10k` as `precision10k` and `recall10k`, `dc_digits_2k` likewise, and no name twice."""
    expanded: dict[str, None] = {}
    for name in names:
        pair, rest = name[:2], name[2:]
        asks_for_two = pair in PAIRS and (rest[:1].isdigit() or rest[:1] == "_")
        expanded |= dict.fromkeys(f"{one}{rest}" for one in PAIRS[pair]) if asks_for_two else {name: None}
    return list(expanded)


def image_metrics(images: object) -> list[str]:
    """The metrics of own images after a training with so many images.

    FID and KID if Inception's weights are found and training takes at least as long as scoring; else, distances of
    coarse pixels.
    """
    from .extractors import weight_files

    is_long = isinstance(images, int | float) and images >= 1_000_000  # train.images is refused where it is no number
    affordable = is_long and weight_files.find("inception") is not None
    return ["fid50k", "kid50k"] if affordable else ["fd_pixels8_1k", "kd_pixels8_1k"]


def direction(name: str) -> int:
    """1 if higher is better, -1 if lower is better, 0 for a name whose first word is not a metric."""
    distance = _distance(name)
    return 0 if distance is None else 1 if distance in HIGHER_IS_BETTER else -1


def is_log_scale(name: str) -> bool:
    """Whether differences are taken between logarithms, and reported in per cent."""
    return _distance(name) in LOG_SCALE


def _distance(name: str) -> str | None:
    """The key in `DISTANCES` that a name begins with."""
    word = name.partition("_")[0]
    known = {name: name for name in DISTANCES} | INCEPTION
    return next((known[one] for one in known if word == one or re.fullmatch(rf"{one}{_COUNT}", word)), None)


def _count(name: str, text: str) -> int:
    count = int(text.removesuffix("k")) * (1000 if text.endswith("k") else 1)
    if not text.endswith("k") and count % 1000 == 0:
        raise UsageError(f"metric {name!r}: write {text} as {count // 1000}k")
    return count
