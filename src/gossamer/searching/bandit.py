"""k-armed bandits over subsets of arms: what DAS and DVP search with, as pure functions of preferences and noise.

DAS (arXiv 2309.01479) skips m of k modules: pi_i = sigmoid(g_i), subsets drawn one module after another in proportion to pi, K
different ones compared on one batch. DVP (arXiv 2306.00409) places prompts at one of k layers: pi = softmax(a), N layers drawn
independently. In both, every arm of a subset whose reward is above the mean of its round gains:

    g_i <- g_i + eta pi_i (1 - pi_i) sum_{j: i in S_j} (R_j - mean R)

Preferences are float32 and start at 0; a large one means: skip this module, place it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

REDRAWS = 10_000  # of a subset that was drawn already, before a saturated policy is taken to have no other

Noise = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Bandit:
    """The rules of one search. Defaults are those of DAS; `Bandit.dvp()` gives DVP's.

    Args:
        policy: pi of the preferences g: sigmoid(g), or softmax(sharpness g).
        sharpness: of the softmax; DAS's successor uses 10.
        candidates: K (DVP: N), subsets compared in one update. 3; LLaVA 5.
        distinct: the candidates of an update are pairwise different (DAS), or independent draws (DVP).
        eta: step size. DAS 1.0 on ViLT and METER, 0.05 on LaVIN; DVP 0.005 with scores in percent, 10 with 100 exp(-loss).
        update: "diagonal": the rule above; "policy_gradient": also moves the other arms, by -eta (R_j - mean R) pi_i, and the
            drawn one by eta (R_j - mean R)(1 - pi_i), for one arm at a time under a softmax only.
        training: training steps draw from the policy (DAS), or uniformly (DVP).
        interval: tau, training steps between updates. DAS 10; DVP 1.
        warmup: epochs of training before the first update.
        ramp: while training warms up the subsets grow, min(m, floor(2 m step / warm-up) + 1) arms (LLaVA).
        reward: exp(-loss), 100 exp(-loss), or 100 times the accuracy, of the search batch.
    """

    policy: Literal["sigmoid", "softmax"] = "sigmoid"
    sharpness: float = 1.0
    candidates: int = 3
    distinct: bool = True
    eta: float = 1.0
    update: Literal["diagonal", "policy_gradient"] = "diagonal"
    training: Literal["policy", "uniform"] = "policy"
    interval: int = 10
    warmup: int = 1
    ramp: bool = False
    reward: Literal["exp(-loss)", "100 exp(-loss)", "accuracy"] = "exp(-loss)"

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.interval < 1 or self.warmup < 0:
            raise ValueError(
                f"candidates and interval must be at least 1 and warmup 0, got {self.candidates}, {self.interval}, {self.warmup}"
            )
        if self.eta <= 0 or self.sharpness <= 0:
            raise ValueError(f"eta and sharpness must be positive, got {self.eta} and {self.sharpness}")
        known = {"policy": ("sigmoid", "softmax"), "update": ("diagonal", "policy_gradient")}
        known |= {"training": ("policy", "uniform"), "reward": ("exp(-loss)", "100 exp(-loss)", "accuracy")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        if self.update == "policy_gradient" and (self.policy != "softmax" or self.distinct):
            raise ValueError(
                "update='policy_gradient' is that of independent draws under policy='softmax', one arm at a time"
            )
        if self.candidates == 1:
            raise ValueError("candidates=1 never learns: a reward is compared with the mean of its round")

    @classmethod
    def dvp(cls) -> Bandit:
        """DVP's rules."""
        rules = {"candidates": 5, "distinct": False, "eta": 0.005, "interval": 1, "warmup": 0}
        return cls(policy="softmax", training="uniform", reward="accuracy", **rules)  # type: ignore[arg-type]

    def check(self, arms: int, size: int) -> None:
        """Nothing, where subsets of `size` of the arms can be searched.

        Raises:
            ValueError: there are fewer different subsets than candidates, or the rules are for single arms.
        """
        if not 0 < size <= arms:
            raise ValueError(f"a search picks between 1 and all of its {arms} arms, not {size}")
        if self.distinct and math.comb(arms, size) < self.candidates:
            raise ValueError(
                f"{arms} arms have {math.comb(arms, size)} subsets of {size}, fewer than the candidates={self.candidates} that an "
                "update compares: there is nothing to search, or too many candidates"
            )
        if self.update == "policy_gradient" and size != 1:
            raise ValueError(f"update='policy_gradient' is for one arm at a time, not for subsets of {size}")

    def probabilities(self, preferences: Tensor) -> Tensor:
        """pi [k] of preferences g [k]."""
        if self.policy == "sigmoid":
            return preferences.sigmoid()
        return (self.sharpness * preferences).softmax(dim=-1)

    def reward_of(self, loss: float, accuracy: float) -> float:
        """R of what was measured on the search batch, in double precision; the accuracy from 0 to 1."""
        return {"exp(-loss)": math.exp(-loss), "100 exp(-loss)": 100 * math.exp(-loss), "accuracy": 100 * accuracy}[
            self.reward
        ]


def exponential(arms: int, generator: torch.Generator) -> Tensor:
    """Exp(1) noise [k] for one draw: the numbers that torch.multinomial would take from the generator."""
    return torch.empty(arms).exponential_(1.0, generator=generator)


def draw(probabilities: Tensor, size: int, noise: Tensor) -> list[int]:
    """`size` different arms, one after another in proportion to the probabilities [k] of those left.

    Equal to the largest of pi_i / E_i, largest first, with noise E_i ~ Exp(1).
    """
    return (probabilities / noise).topk(size).indices.tolist()


