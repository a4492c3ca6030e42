"""Numbers, counts and names as text, for pages and plots alike."""

from __future__ import annotations

import math
import re
import textwrap

from .statistics import Interval

NOTHING = "–"
ARROWS = {1: " ↑", 0: "", -1: " ↓"}
LABEL_WIDTH, LABEL_LINES = 26, 3


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
    """A label on at most three lines; of the keys in it only the last part: `kl_weight=3`."""
    label = re.sub(r",\s*", ", ", re.sub(r"(\w+\.)+(?=\w+=)", "", label))
    return textwrap.fill(label, LABEL_WIDTH, max_lines=LABEL_LINES, placeholder="…")
