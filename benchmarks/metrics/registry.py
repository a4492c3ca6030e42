"""Metrics by name: `<distance>_<extractor>_<count>`, such as `fd_digits_2k`.

A name says everything that a number depends on, so that two protocols can never share a column: what is compared
(the distance), in which space (the extractor) and from how many generated samples (the count; Fréchet
distances are biased at small counts, so only equal counts compare). Importing this module is cheap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError, unknown

DISTANCES = {
    "fd": "Fréchet distance between Gaussians fitted to the features",
    "kd": "kernel distance: unbiased squared MMD with the cubic kernel of KID",
    "w2": "exact 2-Wasserstein distance to as many real samples",
    "classes": "number of classes that get at least 1 % of the samples, by the extractor's classifier",
    "modes": "number of modes that get at least 1 % of the samples within three standard deviations",
}

#: Each feature extractor with the distances that have a meaning in its space.
EXTRACTORS = {
    "digits": ("fd", "kd", "classes"),
    "points": ("fd", "kd", "w2", "modes"),
    "pixels8": ("fd",),
}

HIGHER_IS_BETTER = frozenset({"classes", "modes"})

#: Assignment costs the cube of the count: seconds at 2,000, minutes at 5,000 far from the data, hours at 50,000.
W2_LIMIT = 5_000

EXAMPLES = tuple(f"{distance}_{extractor}_2k" for extractor, distances in EXTRACTORS.items() for distance in distances)

_GRAMMAR = re.compile(r"(?P<distance>[a-z0-9]+)_(?P<extractor>[a-z0-9]+)_(?P<number>[1-9][0-9]*)(?P<k>k?)")


@dataclass(frozen=True)
class Metric:
    """A parsed metric name. `samples` is the exact number of generated samples the metric is taken from."""

    name: str
    distance: str
    extractor: str
    samples: int
    lower_is_better: bool


def parse(name: str) -> Metric:
    """The metric called `name`. Counts are exact: `500` is 500, `2k` is 2,000 and `50k` is 50,000.

    Each count has one spelling (`2k`, not `2000`). Raises UsageError for anything that is not a metric of this suite.
    """
    if name.startswith(("fid", "kid")):
        raise UsageError(
            f"metric {name!r} needs the Inception network, whose metrics (FID and KID) are not available in this "
            f"version. Available: {', '.join(EXAMPLES)}"
        )
    match = _GRAMMAR.fullmatch(name)
    if match is None or match["distance"] not in EXTRACTORS.get(match["extractor"], ()):
        raise unknown("metric", name, EXAMPLES)
    distance, extractor = match["distance"], match["extractor"]
    samples = int(match["number"]) * (1000 if match["k"] else 1)
    if not match["k"] and samples % 1000 == 0:
        raise UsageError(f"metric {name!r}: write it as {distance}_{extractor}_{samples // 1000}k")
    if samples < 2:
        raise UsageError(f"metric {name!r}: the count must be at least 2")
    if distance == "w2" and samples > W2_LIMIT:
        raise UsageError(f"metric {name!r}: w2 is an exact assignment, whose count is at most {W2_LIMIT // 1000}k")
    return Metric(name, distance, extractor, samples, distance not in HIGHER_IS_BETTER)
