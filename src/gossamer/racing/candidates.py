"""Which choices of arms enter a race: fixed rules, what a scan of the depth suggests, what a bandit found, and random ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gossamer.errors import UserError
from gossamer.methods.parts.arms import Arm

Choice = tuple[int, ...]
DEEPEST = ("deepest", "deepest but the last 1", "deepest but the last 2")
RULES = DEEPEST[:2]  # what anyone would take


def candidates(
    arms: Sequence[Arm],
    size: int,
    count: int,
    *,
    benefit: Mapping[str, float] | None = None,
    change: Mapping[str, float] | None = None,
    found: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, Choice]:
    """Name -> sorted indices of `size` arms, at most `count` different choices, all there are where these are fewer.

    Args:
        arms: of the method.
        size: m.
        count: of candidates.
        benefit: what each block does for a linear probe behind it, by our name for the block; arms of the least are a candidate.
        change: how much each block changes what comes in; arms of the least are a candidate.
        found: the bandit's choice, where one was run.
        seed: of the random ones, which fill up.

    Raises:
        UserError: there are not so many arms, or nothing to choose from.
    """
    total = math.comb(len(arms), size) if 0 < size <= len(arms) else 0
    if total < 2 or count < 2:
        raise UserError(
            f"a race needs two candidates; {len(arms)} arms have {total} choices of {size}, and {count} may enter"
        )
    order = sorted(range(len(arms)), key=lambda i: (arms[i].depth, i))
    ruled = _ruled(order, size)
    measured: dict[str, list[int]] = {}
    for name, of_block in (("least benefit", benefit), ("least change", change)):
        if of_block and all(arm.block in of_block for arm in arms):
            measured[name] = _least([of_block[str(arm.block)] for arm in arms], size)
    if found is not None and len(found) == size:
        measured["bandit"] = list(found)
    named = {"deepest": ruled["deepest"], **measured, **ruled}
    simple = {tuple(sorted(ruled[name])): name for name in RULES if name in ruled}
    kept: dict[str, Choice] = {}
    for name, choice in named.items():
        if (own := tuple(sorted(choice))) not in kept.values() and len(kept) < count:
            kept[simple.get(own, name)] = own  # a rule that is measured to be best as well is still the rule
    if total <= count:
        others = [c for c in itertools.combinations(range(len(arms)), size) if c not in kept.values()]
        return kept | {f"other {i + 1}": choice for i, choice in enumerate(others)}
    generator = torch.Generator().manual_seed(seed)
    while len(kept) < count:
        drawn = tuple(sorted(torch.randperm(len(arms), generator=generator)[:size].tolist()))
        if drawn not in kept.values():
            kept[f"random {sum(name.startswith('random') for name in kept) + 1}"] = drawn
    return kept


def _ruled(order: Sequence[int], size: int) -> dict[str, list[int]]:
    """Choices by depth alone, of arms from the shallowest to the deepest."""
    count = len(order)
    middle, step = (count - size) // 2, count / size
    rules = {
        name: list(order[count - size - left : count - left])
        for left, name in enumerate(DEEPEST)
        if size + left <= count
    }
    rules["middle"] = list(order[middle : middle + size])
    rules["spread"] = [order[math.ceil((i + 1) * step) - 1] for i in range(size)]
    return rules


def _least(values: Sequence[float], size: int) -> list[int]:
    """Places of the smallest values, the first on ties."""
    return sorted(range(len(values)), key=lambda i: (values[i], i))[:size]


def survivors(scores: Mapping[str, tuple[Any, ...]], count: int) -> list[str]:
    """The `count` names with the smallest scores (loss, cost, ...), in the order in which they entered."""
    places = {name: i for i, name in enumerate(scores)}
    best = sorted(scores, key=lambda name: (scores[name], places[name]))[:count]
    return sorted(best, key=places.__getitem__)


def winner(losses: Mapping[str, Sequence[float]], costs: Mapping[str, float]) -> str:
    """The name with the smallest mean loss; of those whose loss is within one standard error of it the cheapest.

    `losses` are of the same seeds for every name, so the error is that of their differences.
    """
    best = min(losses, key=lambda name: (_mean(losses[name]), costs[name]))
    near = [best]
    for name, own in losses.items():
        apart = [a - b for a, b in zip(own, losses[best], strict=True)]
        if name != best and len(apart) > 1 and _mean(apart) <= _error(apart):
            near.append(name)
    return min(near, key=lambda name: (costs[name], _mean(losses[name])))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _error(values: Sequence[float]) -> float:
    """Standard error of a mean."""
    mean = _mean(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
