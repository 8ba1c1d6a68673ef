"""Where in its depth a model decides a task: a linear probe behind every block, and what each block adds to it (ours).

    z_l = [class token, mean of the other tokens] behind block l;  L_l the squared error on 30 % of the items of a ridge regression
    to the classes on the other 70 %;  benefit of block l = L_{l-1} - L_l;  change = mean |x_l - x_{l-1}| / |x_{l-1}| over tokens

After P3B (arXiv 2506.23675) and TOAST (arXiv 2410.04941). One pass over the items, and one small system a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer import batches, hosts
from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.errors import UserError
from gossamer.methods.parts.bank import present

ITEMS = 2048  # that are looked at, at most
BATCH = 32
SHARE = 0.7  # of them that the probes are solved on
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, as shares of the mean eigenvalue


@dataclass(frozen=True, kw_only=True)
class Depth:
    """What stands behind one block of a column (`block` None: what enters the first).

    `loss` is the probe's squared error on held-out items, `accuracy` its share of them that are right; `benefit` what the block
    takes off the loss, `change` how far it moves tokens, both None for what enters.
    """

    column: int
    block: str | None
    loss: float
    accuracy: float
    benefit: float | None
    change: float | None


def ridge(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W [d, C], mean of features [d] and of targets [C] of the ridge regression of the strength with the least leave-one-out error.

    Features [n, d] and targets [n, C] in float64.
    """
    center, offset = features.mean(0), targets.mean(0)
    x, y = features - center, targets - offset
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    coordinates, best = u.T @ y, None
    for strength in STRENGTHS:
        shrunk = s**2 / (s**2 + strength * (s**2).mean())
        left_out = (y - u @ (shrunk[:, None] * coordinates)) / (1 - (u**2 @ shrunk) - 1 / len(x)).clamp(min=1e-6)[
            :, None
        ]
        error = float(left_out.square().sum())
        if best is None or error < best[0]:
            weight = v.T @ ((s / (s**2 + strength * (s**2).mean()))[:, None] * coordinates)
            best = error, weight
    assert best is not None, "there are strengths"
    return best[1], center, offset


def probed(features: Tensor, labels: Tensor, classes: int, training: Tensor) -> tuple[float, float]:
    """Squared error and accuracy on the items [n] that are not for `training`, of a ridge regression on those that are."""
    features, targets = features.double(), F.one_hot(labels, classes).double()
    features = (features - features[training].mean(0)) / features[training].std(0).clamp(min=1e-9)
    weight, center, offset = ridge(features[training], targets[training])
    said = (features[~training] - center) @ weight + offset
    right = (said.argmax(1) == labels[~training]).double().mean()
    return float((said - targets[~training]).square().sum(1).mean()), float(right)


def scan(
    forward: Callable[..., Any], anatomy: Anatomy, items: Any, *, stack: str | None = None, seed: int = 0
) -> list[Depth]:
    """What a linear probe knows behind every block of a stack, column by column from what enters to the last block.

    Args:
        forward: the model, called with inputs by name.
        anatomy: of the model that runs in it; observed for the while, else left alone.
        items: a prepared set with one class an item.
        stack: None: the main one.
        seed: of the items that are drawn, and of those that the probes are not solved on.

    Raises:
        UserError: items have no single class, or too few are there.
    """
    if items.labels is None:
        raise UserError("a scan of the depth needs one class for each item: soft scores and written answers have none")
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:ITEMS]
    training = torch.arange(len(order)) < round(SHARE * len(order))
    labels = items.labels[order]
    if len(labels[training].unique()) < 2 or bool(training.all()):
        raise UserError(
            f"a scan of the depth needs items of two classes or more, and some to hold out; there are {len(order)}"
        )
    found: list[Depth] = []
    device = next(anatomy.model.parameters()).device
    for number, column in enumerate(anatomy.columns(stack)):
        looks = _looked(forward, anatomy, column, items, order.tolist(), device)
        before: float | None = None
        for i, look in enumerate(looks):
            loss, accuracy = probed(torch.cat(look.features), labels, int(items.labels.max()) + 1, training)
            benefit = None if before is None else before - loss
            name, change = (column[i - 1].key, look.moved / look.count) if i else (None, None)
            found.append(Depth(column=number, block=name, loss=loss, accuracy=accuracy, benefit=benefit, change=change))
            before = loss
    return found


