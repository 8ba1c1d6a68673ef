from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gossamer.comparison import statistics
from gossamer.comparison.statistics import Difference, Spread

from . import made


def row(method: str, task: str, seed: int, accuracy: float | None) -> dict[str, Any]:
    return {"method": method, "task": task, "seed": seed, "accuracy": accuracy}


def test_means_and_spread_over_seeds() -> None:
    rows = [row("a", "x", s, v) for s, v in enumerate((0.5, 0.7, None, 0.9))] + [row("b", "x", 0, 0.1)]
    assert statistics.over_seeds(rows, "a", "x") == Spread(n=3, mean=pytest.approx(0.7), sd=pytest.approx(0.2))
    assert statistics.over_seeds(rows, "b", "x") == Spread(n=1, mean=0.1, sd=None)
    assert statistics.over_seeds(rows, "c", "x") is None


def test_the_mean_over_tasks_takes_only_seeds_that_have_every_task() -> None:
    rows = [row("a", t, s, 0.1 * s + (0.4 if t == "y" else 0)) for t in "xy" for s in (1, 2, 3)]
    rows[-1]["accuracy"] = None  # task y, seed 3
    found = statistics.over_tasks(rows, "a")
    assert found == Spread(n=2, mean=pytest.approx((0.3 + 0.4) / 2), sd=pytest.approx(np.std([0.3, 0.4], ddof=1)))
    assert statistics.over_tasks([*rows, row("b", "z", 1, 0.5)], "a") is None


def test_intervals_are_those_of_the_paired_t_test() -> None:
    rows = made.rows()
    differences = statistics.paired(rows, "VPT-deep", "linear probe")
    ours, theirs = (
        [r["accuracy"] for r in rows if r["method"] == name] for name in ("VPT-deep", "linear probe")
    )  # both task by task, seed by seed
    test = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = statistics.over_pairs(differences)
    assert found is not None
    assert (found.n, found.mean) == (9, pytest.approx(np.mean(ours) - np.mean(theirs)))
    assert (found.low, found.high) == pytest.approx((test.low, test.high))
    by_task = np.subtract(ours, theirs).reshape(3, 3).mean(1)
    test = stats.ttest_1samp(by_task, 0).confidence_interval(0.95)
    wide = statistics.over_task_means(differences)
    assert wide is not None
    assert (wide.n, wide.low, wide.high) == (3, pytest.approx(test.low), pytest.approx(test.high))


def test_pairs_need_both_sides() -> None:
    rows = [
        row("a", "x", 0, 0.75),
        row("a", "x", 1, 0.5),
        row("b", "x", 0, 0.5),
        row("b", "x", 1, None),
        row("b", "y", 0, 1.0),
    ]
    assert statistics.paired(rows, "a", "b") == {("x", 0): 0.25}
    assert statistics.over_pairs({("x", 0): 0.25}) == Difference(n=1, mean=0.25, low=None, high=None)
    assert statistics.over_pairs({}) is None
    assert statistics.interval([0.25, 0.25, 0.25]) == Difference(n=3, mean=0.25, low=0.25, high=0.25)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(0)
    hits = 0
    for _ in range(1000):
        found = statistics.interval([draw.gauss(0.3, 1) for _ in range(5)])
        assert found is not None
        hits += found.low <= 0.3 <= found.high  # type: ignore[operator]
    assert 930 <= hits <= 970


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    draw = random.Random(3)
    points = {str(i): (draw.randrange(12) / 4, draw.randrange(12) / 4) for i in range(40)}

    def beaten(name: str) -> bool:
        cost, accuracy = points[name]
        return any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points.values())

    found = statistics.frontier(points)
    assert {points[n] for n in found} == {points[n] for n in points if not beaten(n)}
    assert len({points[n] for n in found}) == len(found) > 2
    for (c, a), (d, b) in itertools.pairwise(points[n] for n in found):
        assert c < d
        assert a < b
    assert statistics.frontier({}) == []
