"""How often equal methods are called different, and unequal ones found, by the suite's own rule.

python tests/reports/analysis/simulation.py     # the tables of docs/statistics.md, about three minutes on one core
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtr

from consistency_bench.reports.analysis.comparisons import compare_pairs

#: Standard deviations of the residual, as multiples of that of the other methods.
PATTERNS = {
    "equal": lambda k: np.ones(k),
    "one ×3": lambda k: np.where(np.arange(k) == 0, 3.0, 1.0),
    "one ×10": lambda k: np.where(np.arange(k) == 0, 10.0, 1.0),
    "half ×3": lambda k: np.where(np.arange(k) < k // 2, 3.0, 1.0),
    "one ×5": lambda k: np.where(np.arange(k) == 0, 5.0, 1.0),
    "two ×4": lambda k: np.where(np.arange(k) < 2, 4.0, 1.0),
}


def draw(k: int, seeds: int, trials: int, *, pattern: str = "equal", shared: float = 0.0) -> np.ndarray:
    """Tables [trials, k, seeds] of equal methods. shared: standard deviation of what a seed adds to all methods."""
    rng = np.random.default_rng([k, seeds, int(10 * shared), list(PATTERNS).index(pattern)])
    noise = rng.standard_normal((trials, k, seeds)) * PATTERNS[pattern](k)[:, None]
    return noise + shared * rng.standard_normal((trials, 1, seeds))


def error_rate(tables: np.ndarray, baseline: int | None = None) -> float:
    """The share of tables of equal methods in which any difference is significant."""
    return float(compare_pairs(tables, baseline)[0].significant.any((-1, -2)).mean())


def coverage(tables: np.ndarray) -> tuple[float, float]:
    """How often corrected intervals hold the true difference: of single pairs, and of all pairs of a table at once."""
    pairs, _ = compare_pairs(tables)
    i, j = np.triu_indices(tables.shape[-2], 1)
    covered = (np.abs(pairs.mean) <= pairs.half)[..., i, j]
    return float(covered.mean()), float(covered.all(-1).mean())


def found_by_rule(tables: np.ndarray, effect: float, baseline: int | None = None) -> float:
    """Power: how often a method that is better by `effect` is found to be better than another one."""
    return float(compare_pairs(_shifted(tables, effect), baseline)[0].significant[:, 0, 1].mean())


def found_by_holm(tables: np.ndarray, effect: float) -> float:
    """The same by Holm's correction of paired t tests over all pairs."""
    pairs, _ = compare_pairs(_shifted(tables, effect))
    i, j = np.triu_indices(tables.shape[-2], 1)
    p = 2 * stdtr(tables.shape[-1] - 1, -np.abs(pairs.mean[:, i, j] / pairs.error[:, i, j]))
    order = np.argsort(p, axis=1)
    steps = np.take_along_axis(p, order, 1) * (p.shape[1] - np.arange(p.shape[1]))
    place = np.argmax(order == 0, axis=1)  # of the first pair among the sorted ones
    return float((np.maximum.accumulate(steps, 1)[np.arange(len(p)), place] <= 0.05).mean())


def _shifted(tables: np.ndarray, effect: float) -> np.ndarray:
    shifted = tables.copy()
    shifted[:, 0] -= effect
    return shifted


def main(trials: int = 10_000) -> None:
    """Print the tables of the documentation in Markdown."""
    for title, baseline in (("all pairs", None), ("against a baseline, which is the method that varies more", 0)):
        print(f"\n{title}: % of tables with any difference, seed effects absent; shared\n")
        print("| methods | seeds | " + " | ".join(PATTERNS) + " |")
        print("|--:|--:|" + "--:|" * len(PATTERNS))
        for k in (2, 4, 8, 16):
            for seeds in (3, 5, 10):
                rates = [
                    "; ".join(
                        f"{100 * error_rate(draw(k, seeds, trials, pattern=name, shared=shared), baseline):.1f}"
                        for shared in (0.0, 2.0)
                    )
                    for name in PATTERNS
                ]
                print(f"| {k} | {seeds} | " + " | ".join(rates) + " |")
    print("\ncoverage in %: single pairs; all pairs of a table\n")
    for k in (2, 4, 8):
        for seeds in (3, 5, 10):
            print(k, seeds, "; ".join(f"{100 * share:.1f}" for share in coverage(draw(k, seeds, trials))))
    print("\npower in % for a difference of 2 sd: rule; baseline; Holm\n")
    for seeds in (3, 6, 10):
        for k in (2, 4, 8):
            tables = draw(k, seeds, trials)
            rates = found_by_rule(tables, 2), found_by_rule(tables, 2, 0), found_by_holm(tables, 2)
            print(seeds, k, "; ".join(f"{100 * rate:.0f}" for rate in rates))
    print(f"\nstandard error of a rate of 5 %: {100 * math.sqrt(0.05 * 0.95 / trials):.1f} %")


if __name__ == "__main__":
    main()