def different(count: int, draw_one: Callable[[], list[int]]) -> list[list[int]]:
    """`count` pairwise different subsets, each sorted; one that came before is drawn anew.

    Raises:
        RuntimeError: no other subset turns up, because the policy has saturated.
    """
    found: list[list[int]] = []
    for _ in range(REDRAWS):
        subset = sorted(draw_one())
        if subset not in found:
            found.append(subset)
        if len(found) == count:
            return found
    raise RuntimeError(
        f"{REDRAWS} draws gave only {len(found)} different subsets of the {count} that an update compares: the policy has "
        "saturated; use a smaller eta, or fewer epochs"
    )


def updated(
    preferences: Tensor,
    probabilities: Tensor,
    subsets: Sequence[Sequence[int]],
    rewards: Sequence[float],
    eta: float,
    update: str = "diagonal",
) -> Tensor:
    """Preferences [k] after one update, from those before it and the probabilities that the subsets were drawn with.

    diagonal: arms in no subset keep theirs, and repeated subsets add up. policy_gradient: see `Bandit`.
    """
    mean = rewards[0] + math.fsum(r - rewards[0] for r in rewards) / len(rewards)  # exact where all are equal
    credit = torch.zeros(len(preferences), dtype=torch.float64)
    total = 0.0
    for subset, reward in zip(subsets, rewards, strict=True):
        total += reward - mean
        for arm in subset:
            credit[arm] += reward - mean
    pi = probabilities.double()
    change = credit - pi * total if update == "policy_gradient" else pi * (1 - pi) * credit
    return (preferences.double() + eta * change).to(preferences.dtype)


def best(preferences: Tensor, size: int) -> list[int]:
    """The `size` arms with the largest preferences, sorted; the first on ties. None for size 0."""
    return sorted(preferences.sort(descending=True, stable=True).indices[:size].tolist())


class Game:
    """One search as it goes: preferences, the count of steps since the last update, and the generator that draws.

    Args:
        rules: of the search.
        arms: k.
        size: m, arms in a subset; None where `enough` says.
        enough: whether a subset is large enough.
        seed: of the draws.
        warmup_steps: training steps before the first update.
        noise: Exp(1) numbers [k] for the next draw. None: from the seed.
    """

    def __init__(
        self,
        rules: Bandit,
        arms: int,
        *,
        size: int | None,
        enough: Callable[[list[int]], bool] | None = None,
        seed: int = 0,
        warmup_steps: int = 0,
        noise: Callable[[], Tensor] | None = None,
    ):
        if size is not None:
            rules.check(arms, size)
        self.rules, self.arms, self.size, self.enough, self.warmup_steps = rules, arms, size, enough, warmup_steps
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = noise or (lambda: exponential(arms, self.generator))
        self.preferences, self.count, self.updates = torch.zeros(arms), 0, 0

    def training_subset(self, step: int) -> list[int]:
        """The arms of training step `step` (0 is the first), in the order in which they were drawn."""
        pi = self.rules.probabilities(self.preferences)
        size = self.size
        if self.rules.ramp and size is not None and self.warmup_steps:
            size = min(size, 2 * size * step // self.warmup_steps + 1)
        return self._draw(pi if self.rules.training == "policy" else torch.ones(self.arms), size)

    def due(self, step: int) -> bool:
        """Counts a training step; whether an update follows it. The count also runs while training warms up."""
        self.count += 1
        if self.count < self.rules.interval or step < self.warmup_steps:
            return False
        self.count = 0
        return True

    def candidates(self) -> list[list[int]]:
        """The subsets that the next update compares, each sorted."""
        pi = self.rules.probabilities(self.preferences)
        if self.rules.distinct:
            return different(self.rules.candidates, lambda: self._draw(pi, self.size))
        return [sorted(self._draw(pi, self.size)) for _ in range(self.rules.candidates)]

    def update(self, subsets: Sequence[Sequence[int]], rewards: Sequence[float]) -> None:
        """Moves the preferences by the rewards of candidates that were drawn since the last update."""
        pi = self.rules.probabilities(self.preferences)
        self.preferences = updated(self.preferences, pi, subsets, rewards, self.rules.eta, self.rules.update)
        self.updates += 1

    def result(self) -> list[int]:
        """The arms with the largest preferences, sorted."""
        if self.size is not None:
            return best(self.preferences, self.size)
        order = self.preferences.sort(descending=True, stable=True).indices.tolist()
        return sorted(_prefix(order, self.enough))

    def _draw(self, probabilities: Tensor, size: int | None) -> list[int]:
        drawn = draw(probabilities, self.arms if size is None else size, self.noise())
        return drawn if size is not None else _prefix(drawn, self.enough)

    def state(self) -> dict[str, Tensor]:
        """Everything that a later process needs to go on."""
        return {
            "preferences": self.preferences,
            "counts": torch.tensor([self.count, self.updates]),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from `state()`."""
        self.preferences = state["preferences"]
        self.count, self.updates = state["counts"].tolist()
        self.generator.set_state(state["generator"])


def _prefix(order: list[int], enough: Callable[[list[int]], bool] | None) -> list[int]:
    """As many arms of an order as it takes until they are enough (ours, for budgets)."""
    assert enough is not None, "a game without a size has a budget"
    return next(order[:size] for size in range(1, len(order) + 1) if size == len(order) or enough(order[:size]))
