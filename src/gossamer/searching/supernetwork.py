"""The network that a search trains, with every arm of one method, and the data that it reads step by step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from gossamer import batches
from gossamer.adapting import adapt
from gossamer.errors import Diverged, UserError
from gossamer.methods import Method
from gossamer.reading import read
from gossamer.runs import processes
from gossamer.runs.run import Search, Training
from gossamer.searching import generators, savings
from gossamer.searching.savings import Savings
from gossamer.training.attention import attention
from gossamer.training.trainer import optimizer

BETAS = (0.9, 0.98)  # of AdamW, in the searches of both papers


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
        with attention(self.training):
            loss, _ = self._measured(batch, right=False)
            (loss * own / rows).backward()
        processes.sum_gradients(self.adapted.trainable().values())
        (value,) = processes.total([float(loss.detach()) * own])
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value / rows}: the search has diverged; lower training.lr or head_lr")
        return value / rows

    def move(self, share: Callable[[float], float]) -> None:
        """One step of the optimizer, each group with this share of its largest rate."""
        for group, largest in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = largest * share(largest)
        if self.training.clip > 0:
            nn.utils.clip_grad_norm_(self.adapted.trainable().values(), self.training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def score(self, batch: dict[str, Any], subset: Sequence[int], *, dropout: bool, right: bool) -> tuple[float, float]:
        """Mean loss and, where asked for (`right`), accuracy over the rows of all processes with these arms; leaves no trace."""
        mode = self.adapted.training
        with generators.as_before():
            self.adapted.train(dropout)
            self.board.use(subset)
            loss, correct = self._measured(batch, right=right)
        self.adapted.train(mode)
        own = _rows(batch)
        total, correct, rows = processes.total([float(loss) * own, correct, own])
        return total / rows, correct / rows

    def _measured(self, batch: dict[str, Any], *, right: bool) -> tuple[Tensor, float]:
        """The loss of a batch, and how many of its rows are right, or their scores summed."""
        inputs, device = self._placed(batch), next(self.adapted.backbone.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.training.bfloat16):
            if self.loss is None:
                output = self.adapted(**inputs)
                loss, logits = output.loss, output.get("logits")
            else:
                loss = self.loss(self.adapted, inputs)
                unlabelled = {k: v for k, v in inputs.items() if k != "labels"}
                logits = self.adapted(**unlabelled).logits if right else None
        if loss is None:
            raise UserError("the model gives no loss for these batches: they need labels")
        return loss, _right(logits, inputs["labels"]) if right else 0.0

    def _placed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch where the model is."""
        return batches.on(next(self.adapted.backbone.parameters()).device, batch)

    def savings(self, batch: dict[str, Any], unit: str) -> Savings:
        """What every arm saves for a batch."""
        bare = copy.deepcopy(self.adapted).eval()
        bare.anatomy.undo()
        self.adapted.eval()
        inputs = self._placed({k: v for k, v in batch.items() if k != "labels"})

        def run(subset: Sequence[int] | None) -> Callable[[], Any]:
            def forward() -> None:
                if subset is not None:
                    self.board.use(subset)
                (bare if subset is None else self.adapted)(**inputs)

            return forward

        both = nn.ModuleList([bare, self.adapted])
        return savings.measured(both, run(None), run(()), [run((i,)) for i in range(len(self.board.arms))], unit)

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimizer's moments."""
        tensors = {f"adapter.{name}": t for name, t in self.adapted.tensors().items()}
        for parameter, moments in self.optimizer.state.items():
            tensors |= {f"optimizer.{self.names[id(parameter)]}.{key}": t for key, t in moments.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from `state()`."""
        self.adapted.load_state_dict(under("adapter.", tensors))
        parameters = self.adapted.trainable()
        for name, moment in under("optimizer.", tensors).items():
            owner, _, key = name.rpartition(".")
            device = moment.device if key == "step" else parameters[owner].device
            self.optimizer.state[parameters[owner]][key] = moment.to(device)


class Batches:
    """The data of a search, by training step and by update: what a step reads depends on nothing but its number and the seed."""

    def __init__(self, data: Any, held_out: Any, settings: Search, training: Training, collate: Any, seed: int):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
        count = 0 if held_out is not None else max(1, round(settings.held_out * len(data)))
        self.data, self.items = data, sorted(order[count:])
        self.held, self.held_items = (held_out, range(len(held_out))) if held_out is not None else (data, order[:count])
        self.collate, self.seed = collate or default_collate, seed
        self.batch = min(training.batch, len(self.items))
        self.reward_batch = min(settings.reward_batch or training.batch, len(self.held_items))
        if min(self.batch, self.reward_batch) < processes.number():
            raise UserError(
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


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _rows(batch: dict[str, Any]) -> int:
    return len(next(v for v in batch.values() if isinstance(v, Tensor)))


def _right(logits: Any, labels: Tensor) -> float:
    """Number of rows of logits [n, C] that are right for class indices [n], or the sum of their scores in labels [n, C].

    Raises:
        ValueError: labels of another shape, such as those of written answers.
    """
    if logits.dim() == 2 and labels.dim() == 1 and not labels.is_floating_point():
        return float((logits.argmax(dim=1) == labels).sum())
    if logits.dim() == 2 and labels.shape == logits.shape:
        return float(labels.gather(1, logits.argmax(dim=1, keepdim=True)).sum())
    raise UserError(
        f"reward 'accuracy' needs logits [n, C] and labels [n] or [n, C], and these are {tuple(logits.shape)} and "
        f"{tuple(labels.shape)}: use rules={{'reward': '100 exp(-loss)', 'eta': 10.0}}"
    )
