"""The leaderboard of a table of results, as a table: the numbers of the report for any selection of rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...benchmarks.common.errors import UsageError, unknown
from ...benchmarks.metrics.registry import direction
from .comparisons import BETTER, INCONCLUSIVE, WORSE, family, one_family, ranks
from .rivals import Rival, rival_of, rivals
from .statistics import seed_mean, spread, t_interval
from .tables import Contest, contest

if TYPE_CHECKING:
    import pandas as pd

FACTS = ["benchmark", "nfe", "metric", "label", "method", "version", "variant", "source"]
STATES = ["diverged", "failed", "unfinished"]
COLUMNS = [
    *(*FACTS, "seeds", "draws", "mean", "low", "high", "sd", *STATES, "rank", "rank_low", "rank_high"),
    *("difference", "difference_low", "difference_high", "improvement", "verdict"),
]
BEST = "best"


@dataclass(frozen=True)
class Part:
    """The rows of one benchmark, NFE and metric, by label, without imported ones.

    values: seed -> value, NaN where the seed diverged. draws: seed -> sampling seed -> value, of finished cells.
    """

    values: dict[str, dict[int, float]]
    draws: dict[str, dict[int, dict[int, float]]]


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
        - difference, difference_low, difference_high: to the best or the baseline, in the metric's unit, paired on
          common seeds, with the 95 % interval after Holm's correction. A positive difference is worse.
        - improvement: the probability that a new training of the best (the baseline) is better.
        - verdict: "best", "worse" or "inconclusive"; with a baseline "better", "worse" or "inconclusive".

        Against the best, Holm's correction covers all pairs of a benchmark, NFE and metric; against a baseline, which
        is named in advance, only the pairs with it. Imported rows are in no comparison.

    Raises:
        UsageError: No configuration is called `baseline`, or rows are there twice.

    >>> table = leaderboard(load_results("docs/results").query("metric == 'fd_digits_2k' and nfe == 1"))
    >>> table[["label", "seeds", "rank", "verdict"]].values.tolist()[1]
    ['ict', 3, 2, 'inconclusive']
    """
    import pandas as pd

    results = results.assign(source=results["source"].astype(object).fillna(""))  # as a CSV file gives it
    results = results[(results["images"] == results["budget"]) | (results["source"] != "")]
    _check(results, baseline)
    lines = [
        line
        for _, board in results.groupby("benchmark", sort=False)
        for (_, metric), part in board.groupby(["nfe", "metric"], sort=False)
        for line in _lines(str(metric), part, _states(board), baseline)
    ]
    whole = dict.fromkeys(["seeds", "draws", *STATES, "rank", "rank_low", "rank_high"], "Int64")
    return pd.DataFrame(lines, columns=COLUMNS).astype(whole)


def _check(results: pd.DataFrame, baseline: str | None) -> None:
    own = results[(results["source"] == "") & results["draw"].notna()]
    twice = own[own.duplicated(["benchmark", "label", "seed", "nfe", "metric", "draw"])]
    if len(twice):
        label, seed = twice.iloc[0]["label"], twice.iloc[0]["seed"]
        raise UsageError(f"{label} has two cells of seed {seed}: give configurations of different folders other labels")
    if baseline is not None and baseline not in set(own["label"]):
        raise unknown("baseline", baseline, sorted(set(own["label"])))


def _states(rows: pd.DataFrame) -> dict[str, Counter[str]]:
    """How many cells of each configuration of a benchmark are in which state."""
    cells = rows.drop_duplicates(["label", "cell"]).groupby("label")["state"]
    return {str(label): Counter(states) for label, states in cells}


def _lines(
    metric: str, rows: pd.DataFrame, states: Mapping[str, Counter[str]], baseline: str | None
) -> Iterator[dict[str, Any]]:
    """The lines of one benchmark, NFE and metric: ranked ones, then others by name, then imported ones."""
    facts = {row["label"]: row for row in rows[FACTS].to_dict("records")}
    part = _part(rows[rows["source"] == ""])
    found = contest(part.values, metric, 0, {label: count["failed"] for label, count in states.items()})
    places = ranks(found.family)
    against = _against_best(found) if baseline is None else _against_baseline(part, baseline, direction(metric))

    def order(label: str) -> tuple[float, float, str]:
        score = t_interval(part.values[label].values())
        return places[label].place or math.inf, -direction(metric) * score.mean if score.n else math.inf, label

    for label in sorted(part.values, key=order):
        own, rank = spread(part.draws[label]), places[label]
        yield {
            **facts[label],
            **_mean(part.values[label].values()),
            "draws": own.draws[1],
            "sd": own.total if own.seed is None else own.seed,
            **{state: states[label][state] for state in STATES},
            "rank": rank.place,
            "rank_low": rank.low,
            "rank_high": rank.high,
            **against.get(label, {}),
        }
    for label, own in rows[rows["source"] != ""].groupby("label", sort=False):
        yield {**facts[str(label)], **_mean(own["value"])}


def _part(rows: pd.DataFrame) -> Part:
    """A diverged seed counts as NaN; a configuration without a value is there with no seeds, as a rival not yet met."""
    labels = dict.fromkeys(rows["label"])
    part = Part({name: {} for name in labels}, {name: {} for name in labels})
    for label, seed in rows.loc[rows["state"] == "diverged", ["label", "seed"]].itertuples(index=False):
        part.values[label][seed] = math.nan
    done = rows[(rows["state"] == "finished") & rows["draw"].notna()]
    for label, seed, draw, value in done[["label", "seed", "draw", "value"]].itertuples(index=False):
        part.draws[label].setdefault(seed, {})[draw] = value
    for label, seeds in part.draws.items():
        part.values[label] |= {seed: seed_mean(draws.values()) for seed, draws in seeds.items()}
    return part


def _mean(values: Iterable[float]) -> dict[str, Any]:
    score = t_interval(values)
    return {"seeds": score.n, "mean": score.mean, "low": score.low, "high": score.high}


def _against_best(found: Contest) -> dict[str, dict[str, Any]]:
    lines = {
        label: _difference(rival, "worse" if rival.worse else INCONCLUSIVE) for label, rival in rivals(found).items()
    }
    return lines if found.leader is None else lines | {found.leader: {"verdict": BEST if found.significant else None}}


def _against_baseline(part: Part, baseline: str, sign: int) -> dict[str, dict[str, Any]]:
    """Every configuration against the baseline, as one family."""
    base = part.values.get(baseline)
    if base is None or not sign:
        return {}
    alone = [
        family({baseline: base, label: own}, sign).between(baseline, label)
        for label, own in part.values.items()
        if label != baseline
    ]
    verdicts = {BETTER: WORSE, WORSE: BETTER}  # of the baseline -> of the other
    return {
        item.second: _difference(rival_of(item, sign), verdicts.get(item.verdict, INCONCLUSIVE))
        for item in one_family(alone)
    }


def _difference(rival: Rival, verdict: str) -> dict[str, Any]:
    return {
        "difference": rival.mean if rival.n else None,
        "difference_low": rival.low,
        "difference_high": rival.high,
        "improvement": rival.improvement,
        "verdict": verdict,
    }
