"""What each arm of a super-network saves, in multiply-adds or in time; budgets and rewards made of it. Ours, not the papers'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gossamer.cost.counting import counter
from gossamer.cost.measure import measure
from gossamer.errors import UserError

REPEATS = 7  # of each time that is measured
FLOPS_OF_A_MAC = 2


@dataclass(frozen=True, kw_only=True)
class Savings:
    """What arms save for one sample.

    `bare` is the cost of the backbone alone, `full` that of the network without any arm, `arms` what each arm takes off it. The
    savings of several arms are taken to add up.
    """

    bare: float
    full: float
    arms: tuple[float, ...]

    def of(self, subset: Sequence[int]) -> float:
        """What a subset saves."""
        return sum(self.arms[i] for i in subset)

    def weight(self, subset: Sequence[int], size: float, exponent: float) -> float:
        """(saved / mean saved)^w: 1 for a subset that saves what `size` arms save on average, and for w = 0."""
        mean = size * sum(self.arms) / len(self.arms)
        return max(self.of(subset), 0.0) ** exponent / mean**exponent

    def enough(self, budget: float) -> Callable[[Sequence[int]], bool]:
        """Whether the network with a subset costs at most `budget` times what the bare backbone costs.

        Raises:
            ValueError: not even all arms but one are enough.
        """
        target = self.full - budget * self.bare
        most = sum(self.arms) - min(self.arms)
        if most < target:
            raise UserError(
                f"budget={budget}: with all candidates but one skipped the model still costs {(self.full - most) / self.bare:.3f} "
                "times the bare backbone; ask for more, or choose a smaller rank"
            )
        return lambda subset: self.of(subset) >= target or len(subset) >= len(self.arms) - 1


def measured(
    model: nn.Module, bare: Callable[[], Any], full: Callable[[], Any], arms: Sequence[Callable[[], Any]], unit: str
) -> Savings:
    """The savings of arms, from functions that run one batch each: the bare backbone, no arm, and every arm alone.

    `model` has what they run in it.

    unit "macs": counted by torch. "latency": fastest of several runs on this machine's clock, in seconds, taken in turn.
    """
    runs = {"bare": bare, "full": full, **{str(i): run for i, run in enumerate(arms)}}
    if unit == "macs":
        costs = {name: float(_macs(model, run)) for name, run in runs.items()}
    else:
        costs = {name: m.fastest for name, m in measure(runs, repeats=REPEATS).items()}
    saved = tuple(costs["full"] - costs[str(i)] for i in range(len(arms)))
    return Savings(bare=costs["bare"], full=costs["full"], arms=saved)


def _macs(model: nn.Module, run: Callable[[], Any]) -> int:
    with counter(model) as counted:
        run()
    return counted.get_total_flops() // FLOPS_OF_A_MAC
