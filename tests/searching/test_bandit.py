"""What must hold of the bandits: section 10 of DAS's and of DVP's specification."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from gossamer.methods.parts.bandit import Bandit
from gossamer.searching import bandit
from gossamer.searching.bandit import Game


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_are_those_of_multinomial() -> None:
    pi = torch.tensor([0.2, 0.9, 0.5, 0.05, 0.7])
    ours, theirs = generator(7), generator(7)
    for size in (1, 2, 3, 5):
        for _ in range(20):
            found = bandit.draw(pi, size, bandit.exponential(5, ours))
            assert found == torch.multinomial(pi, size, generator=theirs).tolist()
            assert len(set(found)) == size


def test_how_often_arms_are_drawn() -> None:
    draws, pi = 6000, torch.tensor([0.1, 0.3, 0.6, 0.2])
    noise = generator(1)
    even = torch.zeros(4)
    for _ in range(draws):
        even[bandit.draw(torch.zeros(4).sigmoid(), 2, bandit.exponential(4, noise))] += 1
    assert (even / draws - 2 / 4).abs().max() < 0.03
    alone = torch.bincount(torch.tensor([bandit.draw(pi, 1, bandit.exponential(4, noise))[0] for _ in range(draws)]))
    assert (alone / draws - pi / pi.sum()).abs().max() < 0.03


def test_candidates_are_different_and_a_saturated_policy_says_so() -> None:
    game = Game(Bandit(candidates=6), 4, size=2, seed=3)
    found = game.candidates()
    assert sorted(found) == [list(pair) for pair in itertools.combinations(range(4), 2)]
    with pytest.raises(ValueError, match="10000 draws gave only 1 different subsets of the 2 that an update compares"):
        bandit.different(2, lambda: [1, 0])


def moved(subsets: Any, rewards: Any, g: Any = None, eta: float = 1.0, **options: Any) -> torch.Tensor:
    g = torch.zeros(5) if g is None else g
    return bandit.updated(g, g.sigmoid(), subsets, rewards, eta, **options) - g


def test_one_update() -> None:
    g = torch.tensor([0.5, -1.0, 0.0, 2.0, 0.3])
    pi, subsets = g.sigmoid(), [[0, 1], [1, 3], [0, 3]]
    rewards = [0.7, 0.4, 0.55]
    change = moved(subsets, rewards, g)
    slope = (pi * (1 - pi)).tolist()
    mean = sum(rewards) / 3
    expected = [
        slope[0] * (0.7 + 0.55 - 2 * mean),
        slope[1] * (0.7 + 0.4 - 2 * mean),
        0,
        slope[3] * (0.4 + 0.55 - 2 * mean),
        0,
    ]
    torch.testing.assert_close(change, torch.tensor(expected), atol=1e-6, rtol=0)
    assert change[2] == change[4] == 0
    assert abs(float((change / torch.tensor(slope)).sum())) < 1e-5
    assert abs(float(moved(subsets, rewards).sum())) < 1e-6
    assert float(change.abs().max()) <= 3 / 4


def test_symmetries_of_an_update() -> None:
    subsets, losses = [[0, 1], [1, 2], [1, 4]], [0.3, 0.9, 0.5]
    rewards = [math.exp(-v) for v in losses]
    change = moved(subsets, rewards)
    assert change[1] == pytest.approx(0, abs=1e-7), "in all candidates"
    assert change[3] == 0, "in none"
    assert torch.equal(moved(subsets, [0.4] * 3), torch.zeros(5))
    close = torch.testing.assert_close
    close(moved(subsets, rewards, eta=0.25), 0.25 * change, atol=1e-7, rtol=0)
    close(moved(subsets[::-1], rewards[::-1]), change, atol=1e-7, rtol=0)
    names = [3, 0, 4, 1, 2]
    close(moved([[names[i] for i in s] for s in subsets], rewards)[names], change, atol=1e-7, rtol=0)
    later = [math.exp(-(v + 0.7)) for v in losses]
    close(moved(subsets, later), math.exp(-0.7) * change, atol=1e-7, rtol=0)


def test_updates_wait_for_the_warm_up_and_count_through_it() -> None:
    game = Game(Bandit(interval=3), 6, size=2, warmup_steps=7)
    assert [step for step in range(20) if game.due(step)] == [7, 10, 13, 16, 19]
    assert torch.equal(game.preferences, torch.zeros(6))


def test_planted_redundancy_is_found() -> None:
    right = 0
    for seed in range(6):
        cost = torch.linspace(0, 1, 12)[torch.randperm(12, generator=generator(seed))]
        game = Game(Bandit(), 12, size=4, seed=seed)
        for _ in range(1000):
            subsets = game.candidates()
            game.update(subsets, [math.exp(-(0.4 + float(cost[s].sum()))) for s in subsets])
        right += game.result() == sorted(cost.argsort()[:4].tolist())
    assert right == 6


@pytest.mark.parametrize(
    ("arms", "gap", "noise", "steps"), [(4, 3.0, 0.5, 500), pytest.param(12, 1.0, 1.0, 2000, marks=pytest.mark.slow)]
)
def test_the_best_place_is_found(arms: int, gap: float, noise: float, steps: int) -> None:
    for seed in range(20 if arms == 4 else 4):
        draws = generator(100 + seed)
        scores = 50 + gap * torch.randperm(arms, generator=draws)
        game = Game(Bandit.dvp(), arms, size=1, seed=seed)
        for _ in range(steps):
            subsets = game.candidates()
            game.update(subsets, [float(scores[s[0]] + noise * torch.randn((), generator=draws)) for s in subsets])
        assert game.result() == [int(scores.argmax())]


def test_repeats_add_up_and_constants_do_not_matter() -> None:
    a = torch.tensor([0.1, -0.2, 0.0, 0.4])
    pi = a.softmax(0)
    subsets, scores = [[0], [2], [0]], [40.0, 70.0, 46.0]
    change = bandit.updated(a, pi, subsets, scores, 0.005) - a
    mean = sum(scores) / 3
    assert float(change[0]) == pytest.approx(0.005 * float(pi[0] * (1 - pi[0])) * (86 - 2 * mean), rel=1e-4)
    assert change[1] == change[3] == 0
    torch.testing.assert_close(bandit.updated(a, pi, subsets, [s + 9 for s in scores], 0.005) - a, change)
    torch.testing.assert_close(bandit.updated(a, pi, subsets, [2 * s for s in scores], 0.005) - a, 2 * change)
    gradient = bandit.updated(a, pi, subsets, scores, 0.005, "policy_gradient") - a
    log_pi = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    logs = (a.double() + log_pi).log_softmax(0)
    sum((score - mean) * logs[s[0]] for s, score in zip(subsets, scores, strict=True)).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(gradient.double(), 0.005 * log_pi.grad, atol=1e-6, rtol=0)


def test_policies_training_draws_and_ramps() -> None:
    g = torch.tensor([0.0, 1.0, -1.0])
    assert torch.equal(Bandit().probabilities(g), g.sigmoid())
    assert torch.equal(Bandit(policy="softmax", sharpness=10.0).probabilities(g), (10 * g).softmax(0))
    game = Game(Bandit(ramp=True), 8, size=4, warmup_steps=10)
    assert [len(game.training_subset(step)) for step in range(11)] == [1, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4]
    uniform = Game(Bandit(training="uniform", policy="softmax", distinct=False), 3, size=1, seed=2)
    uniform.preferences = torch.tensor([50.0, 0.0, 0.0])
    assert {uniform.training_subset(step)[0] for step in range(40)} == {0, 1, 2}
    assert uniform.candidates() == [[0], [0], [0]], "candidates follow the policy, and may repeat"
    rules = {"reward": "100 exp(-loss)"}
    assert Bandit(**rules).reward_of(0.5, 0.2) == 100 * math.exp(-0.5)  # type: ignore[arg-type]
    assert (Bandit().reward_of(0.5, 0.2), Bandit.dvp().reward_of(0.5, 0.2)) == (math.exp(-0.5), 20.0)


def test_none_of_the_arms_is_none_and_ties_go_to_the_first() -> None:
    g = torch.tensor([0.3, 0.9, 0.3, -1.0])
    assert [bandit.best(g, size) for size in (0, 1, 2, 3)] == [[], [1], [0, 1], [0, 1, 2]]


def test_a_game_goes_on_where_it_was() -> None:
    whole, torn = (Game(Bandit(), 7, size=3, seed=5) for _ in range(2))
    for step in range(30):
        subsets = [game.candidates() for game in (whole, torn)]
        assert subsets[0] == subsets[1]
        for game in (whole, torn):
            game.due(step)
            game.update(subsets[0], [0.1, 0.5, 0.2 + step / 100])
        if step == 12:
            other = Game(Bandit(), 7, size=3, seed=99)
            other.restore({name: t.clone() for name, t in torn.state().items()})
            torn = other
    assert torch.equal(whole.preferences, torn.preferences)
    assert (whole.count, whole.updates) == (torn.count, torn.updates) == (0, 30)


@pytest.mark.parametrize(
    ("rules", "arms", "size", "message"),
    [
        ({}, 3, 3, r"3 arms have 1 subsets of 3, fewer than the candidates=3"),
        ({"candidates": 7}, 4, 2, r"4 arms have 6 subsets of 2, fewer than the candidates=7"),
        ({}, 4, 0, r"picks between 1 and all of its 4 arms, not 0"),
        ({}, 4, 5, r"picks between 1 and all of its 4 arms, not 5"),
        ({"policy": "softmax", "distinct": False, "update": "policy_gradient"}, 4, 2, "one arm at a time, not for subsets of 2"),
        ({"candidates": 0}, 4, 2, "candidates and interval must be at least 1 and warmup 0, got 0, 10, 1"),
        ({"candidates": 1}, 4, 2, "candidates=1 never learns"),
        ({"eta": 0.0}, 4, 2, "eta and sharpness must be positive, got 0.0 and 1.0"),
        ({"policy": "greedy"}, 4, 2, "policy must be one of sigmoid, softmax, got 'greedy'"),
        ({"reward": "loss"}, 4, 2, r"reward must be one of exp\(-loss\), 100 exp\(-loss\), accuracy, got 'loss'"),
        ({"update": "policy_gradient"}, 4, 1, "independent draws under policy='softmax'"),
    ],
)  # fmt: skip
def test_bad_rules(rules: dict[str, Any], arms: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Game(Bandit(**rules), arms, size=size)
