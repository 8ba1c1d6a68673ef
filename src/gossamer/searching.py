"""Search over the arms of a method: which layers DAS skips, where DVP's prompts enter.

A super-network with every arm trains for a few epochs, at each step with another choice of arms. Now and then a bandit compares
some choices on a batch that training never sees, and moves its preferences (`gossamer.bandit`). What is found is the choice alone;
the weights of the super-network are thrown away, and the method is trained anew.

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

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset, default_collate

from gossamer import processes, savings
from gossamer.adapted import Adapted, adapt
from gossamer.anatomy import read
from gossamer.bandit import Bandit, Game
from gossamer.methods import Method, as_method, from_dict, to_dict
from gossamer.run import Search, Training
from gossamer.savings import Savings
from gossamer.searchfolder import PICTURE, SearchFolder
from gossamer.trainer import optimizer

BETAS = (0.9, 0.98)  # of AdamW, in the searches of both papers
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
        """What `to_dict` wrote."""
        methods = tuple(from_dict(m) for m in values["methods"])
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()} | {"methods": methods})


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
            do not matter here.
        num_labels: outputs of the head, as for `adapt`.
        collate: makes a batch of a list of items. None: torch's.
        loss: of the model and a batch. None: what the model says itself for a batch with labels.
        prepare: called with the super-network and the items it will train on before its first step, such as to solve the head.
        after_update: called with the record of every update.
        folder: for history.jsonl, preferences.png, result.json and, while it lasts, the state. None: nothing is written.
        resume: go on with the search in the folder; it ends with the result of one that was never stopped.
        overwrite: remove the search in the folder.
        seed: of weights, held-out items, order of the data, and draws.

    Several processes (accelerate launch, torchrun) share every batch, draw alike and find the same, but for rounding.

    Raises:
        ValueError: no method with arms or more than one, nothing to choose from, a budget that cannot be met, too little data.
        FileExistsError: the folder holds a search.
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
    kept = SearchFolder(
        None if folder is None else Path(folder), described, resume=resume, overwrite=overwrite,
        writes=processes.first(),
    )  # fmt: skip
    finished = kept.result()
    if finished is not None:
        return Found.from_dict(finished)
    batches = Batches(data, held_out, settings, training, collate, seed)
    devices = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        network = SuperNetwork(model, methods, place, training, num_labels, loss)
        try:
            part = Subset(batches.data, batches.items)
            for method in network.adapted.applied:
                method.prepare(network.adapted, part)
            if prepare is not None:
                prepare(network.adapted, part)
            play = Play(network, batches, settings, rules, kept, after_update, seed)
            return play.run(methods, place)
        finally:
            network.adapted.detach()


def rules_of(method: Any, settings: Search) -> Bandit:
    """The bandit of a method's paper with the changes that the settings ask for.

    Raises:
        ValueError: there is no rule of that name, or its value does not fit.
    """
    rules = method.bandit()
    known = [f.name for f in dataclasses.fields(Bandit)]
    for name in settings.rules:
        if name not in known:
            raise ValueError(f"a search has no rule {name!r}; it has {', '.join(known)}")
    return dataclasses.replace(rules, **settings.rules)


def _searched(methods: Sequence[Method]) -> int:
    places = [i for i, m in enumerate(methods) if hasattr(m, "supernet")]
    if len(places) != 1:
        found = ", ".join(m.name for m in methods)
        raise ValueError(
            f"a search needs exactly one method with something to choose, such as DAS(skip=3), and got {found or 'none'}"
        )
    return places[0]


class SuperNetwork:
    """An adapted model with every arm of one method, and its optimizer."""

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method],
        place: int,
        training: Training,
        num_labels: int | None = None,
        loss: Callable[[nn.Module, dict[str, Any]], Tensor] | None = None,
    ):
        self.loss = loss
        searched: Any = methods[place]
        self.size: int = searched.picks(read(model))
        supernet = searched.supernet()
        applied = [supernet if i == place else m for i, m in enumerate(methods)]
        self.adapted = adapt(model, applied, num_labels=num_labels)
        trees = zip(self.adapted.applied, self.adapted.methods.values(), strict=True)
        self.board: Any = next(tree for method, tree in trees if method is supernet)
        self.training = training
        self.names = {id(p): name for name, p in self.adapted.trainable().items()}
        self.optimizer = optimizer(self.adapted, training, BETAS)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        if training.gradient_checkpointing:
            self.adapted.activation_checkpointing_enable()

    def learn(self, batch: dict[str, Any], rows: int, subset: Sequence[int]) -> float:
        """Gradients of one batch, of which this process has some of the `rows`; returns the loss over all of them."""
        self.adapted.train()
        self.board.use(subset)
        own = _rows(batch)
        loss, _ = self._measured(batch, right=False)
        (loss * own / rows).backward()
        processes.sum_gradients(self.adapted.trainable().values())
        (value,) = processes.total([float(loss.detach()) * own])
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value / rows}: the search has diverged; lower training.lr or head_lr"
            )
        return value / rows

    def move(self, share: float) -> None:
        """One step of the optimizer with this share of its largest rates."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        if self.training.clip > 0:
            nn.utils.clip_grad_norm_(self.adapted.trainable().values(), self.training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def score(self, batch: dict[str, Any], subset: Sequence[int], *, dropout: bool, right: bool) -> tuple[float, float]:
        """Mean loss and, where asked for (`right`), accuracy over the rows of all processes with these arms; leaves no trace."""
        mode = self.adapted.training
        with self._random_as_before():
            self.adapted.train(dropout)
            self.board.use(subset)
            loss, correct = self._measured(batch, right=right)
        self.adapted.train(mode)
        own = _rows(batch)
        total, correct, rows = processes.total([float(loss) * own, correct, own])
        return total / rows, correct / rows

    def _measured(self, batch: dict[str, Any], *, right: bool) -> tuple[Tensor, float]:
        """The loss of a batch, and how many of its rows are right, or their scores summed."""
        device = next(self.adapted.backbone.parameters()).device
        inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=self.training.bf16):
            if self.loss is None:
                output = self.adapted(**inputs)
                loss, logits = output.loss, output.get("logits")
            else:
                loss = self.loss(self.adapted, inputs)
                unlabelled = {k: v for k, v in inputs.items() if k != "labels"}
                logits = self.adapted(**unlabelled).logits if right else None
        if loss is None:
            raise ValueError("the model gives no loss for these batches: they need labels")
        return loss, _right(logits, inputs["labels"]) if right else 0.0

    def _random_as_before(self) -> Any:
        device = next(self.adapted.backbone.parameters()).device
        return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

    def savings(self, batch: dict[str, Any], unit: str) -> Savings:
        """What every arm saves for a batch."""
        bare = copy.deepcopy(self.adapted).eval()
        bare.anatomy.undo()
        self.adapted.eval()
        inputs = {k: v for k, v in batch.items() if k != "labels"}

        def run(subset: Sequence[int] | None) -> Callable[[], Any]:
            def forward() -> None:
                if subset is not None:
                    self.board.use(subset)
                (bare if subset is None else self.adapted)(**inputs)

            return forward

        return savings.measured(run(None), run(()), [run((i,)) for i in range(len(self.board.arms))], unit)

    def state(self) -> dict[str, Tensor]:
        """Weights, the optimizer's moments, and the generator of dropout."""
        tensors = {f"adapter.{name}": t for name, t in self.adapted.state_dict().items()}
        for parameter, moments in self.optimizer.state.items():
            tensors |= {f"optimizer.{self.names[id(parameter)]}.{key}": t for key, t in moments.items()}
        return tensors | {"random": torch.get_rng_state()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from `state()`."""
        self.adapted.load_state_dict(_under("adapter.", tensors))
        parameters = self.adapted.trainable()
        for name, moment in _under("optimizer.", tensors).items():
            owner, _, key = name.rpartition(".")
            device = moment.device if key == "step" else parameters[owner].device
            self.optimizer.state[parameters[owner]][key] = moment.to(device)
        torch.set_rng_state(tensors["random"])


class Batches:
    """The data of a search, by training step and by update: what a step reads depends on nothing but its number and the seed."""

    def __init__(self, data: Any, held_out: Any, settings: Search, training: Training, collate: Any, seed: int):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
        count = 0 if held_out is not None else max(1, round(settings.hold_out * len(data)))
        self.data, self.items = data, sorted(order[count:])
        self.held, self.held_items = (held_out, range(len(held_out))) if held_out is not None else (data, order[:count])
        self.collate, self.seed = collate or default_collate, seed
        self.batch = min(training.batch, len(self.items))
        self.reward_batch = min(settings.reward_batch or training.batch, len(self.held_items))
        if min(self.batch, self.reward_batch) < processes.number():
            raise ValueError(
                f"a search needs at least one item for each of {processes.number()} processes in every batch; there are "
                f"{len(self.items)} to train on and {len(self.held_items)} held out"
            )
        self.steps_per_epoch = len(self.items) // self.batch

    def training(self, step: int) -> dict[str, Any]:
        """This process's rows of the batch of a step; every epoch has an order of its own and leaves out what fills no batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order(len(self.items), 1 + epoch)
        chosen = [self.items[i] for i in order[place * self.batch : (place + 1) * self.batch]]
        return self.collate([self.data[i] for i in processes.share(chosen)])

    def scoring(self, update: int) -> dict[str, Any]:
        """This process's rows of the held-out batch of an update: the next ones in an endless row of orders."""
        n, first = len(self.held_items), update * self.reward_batch
        places = [divmod(i, n) for i in range(first, first + self.reward_batch)]
        orders = {turn: self._order(n, -1 - turn) for turn in {turn for turn, _ in places}}
        chosen = [self.held_items[orders[turn][i]] for turn, i in places]
        return self.collate([self.held[i] for i in processes.share(chosen)])

    def few(self, count: int) -> dict[str, Any]:
        """The first held-out items."""
        return self.collate([self.held[i] for i in self.held_items[:count]])

    def _order(self, count: int, turn: int) -> list[int]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + turn) % 2**63)
        return torch.randperm(count, generator=generator).tolist()


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
            raise ValueError(
                f"warmup={rules.warmup} epochs of {settings.epochs} leave none in which the preferences move: search.epochs must "
                "be more"
            )
        self.step = 0
        if found:
            self.step = found[0]
            network.restore(tensors)
            self.game.restore(_under("game.", tensors))
        else:
            processes.same_start(network.adapted.trainable().values())
        self.records = kept.history(self.step)

    def _savings(self, tensors: dict[str, Tensor]) -> Savings | None:
        if not self.settings.looks_at_cost:
            return None
        if not getattr(self.network.board, "skips", False):
            raise ValueError("budget and saving need arms that take something away, which those of this method do not")
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
        self.network.move(rate(self.network.training.schedule, self.step, self.steps))

    def _update(self, batch: dict[str, Any], loss: float) -> None:
        if self.settings.reward_data == "held-out":
            with self.network._random_as_before():
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


