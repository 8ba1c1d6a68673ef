"""One block of a model, with its parts by role, as its family describes them."""

from __future__ import annotations

import inspect
import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gossamer.anatomy.call import Arguments
from gossamer.anatomy.projection import Projection, Rows, quantised, shape_of
from gossamer.anatomy.sizes import Extent, Sizes, hollowed
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack
from gossamer.errors import UnknownName


class Block:
    """One block of a model: its module, and its parts by role ("q", "k", "v", "out", "up", "gate", "down", "norm1", "norm2").

    Parts are looked up at every use, because a method may have wrapped one of them since.
    """

    def __init__(
        self, stack: Stack, index: int, module: nn.Module, name: str, owner: nn.Module, prefix: int, stage: int = 0
    ):
        self.stack, self.index, self.module, self.name, self.prefix = stack, index, module, name, prefix
        self.owner = owner  # embeds the inputs of the stack and runs it
        self.stage = stage  # patches have been merged so many times when they come here
        self.merging: nn.Module | None = None  # of patches, right before this block
        self.key = f"{stack.name}.blocks.{index}"  # the block's name in saved adapters
        self.attention = next((a for a in stack.attention if not lacking(module, a)), stack.attention[0])
        gone = hollowed(module)
        crosses = stack.cross is not None and (
            not lacking(module, stack.cross) if gone is None else gone.sizes.cross_inner > 0
        )
        self.cross = stack.cross if crosses else None
        self.ffn = next((f for f in stack.ffn if not wanting(module, f)), stack.ffn[0])
        self.arguments = Arguments(module)

    @property
    def device(self) -> torch.device:
        """Where the block's weights are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of states that its projections read: that of their weights, or of norms and biases where these are quantised."""
        out = self.part("out")
        if not quantised(out):
            return out.weight.dtype
        others = [p for p in self.module.parameters() if p.is_floating_point() and p.dim() == 1]
        return others[0].dtype if others else out.weight.dtype

    def tokens(self, counts: Mapping[str, int]) -> int:
        """Tokens of one sample in the block's stream, of how many each stack is given."""
        return self.extent(counts).tokens

    def seen(self, counts: Mapping[str, int], branch: str) -> int:
        """Tokens of one sample that the Linears of a branch see: in windows attention sees padding too."""
        return self.extent(counts).attending if branch == "attention" else self.tokens(counts)

    def context(self, counts: Mapping[str, int]) -> int:
        """Tokens of one sample that its cross-attention reads; 0 where it has none, or nothing to read."""
        if self.cross is None:
            return 0
        return next((counts[name] for name in self.stack.context if name in counts and name != self.stack.name), 0)

    def path(self, role: str) -> str | None:
        """Name of a part relative to the block, or None where this kind of block has no such part."""
        attention, cross, ffn = self.attention, self.cross, self.ffn
        roles = {
            "attention": attention.module, "q": attention.q, "k": attention.k, "v": attention.v, "out": attention.out,
            "qkv": attention.fused, "norm1": attention.norm or attention.after, "norm2": ffn.norm or ffn.after,
            "up": None if ffn.experts else ffn.up, "gate": ffn.gate, "down": None if ffn.experts else ffn.down, "act": ffn.act,
            "q_norm": attention.q_norm, "k_norm": attention.k_norm, "closing1": attention.closing, "closing2": ffn.closing,
            "layer_scale1": attention.layer_scale, "layer_scale2": ffn.layer_scale,
        }  # fmt: skip
        if cross is not None:
            roles |= {"cross.q": cross.q, "cross.k": cross.k, "cross.v": cross.v, "cross.out": cross.out}
            roles |= {"cross.norm": cross.norm or cross.after, "cross": cross.module, "cross.kv": cross.fused}
        if role not in roles:
            raise UnknownName(f"no part {role!r}: a block of the {self.stack.name} stack has {', '.join(roles)}")
        return roles[role]

    def part(self, role: str) -> Any:
        """The module that plays `role` now."""
        path = self.path(role)
        if path is None or not has(self.module, path):
            fused = role in ("q", "k", "v") and self.attention.fused
            advice = f"; it is a third of {fused}: call split() first" if fused else ""
            if self.ffn.experts and role in ("up", "gate", "down"):
                advice = f": {self.ffn.up} sends each token to some of its experts"
            raise UnknownName(f"{self.name} ({type(self.module).__name__}) has no part {role!r}{advice}")
        return get(self.module, path)

    def roles(self) -> dict[str, str]:
        """role -> full module name, for every Linear and norm the block really has."""
        fused = self.attention.fused is not None and not has(self.module, self.attention.q)
        names = ["qkv"] if fused else ["q", "k", "v"]
        names += ["out", "gate", "up", "down", "norm1", "norm2", "closing1", "closing2"]
        if self.cross:
            names += ["cross.q", *self._context_roles, "cross.out", "cross.norm"]
        paths = {role: self.path(role) for role in names}
        return {role: f"{self.name}.{path}" for role, path in paths.items() if path and has(self.module, path)}

    @property
    def _context_roles(self) -> tuple[str, ...]:
        """The projections of what cross-attention reads: keys and values apart, or both in one matrix."""
        return ("cross.k", "cross.v") if self.cross is None or self.cross.fused is None else ("cross.kv",)

    @cached_property
    def sizes(self) -> Sizes:
        """Widths, read from the weights' shapes; those that were there where a finished model has let weights go."""
        if (gone := hollowed(self.module)) is not None:
            return gone.sizes
        width, inner = shape_of(self.part("out"))
        fused = self.attention.fused is not None and "qkv" in self.roles()
        inner_kv = (shape_of(self.part("qkv"))[0] - inner) // 2 if fused else shape_of(self.part("k"))[0]
        cross = shape_of(self.part("cross.out"))[1] if self.cross else 0
        context = shape_of(self.part(self._context_roles[0]))[1] if self.cross else 0
        if self.ffn.experts:
            return Sizes(width, inner, inner_kv, 0, 0, cross, context)
        ffn = shape_of(self.part("down"))[1]
        entering = sum(shape_of(self.part(role))[0] for role in ("up", "gate") if self.path(role))
        return Sizes(width, inner, inner_kv, ffn, 1 + entering // ffn, cross, context)

    @property
    def window(self) -> tuple[int, int] | None:
        """Height and width of the windows that the block attends in, in tokens; None where it attends to all."""
        if self.stack.windows is None:
            return None
        said = self.stack.windows.size
        size = getattr(self.module, said) if isinstance(said, str) else said(self.module)
        if not size:
            return None
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def extent(self, counts: Mapping[str, int]) -> Extent:
        """The tokens in this block when its stack is given so many ("vision"), in so many rows ("vision.rows"; None: a square)."""
        given, window = counts[self.stack.counts_as or self.stack.name], self.window
        if window is None and self.stack.level is None and self.stack.between is None:
            return Extent(given, 1, given)
        rows = counts.get(f"{self.stack.name}.rows", math.isqrt(given))
        sides = [-(-side // 2**self.stage) for side in (rows, given // rows)]
        if window is None:
            return Extent(sides[0] * sides[1], 1, sides[0] * sides[1])
        high, wide = (-(-side // size) for side, size in zip(sides, window, strict=True))
        return Extent(sides[0] * sides[1], high * wide, window[0] * window[1])

    @property
    def on_map(self) -> bool:
        """Whether its states are a map [B, h, w, d], out of which it cuts windows by itself."""
        return self.stack.fixed is not None and isinstance(self.stack.fixed(self.module)[0], tuple)

    @property
    def parallel(self) -> bool:
        """Whether its FFN stands beside its attention, not behind it."""
        return self._said(self.stack.parallel)

    @property
    def alibi(self) -> bool:
        """Whether its attention must be given a bias by the places of keys."""
        return self._said(self.stack.alibi)

    def _said(self, fact: bool | str) -> bool:
        """A fact that a family knows, or that an attribute of the block tells."""
        return fact if isinstance(fact, bool) else bool(operator.attrgetter(fact)(self.module))

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        names, module = self.attention, self.part("attention")
        return (
            self.sizes.inner // getattr(module, names.heads) if names.heads else int(getattr(module, names.head_width))
        )

    @property
    def scaling(self) -> float:
        """The factor of q k^T in attention."""
        name = self.attention.scaling
        return self.head_width**-0.5 if name is None else float(getattr(self.part("attention"), name))

    def damping(self, role: str) -> nn.Module | nn.Parameter | float | None:
        """What plays "layer_scale1" or "layer_scale2": a module, parameter [d] or number; None where the branch is not damped."""
        path = self.path(role)
        found = None if path is None else place(self.module, path)
        return None if isinstance(found, nn.Identity) or (isinstance(found, float) and found == 1) else found

    def damped(self, role: str, y: Tensor) -> Tensor:
        """What a branch gives, y [..., d], as it joins the stream."""
        found = self.damping(role)
        return y if found is None else found.forward(y) if isinstance(found, nn.Module) else found * y

    def active(self, role: str) -> nn.Module | None:
        """The module that plays an optional role ("q_norm", "act", ...), or None where none does or it does nothing."""
        path = self.path(role)
        module = get(self.module, path) if path and has(self.module, path) else None
        return None if isinstance(module, nn.Identity) else module

    def projection(self, role: str, *, bare: bool = False) -> Projection:
        """The projection "q", "k", "v" or "out" of the block's self-attention, or "cross.k", ... of the other, as a function.

        With `bare` it is the pre-trained one inside what peft wrapped around it.
        """
        path, rows, apart = self.path(role), None, None
        if role in ("q", "k", "v") and self.attention.apart is not None:
            apart = attribute(self.module, self.attention.apart["qkv".index(role)])
        if not has(self.module, path or "") and role in ("q", "k", "v"):
            path, rows = self.attention.fused, self.fused_rows["qkv".index(role)]
        if role in ("cross.k", "cross.v") and self.cross is not None and self.cross.fused is not None:
            inner, half = self.sizes.cross_inner, "kv".index(role[-1])
            path, rows = self.cross.fused, Rows(half * inner, (half + 1) * inner, 2 * inner)
        linear: Any = get(self.module, path or "")
        while bare and hasattr(linear, "base_layer"):
            linear = linear.base_layer
        return Projection(linear, rows, apart)

    @property
    def fused_rows(self) -> tuple[Rows, Rows, Rows]:
        """Which rows of a fused projection are q's, k's and v's."""
        groups = self.sizes.inner_kv // self.head_width if self.attention.grouped else 1
        inner, inner_kv = self.sizes.inner // groups, self.sizes.inner_kv // groups
        ends = 0, inner, inner + inner_kv, inner + 2 * inner_kv
        q, k, v = (Rows(start, end, ends[-1]) for start, end in itertools.pairwise(ends))
        return q, k, v

    def normed(self, role: str, projected: Tensor) -> Tensor:
        """Queries or keys [..., inner] behind "q_norm" or "k_norm", which norms each head, or all of them; as they are without."""
        norm: Any = self.active(role)
        if norm is None:
            return projected
        weight = getattr(norm, "weight", None)
        given = projected if weight is None else projected.to(weight.dtype)
        if weight is not None and weight.shape == given.shape[-1:]:
            return norm.forward(given).to(projected.dtype)
        return norm.forward(given.unflatten(-1, (-1, self.head_width))).flatten(-2).to(projected.dtype)

    def tables(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine as the block gets them for states [B, N, d] at positions [1, N].

        For patches alone models make them of images: these are some that turn every token.
        """
        if self.stack.rotary is None:
            shape = (states.shape[-2] - self.prefix, self.head_width)
            return states.new_full(shape, 0.6), states.new_full(shape, 0.8)
        rotary = self.owner.get_submodule(self.stack.rotary)
        kinds = {}
        if "layer_type" in inspect.signature(type(rotary).forward).parameters:
            kinds["layer_type"] = self.owner.config.layer_types[self.index]  # type: ignore[union-attr,index]
        return rotary(states, positions, **kinds)

    def keys_values(self, tokens: Tensor, branch: str = "attention") -> tuple[Tensor, Tensor]:
        """Keys and values [..., p, inner_kv] of tokens [..., p, d] as this block's self-attention would compute them.

        Pre-norm blocks normalise first: W_k LN(P) + b_k, W_v LN(P) + b_v, keys again behind a norm of theirs where there is one;
        what cross-attention reads has no norm in the block.
        Nothing is computed for queries.
        """
        if branch == "cross":
            return self.projection("cross.k")(tokens), self.projection("cross.v")(tokens)
        norm = self.attention.norm
        states = get(self.module, norm).forward(tokens) if norm else tokens
        keys, values = (self._clamped(self.projection(role)(states)) for role in ("k", "v"))
        return self.normed("k_norm", keys), values

    def _clamped(self, projected: Tensor) -> Tensor:
        """Keys or values as the attention has them behind their projection."""
        limit = attribute(self.part("attention"), self.attention.clamp) if self.attention.clamp else None
        return projected if limit is None else projected.clamp(-limit, limit)


class Site(NamedTuple):
    """What something else may take the place of: a whole block, or its "attention" or "cross"-attention alone.

    `keep` names roles of the block that stay, because what takes the place reads them ("norm1").
    """

    block: Block
    branch: Literal["attention", "cross"] | None = None
    keep: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Our name for it: `vision.blocks.3`, or `vision.blocks.3.attention`."""
        return self.block.key if self.branch is None else f"{self.block.key}.{self.branch}"

    def modules(self) -> list[nn.Module]:
        """The modules that give way: the block, or everything from the branch's input to the sum, its norm included."""
        block, names = self.block, self.names
        if names is None:
            return [block.module]
        beside = [] if names.out.startswith(f"{names.module}.") else [names.out]
        paths = [names.module, *beside, names.norm, names.after, names.closing, names.layer_scale]
        found = [get(block.module, path) for path in paths if path and has(block.module, path)]
        return [module for module in found if all(module is not k for k in self.kept())]

    @property
    def names(self) -> AttentionNames | None:
        """The names of the attention that gives way; None for a whole block."""
        return {None: None, "attention": self.block.attention, "cross": self.block.cross}[self.branch]

    def kept(self) -> list[nn.Module]:
        """The modules that stay."""
        return [self.block.part(role) for role in self.keep]

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that nothing reads any more."""
        stay = {id(p) for module in self.kept() for p in module.parameters()}
        return [p for module in self.modules() for p in module.parameters() if id(p) not in stay]


def listed(owner: nn.Module, stack: Stack) -> Iterator[tuple[int, str, nn.Module]]:
    """Stage, dotted name and module of every block of a stack, as they run.

    The stage is the level of its map where the family says that, or how often what stands between blocks halved it; else the number
    in place of the star, 0 where there is none.
    """
    halved = 0
    for stage, name in lists(owner, stack):
        for i, block in enumerate(get(owner, name)):
            between = None if stack.between is None else stack.between(block)
            if between is not None:
                halved += between
                continue
            level = stage if stack.between is None else halved
            yield level if stack.level is None else stack.level(owner, f"{name}.{i}"), f"{name}.{i}", block


def lists(owner: nn.Module, stack: Stack) -> Iterator[tuple[int, str]]:
    """Stage and dotted name of every list of blocks that a stack is made of, as they run."""
    found = (one for path in stack.paths for one in _written_out(owner, path))
    return ((stage, name) for stage, name in found if isinstance(get(owner, name), nn.ModuleList | nn.Sequential))


def _written_out(owner: nn.Module, path: str, stage: int = 0) -> Iterator[tuple[int, str]]:
    """Every module that a path with stars means, in order, with the number in place of the first star (0: there is none)."""
    before, star, after = path.partition(".*.")
    if not has(owner, before):
        return
    if not star:
        yield stage, path
        return
    for i, child in enumerate(get(owner, before).children()):
        yield from ((i, f"{before}.{i}.{rest}") for _, rest in _written_out(child, after, i))


def lacking(block: nn.Module, names: AttentionNames) -> str | None:
    """The first part of an attention that a block does not have; None where it has them all."""
    linears = [names.fused] if names.fused else [names.q, names.k, names.v]
    needed = [names.module, *linears, names.out, names.norm, names.after, names.closing, names.q_norm, names.k_norm]
    missing = next((path for path in needed if path is not None and not has(block, path)), None)
    return names.bias if missing is None and names.bias and place(block, names.bias) is None else missing


def wanting(block: nn.Module, names: FfnNames) -> str | None:
    """The first part of a feed-forward branch that a block does not have; None where it has them all."""
    needed = [names.up, names.gate, names.down, names.experts, names.norm, names.after, names.closing]
    return next((path for path in needed if path is not None and not has(block, path)), None)


def place(module: nn.Module, path: str) -> nn.Module | nn.Parameter | float | int | None:
    """The module, parameter or number at a dotted path; None where there is none."""
    found = attribute(module, path)
    return found if isinstance(found, nn.Module | nn.Parameter | float | int) else None


def has(module: nn.Module, path: str) -> bool:
    """Whether a module has a module at a dotted path."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
        if not isinstance(found, nn.Module):
            return False
    return True


def get(module: nn.Module, path: str) -> Any:
    """The module at a dotted path."""
    return module.get_submodule(path)


def attribute(owner: Any, path: str) -> Any:
    """What a dotted path leads to; None where it ends early."""
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner
