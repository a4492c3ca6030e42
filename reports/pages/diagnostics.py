"""The page of a benchmark's diagnostics, and what the leaderboard says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.diagnostics import LOSSES, VARIANCES, Bin, Profile, Ratio, compared, floor_of, pairs
from ..analysis.formatting import NOTHING, count_text
from .markdown import Plot, Text, environment


def diagnostics_page(page: Mapping[str, Any]) -> str:
    """The whole document of what `diagnostics_content` gives, ending in one newline."""
    return environment().get_template("diagnostics.md.j2").render(page=page).strip() + "\n"


def diagnostics_content(benchmark: str, profiles: Sequence[tuple[Profile, Sequence[Plot]]]) -> dict[str, Any]:
    """Sentences and tables of a benchmark's diagnostics, for a template."""
    return {
        "benchmark": benchmark,
        "parts": [
            {
                "setting": setting_text(profile),
                "reading": reading(profile),
                "plots": plots,
                "means": [_values(profile, what) for what in (*VARIANCES, *LOSSES) if _holds(profile, what)],
                "ratios": [_ratios(profile, what) for what in VARIANCES if pairs(profile) and _holds(profile, what)],
            }
            for profile, plots in profiles
        ],
    }


def setting_text(profile: Profile) -> str:
    """How it was measured, and after how many images."""
    images = " or ".join(count_text(count) for count in profile.images)
    return f"{profile.setting.text}; after {images} images"


def reading(profile: Profile) -> str:
    """In how many bins each pair differs for certain, in the variance of the gradient relative to its mean."""
    sentences = []
    for first, second in pairs(profile):
        found = [ratio for ratio in compared(profile, "gradient_ratio", first, second).values() if ratio]
        met = [ratio for ratio in found if ratio.low is not None]
        if not met:
            continue
        lower = sum(ratio.apart and ratio.mean < 1 for ratio in met)
        higher = sum(ratio.apart and ratio.mean > 1 for ratio in met)
        sentences.append(f"{first} against {second} lower in {lower}, higher in {higher} of {len(met)} bins")
    if not sentences:
        return "Fewer than two common seeds: nothing can be told from chance."
    return (
        "Gradient variance relative to the squared mean, where the 95 % interval of the paired ratio excludes 1: "
        + "; ".join(sentences)
        + "."
    )


def _holds(profile: Profile, what: str) -> bool:
    seeds = (s for whats in profile.values.values() for s in whats.get(what, {}).values())
    return any(math.isfinite(value) for found in seeds for value in found.values())


def _header(profile: Profile) -> list[str]:
    return [f"{low:.2g}–{high:.2g}" for low, high in profile.bins]


def _values(profile: Profile, what: str) -> dict[str, Any]:
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


def _ratios(profile: Profile, what: str) -> dict[str, Any]:
    rows = []
    for first, second in pairs(profile):
        found = compared(profile, what, first, second)
        counts = sorted({ratio.n for ratio in found.values() if ratio})
        n = f" (n={'–'.join(map(str, counts))})" if counts else ""
        cells = [Text(_ratio(ratio), "**" if ratio and ratio.apart else "") for ratio in found.values()]
        rows.append([Text(f"{first} / {second}{n}"), *cells])
    return _table(what, "ratio", profile, rows)


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return NOTHING
    if ratio.low is None or ratio.high is None:
        return f"{ratio.mean:.3g}"
    return f"{ratio.mean:.3g} ({ratio.low:.3g} to {ratio.high:.3g})"


def _table(what: str, corner: str, profile: Profile, rows: list[list[Text]]) -> dict[str, Any]:
    header = [corner, *_header(profile)]
    return {"what": what, "header": header, "alignment": [":--"] + ["--:"] * (len(header) - 1), "rows": rows}
