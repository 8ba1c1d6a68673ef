"""Where the parts of a transformer sit, and the seven verbs a method may use on them.

A *family* (`gossamer.families`) says by name where parts sit in one kind of backbone. `read` finds those parts in a real
model. A *method* (`gossamer.methods`) then speaks only of blocks and verbs, so that m methods and n families cost m + n files.

| verb       | what it does                                                                      |
|------------|-----------------------------------------------------------------------------------|
| `add`      | branch(x) + part(x, branch(x)) at an attention, cross-attention or FFN branch       |
| `rewrite`  | one projection is replaced by a module; also one third of a fused qkv               |
| `middle`   | x + part(x) on the residual stream: between attention and FFN, or at a block's ends |
| `remember` | extra keys and values inside a block's self-attention, in one joint softmax         |
| `insert`   | tokens that enter before a block and leave after the same or a later one, or stay   |
| `replace`  | a whole block by a small module                                                     |
| `observe`  | a part reads the states that enter a block                                          |

Every change is kept in a log and taken back, last first, by `Anatomy.undo`.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gossamer import seams, stream
from gossamer.seams import Part

Branch = Literal["attention", "cross", "ffn"]
Place = Literal["start", "middle", "end", "ffn"]
STACK_ORDER = ("fusion", "vision", "encoder", "text", "decoder")  # the first that a model has is its main stack
VERBS = ("add", "rewrite", "middle", "remember", "insert", "replace", "observe")


@dataclass(frozen=True, kw_only=True)
class AttentionNames:
    """Names of the parts of one attention, relative to its block; `head_width` and `scaling` are attributes of `module`."""

    module: str  # the module that turns states into attended states
    q: str
    k: str
    v: str
    out: str
    norm: str | None  # normalisation before the branch; None in post-norm blocks
    fused: str | None = None  # one Linear for q, k and v in this order; q, k, v then name the thirds
    after: str | None = None  # post-norm blocks: the normalisation after the residual sum
    head_width: str = "head_dim"
    scaling: str | None = "scaling"  # factor of q k^T; None: head_width ** -0.5
    q_norm: str | None = None  # normalisation of each head's queries and keys
    k_norm: str | None = None
    layer_scale: str | None = None  # the module that damps the branch before the residual sum


@dataclass(frozen=True, kw_only=True)
class FfnNames:
    """Names of the parts of one feed-forward branch, relative to its block; alternatives in order of preference."""

    up: str
    down: str
    norm: str | None
    gate: str | None = None
    after: str | None = None
    layer_scale: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One column of equal blocks: where it sits and the facts in which families differ.

    `prefix` counts the class-like tokens in front of the sequence (an attribute path on the owner, or a number);
    inserted tokens go behind them. `readout` says how one vector a sample is read from the owner's output: "first" token,
    "last" token that is no padding, "mean" over tokens that are none, or the owner's "pooled" output. `own_attention` names
    the class that computes attention from the block's Linears, for families that offer no public seam inside theirs.
    """

    name: Literal["vision", "text", "encoder", "decoder", "fusion"]
    owners: tuple[str, ...]  # config.model_type, or package.Class for models without a Hugging Face config
    blocks: str  # the list of blocks, relative to the owner
    attention: AttentionNames
    ffn: tuple[FfnNames, ...]
    cross: AttentionNames | None = None
    prefix: int | tuple[str, ...] = 0  # a number, or attributes of the owner to try, in order
    extra_prefix: int = 0
    causal: bool = False
    readout: Literal["first", "last", "mean", "pooled"] = "first"
    modality: Literal["vision", "text", "both"] = "vision"  # both: the text stands in front
    visual_prefix: int = 0  # of both: class-like tokens between text and patches
    patches: str | None = None  # in the owner: gives the patch tokens [B, n, d] before positions are added
    patches_norm: str | None = None  # in the owner: a norm behind the positions puts tokens on another scale
    own_attention: type[nn.Module] | None = None
    relative_bias: bool = False  # the first block computes a bias that the others receive
    returns_tuple: bool = False  # a block returns (states, ...) and not the states alone
    needs_zero: str | None = (
        None  # an attribute of the owner; above 0 it sees only a part of its input, and cannot be adapted
    )