def rate(schedule: str, step: int, steps: int) -> float:
    """Share of the largest learning rate at a step: see `Training.schedule`."""
    rise = max(1, math.ceil((0.3 if schedule == "one-cycle" else 0.1) * steps))
    if schedule == "constant":
        return 1.0
    if step < rise:
        return 0.5 - 0.5 * math.cos(math.pi * (step + 1) / rise) if schedule == "one-cycle" else (step + 1) / rise
    left = (steps - step) / max(1, steps - rise)
    return left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _rows(batch: dict[str, Any]) -> int:
    return len(next(v for v in batch.values() if isinstance(v, Tensor)))


def _right(logits: Tensor, labels: Tensor) -> float:
    """Number of rows of logits [n, C] that are right for class indices [n], or the sum of their scores in labels [n, C].

    Raises:
        ValueError: labels of another shape, such as those of written answers.
    """
    if logits.dim() == 2 and labels.dim() == 1 and not labels.is_floating_point():
        return float((logits.argmax(dim=1) == labels).sum())
    if logits.dim() == 2 and labels.shape == logits.shape:
        return float(labels.gather(1, logits.argmax(dim=1, keepdim=True)).sum())
    raise ValueError(
        f"reward 'accuracy' needs logits [n, C] and labels [n] or [n, C], and these are {tuple(logits.shape)} and "
        f"{tuple(labels.shape)}: use rules={{'reward': '100 exp(-loss)', 'eta': 10.0}}"
    )
