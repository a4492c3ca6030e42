"""The page of a benchmark's diagnostics, and what the leaderboard says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..analysis.diagnostics import LOSSES, VARIANCES, Bin, Profile, Ratio, compared, floor_of, pairs
from ..analysis.formatting import NOTHING, count_text, span
from .text import Plot, Table, Text, render


@dataclass(frozen=True, kw_only=True)
class DiagnosticsPart:
    """What was measured under one setting."""

    setting: str
    reading: str
    plots: Sequence[Plot]
    means: Sequence[Table]
    ratios: Sequence[Table]


@dataclass(frozen=True, kw_only=True)
class DiagnosticsPage:
    """All that is shown of the diagnostics of one benchmark."""

    benchmark: str
    parts: Sequence[DiagnosticsPart]

    @property
    def title(self) -> str:
        return f"Variances and losses of {self.benchmark}"

    @property
    def values(self) -> str:
        return self.parts[0].setting

    @property
    def reading(self) -> str:
        return self.parts[0].reading

    @property
    def markdown(self) -> str:
        """The whole document, ending in one newline."""
        return render("diagnostics.md.j2", page=self) + "\n"


def diagnostics_part(profile: Profile, plots: Sequence[Plot]) -> DiagnosticsPart:
    """Sentences and tables of one setting."""
    return DiagnosticsPart(
        setting=_setting(profile),
        reading=_reading(profile),
        plots=plots,
        means=[_values(profile, what) for what in (*VARIANCES, *LOSSES) if _holds(profile, what)],
        ratios=[_ratios(profile, what) for what in VARIANCES if pairs(profile) and _holds(profile, what)],
    )


def _setting(profile: Profile) -> str:
    images = " or ".join(count_text(count) for count in profile.images)
    return f"{profile.setting.text}; after {images} images"


def _reading(profile: Profile) -> str:
    """In how many bins each pair differs significantly, in the variance of the gradient relative to its mean."""
    sentences = []
    for first, second in pairs(profile):
        found = [ratio for ratio in compared(profile, "gradient_ratio", first, second).values() if ratio]
        met = [ratio for ratio in found if ratio.low is not None]
        if not met:
            continue
        lower = sum(ratio.significant and ratio.mean < 1 for ratio in met)
        higher = sum(ratio.significant and ratio.mean > 1 for ratio in met)
        sentences.append(f"{first} against {second} lower in {lower}, higher in {higher} of {len(met)} bins")
    if not sentences:
        return "Fewer than two common seeds: no difference can be tested."
    return (
        "Gradient variance relative to the squared mean, where the 95 % interval of the paired ratio excludes 1: "
        + "; ".join(sentences)
        + "."
    )


def _holds(profile: Profile, what: str) -> bool:
    seeds = (s for whats in profile.values.values() for s in whats.get(what, {}).values())
    return any(math.isfinite(value) for found in seeds for value in found.values())


def _values(profile: Profile, what: str) -> Table:
    floor = floor_of(profile, what)
    rows = [
        [Text(label), *(Text(_mean(profile.values[label].get(what, {}), bin_, floor)) for bin_ in profile.bins)]
        for label in profile.labels
    ]
    return _table(what, "configuration", profile, rows)


def _mean(bins: Mapping[Bin, Mapping[int, float]], bin_: Bin, floor: float) -> str:
    values = [value for value in bins.get(bin_, {}).values() if math.isfinite(value)]
    if not values:
        return NOTHING
    mean = math.fsum(values) / len(values)
    return "0" if abs(mean) <= floor else f"{mean:.3g}"


def _ratios(profile: Profile, what: str) -> Table:
    rows = []
    for first, second in pairs(profile):
        found = compared(profile, what, first, second)
        counts = sorted({ratio.n for ratio in found.values() if ratio})
        n = f" (n={span(counts[0], counts[-1])})" if counts else ""
        cells = [Text(_ratio(ratio), "**" if ratio and ratio.significant else "") for ratio in found.values()]
        rows.append([Text(f"{first} / {second}{n}"), *cells])
    return _table(what, "ratio", profile, rows)


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return NOTHING
    if ratio.low is None or ratio.high is None:
        return f"{ratio.mean:.3g}"
    return f"{ratio.mean:.3g} ({ratio.low:.3g} to {ratio.high:.3g})"


def _table(what: str, corner: str, profile: Profile, rows: list[list[Text]]) -> Table:
    bins = [f"{low:.2g} to {high:.2g}" for low, high in profile.bins]
    return Table([corner, *bins], "l" + "r" * len(bins), rows, what)