class Sizes(NamedTuple):
    """Widths of one block: residual stream, attention (queries; keys and values), FFN and number of FFN matrices."""

    width: int
    inner: int
    inner_kv: int
    ffn: int
    ffn_matrices: int
    cross_inner: int = 0

    def macs(self, tokens: int, context: int = 0) -> int:
        """Multiply-adds of the block's Linears and attention products for `tokens` tokens of one sample.

        `context` counts the encoder's states that cross-attention reads, where the block has one.
        """
        own = 2 * self.width * (self.inner + self.inner_kv) + self.ffn_matrices * self.width * self.ffn
        cross = 2 * (tokens + context) * self.width * self.cross_inner + 2 * tokens * context * self.cross_inner
        return tokens * own + 2 * tokens * tokens * self.inner + cross


class Projection(NamedTuple):
    """One projection of a block as a function of states [..., d], or some rows of a fused one; always the current weights.

    What methods hooked onto the module does not act: its weights are used, wrapped or quantised as they may be.
    """

    linear: Any
    rows: slice | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """States [..., d] -> [..., out]."""
        if self.rows is None:
            return self.linear.forward(states)
        if self.plain:
            return nn.functional.linear(states, *self.weights())
        return self.linear.forward(states)[..., self.rows]

    @property
    def plain(self) -> bool:
        """Whether there is a matrix to read: neither wrapped nor quantised."""
        return type(self.linear) is nn.Linear

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """Matrix [out, in] and bias of a plain projection."""
        rows = self.rows or slice(None)
        weight, bias = self.linear.weight, self.linear.bias
        return weight[rows], None if bias is None else bias[rows]


