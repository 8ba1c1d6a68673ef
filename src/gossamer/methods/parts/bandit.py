"""The rules of a k-armed bandit over subsets of arms, which DAS and DVP are searched by; `gossamer.searching.bandit` plays it.

DAS (arXiv 2309.01479) skips m of k modules: pi_i = sigmoid(g_i), subsets drawn one module after another in proportion to pi, K
different ones compared on one batch. DVP (arXiv 2306.00409) places prompts at one of k layers: pi = softmax(a), N layers drawn
independently. In both, every arm of a subset whose reward is above the mean of its round gains:

    g_i <- g_i + eta pi_i (1 - pi_i) sum_{j: i in S_j} (R_j - mean R)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from gossamer.errors import UserError


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
            raise UserError(
                f"candidates and interval must be at least 1 and warmup 0, got {self.candidates}, {self.interval}, {self.warmup}"
            )
        if self.eta <= 0 or self.sharpness <= 0:
            raise UserError(f"eta and sharpness must be positive, got {self.eta} and {self.sharpness}")
        known = {"policy": ("sigmoid", "softmax"), "update": ("diagonal", "policy_gradient")}
        known |= {"training": ("policy", "uniform"), "reward": ("exp(-loss)", "100 exp(-loss)", "accuracy")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise UserError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        if self.update == "policy_gradient" and (self.policy != "softmax" or self.distinct):
            raise UserError(
                "update='policy_gradient' is that of independent draws under policy='softmax', one arm at a time"
            )
        if self.candidates == 1:
            raise UserError("candidates=1 never learns: a reward is compared with the mean of its round")

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
            raise UserError(f"a search picks between 1 and all of its {arms} arms, not {size}")
        if self.distinct and math.comb(arms, size) < self.candidates:
            raise UserError(
                f"{arms} arms have {math.comb(arms, size)} subsets of {size}, fewer than the candidates={self.candidates} that an "
                "update compares: there is nothing to search, or too many candidates"
            )
        if self.update == "policy_gradient" and size != 1:
            raise UserError(f"update='policy_gradient' is for one arm at a time, not for subsets of {size}")

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
