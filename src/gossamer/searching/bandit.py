"""A k-armed bandit over subsets of arms, played by the rules of a method's paper (`gossamer.methods.parts.bandit`).

Pure functions of preferences and noise, and one search as it goes. Preferences are float32 and start at 0; a large one means: skip
this module, place it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gossamer.errors import UserError
from gossamer.methods.parts.bandit import Bandit

REDRAWS = 10_000  # of a subset that was drawn already, before a saturated policy is taken to have no other

Noise = Callable[[], Tensor]


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
    raise UserError(
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