def scan_bare(model: nn.Module, items: Any, *, seed: int = 0) -> list[Depth]:
    """`scan` of a pre-trained model, on the accelerator if there is one."""
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    host = hosts.of(model)
    return scan(lambda **inputs: host.run(model.eval(), (), inputs), hosts.read(model), items, seed=seed)


class Look(nn.Module):
    """Keeps z of the states that it is shown, and how far they are from those that `before` was shown."""

    def __init__(self, block: Block, before: Look | None):
        super().__init__()
        self.block = block
        self.came: list[Look] = [] if before is None else [before]
        self.states = torch.empty(0)
        self.features: list[Tensor] = []
        self.inputs: dict[str, Any] = {}
        self.moved, self.count = 0.0, 0

    def forward(self, states: Tensor) -> None:
        """States [B, N, d]."""
        real, states = present(states, self.block, self.inputs), states.float()
        prefix = self.block.prefix
        parts = [states[:, 0]] if prefix else []
        others = real[:, prefix:, None].float()
        parts.append((states[:, prefix:] * others).sum(1) / others.sum(1).clamp(min=1))
        self.features.append(torch.cat(parts, dim=1).cpu())
        self.states = states
        for came in (before.states for before in self.came):
            share = (states - came).norm(dim=2) / came.norm(dim=2).clamp(min=1e-9)
            self.moved, self.count = self.moved + float(share[real].sum()), self.count + int(real.sum())


@torch.no_grad()
def _looked(
    forward: Callable[..., Any], anatomy: Anatomy, column: Sequence[Block], items: Any, order: list[int], device: Any
) -> list[Look]:
    looks = [Look(column[0], None)]
    with anatomy.tentatively():
        anatomy.observe(column[0], looks[0])
        for block in column:
            looks.append(Look(block, looks[-1]))
            anatomy.observe(block, looks[-1], at="end")
        for place in range(0, len(order), BATCH):
            batch = items.collate([items[i] for i in order[place : place + BATCH]])
            inputs = batches.on(device, {k: v for k, v in batch.items() if k != "labels"})
            for look in looks:
                look.inputs = inputs
            forward(**inputs)
    return looks


def benefits(found: Sequence[Depth]) -> dict[str, float]:
    """Our name of each block -> its benefit."""
    return {d.block: d.benefit for d in found if d.block is not None and d.benefit is not None}


def changes(found: Sequence[Depth]) -> dict[str, float]:
    """Our name of each block -> how much it changes what comes in."""
    return {d.block: d.change for d in found if d.block is not None and d.change is not None}


def table(found: Sequence[Depth]) -> str:
    """A scan as lines for people."""
    lines = [f"{'behind':<24}{'loss':>9}{'accuracy':>10}{'benefit':>10}{'change':>9}"]
    for d in found:
        rest = "" if d.benefit is None or d.change is None else f"{d.benefit:>10.4f}{d.change:>9.3f}"
        lines.append(f"{d.block or 'what enters':<24}{d.loss:>9.4f}{d.accuracy:>10.2%}{rest}")
    return "\n".join(lines)


def draw(found: Sequence[Depth], path: Any) -> None:
    """Where the task is decided, as a PNG at `path`: the probe's accuracy behind every block, and each block's benefit."""
    from gossamer.report import figure_of, save_figure

    figure, (left, right) = figure_of(9, 3.4, columns=2)
    columns = sorted({d.column for d in found})
    for column in columns:
        own = [d for d in found if d.column == column]
        label = None if len(columns) == 1 else str(own[-1].block).rpartition(".")[0] + f", column {column + 1}"
        left.plot(range(len(own)), [100 * d.accuracy for d in own], marker="o", label=label)
        places = [i + 0.8 * column / len(columns) for i in range(len(own) - 1)]
        right.bar(places, [d.benefit for d in own[1:]], width=0.8 / len(columns))
    left.set(xlabel="blocks run", ylabel="linear probe's accuracy, %")
    right.axhline(0, color="0.5", linewidth=0.8)
    right.set(xlabel="block", ylabel="benefit: loss before - loss behind")
    if len(columns) > 1:
        left.legend()
    save_figure(figure, path)
