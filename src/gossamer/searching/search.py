"""Search over the arms of a method: which layers DAS skips, where DVP's prompts enter.

A super-network with every arm trains for a few epochs, at each step with another choice of arms. Now and then a bandit compares
some choices on a batch that training never sees, and moves its preferences (`gossamer.searching.bandit`). What is found is the
choice alone; the weights of the super-network are thrown away, and the method is trained anew.

What a method offers to be searched (nothing to inherit; `methods/das.py` is the example):

    method.bandit() -> Bandit        the rules of its paper
    method.picks(anatomy) -> int     how many arms a choice has: DAS the modules to skip, DVP one
    method.supernet() -> Method      places every arm at once; the tree that its attach returns has
        tree.arms: Sequence[str]         a name for each arm, such as "vision.blocks.3"
        tree.use(chosen) -> None         from now on the network is that of these arms (indices); cheap, changes no weight
        tree.skips: bool                 whether arms take something away and use(()) is the whole network: then savings are known
    method.found(chosen) -> Method   the method with these arms, as it is trained afterwards

Only what runs under a choice gets gradients; the rest has none in that step and is left alone by the optimizer. The reward is made
here, of the loss of the model's output or of its accuracy (`Bandit.reward`).
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from gossamer.adapting import Adapted
from gossamer.errors import UserError
from gossamer.methods import Method, as_method, check_settings, from_dict, to_dict
from gossamer.methods.parts.bandit import Bandit
from gossamer.runs import processes
from gossamer.runs.lock import alone
from gossamer.runs.run import Search, Training
from gossamer.searching import generators
from gossamer.searching.bandit import Game
from gossamer.searching.folder import PICTURE, SearchFolder
from gossamer.searching.savings import Savings
from gossamer.searching.supernetwork import Batches, SuperNetwork, under
from gossamer.training.trainer import Poly

STILL = 1e-3  # preferences below this are as good as none


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to.

    Attributes:
        methods: as they were given, the searched one with its arms; ready for `adapt`.
        arms: names of all arms.
        chosen: indices of the arms that were found.
        preferences: of all arms; large ones are chosen.
        updates: how often the preferences moved.
        saved: MACs or seconds that each arm saves, where the search looked at cost; else empty.
    """

    methods: tuple[Method, ...]
    arms: tuple[str, ...]
    chosen: tuple[int, ...]
    preferences: tuple[float, ...]
    updates: int
    saved: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} | {
            "methods": [to_dict(m) for m in self.methods]
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Found:
        """What `to_dict` wrote.

        Raises:
            UserError: it is something else.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        if set(values) != set(known):
            raise UserError(
                f"this is no result of a search: it has {', '.join(values) or 'nothing'}, not {', '.join(known)}"
            )
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        fields["methods"] = tuple(from_dict(m) for m in values["methods"])
        return cls(**fields)


def search(
    model: nn.Module,
    applied: Any,
    data: Any,
    *,
    held_out: Any = None,
    settings: Search | None = None,
    training: Training | None = None,
    num_labels: int | None = None,
    collate: Callable[[list[Any]], dict[str, Any]] | None = None,
    loss: Callable[[nn.Module, dict[str, Any]], Tensor] | None = None,
    plain: Any = None,
    prepare: Callable[[Adapted, Any], None] | None = None,
    after_update: Callable[[dict[str, Any]], None] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
) -> Found:
    """The arms of a method that a bandit finds best for a task. The model comes back as it was given.

    Args:
        model: as for `adapt`.
        applied: a method with arms (DAS), or a list with one such method among others.
        data: training set: items by index, and a length. Batches of it are what the model is called with, labels included.
        held_out: items that score the candidates, never used for training. None: `settings.hold_out` of the training set.
        settings: of the search.
        training: rates, batch, schedule, weight decay and clipping of the super-network; its epochs, head start and what is kept
            do not matter here, nor do torch_compile, tf32 and report_to.
        num_labels: outputs of the head, as for `adapt`.
        collate: makes a batch of a list of items. None: torch's.
        loss: of the model and a batch. None: what the model says itself for a batch with labels.
        plain: the training set as methods take their start from it, where `data` holds more, such as a teacher's answers.
        prepare: called with the super-network and the items it will train on before its first step, such as to compute
            once what training leaves as it is.
        after_update: called with the record of every update.
        folder: for history.jsonl, preferences.png, result.json and, while it lasts, the state. None: nothing is written.
        resume: go on with the search in the folder; it ends with the result of one that was never stopped.
        overwrite: remove the search in the folder.
        seed: of weights, held-out items, order of the data, and draws.

    Several processes (accelerate launch, torchrun) share every batch, draw alike and find the same, but for rounding.

    Raises:
        ValueError: no method with arms or more than one, nothing to choose from, a budget that cannot be met, too little data.
        FileExistsError: the folder holds a search.
        BlockingIOError: another process works in the folder; the message names it.
        FloatingPointError: the loss is not finite.
    """
    processes.begin()
    settings, training = settings or Search(), training or Training()
    methods = [as_method(m) for m in (applied if isinstance(applied, list | tuple) else [applied])]
    place = _searched(methods)
    rules = rules_of(methods[place], settings)
    described = {
        "methods": [to_dict(m) for m in methods], "settings": dataclasses.asdict(settings), "seed": seed,
        "training": dataclasses.asdict(training), "model": type(model).__name__, "num_labels": num_labels,
        "items": [len(data), None if held_out is None else len(held_out)], "rules": dataclasses.asdict(rules),
    }  # fmt: skip
    path = None if folder is None else Path(folder)
    with nullcontext() if path is None else alone(path):
        # The first process decides what is there: another could come when it has begun already.
        kept = processes.agreed(lambda: SearchFolder(path, described, resume=resume, overwrite=overwrite))
        kept.writes = kept.writes and processes.first()
        finished = processes.agreed(kept.result)
        if finished is not None:
            return Found.from_dict(finished)
        batches = Batches(data, held_out, settings, training, collate, seed)

        def begin(network: SuperNetwork) -> Play:
            part = Subset(data if plain is None else plain, batches.items)
            for method in network.adapted.applied:
                method.prepare(network.adapted, part, batches.collate)
            if prepare is not None:
                prepare(network.adapted, part)
            return Play(network, batches, settings, rules, kept, after_update, seed)

        with generators.as_before():
            torch.manual_seed(seed)
            network = SuperNetwork(model, methods, place, training, num_labels, loss)
            try:
                return begin(network).run(methods, place)
            finally:
                network.adapted.detach()


def rules_of(method: Any, settings: Search) -> Bandit:
    """The bandit of a method's paper with the changes that the settings ask for.

    Raises:
        ValueError: there is no rule of that name, or its value does not fit.
    """
    rules = method.bandit()
    check_settings(Bandit, settings.rules, "search.rules", "rule")
    return dataclasses.replace(rules, **settings.rules)


def _searched(methods: Sequence[Method]) -> int:
    places = [i for i, m in enumerate(methods) if hasattr(m, "supernet")]
    if len(places) != 1:
        found = ", ".join(m.name for m in methods)
        raise UserError(
            f"a search needs exactly one method with something to choose, such as DAS(skip=3), and got {found or 'none'}"
        )
    return places[0]


class Play:
    """One search as it runs: training steps, updates, and states to go on from."""

    def __init__(
        self,
        network: SuperNetwork,
        batches: Batches,
        settings: Search,
        rules: Bandit,
        kept: SearchFolder,
        after_update: Callable[[dict[str, Any]], None] | None,
        seed: int,
    ):
        self.network, self.batches, self.settings, self.kept = network, batches, settings, kept
        self.after_update = after_update or (lambda record: None)
        found = kept.state()
        tensors = found[1] if found else {}
        self.savings = self._savings(tensors)
        enough = None if settings.budget is None else self.savings.enough(settings.budget)  # type: ignore[union-attr]
        self.game = Game(
            rules, len(network.board.arms), size=network.size if enough is None else None, enough=enough, seed=seed,
            warmup_steps=rules.warmup * batches.steps_per_epoch,
        )  # fmt: skip
        self.steps = settings.epochs * batches.steps_per_epoch
        if self.game.warmup_steps >= self.steps:
            raise UserError(
                f"warmup={rules.warmup} epochs of {settings.epochs} leave none in which the preferences move: search.epochs must "
                "be more"
            )
        self.step = 0
        if found:
            self.step = found[0]
            network.restore(tensors)
            self._restore_generators(tensors)
            self.game.restore(under("game.", tensors))
        else:
            processes.same_start(network.adapted.trainable().values())
        self.records = kept.history(self.step)

    def _restore_generators(self, tensors: dict[str, Tensor]) -> None:
        own = under(f"random.{processes.rank()}.", tensors)
        began = len({name.partition(".")[0] for name in under("random.", tensors)})
        if not own or began != processes.number():
            raise UserError(
                f"the search in {self.kept.path} was begun by {began} processes, whose random numbers it goes on with: resume it "
                f"with as many, not {processes.number()}"
            )
        generators.restore(own)

    def _savings(self, tensors: dict[str, Tensor]) -> Savings | None:
        if not self.settings.looks_at_cost:
            return None
        if not getattr(self.network.board, "skips", False):
            raise UserError("budget and saving need arms that take something away, which those of this method do not")
        if "savings" in tensors:
            bare, full, *arms = tensors["savings"].tolist()
            return Savings(bare=bare, full=full, arms=tuple(arms))
        rows = 1 if self.settings.cost == "macs" else self.batches.reward_batch
        return processes.agreed(lambda: self.network.savings(self.batches.few(rows), self.settings.cost))

    def run(self, methods: Sequence[Method], place: int) -> Found:
        """Plays to the end."""
        self.kept.begin()
        if processes.first():
            self.kept.keep(self.records)
        while self.step < self.steps:
            self._one_step()
            self.step += 1
            if self.step % self.settings.checkpoint == 0 or self.step % self.batches.steps_per_epoch == 0:
                self.kept.save(self._state(), self.step)
        chosen = self.game.result()
        largest = float(self.game.preferences.abs().max())
        if largest < STILL:
            warnings.warn(
                f"the preferences hardly moved in {self.game.updates} updates (the largest is {largest:.1e}), so the choice is "
                "nearly arbitrary: rewards exp(-loss) of large losses differ little; search longer, or set rules: {eta: ...} or "
                "{reward: accuracy, eta: 0.01}",
                stacklevel=3,
            )
        searched: Any = methods[place]
        found = Found(
            methods=tuple(searched.found(chosen) if i == place else m for i, m in enumerate(methods)),
            arms=tuple(self.network.board.arms), chosen=tuple(chosen), updates=self.game.updates,
            preferences=tuple(self.game.preferences.tolist()), saved=self.savings.arms if self.savings else (),
        )  # fmt: skip
        self._draw(found)
        self.kept.finish(found.to_dict())
        return found

    def _one_step(self) -> None:
        """Training draws first; the update comes behind the backward pass, so that recomputed activations are those of the draw."""
        subset = processes.agreed(lambda: self.game.training_subset(self.step))
        batch = self.batches.training(self.step)
        loss = self.network.learn(batch, self.batches.batch, subset)
        if self.game.due(self.step):
            self._update(batch, loss)
        self.network.move(partial(rate, self.network.training.schedule, self.step, self.steps))

    def _update(self, batch: dict[str, Any], loss: float) -> None:
        if self.settings.reward_data == "held-out":
            with generators.as_before():
                batch = self.batches.scoring(self.game.updates)
        subsets = processes.agreed(self.game.candidates)
        right = self.game.rules.reward == "accuracy"
        scores = [self.network.score(batch, s, dropout=self.settings.dropout, right=right) for s in subsets]
        rewards = [self._reward(subset, *score) for subset, score in zip(subsets, scores, strict=True)]
        self.game.update(subsets, rewards)
        record = {
            "update": self.game.updates, "step": self.step, "epoch": self.step // self.batches.steps_per_epoch,
            "train_loss": loss, "subsets": subsets, "losses": [s[0] for s in scores],
            "accuracies": [s[1] for s in scores] if right else None,
            "rewards": rewards, "preferences": self.game.preferences.tolist(),
        }  # fmt: skip
        self.records.append(record)
        self.kept.append(record)
        self.after_update(record)

    def _reward(self, subset: Sequence[int], loss: float, accuracy: float) -> float:
        reward = self.game.rules.reward_of(loss, accuracy)
        if self.savings is None or self.settings.saving == 0:
            return reward
        size = self.game.size or len(subset)
        return reward * self.savings.weight(subset, size, self.settings.saving)

    def _state(self) -> dict[str, Tensor]:
        tensors = self.network.state() | {f"game.{name}": t for name, t in self.game.state().items()}
        for rank, found in enumerate(processes.gathered(generators.state())):
            tensors |= {f"random.{rank}.{name}": t for name, t in found.items()}
        if self.savings is not None:
            tensors["savings"] = torch.tensor(
                [self.savings.bare, self.savings.full, *self.savings.arms], dtype=torch.float64
            )
        return tensors

    def _draw(self, found: Found) -> None:
        from gossamer import report

        if self.kept.writes and report.available() and self.records:
            assert self.kept.path is not None
            report.preferences(self.records, found.arms, found.chosen, self.kept.path / PICTURE)


def rate(schedule: str, step: int, steps: int, largest: float) -> float:
    """Share of the largest learning rate at a step: see `Training.schedule`."""
    if schedule == "poly":
        return Poly(largest, steps)(step)
    rise = max(1, math.ceil((0.3 if schedule == "one-cycle" else 0.1) * steps))
    if schedule == "constant":
        return 1.0
    if step < rise:
        return 0.5 - 0.5 * math.cos(math.pi * (step + 1) / rise) if schedule == "one-cycle" else (step + 1) / rise
    left = (steps - step) / max(1, steps - rise)
    rounded = 0.5 - 0.5 * math.cos(math.pi * left)
    return {"linear": left, "cosine": rounded, "one-cycle": rounded}[schedule]
