"""How much each prompt of a trained model matters, by labelled data; `gossamer.condensation` keeps the best (docs/pc.md).

Scores come from the gradient of the mean loss with respect to the prompts, or to the weights of their keys in attention.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from gossamer import batches
from gossamer.anatomy import inserted, memory, seams
from gossamer.errors import UserError
from gossamer.methods.vpt import Prompts, RememberedPrompts, prompts_of

if TYPE_CHECKING:
    from gossamer.adapting import Adapted

Score = Literal["taylor", "norm", "grad", "gate", "inner", "magnitude", "random"]
SCORES = ("taylor", "norm", "grad", "gate", "inner", "magnitude", "random")


def importance(gradient: Tensor, prompts: Tensor, score: str) -> Tensor:
    """Scores [p] of prompts P [p, d] with the loss's gradient G of their shape; for "gate" [p], with respect to key weights.

    taylor sum_j |G_j P_j|; inner |sum_j G_j P_j|; norm ||G|| ||P||; grad ||G||; gate |G|.
    """
    if score == "taylor":
        return (gradient * prompts).abs().sum(dim=-1)
    if score == "inner":
        return (gradient * prompts).sum(dim=-1).abs()
    if score == "norm":
        return gradient.norm(dim=-1) * prompts.norm(dim=-1)
    return gradient.abs() if score == "gate" else gradient.norm(dim=-1)


def scores(
    adapted: Adapted,
    data: Any,
    *,
    score: Score = "taylor",
    per_sample: bool = False,
    batch_size: int = 32,
    collate: Callable[[list[Any]], Any] | None = None,
    loss: Callable[[Any, dict[str, Any]], Tensor] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Importance of the prompts of a model by labelled data: `vpt.vision.blocks.3` -> [p], on the CPU, in float64.

    Evaluation mode, one pass over the data. Nothing of the model is changed: no parameter, buffer, `.grad`, mode or flag.

    Args:
        adapted: with VPT or SPT in it.
        data: items by index, or a DataLoader, of which data set, collation and batch size are used. Items are what the model is
            called with, labels included, or pairs of an image and its label.
        score: see the module and docs/pc.md; "magnitude" and "random" need no data.
        per_sample: the score of every sample's own gradient, then the mean; False: the score of the mean gradient.
        batch_size: samples in one pass; the scores do not depend on it.
        collate: makes a batch of a list of items. None: the DataLoader's, or torch's.
        loss: of the model and a batch, the mean over its samples. None: the model's own for labels.
        seed: of "random".

    Raises:
        ValueError: no prompts, no labels, a half-precision model, or a score that cannot be computed on it.
    """
    if score not in SCORES:
        raise UserError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    parts = prompts_of(adapted)
    values = {name: part.prompts.detach() for name, part in parts.items() if part.prompts is not None}
    if score == "magnitude":
        return {name: value.norm(dim=-1).double().cpu() for name, value in values.items()}
    if score == "random":
        generator = torch.Generator().manual_seed(seed)
        return {n: torch.rand(len(v), generator=generator, dtype=torch.float64) for n, v in values.items()}
    _check_scorable(adapted, parts, score)
    if isinstance(data, DataLoader):
        collate, batch_size, data = collate or data.collate_fn, data.batch_size or batch_size, data.dataset
    loader = DataLoader(data, batch_size=1 if per_sample else batch_size, collate_fn=collate or default_collate)
    found = _means(adapted, parts, loader, score, loss or _loss, per_sample=per_sample)
    return {name: mean.cpu() for name, mean in zip(values, found, strict=True)}


