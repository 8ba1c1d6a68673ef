"""Which known family the blocks of a model that no family describes are most like, and what they differ in.

transformers writes most new models as differences from older ones, so a row of one line is often all that is missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from gossamer.anatomy.block import Block, has
from gossamer.anatomy.probe import probe
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

ENOUGH = 0.6  # of the parts that a family names


def resembling(model: nn.Module, path: str, families: Iterable[Stack]) -> str | None:
    """What is like the blocks in the list at a path, in words; None where nothing is.

    Where all the parts of a family are there, one block is tried as if it were of this family.
    """
    block = next(iter(model.get_submodule(path).children()))
    kind, shares = type(block).__name__, [(_share(block, stack), stack) for stack in families if _ends(path, stack)]
    most = max((share for share, _ in shares), default=0.0)
    likest = [stack for share, stack in shares if share == most]
    if most < ENOUGH:
        return None
    if most < 1:
        lacking = ", ".join(name for name in _parts(block, likest[0]) if not has(block, name))
        return f"{kind} at {path} is like the blocks of {_said(likest[0])}, and lacks {lacking}"
    trials = [(_trial(model, path, block, stack), stack) for stack in likest]
    why, stack = min(trials, key=lambda one: one[0] is not None)
    if next(block.parameters()).is_meta:
        return (
            f"{kind} at {path} has all parts of the blocks of {_said(likest[0])}; a model without weights shows nothing in trials: "
            f"say family={likest[0].owners[0]!r}, and its blocks are tried when it is adapted"
        )
    if why is None:
        return (
            f"{kind} at {path} is built like the blocks of {_said(stack)}: say family={stack.owners[0]!r}, or add its model type "
            f"to that family's owners, if what blocks alone do not show holds here too: {_beside(stack)}"
        )
    return f"{kind} at {path} has all parts of the blocks of {_said(stack)}, and {why}"


def _trial(model: nn.Module, path: str, block: nn.Module, stack: Stack) -> str | None:
    """What a trial of a block finds that is not as a family says; None where all is."""
    own = next(end for end in stack.paths if f".{path}".endswith(f".{end}"))
    owner = model.get_submodule(path.removesuffix(own).removesuffix("."))
    return next(iter(probe(Block(stack, 0, block, f"{path}.0", owner, 0)).apart.values()), None)


def _beside(stack: Stack) -> str:
    """What a family says of the sequence that its blocks read."""
    sight = "a token sees only those before it" if stack.causal else "every token sees all others"
    if stack.modality != "vision":
        return sight
    front = stack.prefix or "none" if isinstance(stack.prefix, int) else f"as many as {' or '.join(stack.prefix)} says"
    return f"{sight}; tokens in front of the patches: {front}"


def _said(stack: Stack) -> str:
    return ", ".join(stack.owners[:3])


def _ends(path: str, stack: Stack) -> bool:
    """Whether a family's list of blocks may stand at a path."""
    return any(end and f".{path}".endswith(f".{end}") for end in stack.paths)


def _share(block: nn.Module, stack: Stack) -> float:
    """How many of the parts that a family names a block has, of all."""
    parts = _parts(block, stack)
    return sum(has(block, name) for name in parts) / len(parts)


def _parts(block: nn.Module, stack: Stack) -> list[str]:
    """The parts of a block, in those of a family's alternatives of which it has the most."""
    fitting = [names for names in stack.ffn if names.experts is None or has(block, names.experts)]
    best = [
        max((_named(names) for names in alternatives), key=lambda named: sum(has(block, n) for n in named) / len(named))
        for alternatives in (stack.attention, fitting or stack.ffn)
    ]
    return [name for names in best for name in names]


def _named(names: AttentionNames | FfnNames) -> list[str]:
    if isinstance(names, FfnNames):
        found = [names.up, names.gate, names.down, names.experts]
    else:
        found = [names.module, *([names.fused] if names.fused else [names.q, names.k, names.v]), names.out]
        found += [names.q_norm, names.k_norm]
    return [name for name in (*found, names.norm, names.after, names.closing) if name is not None]
