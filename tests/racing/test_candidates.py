"""Who enters a race, who stays, and who wins."""

from __future__ import annotations

import math

import pytest

from gossamer.errors import UserError
from gossamer.methods.parts.arms import Arm
from gossamer.racing.candidates import RULES, candidates, survivors, winner

TWELVE = [Arm(f"vision.blocks.{i}", i, f"vision.blocks.{i}") for i in range(12)]


def test_rules_are_those_of_the_table() -> None:
    found = candidates(TWELVE, 6, 16)
    assert found["deepest"] == (6, 7, 8, 9, 10, 11)
    assert found["deepest but the last 1"] == (5, 6, 7, 8, 9, 10)
    assert found["deepest but the last 2"] == (4, 5, 6, 7, 8, 9)
    assert found["middle"] == (3, 4, 5, 6, 7, 8)
    assert found["spread"] == (1, 3, 5, 7, 9, 11)
    assert len(found) == len(set(found.values())) == 16
    assert all(len(set(choice)) == 6 and list(choice) == sorted(choice) for choice in found.values())
    assert found == candidates(TWELVE, 6, 16)
    assert found != candidates(TWELVE, 6, 16, seed=1)


def test_what_is_measured_and_what_a_bandit_found_enter() -> None:
    benefit = {arm.name: 0.1 * (i % 5) - i for i, arm in enumerate(TWELVE)}
    change = {arm.name: abs(i - 5.2) for i, arm in enumerate(TWELVE)}
    found = candidates(TWELVE, 2, 9, benefit=benefit, change=change, found=[1, 7])
    assert list(found)[:3] == ["deepest", "least change", "bandit"], "the least benefit is that of the deepest two"
    assert [found[name] for name in list(found)[:3]] == [(10, 11), (5, 6), (1, 7)]
    assert "middle" not in found
    assert "bandit" not in candidates(TWELVE, 2, 9, found=[1, 7, 8])


def test_few_choices_all_enter() -> None:
    found = candidates(TWELVE[:4], 2, 16)
    assert sorted(found.values()) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert len(candidates(TWELVE, 1, 12)) == 12


def test_two_columns_are_equally_deep() -> None:
    """METER: text blocks 0 to 2, image blocks 3 to 5; the deepest two are the last of both."""
    arms = [Arm(f"fusion.blocks.{i}", i % 3) for i in range(6)]
    assert candidates(arms, 2, 5)["deepest"] == (2, 5)


@pytest.mark.parametrize(("size", "count"), [(12, 16), (0, 16), (13, 16), (4, 1)])
def test_nothing_to_race(size: int, count: int) -> None:
    with pytest.raises(UserError, match="a race needs two candidates; 12 arms have"):
        candidates(TWELVE, size, count)


def test_the_better_half_stays_in_its_order_and_ties_go_to_the_cheaper() -> None:
    scores = {"a": (0.3, 5), "b": (0.1, 5), "c": (0.3, 4), "d": (math.inf, 1), "e": (0.2, 9)}
    assert survivors(scores, 3) == ["b", "c", "e"]
    assert survivors(scores, 2) == ["b", "e"]


def test_the_winner_is_the_cheaper_one_within_one_standard_error() -> None:
    costs = {"dear": 2.0, "cheap": 1.0}
    assert winner({"dear": [0.20, 0.30], "cheap": [0.21, 0.29]}, costs) == "cheap"  # equal means
    assert winner({"dear": [0.20, 0.30], "cheap": [0.20, 0.34]}, costs) == "cheap"  # 0.02 apart, error 0.02
    assert winner({"dear": [0.20, 0.30], "cheap": [0.24, 0.34]}, costs) == "dear"  # 0.04 in both: no error
    assert winner({"dear": [0.20, 0.30], "cheap": [0.10, 0.20]}, {"dear": 1.0, "cheap": 2.0}) == "cheap"


def test_a_rule_that_is_measured_to_be_best_as_well_keeps_its_name() -> None:
    """By it a race knows what must not be put out early; with few candidates it stands where the measure would."""
    benefit = {str(arm.block): float(arm.depth == 11 or arm.depth < 5) for arm in TWELVE}
    found = candidates(TWELVE, 6, 2, benefit=benefit)
    assert found == {"deepest": (6, 7, 8, 9, 10, 11), "deepest but the last 1": (5, 6, 7, 8, 9, 10)}
    assert set(RULES) <= set(candidates(TWELVE, 6, 16, benefit=benefit, change=benefit))