def _means(
    adapted: Adapted,
    parts: dict[str, Prompts],
    loader: DataLoader[Any],
    score: str,
    loss: Callable[[Any, dict[str, Any]], Tensor],
    *,
    per_sample: bool,
) -> list[Tensor]:
    """Scores [p] of each part: of the mean gradient, or the mean of those of every batch's (`per_sample`: of one sample)."""
    with _scoring(adapted, list(parts.values())), ExitStack() as gates:
        prompts = [part.prompts for part in parts.values() if part.prompts is not None]
        tensors: list[Tensor] = _gates(adapted, parts, gates) if score == "gate" else list(prompts)
        values, samples = [p.detach().double() for p in prompts], 0
        totals = [torch.zeros_like(t, dtype=torch.float64) for t in tensors]
        if per_sample:
            totals = [v.new_zeros(len(v)) for v in values]
        for batch in loader:
            inputs = _inputs(batch, next(adapted.parameters()).device)
            gradients = torch.autograd.grad(loss(adapted, inputs), tensors, allow_unused=True)
            size = len(inputs["labels"])
            samples += size
            for total, gradient, value in zip(totals, gradients, values, strict=True):
                if gradient is not None:
                    of_batch = gradient.double()
                    total += size * (importance(of_batch, value, score) if per_sample else of_batch)
    if samples == 0:
        raise UserError("there are no samples to score prompts by")
    means = [total / samples for total in totals]
    return means if per_sample else [importance(m, v, score) for m, v in zip(means, values, strict=True)]


def _check_scorable(adapted: Adapted, parts: dict[str, Prompts], score: str) -> None:
    dtype = next(adapted.backbone.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise UserError(f"scores need a model in float32, and this one is in {dtype}: convert it with .float() first")
    deep = [p for p in parts.values() if p.deep and p.block.attention.norm is not None]
    if score == "inner" and deep:
        warnings.warn(
            "the inner product of a deep prompt and its gradient is rounding noise in pre-norm blocks, which read prompts "
            "through a normalisation; taylor, norm and gate are well defined",
            stacklevel=3,
        )


@contextmanager
def _scoring(adapted: Adapted, parts: list[Prompts]) -> Iterator[None]:
    """Evaluation mode, full precision, gradients of prompts; all as it was afterwards, the random numbers included."""
    modes = {module: module.training for module in adapted.modules()}
    flags = {part.prompts: part.prompts.requires_grad for part in parts if part.prompts is not None}
    adapted.eval()
    for prompts in flags:
        prompts.requires_grad_(True)
    device = next(adapted.backbone.parameters()).device.type
    try:
        with torch.enable_grad(), torch.autocast(device, enabled=False), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for prompts, flag in flags.items():
            prompts.requires_grad_(flag)


def _inputs(batch: Any, device: torch.device) -> dict[str, Any]:
    """A batch as the arguments of the model, on its device."""
    pair = isinstance(batch, list | tuple) and len(batch) == 2
    named: Any = {"pixel_values": batch[0], "labels": batch[1]} if pair else batch
    if not hasattr(named, "keys") or "labels" not in named:
        found = ", ".join(named) if hasattr(named, "keys") else type(named).__name__
        raise UserError(f"prompts are scored by the loss, for which data must have 'labels'; a batch has {found}")
    return batches.on(device, named)


def _loss(adapted: Adapted, inputs: dict[str, Any]) -> Tensor:
    loss = getattr(adapted(**inputs), "loss", None)
    if loss is None:
        raise UserError(f"{type(adapted.backbone).__name__} gives no loss for labels; adapt it with a head")
    return loss


def _gates(adapted: Adapted, parts: dict[str, Prompts], gates: ExitStack) -> list[Tensor]:
    """ln a = 0 [p] for the prompts of each part, added to the logits of their key columns in every block that sees them."""
    if any(getattr(part, "branch", "attention") == "cross" for part in parts.values()):
        raise UserError("the gate score weighs keys of self-attention, and these prompts are keys of cross-attention")
    changes = [c for c in adapted.anatomy.log if isinstance(c, inserted.Inserted | seams.Remembered)]
    if len(changes) > len(parts) or len({name.partition(".")[0] for name in parts}) > 1:
        raise UserError(
            "the gate score finds key columns of one method's prompts, and here other methods add tokens too"
        )
    logits = []
    for part in parts.values():
        assert part.prompts is not None
        zeros = part.prompts.new_zeros(len(part.prompts)).requires_grad_()
        first, column = part.block, adapted.anatomy.column(part.block)
        start = 0 if isinstance(part, RememberedPrompts) else first.prefix
        for block in [first] if part.deep else column[column.index(first) :]:
            reason = adapted.anatomy.obstacle(block, "remember")
            if reason is not None:
                raise UserError(f"{block.name} does not let single keys be weighted for the gate score: {reason}")
            gates.enter_context(memory.weighted(block, start, zeros))
        logits.append(zeros)
    return logits
