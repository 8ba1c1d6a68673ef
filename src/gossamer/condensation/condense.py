"""Prompt condensation (PC): of many trained prompts, those that matter are kept, and the others deleted.

Y. Kim, Y. Li, A. Moitra, R. Yin, P. Panda: Do We Really Need a Large Number of Visual Prompts?, arXiv 2305.17223.

Prompts of all blocks are scored by the gradient G of the mean loss with respect to them, ranked together, and the lowest are
deleted: taken out of the sequence, not set to zero, which would still be a key. What stays keeps its order and its values and is
fine-tuned. Blocks end with different numbers of prompts, some with none. The paper's code and score are not public: `taylor` is
our choice; docs/pc.md says why.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gossamer.condensation.scoring import Score, scores
from gossamer.errors import UserError
from gossamer.methods.vpt import counts, has_prompts, prompts_of

if TYPE_CHECKING:
    from gossamer.adapting import Adapted

Ranking = Literal["global", "local"]
RANKINGS = ("global", "local")


def number(keep: float, total: int) -> int:
    """max(1, floor(r T + 1/2)) of T prompts, 0 of none; r is read as it is written, 0.29 of 50 is 14.5."""
    return max(1, math.floor(Fraction(str(keep)) * total + Fraction(1, 2))) if total else 0


def select(
    scores: Sequence[Tensor],
    keep: float,
    *,
    ranking: Ranking = "global",
    min_per_block: int = 0,
    sizes: Sequence[int] | None = None,
) -> list[list[int]]:
    """Of each block's scores [p] the places that stay, in order; between equal scores the earlier block and place stays.

    Args:
        scores: one tensor a block, in network order.
        keep: r in (0, 1], the share that stays.
        ranking: "global": the best of all blocks together; "local": of each block by itself.
        min_per_block: prompts that every block keeps whatever their rank (as far as it has them).
        sizes: of which keep is a share, for blocks that have lost prompts before. None: those of `scores`.

    Raises:
        ValueError: min_per_block asks for more prompts than keep leaves.
    """
    sizes = [len(s) for s in scores] if sizes is None else sizes
    if ranking == "local":
        numbers = [max(number(keep, size), min_per_block) for size in sizes]
        return [sorted(_order(s)[:count]) for s, count in zip(scores, numbers, strict=True)]
    total = number(keep, sum(sizes))
    chosen = {(block, i) for block, s in enumerate(scores) for i in _order(s)[:min_per_block]}
    if len(chosen) > total:
        raise UserError(
            f"min_per_block={min_per_block} asks for {len(chosen)} prompts and keep={keep} leaves {total} of {sum(sizes)}: "
            "keep more, or ask for less in each block"
        )
    places = [(block, i) for block, s in enumerate(scores) for i in range(len(s))]
    ranked = [places[i] for i in _order(torch.cat(list(scores)))]
    chosen |= set([place for place in ranked if place not in chosen][: total - len(chosen)])
    return [[i for i in range(len(s)) if (block, i) in chosen] for block, s in enumerate(scores)]


def _order(scores: Tensor) -> list[int]:
    """Places by falling score; stable."""
    return scores.sort(descending=True, stable=True).indices.tolist()


@dataclass(frozen=True, kw_only=True)
class Condensed:
    """What condensing has done to the prompts of a model.

    Attributes:
        kept: `vpt.vision.blocks.3` -> places of the prompts that stayed, among those the block had before.
        scores: the same names -> scores of all prompts the block had before, of the last round in which each was scored.
        counts: name of the method's tree ("vpt") -> prompts that every prompted block has now, 0 for none.
    """

    kept: dict[str, list[int]]
    scores: dict[str, list[float]]
    counts: dict[str, list[int]]

    @property
    def before(self) -> int:
        """Prompts there were."""
        return sum(len(s) for s in self.scores.values())

    @property
    def after(self) -> int:
        """Prompts there are."""
        return sum(len(k) for k in self.kept.values())


def condense(
    adapted: Adapted,
    data: Any,
    keep: float = 0.3,
    *,
    score: Score | Mapping[str, Tensor] = "taylor",
    ranking: Ranking = "global",
    min_per_block: int = 0,
    rounds: int = 1,
    per_sample: bool = False,
    batch_size: int = 32,
    collate: Callable[[list[Any]], Any] | None = None,
    loss: Callable[[Any, dict[str, Any]], Tensor] | None = None,
    seed: int = 0,
) -> Condensed:
    """Deletes all but the most important prompts of a trained model, in place; what stays can be fine-tuned like any adapter.

    Parameters are made anew with the values they had: give an optimizer the new ones. With keep=1, or where there are no prompts,
    nothing is touched.

    Args:
        adapted: with VPT or SPT in it, shallow or deep.
        data: labelled training data, as for `scores`.
        keep: r in (0, 1], the share of all prompts that stays: max(1, floor(r T + 1/2)) of T. The paper: 0.3.
        score: one of "taylor", "norm", "grad", "gate", "inner", and the controls "magnitude" and "random"; or scores of your own
            by the names of `scores`, for instance those of another state of the model.
        ranking: "global", over all blocks, or "local", in each block.
        min_per_block: prompts that every block keeps at least.
        rounds: cuts on the way from 1 to r, by equal factors; the prompts that are left are scored anew before each.
        per_sample: as for `scores`.
        batch_size: as for `scores`.
        collate: as for `scores`.
        loss: as for `scores`.
        seed: of "random".

    Raises:
        ValueError: no VPT or SPT, a setting out of range, or what `scores` and `select` refuse.
    """
    _check_settings(keep, score, ranking, min_per_block, rounds)
    sizes = {name: len(part.prompts) for name, part in prompts_of(adapted).items() if part.prompts is not None}
    if not sizes:
        warnings.warn("there are no prompts to condense: the model stays as it is", stacklevel=2)
        return Condensed(kept={}, scores={}, counts=_counts(adapted))
    kept, last = {name: list(range(size)) for name, size in sizes.items()}, {n: [0.0] * s for n, s in sizes.items()}
    how: Any = {"per_sample": per_sample, "batch_size": batch_size, "collate": collate, "loss": loss, "seed": seed}
    for turn in range(1, rounds + 1):
        found = scores(adapted, data, score=score, **how) if isinstance(score, str) else _given(score, sizes)
        for name, values in found.items():
            for place, value in zip(kept[name], values.tolist(), strict=True):
                last[name][place] = value
        present = [found.get(name, torch.empty(0, dtype=torch.float64)) for name in sizes]
        share = keep if turn == rounds else keep ** (turn / rounds)
        chosen = select(present, share, ranking=ranking, min_per_block=min_per_block, sizes=list(sizes.values()))
        stays = dict(zip(sizes, chosen, strict=True))
        cut(adapted, {name: stays[name] for name in found})
        kept = {name: [places[i] for i in stays[name]] for name, places in kept.items()}
    result = Condensed(kept=kept, scores=last, counts=_counts(adapted))
    adapted.metadata["condensed"] = {
        "keep": keep, "score": score if isinstance(score, str) else "given", "ranking": ranking, "rounds": rounds,
        "prompts_before": result.before, "prompts_after": result.after, "kept": kept,
    }  # fmt: skip
    return result


def cut(adapted: Adapted, kept: Mapping[str, Sequence[int]]) -> None:
    """Deletes prompts: of every block that `kept` names only those at the given places stay, in order, with their values."""
    parts = prompts_of(adapted)
    if all(len(kept[name]) == len(parts[name].prompts) for name in kept):  # type: ignore[arg-type]
        return
    left = {
        (name.partition(".")[0], part.block.key): len(kept.get(name, part.prompts))  # type: ignore[arg-type]
        for name, part in parts.items()
    }
    applied = []
    for name, method in zip(adapted.methods, adapted.applied, strict=True):
        if has_prompts(method):
            of_blocks = [left.get((name, block.key), 0) for block in method.targets(adapted.anatomy)]  # type: ignore
            method = dataclasses.replace(method, prompts=tuple(of_blocks))  # type: ignore[type-var]
        applied.append(method)
    checkpointing = adapted.checkpointing
    adapted.detach()
    assert adapted.kept is not None
    for name, places in kept.items():
        rows = adapted.kept.pop(f"{name}.prompts")[list(places)]
        if len(rows):
            adapted.kept[f"{name}.prompts"] = rows
    adapted.applied = tuple(applied)
    adapted.attach()
    if checkpointing:
        adapted.activation_checkpointing_enable()


def _check_settings(keep: float, score: Any, ranking: str, min_per_block: int, rounds: int) -> None:
    if not 0 < keep <= 1:
        raise UserError(f"keep is the share of prompts that stays, above 0 and up to 1, got {keep}")
    if ranking not in RANKINGS:
        raise UserError(f"ranking must be one of {', '.join(RANKINGS)}, got {ranking!r}")
    if min_per_block < 0:
        raise UserError(f"min_per_block must be 0 or more, got {min_per_block}")
    if rounds < 1:
        raise UserError(f"rounds must be 1 or more, got {rounds}")
    if rounds > 1 and not isinstance(score, str):
        raise UserError(f"rounds={rounds} scores anew before each cut, and scores were given: use rounds=1")


def _given(score: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Scores that were given, checked against the prompts there are."""
    found = {name: len(values) for name, values in score.items()}
    if found != sizes:
        raise UserError(f"scores were given for {found}, and the prompts of this model are {dict(sizes)}")
    return {name: score[name].double().cpu() for name in sizes}


def _counts(adapted: Adapted) -> dict[str, list[int]]:
    """Name of a method's tree -> prompts of each of its blocks."""
    found = {}
    for name, method in zip(adapted.methods, adapted.applied, strict=True):
        if has_prompts(method):
            each, blocks = counts(method.prompts), method.targets(adapted.anatomy)  # type: ignore[attr-defined]
            found[name] = list(each if len(each) == len(blocks) else each * len(blocks))
    return found