class Block:
    """One block of a model: its module, and its parts by role ("q", "k", "v", "out", "up", "gate", "down", "norm1", "norm2").

    Parts are looked up at every use, because a method may have wrapped one of them since.
    """

    def __init__(self, stack: Stack, index: int, module: nn.Module, name: str, prefix: int):
        self.stack, self.index, self.module, self.name, self.prefix = stack, index, module, name, prefix
        self.key = f"{stack.name}.blocks.{index}"  # the block's name in saved adapters
        self.ffn = next((f for f in stack.ffn if _has(module, f.up) and _has(module, f.down)), stack.ffn[0])

    @property
    def device(self) -> torch.device:
        """Where the block's weights are."""
        return next(self.module.parameters()).device

    def path(self, role: str) -> str | None:
        """Name of a part relative to the block, or None where this kind of block has no such part."""
        attention, cross, ffn = self.stack.attention, self.stack.cross, self.ffn
        roles = {
            "attention": attention.module, "q": attention.q, "k": attention.k, "v": attention.v, "out": attention.out,
            "qkv": attention.fused, "norm1": attention.norm or attention.after, "norm2": ffn.norm or ffn.after,
            "up": ffn.up, "gate": ffn.gate, "down": ffn.down, "q_norm": attention.q_norm, "k_norm": attention.k_norm,
            "layer_scale1": attention.layer_scale, "layer_scale2": ffn.layer_scale,
        }  # fmt: skip
        if cross is not None:
            roles |= {"cross.q": cross.q, "cross.k": cross.k, "cross.v": cross.v, "cross.out": cross.out}
            roles |= {"cross.norm": cross.norm or cross.after}
        if role not in roles:
            raise KeyError(f"no part {role!r}: a block of the {self.stack.name} stack has {', '.join(roles)}")
        return roles[role]

    def part(self, role: str) -> Any:
        """The module that plays `role` now."""
        path = self.path(role)
        if path is None or not _has(self.module, path):
            fused = role in ("q", "k", "v") and self.stack.attention.fused
            advice = f"; it is a third of {fused}: call split() first" if fused else ""
            raise KeyError(f"{self.name} ({type(self.module).__name__}) has no part {role!r}{advice}")
        return _get(self.module, path)

    def roles(self) -> dict[str, str]:
        """role -> full module name, for every Linear and norm the block really has."""
        fused = self.stack.attention.fused is not None and not _has(self.module, self.stack.attention.q)
        names = ["qkv"] if fused else ["q", "k", "v"]
        names += ["out", "gate", "up", "down", "norm1", "norm2"]
        names += ["cross.q", "cross.k", "cross.v", "cross.out", "cross.norm"] if self.stack.cross else []
        paths = {role: self.path(role) for role in names}
        return {role: f"{self.name}.{path}" for role, path in paths.items() if path and _has(self.module, path)}

    @cached_property
    def sizes(self) -> Sizes:
        """Widths, read from the weights' shapes."""
        weights = {r: self.part(r).weight for r in ("out", "up", "down")}
        width, inner = weights["out"].shape
        fused = self.stack.attention.fused is not None and "qkv" in self.roles()
        inner_kv = inner if fused else self.part("k").weight.shape[0]
        cross = self.part("cross.out").weight.shape[1] if self.stack.cross else 0
        return Sizes(width, inner, inner_kv, weights["down"].shape[1], 2 + (self.ffn.gate is not None), cross)

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return int(getattr(self.part("attention"), self.stack.attention.head_width))

    @property
    def scaling(self) -> float:
        """The factor of q k^T in attention."""
        name = self.stack.attention.scaling
        return self.head_width**-0.5 if name is None else float(getattr(self.part("attention"), name))

    def active(self, role: str) -> nn.Module | None:
        """The module that plays an optional role ("layer_scale1", "q_norm", ...), or None where none does or it does nothing."""
        path = self.path(role)
        module = _get(self.module, path) if path and _has(self.module, path) else None
        return None if isinstance(module, nn.Identity) else module

    def projection(self, role: str, *, bare: bool = False) -> Projection:
        """The projection "q", "k", "v" or "out" of the block's self-attention as a function.

        With `bare` it is the pre-trained one inside what peft wrapped around it.
        """
        path, rows = self.path(role), None
        if not _has(self.module, path or "") and role in ("q", "k", "v"):
            path, third = self.stack.attention.fused, self.sizes.inner
            rows = slice("qkv".index(role) * third, ("qkv".index(role) + 1) * third)
        linear: Any = _get(self.module, path or "")
        while bare and hasattr(linear, "base_layer"):
            linear = linear.base_layer
        return Projection(linear, rows)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [..., p, inner_kv] of tokens [..., p, d] as this block's self-attention would compute them.

        Pre-norm blocks normalise first: W_k LN(P) + b_k, W_v LN(P) + b_v. Nothing is computed for queries.
        """
        norm = self.stack.attention.norm
        states = _get(self.module, norm).forward(tokens) if norm else tokens
        return self.projection("k")(states), self.projection("v")(states)


class Anatomy:
    """The parts of one model, and the log of what methods did to them."""

    def __init__(self, model: nn.Module, stacks: dict[str, list[Block]], owners: dict[str, str]):
        self.model, self.stacks, self.owners = model, stacks, owners
        self.heads: dict[str, nn.Module] = {}  # task heads of the model, by name: no part of the backbone
        self.log: list[seams.Change] = []

    @property
    def main(self) -> str:
        """Name of the stack that methods use unless told otherwise: the first that the model runs."""
        return next(iter(self.stacks))

    def blocks(self, stack: str | None = None, indices: Sequence[int] | None = None) -> list[Block]:
        """The blocks of a stack (default: the main one), all or those at `indices` (0 is the first to run).

        Raises:
            KeyError: no such stack, or an index that the stack does not have.
            ValueError: no index at all, or one of them twice.
        """
        stack = stack or self.main
        if stack not in self.stacks:
            found = ", ".join(f"{name} ({len(blocks)} blocks)" for name, blocks in self.stacks.items())
            raise KeyError(f"no stack {stack!r} in {type(self.model).__name__}: it has {found}")
        blocks = self.stacks[stack]
        if indices is None:
            return list(blocks)
        if not indices:
            raise ValueError(
                f"blocks={tuple(indices)} names no block: the {stack} stack has {len(blocks)}; None means all"
            )
        if len(set(indices)) != len(indices):
            raise ValueError(f"blocks={tuple(indices)} names a block twice")
        for i in indices:
            if not 0 <= i < len(blocks):
                raise KeyError(
                    f"no block {i}: the {stack} stack of this {type(self.model).__name__} has {len(blocks)} "
                    f"(0..{len(blocks) - 1}); asked for by blocks={tuple(indices)}"
                )
        return [blocks[i] for i in sorted(indices)]

    def __iter__(self) -> Iterator[Block]:
        for blocks in self.stacks.values():
            yield from blocks

    def owner(self, stack: str | None = None) -> nn.Module:
        """The module that embeds the inputs of a stack and runs it."""
        return self.model.get_submodule(self.owners[stack or self.main])

    def patches(self, stack: str | None = None) -> nn.Module | None:
        """The module whose output is the patch tokens [B, n, d] of a stack before positions, or None where there is none."""
        names, owner = self.blocks(stack)[0].stack, self.owner(stack)
        norm = names.patches_norm
        if names.patches is None or (norm and _has(owner, norm) and not isinstance(_get(owner, norm), nn.Identity)):
            return None
        return _get(owner, names.patches)

    def keys(self) -> dict[str, str]:
        """module name -> our name for it, `vision.blocks.3.q`, for every part that has a role."""
        return {name: f"{block.key}.{role}" for block in self for role, name in block.roles().items()}

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the model without its task heads."""
        heads = {id(p) for head in self.heads.values() for p in head.parameters()}
        return ((name, p) for name, p in self.model.named_parameters() if id(p) not in heads)

    def check_whole_input(self) -> None:
        """Nothing, if every stack sees its whole input.

        Raises:
            ValueError: one is set up for masked pre-training.
        """
        for name, blocks in self.stacks.items():
            path = blocks[0].stack.needs_zero
            value = 0 if path is None else _attribute(self.owner(name), path)
            if value:
                raise ValueError(
                    f"{type(self.owner(name)).__name__} leaves out {value:.0%} of its input at random ({path}={value}), "
                    f"which is for pre-training: set {path} to 0, or load the weights into the plain class (ViTModel)"
                )

    # ---- verbs ----

    def add(self, block: Block, branch: Branch, part: Part, *, normed: bool = True, damped: bool = True) -> None:
        """branch(x) becomes branch(x) + part(x, branch(x)).

        x [B, N, d] is what enters the branch (after the norm in pre-norm blocks, before it with normed=False) and branch(x)
        [B, N, d] the output of its last Linear, before dropout, LayerScale and residual (with damped=False behind LayerScale, where
        the block has one). Cross-attention: x is the querying side.
        """
        names: dict[str, Any] = {"attention": block.stack.attention, "cross": block.stack.cross, "ffn": block.ffn}
        if branch not in names:
            raise KeyError(f"no branch {branch!r}: there are {', '.join(names)}")
        place = names[branch]
        if place is None:
            raise KeyError(f"{block.name} ({type(block.module).__name__}) has no cross-attention to add to")
        if isinstance(place, FfnNames):
            first, last = place.gate or place.up, place.down
        else:
            first, last = (place.module if place.fused else place.q), place.out
        if not normed and place.norm is not None:
            first = place.norm
        if not damped and place.layer_scale is not None:
            last = place.layer_scale
        self._do(seams.Added(_get(block.module, first), _get(block.module, last), part))

    def rewrite(self, block: Block, role: str, module: nn.Module) -> None:
        """The Linear that plays `role` is replaced by `module` (which may hold and call the old one).

        For "q", "k" or "v" of a fused projection call `split` first.

        Raises:
            KeyError: the block has no such part.
        """
        block.part(role)
        self._do(seams.Swapped(self.model, f"{block.name}.{block.path(role)}", module))

    def split(self, block: Block) -> None:
        """A fused qkv Linear becomes three Linears over views of the same weights, so that thirds can be rewritten."""
        fused = block.stack.attention.fused
        if fused is not None and not _has(block.module, block.stack.attention.q):
            self._do(seams.Swapped(self.model, f"{block.name}.{fused}", seams.SplitLinear(_get(block.module, fused))))

    def fuse(self) -> None:
        """What `split` made three of becomes one Linear again, where all three are plain Linears by now."""
        for change in self.log:
            if isinstance(change, seams.Swapped) and isinstance(change.new, seams.SplitLinear) and change.new.plain:
                setattr(change.parent, change.child, change.new.fused())

    def middle(self, block: Block, part: Part, *, at: Place = "middle") -> None:
        """The residual stream x [B, N, d] becomes x + part(x): between attention and FFN, or at the block's "start" or "end".

        at="ffn": x stays as it is, but what the FFN reads, norm(x) (post-norm: x), gets part(x).
        """
        if at not in typing.get_args(Place):
            raise KeyError(f"no place {at!r}: there are {', '.join(typing.get_args(Place))}")
        norm = None if block.ffn.norm is None else _get(block.module, block.ffn.norm)
        if at in ("start", "end"):
            self._do((stream.Start if at == "start" else stream.End)(block.module, part))
        elif at == "ffn":
            readers = [norm] if norm else [_get(block.module, n) for n in (block.ffn.gate, block.ffn.up) if n]
            self._do(stream.FfnReads(readers, part, behind=norm is not None))
        elif norm is not None:
            self._do(stream.MiddlePreNorm(block.module, norm, part))
        else:
            last = block.stack.cross or block.stack.attention
            assert last.after is not None, "a post-norm block names the normalisation after its attention"
            self._do(stream.MiddlePostNorm(_get(block.module, last.after), part))

    def remember(self, block: Block, part: Part) -> None:
        """Self-attention of the block also attends to part(batch) = keys, values, each [1 or B, p, inner_kv], for every query.

        One joint softmax over remembered and own keys; remembered keys carry no rotary position and no relative bias.
        """
        self._do(seams.Remembered(block, part))

    def insert(self, first: Block, part: Part, *, last: Block | None = None, stay: bool = False) -> None:
        """part(x) [B, p, d] enters behind the prefix tokens of x [B, N, d] before block `first`.

        The new rows leave after block `last` (default: `first`), or stay in the model's output (`stay`).

        Raises:
            ValueError: the span runs backwards, or shares blocks with an earlier one without lying inside it.
        """
        blocks = self.stacks[first.stack.name]
        last = last or (blocks[-1] if stay else first)
        if last.stack is not first.stack or last.index < first.index:
            raise ValueError(f"tokens cannot enter at {first.name} and leave at {last.name}")
        if stay and last is not blocks[-1]:
            raise ValueError(
                f"tokens that stay run to the last block, {blocks[-1].name}; asked to leave at {last.name}"
            )
        span = blocks[first.index : last.index + 1]
        for other in [c for c in self.log if isinstance(c, seams.Inserted) and seams.overlap(c.span, span)]:
            if not seams.contains(other.span, span):
                longer = seams.contains(span, other.span)
                raise ValueError(
                    f"tokens inserted from {first.name} to {last.name} would interleave with those from {other.span[0].name} "
                    f"to {other.span[-1].name}: {'insert the longer span first' if longer else 'let one span contain the other'}"
                )
        self._do(seams.Inserted(self.model, span, part, stay))

    def replace(self, block: Block, module: nn.Module) -> None:
        """The whole block becomes x -> module(x), x [B, N, d]; what else the block returned is kept in shape."""
        self._do(seams.Replaced(self.model, block, module))
        self._rehook()

    def observe(self, block: Block, part: nn.Module) -> None:
        """part(x) is called with the states x [B, N, d] that enter the block; its result is ignored."""
        self._do(seams.Observed(self.model, block, part))

    def swap(self, name: str, module: nn.Module) -> None:
        """The module called `name` is replaced: used for heads, which are not part of any block."""
        self._do(seams.Swapped(self.model, name, module))

    def _do(self, change: seams.Change) -> None:
        change.apply()
        self.log.append(change)

    def _rehook(self) -> None:
        """Tokens go on entering and leaving, and states being seen, where a block was that is replaced by now."""
        for change in self.log:
            if isinstance(change, seams.Inserted | seams.Observed):
                change.revert()
                change.apply()

    def undo(self, *, keep: int = 0) -> None:
        """Takes back every change but the first `keep`, last first."""
        while len(self.log) > keep:
            self.log.pop().revert()

    @contextmanager
    def tentatively(self) -> Iterator[None]:
        """What is changed while the context lasts is taken back at its end."""
        made = len(self.log)
        try:
            yield
        finally:
            self.undo(keep=made)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """The model without any change for as long as the context lasts; the parts, and what they learnt, stay."""
        for change in reversed(self.log):
            change.revert()
        try:
            yield
        finally:
            for change in self.log:
                change.apply()
            self._rehook()

    def obstacle(self, block: Block, verb: str) -> str | None:
        """Why a verb does not work on a block, or None where it does."""
        if verb == "remember":
            return seams.memory_obstacle(block)
        if verb == "middle" and block.ffn.norm is None and (block.stack.cross or block.stack.attention).after is None:
            return "no normalisation marks the place between attention and FFN"
        if verb not in VERBS:
            raise KeyError(f"no verb {verb!r}: there are {', '.join(VERBS)}")
        return None


