"""Where the parts of a transformer sit, and the verbs a method may use on them.

A *family* (`gossamer.families`) says by name where parts sit in one kind of backbone. `read` finds those parts in a real
model. A *method* (`gossamer.methods`) then speaks only of blocks and verbs, so that m methods and n families cost m + n files.

| verb       | what it does                                                                      |
|------------|-----------------------------------------------------------------------------------|
| `add`      | branch(x) + part(x, branch(x)) at an attention, cross-attention or FFN branch       |
| `rewrite`  | one projection is replaced by a module; also one third of a fused qkv               |
| `middle`   | x + part(x) on the residual stream: between attention and FFN, or at a block's ends |
| `remember` | extra keys and values inside a block's self-attention, in one joint softmax         |
| `insert`   | tokens that enter before a block and leave after the same or a later one, or stay   |
| `replace`  | a whole block, or its attention, by a small module                                  |
| `observe`  | a part reads the states that enter a block                                          |
| `lead`     | tokens with positions of their own that stand in front from one block to the last    |
| `look`     | a part reads an image tower's states, once per image, in a model composed of two     |
| `skip`     | a block lets its states pass                                                         |
| `withhold` | a block no longer receives one of its arguments                                      |

Every change is kept in a log and taken back, last first, by `Anatomy.undo`.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from gossamer.anatomy import inserted, leading, probe, replaced, rewritten, seams, sight, stream, windows
from gossamer.anatomy.block import Block, Site, attribute, get, has
from gossamer.anatomy.displaced import Displaced
from gossamer.anatomy.seams import Part
from gossamer.anatomy.session import Session
from gossamer.anatomy.stack import FfnNames, Stack
from gossamer.errors import UnknownName, UserError, WrongKind

Branch = Literal["attention", "cross", "ffn"]
Place = Literal["start", "middle", "end", "attention", "ffn"]
STACK_ORDER = ("fusion", "vision", "encoder", "text", "decoder")  # the first that a model has is its main stack
VERBS = ("add", "rewrite", "middle", "remember", "insert", "replace", "observe")


class Anatomy:
    """The parts of one model, and the log of what methods did to them."""

    def __init__(
        self,
        model: nn.Module,
        stacks: dict[str, list[Block]],
        owners: dict[str, str],
        *,
        unread: Mapping[str, str] = MappingProxyType({}),
        why: str = "",
    ):
        self.model, self.stacks, self.owners = model, stacks, owners
        self.unread = unread  # path -> class of blocks: lists of blocks that no family describes
        self.why = why  # no family knows the model, where none does
        self.heads: dict[str, nn.Module] = {}  # task heads of the model, by name: no part of the backbone
        self.output: nn.Module | None = None  # the output layer of a language model
        self.session = Session.of(model)
        self._known: dict[Any, probe.Findings] = {}  # trials, by kind of block
        self.displaced = Displaced()  # what gave its place to something else meanwhile
        self.log: list[seams.Change] = []
        self.sites: list[Site] = []  # what a method takes the place of, known before any is placed

    def check_known(self) -> None:
        """Nothing, where a family describes a stack of the model.

        Raises:
            TypeError: none does.
        """
        if not self.stacks:
            raise WrongKind(self.why)

    @property
    def whole(self) -> bool:
        """Whether families describe every list of blocks of the model."""
        return bool(self.stacks) and not self.unread

    @property
    def main(self) -> str:
        """Name of the stack that methods use unless told otherwise: the first that the model runs.

        Raises:
            TypeError: no family knows the model.
        """
        self.check_known()
        return next(iter(self.stacks))

    @property
    def readout(self) -> Stack:
        """The stack whose states the model returns: the decoder where an encoder stands before it, else the main one."""
        return self.stacks.get("decoder", self.stacks[self.main])[0].stack

    def blocks(self, stack: str | None = None, indices: Sequence[int] | None = None) -> list[Block]:
        """The blocks of a stack (default: the main one), all or those at `indices` (0 is the first to run).

        Without indices, blocks that a method replaces, whole or in part, are left out: nothing is to be placed there.

        Raises:
            KeyError: no such stack, or an index that the stack does not have.
            ValueError: no index at all, one of them twice, one of a block that is replaced, or every block is.
        """
        stack = stack or self.main
        self._check_stack(stack)
        blocks, gone = self.stacks[stack], {site.block.key for site in self.sites}
        if indices is None:
            left = [block for block in blocks if block.key not in gone]
            if not left:
                raise UserError(f"every block of the {stack} stack of this {type(self.model).__name__} is replaced")
            return left
        if not indices:
            raise UserError(
                f"blocks={tuple(indices)} names no block: the {stack} stack has {len(blocks)}; None means all"
            )
        if len(set(indices)) != len(indices):
            raise UserError(f"blocks={tuple(indices)} names a block twice")
        for i in indices:
            if not 0 <= i < len(blocks):
                raise UnknownName(
                    f"no block {i}: the {stack} stack of this {type(self.model).__name__} has {len(blocks)} "
                    f"(0..{len(blocks) - 1}); asked for by blocks={tuple(indices)}"
                )
            if blocks[i].key in gone:
                raise UserError(
                    f"block {i} of the {stack} stack is replaced by another method, so nothing can be placed in it; asked for "
                    f"by blocks={tuple(indices)}: leave it out, or give None for all that stand"
                )
        return [blocks[i] for i in sorted(indices)]

    def _check_stack(self, stack: str) -> None:
        if stack not in self.stacks:
            found = ", ".join(f"{name} ({len(blocks)} blocks)" for name, blocks in self.stacks.items())
            raise UnknownName(f"no stack {stack!r} in {type(self.model).__name__}: it has {found}")

    @property
    def adapted(self) -> list[str]:
        """Names of the stacks that methods reach by the role of a part: all, but of a composed model the language model's."""
        return [name for name in self.stacks if name != "vision" or name == self.main]

    def __iter__(self) -> Iterator[Block]:
        for blocks in self.stacks.values():
            yield from blocks

    def columns(self, stack: str | None = None) -> list[list[Block]]:
        """The blocks of a stack that run one after another: one list, or of METER's fusion two, text and image."""
        self._check_stack(stack or self.main)
        blocks = self.stacks[stack or self.main]
        return [list(column) for _, column in itertools.groupby(blocks, key=lambda b: id(b.stack))]

    def column(self, block: Block) -> list[Block]:
        """The blocks that run before and after a block, with itself."""
        return next(c for c in self.columns(block.stack.name) if c[0].stack is block.stack)

    def owner(self, stack: str | None = None) -> nn.Module:
        """The module that embeds the inputs of a stack and runs it."""
        return self.model.get_submodule(self.owners[stack or self.main])

    def around(self, stack: str | None = None) -> dict[str, str]:
        """role -> full module name of what stands around a stack's blocks: "patches", a convolution, and "norm", behind the last.

        Left out is what the family has not: patches where it reads no images, a norm where its blocks end with one. Where a model
        lost its norm, an Identity has the role.
        """
        names, owner, path = (
            self.stacks[stack or self.main][0].stack,
            self.owner(stack),
            self.owners[stack or self.main],
        )
        norms = sorted(
            filter(partial(has, owner), names.final_norm), key=lambda n: isinstance(get(owner, n), nn.Identity)
        )
        patches = next(filter(partial(has, owner), names.patch_convolution), None)
        found = {"patches": patches, "norm": norms[0] if norms else None}
        return {role: f"{path}.{name}" if path else name for role, name in found.items() if name is not None}

    def patch_convolution(self, stack: str | None = None) -> nn.Conv2d:
        """The convolution that makes a stack's tokens of patches, also where something is wrapped around it.

        Raises:
            KeyError: the stack reads no images, or makes tokens of them in another way.
        """
        name = self.around(stack).get("patches")
        inside = () if name is None else self.model.get_submodule(name).modules()
        found = next((module for module in inside if isinstance(module, nn.Conv2d)), None)
        if found is None:
            raise UnknownName(
                f"the {stack or self.main} stack of {type(self.model).__name__} has no convolution of patches"
            )
        return found

    def patches(self, stack: str | None = None) -> nn.Module | None:
        """The module whose output is the patch tokens [B, n, d] of a stack before positions, or None where there is none."""
        names, owner = self.stacks[stack or self.main][0].stack, self.owner(stack)
        norm = names.patches_norm
        if names.patches is None or (norm and has(owner, norm) and not isinstance(get(owner, norm), nn.Identity)):
            return None
        return get(owner, names.patches)

    def keys(self) -> dict[str, str]:
        """module name -> our name for it, `vision.blocks.3.q`, for every part that has a role."""
        return {name: f"{block.key}.{role}" for block in self for role, name in block.roles().items()}

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the model without its task heads, and without what a method takes the place of."""
        others = {id(p) for head in self.heads.values() for p in head.parameters()}
        others |= {id(p) for site in self.sites for p in site.parameters()}
        return ((name, p) for name, p in self.model.named_parameters() if id(p) not in others)

    def standing(self) -> list[Block]:
        """The blocks of all stacks in which nothing is replaced."""
        gone = {site.block.key for site in self.sites}
        return [block for block in self if block.key not in gone]

    @contextmanager
    def without_sites(self) -> Iterator[None]:
        """The model with empty modules where blocks are replaced, for tools that look for modules by name."""
        known = [site.block for site in self.sites]
        for block in known:
            _set(self.model, block.name, nn.Identity())
        try:
            yield
        finally:
            for block in known:
                _set(self.model, block.name, block.module)

    def check_whole_input(self) -> None:
        """Nothing, if every stack sees its whole input.

        Raises:
            ValueError: one is set up for masked pre-training.
        """
        for name, blocks in self.stacks.items():
            path = blocks[0].stack.needs_zero
            value = 0 if path is None else attribute(self.owner(name), path)
            if value:
                raise UserError(
                    f"{type(self.owner(name)).__name__} leaves out {value:.0%} of its input at random ({path}={value}), "
                    f"which is for pre-training: set {path} to 0, or load the weights into the plain class (ViTModel)"
                )

    # ---- verbs ----

    def add(
        self,
        block: Block,
        branch: Branch,
        part: Part,
        *,
        normed: bool = True,
        damped: bool = True,
        outside: bool = False,
    ) -> None:
        """branch(x) becomes branch(x) + part(x, branch(x)).

        x [B, N, d] is what enters the branch (after the norm in pre-norm blocks, before it with normed=False) and branch(x)
        [B, N, d] the output of its last Linear, before dropout, LayerScale and residual (with damped=False behind LayerScale, where
        the block has one, with outside=True behind the norm that ends the branch of a post-norm block). Cross-attention: x is the
        querying side.
        """
        if branch == "attention" and not normed and block.stack.windows is not None:
            raise UserError(
                f"{block.name} attends in windows: what enters its norm has other tokens than what leaves its attention, so "
                "nothing that reads the stream can be added to the attention branch; let it read the normalised input"
            )
        names: dict[str, Any] = {"attention": block.attention, "cross": block.stack.cross, "ffn": block.ffn}
        if branch not in names:
            raise UnknownName(f"no branch {branch!r}: there are {', '.join(names)}")
        place = names[branch]
        if place is None:
            raise UnknownName(f"{block.name} ({type(block.module).__name__}) has no cross-attention to add to")
        if isinstance(place, FfnNames):
            first, last = place.gate or place.up, place.down
        else:
            first, last = (place.module if place.fused else place.q), place.out
        if not normed and place.norm is not None:
            first = place.norm
        if not damped and place.layer_scale is not None:
            last = place.layer_scale
            if not has(block.module, last):
                raise UserError(
                    f"{block.name} damps its {branch} by a parameter, {last}: nothing can be added behind that"
                )
        if outside and place.after is not None:
            last = place.after
        self._require(block, "add", branch)
        self._do(seams.Added(get(block.module, first), get(block.module, last), part), block, branch)

    def rewrite(self, block: Block, role: str, module: nn.Module) -> None:
        """The Linear or norm that plays `role` is replaced by `module`: a `Wrapped`, which holds the old one, or any other.

        A Wrapped is merged in a finished model. For "q", "k" or "v" of a fused projection call `split` first.

        Raises:
            KeyError: the block has no such part.
        """
        block.part(role)
        attention = ("attention", "q", "k", "v", "out", "qkv", "norm1", "q_norm", "k_norm", "layer_scale1")
        branch = "cross" if role.startswith("cross.") else "attention" if role in attention else "ffn"
        self._swap(f"{block.name}.{block.path(role)}", module, None, block, branch)

    def split(self, block: Block) -> None:
        """A fused qkv Linear becomes three Linears over views of the same weights, so that thirds can be rewritten."""
        fused = block.attention.fused
        if fused is not None and not has(block.module, block.attention.q):
            whole = get(block.module, fused)
            if not isinstance(whole, nn.Linear):
                raise UserError(
                    f"{block.name}.{fused} is a {type(whole).__name__} by now, no Linear that could be split into thirds: place "
                    "first what changes one of the thirds"
                )
            thirds = rewritten.SplitLinear(whole)
            self._swap(f"{block.name}.{fused}", thirds, None, block, "attention")

    def swap(self, name: str, module: nn.Module, *, merge: rewritten.Merge | None = None) -> None:
        """The module called `name` is replaced, in whatever part of the model; `merge` as in `rewritten.Swapped`."""
        self._swap(name, module, merge, None, "around")

    def _swap(
        self, name: str, module: nn.Module, merge: rewritten.Merge | None, block: Block | None, where: str
    ) -> None:
        if merge is None and isinstance(module, rewritten.Wrapped):
            merge = rewritten.merged
        self._do(rewritten.Swapped(self.model, name, module, self.displaced, merge=merge), block, where)

    def finish(self) -> bool:
        """Merges what was rewritten and fuses what was split, in a model that is not changed any more.

        Returns:
            Whether weights that were tied are two by now.
        """
        return rewritten.finish(self.model, self.log)

    def middle(
        self, block: Block, part: Part, *, at: Place = "middle", normed: bool = False, first: bool = False
    ) -> None:
        """The residual stream x [B, N, d] becomes x + part(x): between attention and FFN, or at the block's "start" or "end".

        at="ffn": x stays as it is, but what the FFN reads, norm(x) (post-norm: x), gets part(x), or with `normed` part(norm(x)).
        at="attention": the same for what the attention of a pre-norm block reads. With `first`, in these two places, the part
        also gets the first token of each sequence [B, d], which while a text is generated is that of the prompt.
        """
        if at not in typing.get_args(Place):
            raise UnknownName(f"no place {at!r}: there are {', '.join(typing.get_args(Place))}")
        norm = None if block.ffn.norm is None else get(block.module, block.ffn.norm)
        if at not in ("start", "end"):
            self._require(block, "middle", at)
        if at in ("start", "end"):
            self._do((stream.Start if at == "start" else stream.End)(block.module, part), block)
        elif at in ("attention", "ffn"):
            self._do(self._reads(block, part, at, normed, first), block, at)
        elif norm is not None:
            self._do(stream.MiddlePreNorm(block.module, norm, part), block, at)
        else:
            last = block.stack.cross or block.attention
            assert last.after is not None, "a post-norm block names the normalisation after its attention"
            self._do(stream.MiddlePostNorm(get(block.module, last.after), part), block, at)

    def _reads(self, block: Block, part: Part, at: str, normed: bool, first: bool) -> stream.Reads:
        before = block.attention.norm
        if before is None and (first or at == "attention"):
            raise UnknownName(f"no norm stands before the attention of {block.name}, a post-norm block")
        firsts = stream.Firsts(block.module, get(block.module, before), self.session) if first and before else None
        norm = before if at == "attention" else block.ffn.norm
        readers = [norm] if norm else [n for n in (block.ffn.gate, block.ffn.up) if n]
        modules = [get(block.module, name) for name in readers]
        return stream.Reads(modules, part, behind=norm is not None, normed=normed, firsts=firsts)

    def remember(self, block: Block, part: Part, branch: Branch = "attention") -> None:
        """The block's self-attention, or its cross-attention (`branch`), also attends to part(batch) = keys, values.

        Each is [1 or B, p, inner_kv], for every query. One joint softmax over remembered and own keys; remembered keys carry no
        rotary position and no relative bias.
        """
        self._do(seams.Remembered(block, part, branch), block, branch)

    def insert(
        self, first: Block, part: Part, *, last: Block | None = None, stay: bool = False, read: bool = False
    ) -> None:
        """part(x) [B, p, d] enters behind the prefix tokens of x [B, N, d] before block `first`.

        The new rows leave after block `last` (default: `first`), or stay in the model's output (`stay`). The blocks that
        run beside the span and attend to its column see them with `read`, and else do not.

        Raises:
            ValueError: the span runs backwards, or shares blocks with an earlier one without lying inside it.
        """
        blocks = self.column(first)
        last = last or (blocks[-1] if stay else first)
        if last.stack is not first.stack or last.index < first.index:
            raise UserError(f"tokens cannot enter at {first.name} and leave at {last.name}")
        if stay and first.stack.causal and (self.heads or first.stack.readout == "pooled" or self.output is not None):
            raise UserError(
                f"tokens cannot stay in {type(self.model).__name__}: it reads its own answer by position in the text, which they "
                "would move; let them leave (stay=False), or give the bare model a head with num_labels"
            )
        reader = next((b for b in self if b.stack.context == first.stack.name != b.stack.name), None)
        if stay and reader is not None and first.stack.modality == "text":
            raise UserError(
                f"tokens cannot stay in the {first.stack.name} stack of {type(self.model).__name__}: its {reader.stack.name} reads "
                "that stack by the mask of the text alone; let them leave (stay=False)"
            )
        if stay and last is not blocks[-1]:
            raise UserError(f"tokens that stay run to the last block, {blocks[-1].name}; asked to leave at {last.name}")
        start, end = blocks.index(first), blocks.index(last) + 1
        span = blocks[start:end]
        for other in [c for c in self.log if isinstance(c, inserted.Inserted) and inserted.overlap(c.span, span)]:
            if not inserted.contains(other.span, span):
                longer = inserted.contains(span, other.span)
                raise UserError(
                    f"tokens inserted from {first.name} to {last.name} would interleave with those from {other.span[0].name} "
                    f"to {other.span[-1].name}: {'insert the longer span first' if longer else 'let one span contain the other'}"
                )
        if first.stack.windows is not None:
            norm = self.model.get_submodule(self.around(first.stack.name)["norm"])
            self._do(windows.WindowInserted(norm, span, part, self.session, stay))
            return
        self._count(first)
        others = [c for c in self.columns(first.stack.name) if c[0].stack is not first.stack]
        beside = [b for column in others for b in column[start:end]]
        self._do(inserted.Inserted(span, part, self.session, stay, beside=beside, read=read))

    def lead(self, first: Block, part: leading.Lead, *, both_ways: bool = False) -> None:
        """part(x, side) [B, p, d] stands in front of x [B, N, d] from block `first` to the last, at the positions -p .. -1.

        `side` are the encoder's states [B, n, d] where the block reads any. What part.visible(B) [B, p] leaves out, nothing but
        the token itself sees. In causal stacks text sees the tokens and they see each other in order (`both_ways`: and the text).
        In stacks with prefix tokens, which have no order, they enter behind those. No other tokens may be there already.
        """
        span = self.stacks[first.stack.name][first.index :]
        self._count(first)
        self._do(leading.Leading(self.owner(first.stack.name), span, part, self.session, both_ways=both_ways))

    def _count(self, block: Block) -> None:
        """The tokens of the block's column are counted from now on.

        Raises:
            ValueError: blocks take an argument that nobody knows, and which may be as long as the sequence.
        """
        self._check_known(block)
        self._require(block, "insert", "attention")
        first = self.column(block)[0]
        if not any(isinstance(change, inserted.Counted) and change.first is first for change in self.log):
            self._do(inserted.Counted(first, self.session))

    def _check_known(self, block: Block) -> None:
        if block.arguments.unknown:
            raise UserError(
                f"{type(block.module).__name__} takes {', '.join(block.arguments.unknown)}, which Gossamer does not know, "
                "so it cannot say what becomes of it in a longer sequence; only changes inside of branches work there"
            )

    def look(self, part: sight.Reader) -> None:
        """part(states) keeps what it makes of the image tower's states [I, N, d_v], once per image; see `gossamer.anatomy.sight`.

        Raises:
            TypeError: the model is not composed of a vision tower and a language model.
        """
        self._do(seams.Looked(sight.of(self.model).readers, part))

    def skip(self, block: Block) -> None:
        """The block computes nothing: its states pass."""
        self._do(seams.Skipped(block.module))

    def withhold(self, block: Block, meaning: str) -> None:
        """The block gets None for one of its arguments ("bias", "mask": see `call.Call`), whatever the model passes on."""
        self._do(seams.Withheld(block.module, meaning))

    def replace(
        self, site: Site | Block, part: nn.Module, *, first: bool = False, active: bool = True
    ) -> replaced.Replaced:
        """A whole block becomes x -> part(x), x [B, N, d], or its attention branch(x) = part(x), its norms included; undoable.

        What else was returned is kept in shape; a key/value cache goes on counting. With `first` the part also gets the first
        token of each sequence [B, d]. With active=False nothing changes until the returned change is switched on.

        Raises:
            ValueError: something is placed there that would never run again.
            KeyError: the block has no such attention.
        """
        site = Site(site) if isinstance(site, Block) else site
        if site.branch == "cross" and site.names is None:
            raise UnknownName(
                f"{site.block.name} ({type(site.block.module).__name__}) has no cross-attention to replace"
            )
        for change in self.log if active else ():
            where = change.place[1]
            if change.place[0] is site.block and where != "around" and site.branch in (None, where):
                raise UserError(
                    f"{site.key} cannot be replaced: what a method placed in it ({type(change).__name__}) would never run again. "
                    "Replace first, and place the others in blocks that stand"
                )
            if isinstance(change, windows.WindowInserted) and site.block in change.span:
                raise UserError(
                    f"{site.key} cannot be replaced: tokens were inserted that cannot pass it, because they live in its windows"
                )
        self._check_known(site.block)
        self._require(site.block, "replace", "attention")
        change = replaced.Replaced(site, part, self.log, self.session, first=first, active=active)
        self._do(change, site.block)
        return change

    def prune(self) -> None:
        """What is replaced now loses its weights, for good."""
        for change in self.log:
            if isinstance(change, replaced.Replaced) and change.active:
                change.prune()

    def observe(self, block: Block, part: nn.Module, *, at: Literal["start", "end"] = "start") -> None:
        """part(x) is called with the states x [B, N, d] that enter the block, or leave it ("end"); its result is ignored."""
        self._do(seams.Observed(block, part, at))

    def enter(self, block: Block, part: nn.Module) -> None:
        """Tokens that enter a column at its first block, before modality types are added, become part(tokens), [B, n, d] both.

        Raises:
            ValueError: the family does not name the place.
        """
        if block.stack.entrance is None:
            raise UserError(f"nothing marks where tokens enter the {block.stack.name} stack")
        self._do(seams.Entered(get(self.owner(block.stack.name), block.stack.entrance), part))

    def _do(self, change: seams.Change, block: Block | None = None, where: str = "around") -> None:
        """Makes a change in a branch or the middle of a block, or around it.

        Raises:
            ValueError: it would never run, because something else stands there.
        """
        change.place = block, where
        gone = [c.site for c in self.log if isinstance(c, replaced.Replaced) and c.active and c.site.block is block]
        dead = [site.key for site in gone if where != "around" and site.branch in (None, where)]
        if dead:
            raise UserError(
                f"{dead[0]} is replaced, so nothing that is placed in it would ever run: only insert and observe, and what "
                "happens at the start and the end of a block, work there"
            )
        change.apply()
        self.log.append(change)

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

    def obstacle(self, block: Block, verb: str, branch: str = "attention") -> str | None:
        """Why a verb does not work on a branch of a block (of "middle": on a place of its stream), or None where it does.

        A trial of the block, once for all of its kind, shows whether it is built as its family says; `remember` has one of its own.
        """
        if verb not in VERBS:
            raise UnknownName(f"no verb {verb!r}: there are {', '.join(VERBS)}")
        if verb == "middle" and branch == "middle":
            last = block.stack.cross or block.attention
            if block.ffn.norm is None and last.after is None:
                return "no normalisation marks the place between attention and FFN"
        if verb == "insert" and block.attention.bias is not None and block.stack.windows is None:
            return f"its attention has a bias by position of its own ({block.attention.bias})"
        found = self._findings(block).against(verb, branch)
        if found is None and verb == "remember":
            return seams.memory_obstacle(block, branch)
        return found

    def _findings(self, block: Block) -> probe.Findings:
        kind = type(block.module), id(block.stack), block.stage
        if kind not in self._known:
            with self.bare():
                self._known[kind] = probe.probe(block, self.owner(block.stack.name))
        return self._known[kind]

    def _require(self, block: Block, verb: str, branch: str) -> None:
        """Nothing, where a verb works.

        Raises:
            ValueError: a trial of the block shows that it does not.
        """
        reason = self.obstacle(block, verb, branch)
        if reason is not None:
            raise UserError(f"{block.name} ({type(block.module).__name__}) cannot {verb} at its {branch}: {reason}")


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
