"""The searches of DAS and DVP, traced: the same draws from the stored noise and from the seed, the same preferences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gossamer.methods.parts.bandit import Bandit
from gossamer.searching import bandit
from gossamer.searching.bandit import Game

from . import Case, Check

COVERS = ("das-bandit", "dvp-bandit")


def run(case: Case) -> Iterator[Check]:
    if "skip_m" in case.config:
        for source in ("noise", "seed"):
            yield from subsets(case, source)
    else:
        yield from placements(case)


def subsets(case: Case, source: str) -> Iterator[Check]:
    c, t = case.config, case.tensors
    rules = Bandit(candidates=c["candidates_K"], interval=c["update_interval_tau"], eta=c["step_size_eta"])
    stored = iter(t["draw_E"])
    game = Game(
        rules, c["modules_k"], size=c["skip_m"], seed=c["seed"], warmup_steps=c["warmup_epochs"] * c["steps_per_epoch"],
        noise=(lambda: next(stored)) if source == "noise" else None,
    )  # fmt: skip

    def loss(subset: list[int]) -> float:
        pairs = sum(i + 1 in subset for i in subset)
        return c["l0"] + float(t["c"].double()[subset].sum()) + c["lam"] * pairs

    found: dict[str, list[Any]] = {name: [] for name in ("g", "p", "train_S", "upd_step", "S", "loss", "R", "R_bar")}
    found["g"].append(game.preferences)
    for step in range(c["epochs"] * c["steps_per_epoch"]):
        found["train_S"].append(game.training_subset(step))
        if not game.due(step):
            continue
        found["p"].append(rules.probabilities(game.preferences))
        chosen = game.candidates()
        losses = [loss(s) for s in chosen]
        rewards = [rules.reward_of(value, 0.0) for value in losses]
        game.update(chosen, rewards)
        entries = {"g": game.preferences, "upd_step": step, "S": chosen, "loss": losses, "R": rewards}
        for name, value in (entries | {"R_bar": sum(rewards) / len(rewards)}).items():
            found[name].append(value)
    for name, values in found.items():
        value = torch.stack(values) if isinstance(values[0], Tensor) else torch.tensor(values, dtype=t[name].dtype)
        yield Check(f"{source}: {name}", value.double(), t[name].double())
    yield Check(f"{source}: skip_final", torch.tensor(game.result()).float(), t["skip_final"].float())


def placements(case: Case) -> Iterator[Check]:
    t, c = case.tensors, case.config
    for prefix, eta in (("", c["eta"]), ("sqa.", c["sqa"]["eta"])):
        rules = Bandit(policy="softmax", distinct=False, eta=eta, reward="100 exp(-loss)" if prefix else "accuracy")
        a, path, policies, rewards = torch.zeros(c["M"]), [], [], []
        for step, actions in enumerate(t[f"{prefix}actions"]):
            path.append(a)
            policies.append(rules.probabilities(a))
            if prefix:
                scores = [rules.reward_of(loss, 0.0) for loss in t["sqa.losses"][step].tolist()]
            else:
                scores = [rules.reward_of(0.0, score / 100) for score in t["scores"][step].tolist()]
            rewards.append(torch.tensor(scores, dtype=torch.float64) - sum(scores) / len(scores))
            a = bandit.updated(a, policies[-1], [[arm] for arm in actions.tolist()], scores, eta)
        path.append(a)
        yield Check(f"{prefix}alpha", torch.stack(path), t[f"{prefix}alpha"])
        yield Check(f"{prefix}rewards", torch.stack(rewards), t[f"{prefix}rewards"])
        if not prefix:
            yield Check("pi", torch.stack(policies), t["pi"])
            yield Check("best", torch.tensor([bandit.best(g, 1)[0] for g in path]).float(), t["best"].float())