def read(model: nn.Module) -> Anatomy:
    """The anatomy of a model: every stack of blocks that a known family describes.

    Raises:
        TypeError: no family knows the model, or a part that the family names is missing (the message names it).
    """
    from gossamer.families import FAMILIES

    stacks: dict[str, list[Block]] = {}
    owners: dict[str, str] = {}
    missing: list[str] = []
    for name, module in model.named_modules():
        kinds = set(_kinds(module))
        for stack in FAMILIES:
            if kinds.isdisjoint(stack.owners) or not _has(module, stack.blocks):
                continue
            found = _get(module, stack.blocks)
            if not isinstance(found, nn.ModuleList | nn.Sequential) or len(found) == 0:
                continue
            if any(blocks[0].module is found[0] for blocks in stacks.values()):
                continue  # the same list, reached through a wrapper of the owner
            problems = [
                f".{i} ({type(b).__name__}) {why}" for i, b in enumerate(found) if (why := _missing_part(b, stack))
            ]
            if problems:
                missing.append(f"{name or type(module).__name__}.{stack.blocks}{problems[0]}")
                continue
            if stack.name in stacks:
                raise TypeError(f"{type(model).__name__} has two {stack.name} stacks, {owners[stack.name]} and {name}")
            path = f"{name}.{stack.blocks}" if name else stack.blocks
            prefix = _prefix(module, stack)
            stacks[stack.name] = [Block(stack, i, block, f"{path}.{i}", prefix) for i, block in enumerate(found)]
            owners[stack.name] = name
    if not stacks:
        raise TypeError(_unknown(model, missing))
    return Anatomy(model, {name: stacks[name] for name in STACK_ORDER if name in stacks}, owners)


