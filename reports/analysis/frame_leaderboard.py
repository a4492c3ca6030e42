"""The leaderboard of a table of results, as a table: the numbers of the report for any selection of rows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...benchmarks.common.errors import UsageError, unknown
from ...benchmarks.metrics.registry import direction
from .comparisons import INCONCLUSIVE, ranks
from .rivals import Rival, rivals
from .statistics import seed_mean, spread, t_interval
from .tables import Contest, contest

if TYPE_CHECKING:
    import pandas as pd

FACTS = ["benchmark", "nfe", "metric", "label", "method", "version", "variant", "source"]
STATES = ["diverged", "failed", "unfinished"]
COLUMNS = [
    *(*FACTS, "seeds", "draws", "mean", "low", "high", "sd", *STATES, "rank", "rank_low", "rank_high"),
    *("difference", "difference_low", "difference_high", "unit", "improvement", "verdict"),
]
BEST = "best"

#: label -> seed -> sampling seed -> value
Draws = dict[str, dict[int, dict[int, float]]]

#: A row of a table by its columns; None where it has no value.
Line = dict[str, Any]


def leaderboard(results: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Means, intervals, ranks and significance of each configuration, by benchmark, NFE and metric, best first.

    Args:
        results: A table of `load_results`, or any selection of its rows. Only final snapshots count.
        baseline: The label that each configuration is compared with. Default: the best of each benchmark, NFE and
            metric, as on the leaderboard.

    Returns:
        A table with the columns

        - benchmark, nfe, metric, label, method, version, variant, source: see `load_results`.
        - seeds, draws: training seeds with a value, and the largest number of sampling seeds of one of them.
        - mean, low, high: over training seeds, with the 95 % t interval. sd: standard deviation between seeds.
        - diverged, failed, unfinished: cells without a value.
        - rank, rank_low, rank_high: by the mean, and the ranks that the verdicts leave open.
        - difference, difference_low, difference_high: to the best or the baseline, paired on common seeds, with the
          corrected 95 % interval. A positive difference is worse. unit: "%" for distances, whose logarithms are
          compared; else "", the metric's unit.
        - improvement: the probability that a new training of the best (the baseline) is better.
        - verdict: "best", "worse" or "inconclusive"; with a baseline "better", "worse" or "inconclusive".

        Against the best, verdicts cover all pairs of a benchmark, NFE and metric (Tukey's method); against a baseline,
        which is named in advance, only the pairs with it (Dunnett's). Imported rows are in no comparison.

    Raises:
        UsageError: No configuration is called `baseline`, or rows are there twice.

    Examples:
        >>> results = load_results("runs")
        >>> table = leaderboard(results.query("metric == 'fd_digits_2k' and nfe == 1"))
        >>> table["rank"].tolist(), table["unit"].unique().tolist()
        ([1, 2, 3, 4], ['%'])
    """
    import pandas as pd

    known: dict[tuple[object, ...], list[Line]] = defaultdict(list)
    states: dict[object, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for row in lines_of(results, [*FACTS, "cell", "seed", "state", "budget", "images", "draw", "value"]):
        if row["source"] or row["images"] == row["budget"]:
            known[row["benchmark"], row["nfe"], row["metric"]].append(row)
            states[row["benchmark"]][row["label"]][row["cell"]] = row["state"]
    lines: list[Line] = []
    for (benchmark, _, metric), rows in known.items():
        counts = {label: Counter(cells.values()) for label, cells in states[benchmark].items()}
        lines += _lines(str(metric), rows, counts, baseline)
    labels = sorted({line["label"] for line in lines if not line["source"]})
    if baseline is not None and baseline not in labels:
        raise unknown("baseline", baseline, labels)
    whole = dict.fromkeys(["version", "nfe", "seeds", "draws", *STATES, "rank", "rank_low", "rank_high"], "Int64")
    return pd.DataFrame(lines, columns=COLUMNS).astype(whole)


def _lines(
    metric: str, rows: Sequence[Line], states: Mapping[str, Counter[str]], baseline: str | None
) -> Iterator[Line]:
    """The lines of one benchmark, NFE and metric: ranked ones, then others by name, then imported ones."""
    ours, sign = [row for row in rows if not row["source"]], direction(metric)
    facts = {row["label"]: {name: row[name] for name in FACTS} for row in ours}
    draws = _draws(ours)
    values = final_values(ours)
    found = contest(values, metric, 0, {label: count["failed"] for label, count in states.items()}, baseline)
    places = ranks(found.family)
    against = _against(found) if baseline is None or baseline == found.reference else {}

    def order(label: str) -> tuple[float, float, str]:
        score = t_interval(values[label].values())
        return places[label].place or math.inf, -sign * score.mean if score.n else math.inf, label

    for label in sorted(values, key=order):
        own, rank = spread(draws[label]), places[label]
        yield {
            **facts[label],
            **_mean(values[label].values()),
            "draws": own.draws[1],
            "sd": own.total if own.seed is None else own.seed,
            **{state: states[label][state] for state in STATES},
            "rank": rank.place,
            "rank_low": rank.low,
            "rank_high": rank.high,
            "unit": "%" if found.family.log else "",
            **against.get(label, {}),
        }
    theirs: dict[tuple[object, ...], list[Line]] = defaultdict(list)
    for row in rows:
        if row["source"]:
            theirs[row["label"], row["source"], row["seed"] is None].append(row)
    for (*_, is_mean), own in theirs.items():
        mean = _mean(row["value"] for row in own)
        yield {name: own[0][name] for name in FACTS} | ({"mean": mean["mean"]} if is_mean else mean)


def lines_of(results: pd.DataFrame, columns: Sequence[str]) -> Iterator[Line]:
    """These columns of every row. Raises UsageError where one is missing."""
    import pandas as pd

    if missing := [name for name in columns if name not in results]:
        raise UsageError(f"the table lacks {', '.join(missing)}: give one of load_results, or rows of it")
    for values in results[[*columns]].astype(object).itertuples(index=False, name=None):
        # A file gives NaN for an empty text.
        yield {name: None if pd.isna(value) else value for name, value in zip(columns, values, strict=True)}


def final_values(rows: Sequence[Line]) -> dict[str, dict[int, float]]:
    """label -> seed -> value of the final rows of one benchmark, NFE and metric, NaN where the seed diverged."""
    values = {
        label: {seed: seed_mean(own.values()) for seed, own in seeds.items()} for label, seeds in _draws(rows).items()
    }
    for row in rows:
        if row["state"] == "diverged":
            values[row["label"]][row["seed"]] = math.nan
    return values


def _draws(rows: Iterable[Line]) -> Draws:
    """A configuration without a value is there with no seeds."""
    found: Draws = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        own = found[row["label"]]
        if row["state"] == "finished" and row["draw"] is not None:
            if row["draw"] in own[row["seed"]]:
                cells = f"{row['label']} has two cells of seed {row['seed']}"
                raise UsageError(f"{cells}: give configurations of different folders other labels")
            own[row["seed"]][row["draw"]] = math.nan if row["value"] is None else row["value"]
    return found


def _mean(values: Iterable[float]) -> Line:
    score = t_interval(values)
    return {"seeds": score.n, "mean": score.mean, "low": score.low, "high": score.high}


def _against(found: Contest) -> dict[str, Line]:
    """Every configuration against the best or the baseline."""
    lines = {label: _difference(rival) for label, rival in rivals(found).items()}
    if found.leader is None or found.family.baseline is not None:
        return lines
    return lines | {found.leader: {"verdict": BEST if found.significant else None}}


def _difference(rival: Rival) -> Line:
    return {
        "difference": rival.mean if rival.n else None,
        "difference_low": rival.low,
        "difference_high": rival.high,
        "improvement": rival.improvement,
        "verdict": "worse" if rival.worse else "better" if rival.better else INCONCLUSIVE,
    }
