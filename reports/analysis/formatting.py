"""Numbers, counts and names as text, for pages and plots alike."""

from __future__ import annotations

import math
import re

from ...benchmarks.common.errors import UsageError
from ...benchmarks.metrics.registry import HELD_OUT, PROTOCOLS, Metric, parse
from .statistics import Interval

NOTHING = "–"
ARROWS = {1: " ↑", 0: "", -1: " ↓"}
LABEL_WIDTH, LABEL_LINES = 32, 4
LONGEST_SETTING = 48  # characters: what is longer than any usual setting is cut

#: Distances and extractors of metric names as a figure writes them.
DISTANCE_NAMES = {
    "fd": "Fréchet distance",
    "kd": "Kernel distance",
    "kid": "KID",
    "fdinf": "Fréchet distance, n → ∞",
    "w2": "Wasserstein-2 distance",
    "classes": "Number of classes",
    "modes": "Number of modes",
}
INCEPTION_NAMES = {"fd": "FID", "kid": "KID", "fdinf": "FID∞"}
EXTRACTOR_NAMES = {"inception": "Inception", "dinov2": "DINOv2", "pixels8": "8×8 pixels"}


def number(value: float, beside: float = 0.0) -> str:
    """Three significant digits of the larger of `value` and `beside`, never in scientific notation."""
    scale = max(abs(value), abs(beside))
    decimals = min(6, max(0, 2 - math.floor(math.log10(scale)))) if scale else 0
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")


def score_text(score: Interval) -> str:
    """`31.2 ± 4.1 (n=3)`; a single seed has no interval, and diverged seeds are named."""
    lost = f", {score.lost} diverged" if score.lost else ""
    if score.n == 0:
        return "diverged" if score.lost else NOTHING
    half = score.half_width
    interval = "" if half is None else f" ± {number(half, score.mean)}"
    return f"{number(score.mean, half or 0.0)}{interval} (n={score.n}{lost})"


def signed(value: float) -> str:
    """A number that always carries its sign."""
    return f"+{number(value)}" if value >= 0 else number(value)


def difference_text(found: Interval, *, percent: bool) -> str:
    """`0.59 (−1.05 to 2.23)`, in per cent `+5.2 % (−1.0 to 11.8)`; n stands for an interval where there is none."""
    text = f"{signed(found.mean)} %" if percent else number(found.mean)
    if found.low is None or found.high is None:
        return f"{text} (n={found.n})"
    return f"{text} ({number(found.low, found.mean)} to {number(found.high, found.mean)})"


def span(low: int, high: int) -> str:
    """`1 to 3`, or one number where both are equal."""
    return str(low) if low == high else f"{low} to {high}"


def count_text(count: float) -> str:
    """A large count with a unit: 1,024,000 -> "1.02 M"."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def short(label: str) -> str:
    """A label on at most four lines, broken between settings; of the keys in it only the last part: `kl_weight=3`."""
    label = last_keys(" ".join(label.split()))
    name, *settings = re.split(r"(?<=,) ?(?=[\w.+-]+=)|(?<!,)(?<!guided) (?=[\w.+-]+=)| (?=tuned from )", label)
    lines = [_cut(name)]
    for setting in map(_cut, settings):
        if len(lines[-1]) + 1 + len(setting) <= LABEL_WIDTH:
            lines[-1] += f" {setting}"
        else:
            lines.append(setting)
    if len(lines) > LABEL_LINES:
        lines = [*lines[: LABEL_LINES - 1], lines[LABEL_LINES - 1].rstrip(",") + ", …"]
    return "\n".join(lines)


def last_keys(text: str) -> str:
    """`method.coupling.kl_weight=3` as `kl_weight=3`, wherever it stands in a text."""
    return re.sub(r"(\w+\.)+(?=\w+=)", "", text)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SETTING else text[: LONGEST_SETTING - 1] + "…"


def metric_title(name: str) -> tuple[str, str]:
    """What a metric is called in a figure, and on what: ("Fréchet distance", "digits features, 2k samples").

    A name that is no metric of this suite stays as it is, with an empty second part.
    """
    try:
        metric = parse(name)
    except UsageError:
        return name, ""
    known = INCEPTION_NAMES if metric.extractor == "inception" else DISTANCE_NAMES
    title = known.get(metric.distance) or metric.distance.capitalize()
    samples = metric.samples
    count = f"{samples // 1000}k" if samples % 1000 == 0 else str(samples)
    parts = [_features(metric), f"{count} samples", metric.protocol.replace("_", " "), _reference(metric)]
    if metric.protocol == PROTOCOLS[0]:
        parts[2] = ""
    return title, ", ".join(filter(None, parts))


def _features(metric: Metric) -> str:
    if metric.extractor == "points" or (metric.extractor == "inception" and metric.distance in INCEPTION_NAMES):
        return ""
    return f"{EXTRACTOR_NAMES.get(metric.extractor, metric.extractor)} features"


def _reference(metric: Metric) -> str:
    if isinstance(metric.reference, int):
        return f"against {metric.reference} real"
    if metric.reference == HELD_OUT:
        return "against held-out images"
    return f"{metric.reference} statistics" if metric.reference else ""