def _unknown(model: nn.Module, missing: list[str]) -> str:
    from gossamer.families import FAMILIES

    if missing:
        return f"{type(model).__name__} looks like a known family, but {'; '.join(missing)}"
    known = sorted({owner for stack in FAMILIES for owner in stack.owners})
    kinds = next((k for k in _kinds(model)), type(model).__name__)
    return (
        f"cannot read {type(model).__name__} ({kinds}): looked for a list of blocks of one of the families "
        f"{', '.join(known)}. To teach Gossamer a new family, see CONTRIBUTING.md"
    )


def _kinds(module: nn.Module) -> Iterable[str]:
    config = getattr(module, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type:
        yield model_type
    for cls in type(module).__mro__:
        yield f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


def _missing_part(block: nn.Module, stack: Stack) -> str | None:
    if any(isinstance(m, nn.MultiheadAttention) for m in block.modules()):
        return "uses nn.MultiheadAttention, whose output projection is never called as a module, so nothing can be added to it"
    attention = stack.attention
    linears = [attention.fused] if attention.fused else [attention.q, attention.k, attention.v]
    for path in [attention.module, *linears, attention.out, attention.norm, attention.after]:
        if path is not None and not _has(block, path):
            return f"has no {path}"
    if not any(_has(block, f.up) and _has(block, f.down) for f in stack.ffn):
        return f"has no {' or '.join(f.up for f in stack.ffn)}"
    return None


def _prefix(owner: nn.Module, stack: Stack) -> int:
    if isinstance(stack.prefix, int):
        return stack.prefix
    for path in stack.prefix:
        value = _attribute(owner, path)
        if value is not None:
            return int(value) + stack.extra_prefix
    raise TypeError(f"{type(owner).__name__} has none of {', '.join(stack.prefix)}: cannot count its prefix tokens")


def _attribute(owner: Any, path: str) -> Any:
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def _has(module: nn.Module, path: str) -> bool:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
        if not isinstance(found, nn.Module):
            return False
    return True


def _get(module: nn.Module, path: str) -> Any:
    return module.get_submodule(path)
