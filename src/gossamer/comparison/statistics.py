"""What rows say: means and spread over seeds, paired differences with confidence intervals, the Pareto frontier. Pure functions.

A row is a mapping with method, task, seed and the value in question; rows whose value is None (cells that failed) are passed over.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of n values; `sd` is None for a single one."""

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of n paired differences with its confidence interval; `low` and `high` are None where n is 1."""

    n: int
    mean: float
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation of values; None if there are none."""
    if not values:
        return None
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Spread(n=len(values), mean=statistics.fmean(values), sd=sd)


def over_seeds(rows: Rows, method: str, task: str, value: str = "accuracy") -> Spread | None:
    """A value of a method on one task, over its seeds."""
    return spread(
        [row[value] for row in rows if (row["method"], row["task"]) == (method, task) and row[value] is not None]
    )


def over_tasks(rows: Rows, method: str, value: str = "accuracy") -> Spread | None:
    """A value of a method averaged over all tasks of the rows, and the spread of that average over the seeds.

    Only seeds with a value on every task count, since averages over different tasks cannot be compared; None if there is none.
    """
    tasks = {row["task"] for row in rows}
    by_seed: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["method"] == method and row[value] is not None:
            by_seed.setdefault(row["seed"], {})[row["task"]] = row[value]
    return spread([statistics.fmean(of.values()) for of in by_seed.values() if of.keys() == tasks])


def paired(rows: Rows, method: str, baseline: str, value: str = "accuracy") -> dict[tuple[str, int], float]:
    """(task, seed) -> value of the method minus that of the baseline, for the pairs that have both."""
    of = {(r["method"], r["task"], r["seed"]): r[value] for r in rows if r[value] is not None}
    return {
        (task, seed): found - of[baseline, task, seed]
        for (name, task, seed), found in of.items()
        if name == method and (baseline, task, seed) in of
    }


def over_pairs(differences: Mapping[tuple[str, int], float]) -> Difference | None:
    """The mean difference with the t interval of the paired t test, every pair of task and seed counting as independent."""
    return interval(list(differences.values()))


def over_task_means(differences: Mapping[tuple[str, int], float]) -> Difference | None:
    """The same over the tasks' mean differences: wider, and what to expect of other tasks of this kind."""
    by_task: dict[str, list[float]] = {}
    for (task, _), difference in differences.items():
        by_task.setdefault(task, []).append(difference)
    return interval([statistics.fmean(of) for of in by_task.values()])


def interval(values: Sequence[float]) -> Difference | None:
    """Mean of values +- t(n - 1) sd / sqrt(n), at 95 % confidence; None if there are none."""
    from scipy import stats

    found = spread(values)
    if found is None:
        return None
    if found.sd is None:
        return Difference(n=1, mean=found.mean, low=None, high=None)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, found.n - 1)) * found.sd / math.sqrt(found.n)
    return Difference(n=found.n, mean=found.mean, low=found.mean - half, high=found.mean + half)


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the (cost, accuracy) points that no other beats in both, cheapest first.

    Of points that are equal in both, the first stays.
    """
    best, kept = -math.inf, []
    for name, (_, accuracy) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if accuracy > best:
            best = accuracy
            kept.append(name)
    return kept
