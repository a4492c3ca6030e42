"""Performance profiles: in what share of all problems a configuration comes within a factor τ of the best one.

Dolan and Moré 2002, "Benchmarking optimization software with performance profiles", doi:10.1007/s101070100263. A
problem is a benchmark with a training seed, at one NFE. Its value is the benchmark's first metric at the end of
training; the ratio r of a configuration is its value over the best one (best over value where higher is better), so
r = 1 is best, and r = ∞ where the training diverged or failed. ρ(τ) is the share of problems with r ≤ τ.

Which is second may change with the configurations beside it (Gould and Scott 2016, doi:10.1145/2950048).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...benchmarks.metrics.registry import direction
from .tables import Board, Entry

LEAST_PROBLEMS, LEAST_CONFIGURATIONS, MOST_NFES = 5, 2, 2
_ROUNDING = 1e-12  # relative: 31.5 is within 5 % of 30, whatever the last bit of the quotient


class Problem(NamedTuple):
    """What a configuration is tried on."""

    benchmark: str
    seed: int


class Solver(NamedTuple):
    """What is tried: a method with the settings that all configurations of a benchmark share, and none of its own."""

    method: str
    version: int


#: What came out at one NFE: value of the first metric, NaN where the training diverged or failed.
Outcomes = Mapping[Solver, Mapping[Problem, float]]


@dataclass(frozen=True)
class PerformanceProfile:
    """Configurations that were run on the same problems.

    metrics: benchmark -> the metric its problems are judged by. ratios: NFE -> label -> the ratio r in each of the
    `problems`, in their order. left_out: labels that were not run on all of these problems.
    """

    problems: tuple[Problem, ...]
    metrics: Mapping[str, str]
    labels: tuple[str, ...]
    left_out: tuple[str, ...]
    ratios: Mapping[int, Mapping[str, tuple[float, ...]]]


def performance_profile(boards: Sequence[Board]) -> PerformanceProfile | None:
    """The profile over all benchmarks, at the lowest NFE that allows one and the next that has all of its values.

    None below `LEAST_CONFIGURATIONS` or `LEAST_PROBLEMS`.
    """
    outcomes = {nfe: outcomes_at(boards, nfe) for nfe in sorted({nfe for board in boards for nfe in board.nfes})}
    tables = ((nfe, largest_table(found)) for nfe, found in outcomes.items())
    first, table = next(((nfe, table) for nfe, table in tables if table is not None), (None, None))
    if first is None or table is None:
        return None
    solvers, problems = table
    complete = [
        nfe
        for nfe, found in outcomes.items()
        if nfe >= first and all(set(problems) <= found.get(solver, {}).keys() for solver in solvers)
    ]
    names = _names({solver for found in outcomes.values() for solver in found})
    metrics = {board.benchmark: board.metrics[0] for board in boards}
    return PerformanceProfile(
        problems=problems,
        metrics={benchmark: metrics[benchmark] for benchmark in dict.fromkeys(p.benchmark for p in problems)},
        labels=tuple(names[solver] for solver in solvers),
        left_out=tuple(sorted(name for solver, name in names.items() if solver not in solvers)),
        ratios={
            nfe: _ratios({names[solver]: outcomes[nfe][solver] for solver in solvers}, problems, metrics)
            for nfe in complete[:MOST_NFES]
        },
    )


def ratios(values: Mapping[str, float], sign: int) -> dict[str, float]:
    """label -> r in one problem. `values` are positive, or NaN where r is ∞; sign: 1 where more is better, else −1."""
    finite = [value for value in values.values() if math.isfinite(value)]
    if not finite:
        return dict.fromkeys(values, math.inf)
    best = max(finite) if sign > 0 else min(finite)
    quotients = {label: best / value if sign > 0 else value / best for label, value in values.items()}
    return {label: quotient if math.isfinite(quotient) else math.inf for label, quotient in quotients.items()}


def share(found: Sequence[float], tau: float) -> float:
    """ρ(τ): the share of the ratios `found` that are at most τ."""
    return sum(ratio <= tau * (1 + _ROUNDING) for ratio in found) / len(found)


def steps(found: Sequence[float]) -> list[tuple[float, float]]:
    """(τ, ρ(τ)) at τ = 1 and wherever ρ rises, in the order of τ."""
    places = sorted({1.0, *(ratio for ratio in found if math.isfinite(ratio))})
    return [(tau, share(found, tau)) for tau in places]


def median(found: Sequence[float]) -> float:
    """The median ratio, ∞ where half of the problems or more have that."""
    return statistics.median(found)


def outcomes_at(boards: Iterable[Board], nfe: int) -> dict[Solver, dict[Problem, float]]:
    """What is known of every default configuration at one NFE.

    A ratio needs positive values of a metric whose better direction is known: problems in which any configuration has
    another value are left out, and so are configurations that a board has two of.
    """
    found: dict[Solver, dict[Problem, float]] = defaultdict(dict)
    for board in boards:
        metric = board.metrics[0]
        if not direction(metric) or nfe not in board.nfes:
            continue
        for solver, entry in _defaults(board).items():
            for seed, value in _values(board, entry, metric, nfe).items():
                found[solver][Problem(board.benchmark, seed)] = value
    unfit = {problem for own in found.values() for problem, value in own.items() if value <= 0}
    kept = {solver: {p: value for p, value in own.items() if p not in unfit} for solver, own in found.items()}
    return {solver: own for solver, own in sorted(kept.items()) if own}


def largest_table(outcomes: Outcomes) -> tuple[tuple[Solver, ...], tuple[Problem, ...]] | None:
    """The configurations and problems that are compared, so that every configuration was run on every problem.

    For each pair of configurations: the problems that both were run on, and all configurations that were run on all of
    these. Of these tables the largest is taken (configurations × problems), of equal ones that with more problems,
    then that of the first names.
    """
    tables = set()
    for one, other in itertools.combinations(outcomes.values(), 2):
        problems = frozenset(one.keys() & other.keys())
        if len(problems) >= LEAST_PROBLEMS:
            tables.add((tuple(solver for solver, own in outcomes.items() if problems <= own.keys()), problems))
    if not tables:
        return None
    sized = [(-len(who) * len(what), -len(what), who, tuple(sorted(what))) for who, what in tables]
    *_, solvers, problems = min(sized)
    return solvers, problems


def _defaults(board: Board) -> dict[Solver, Entry]:
    """The entries without settings of their own."""
    plain = [entry for entry in board.entries if not entry.variant]
    count = Counter(Solver(entry.method, entry.version) for entry in plain)
    return {solver: entry for entry in plain if count[solver := Solver(entry.method, entry.version)] == 1}


def _values(board: Board, entry: Entry, metric: str, nfe: int) -> dict[int, float]:
    """seed -> value of the cells that will not change, NaN where they diverged or failed."""
    failed = [cell for cell in entry.cells if cell.state == "failed" and nfe in cell.nfe and metric in cell.metrics]
    known = board.contests[nfe, metric].family.values.get(entry.label, {})
    values = {cell.seed: math.nan for cell in failed} | dict(known)
    return {seed: value if math.isfinite(value) else math.nan for seed, value in values.items()}


def _names(solvers: Iterable[Solver]) -> dict[Solver, str]:
    """The method, and its version where there are several of it."""
    solvers = sorted(solvers)
    count = Counter(solver.method for solver in solvers)
    return {s: s.method if count[s.method] == 1 else f"{s.method} v{s.version}" for s in solvers}


def _ratios(
    values: Mapping[str, Mapping[Problem, float]], problems: Sequence[Problem], metrics: Mapping[str, str]
) -> dict[str, tuple[float, ...]]:
    """label -> the ratio in each problem."""
    each = [
        ratios({label: own[problem] for label, own in values.items()}, direction(metrics[problem.benchmark]))
        for problem in problems
    ]
    return {label: tuple(found[label] for found in each) for label in values}
