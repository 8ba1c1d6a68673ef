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
| `shorten`  | between attention and FFN some tokens become one; behind the last block all are there    |
| `skip`     | a block lets its states pass                                                         |
| `withhold` | a block no longer receives one of its arguments                                      |

Every change is kept in a log and taken back, last first, by `Anatomy.undo`.
"""

from __future__ import annotations

import typing
from contextlib import nullcontext
from typing import Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gossamer.anatomy import inserted, leading, replaced, rewritten, seams, shortened, sight, stream, windows
from gossamer.anatomy.block import Block, Site, get, has
from gossamer.anatomy.changes import Changes
from gossamer.anatomy.projection import quantised
from gossamer.anatomy.said import verb
from gossamer.anatomy.seams import Part
from gossamer.anatomy.stack import FfnNames
from gossamer.errors import UnknownName, UserError

LAYER_SCALES = {"attention": "layer_scale1", "ffn": "layer_scale2"}
Branch = Literal["attention", "cross", "ffn"]
Place = Literal["start", "middle", "end", "attention", "ffn"]


class Anatomy(Changes):
    """The parts of one model, and what methods may do with them."""

    @verb
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
        names: dict[str, Any] = {"attention": block.attention, "cross": block.cross, "ffn": block.ffn}
        if branch not in names:
            raise UnknownName(f"no branch {branch!r}: there are {', '.join(names)}")
        place = names[branch]
        if place is None:
            raise UnknownName(f"{block.name} ({type(block.module).__name__}) has no cross-attention to add to")
        if isinstance(place, FfnNames):
            first, last = place.gate or place.up, place.down
        else:
            fused = place.fused if branch == "attention" else None  # that of cross-attention reads the context
            first, last = place.entry or fused or place.q, place.out
            if fused:
                self.own(block)
        if not normed and place.norm is not None:
            first = place.norm
        if not damped:
            last = next((n for n in (place.layer_scale, place.closing) if n and has(block.module, n)), last)
        if outside and place.after is not None:
            last = place.after
        self._require(block, "add", branch)
        enter, leave, role = get(block.module, first), get(block.module, last), LAYER_SCALES.get(branch, "")
        if not damped and role and isinstance(block.damping(role), Tensor | float):
            readers = [] if branch == "ffn" or block.parallel else self._readers(block)
            self._do(stream.AddedToSum(block, role, enter, leave, readers, part), block, branch)
        else:
            self._do(seams.Added(enter, leave, part), block, branch)

    @verb
    def own(self, block: Block) -> None:
        """A block's attention calls its projections from now on, where the family says that it goes past them.

        Raises:
            TypeError: ours would be another function.
        """
        owned = [change for change in self.log if isinstance(change, seams.Owned) and change.block is block]
        if block.attention.bypassed and not owned:
            self._do(seams.Owned(block), block)

    def _readers(self, block: Block) -> list[nn.Module]:
        """What a block reads the stream behind its attention with: the norm of the next branch, or its first Linears."""
        ffn = block.ffn
        return [get(block.module, name) for name in ([ffn.norm] if ffn.norm else [ffn.gate, ffn.up]) if name]

    @verb
    def rewrite(self, block: Block, role: str, module: nn.Module) -> None:
        """The Linear or norm that plays `role` is replaced by `module`: a `Wrapped`, which holds the old one, or any other.

        A Wrapped is merged in a finished model. For "q", "k" or "v" of a fused projection call `split` first.

        Raises:
            KeyError: the block has no such part.
        """
        block.part(role)
        attention = ("attention", "q", "k", "v", "out", "qkv", "norm1", "closing1", "q_norm", "k_norm", "layer_scale1")
        if role in ("q", "k", "v", "qkv"):
            self.own(block)
        branch = "cross" if role.startswith("cross.") else "attention" if role in attention else "ffn"
        self._swap(f"{block.name}.{block.path(role)}", module, None, block, branch)

    @verb
    def split(self, block: Block) -> None:
        """A fused qkv Linear becomes three Linears over views of the same weights, so that each can be rewritten."""
        fused = block.attention.fused
        if fused is not None and not has(block.module, block.attention.q):
            self.own(block)
            whole = get(block.module, fused)
            if isinstance(whole, nn.Linear) and quantised(whole):
                raise UserError(
                    f"{block.name}.{fused} is quantised ({type(whole).__name__}) and is not split: change all of it"
                )
            if not isinstance(whole, nn.Linear | Conv1D):
                raise UserError(
                    f"{block.name}.{fused} is a {type(whole).__name__} by now, no Linear that could be split into thirds: place "
                    "first what changes one of the thirds"
                )
            thirds = rewritten.SplitLinear(whole, block.fused_rows)
            self._swap(f"{block.name}.{fused}", thirds, None, block, "attention")

    @verb
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
        untied = rewritten.finish(self.model, self.log)
        for change in self.log:
            change.merged()
        return untied

    @verb
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
        last = block.cross or block.attention
        if at not in ("start", "end"):
            self._require(block, "middle", at)
        if at in ("start", "end"):
            self._do((stream.Start if at == "start" else stream.End)(block.module, part), block)
        elif at in ("attention", "ffn"):
            self._do(self._reads(block, part, at, normed, first), block, at)
        elif last.after is not None:
            self._do(stream.MiddlePostNorm(block, part), block, at)
        else:
            self._do(stream.Between(block.module, self._readers(block), part), block, at)

    def _reads(self, block: Block, part: Part, at: str, normed: bool, first: bool) -> stream.Reads:
        before = block.attention.norm
        if before is None and (first or at == "attention"):
            raise UnknownName(f"no norm stands before the attention of {block.name}, a post-norm block")
        firsts, packed = None, block.stack.packed is not None
        if first and before:
            firsts = stream.Firsts(block.module, get(block.module, before), self.session, packed)
        norm = before if at == "attention" else block.ffn.norm
        modules = [get(block.module, n) for n in ([norm] if norm else (block.ffn.gate, block.ffn.up)) if n]
        return stream.Reads(modules, part, behind=norm is not None, normed=normed, firsts=firsts)

    @verb
    def remember(self, block: Block, part: Part, branch: Branch = "attention") -> None:
        """The block's self-attention, or its cross-attention (`branch`), also attends to part(batch) = keys, values.

        Each is [1 or B, p, inner_kv], for every query. One joint softmax over remembered and own keys; remembered keys carry no
        rotary position and no relative bias. TypeError where a trial shows that it cannot.
        """
        self._check_remembers(block, branch)
        self._do(seams.Remembered(block, part, branch), block, branch)

    @verb
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
        if stay and (why := self.must_leave(first)) is not None:
            raise UserError(f"tokens cannot stay in {why}")
        tap = self.tap(first)
        if tap is not None and first is not last:
            raise UserError(
                f"tokens cannot run through the vision stack of {type(self.model).__name__}: it reads the states behind block "
                f"{tap}, and would find too many; tokens of single blocks can (VPT with deep=True)"
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
            self._require(first, "insert", "attention")
            norm = self.model.get_submodule(self.around(first.stack.name)["norm"])
            self._do(windows.WindowInserted(norm, span, part, self.session, stay))
            return
        self._count(first)
        others = [c for c in self.columns(first.stack.name) if c[0].stack is not first.stack]
        beside = [b for column in others for b in column[start:end]]
        self._do(inserted.Inserted(span, part, self.session, stay, beside=beside, read=read))

    @verb
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

    @verb
    def shorten(self, block: Block, part: shortened.Chooser) -> None:
        """Between attention and FFN of a pre-norm block some tokens become one, as part(seen) chooses; see `shortened`.

        Where `part.proportional`, keys of the blocks behind count as often as they stand for tokens. Behind the column's last block
        every token has a row again. What is placed in the block before is not reached by it: methods that shorten come last.

        Raises:
            UserError: tokens of such a block cannot become one; the message says why.
        """
        self._require(block, "shorten", "attention")
        if (tap := self.tap(block)) is not None:
            raise UserError(
                f"{block.name} cannot shorten: {type(self.model).__name__} reads the states of its {block.stack.name} stack behind "
                f"block {tap}, and would find too few; only behind the last block every token has a row again"
            )
        self._count(block)
        column = self.column(block)
        self._do(shortened.Shortened(block, part, self.session), block, "middle")
        gone = {site.block.key for site in self.sites}
        told = {c.block.key for c in self.log if isinstance(c, shortened.Proportional)}
        narrow = {c.block.key for c in self.log if isinstance(c, shortened.Narrowed)}
        for behind in column[column.index(block) + 1 :]:
            if behind.key not in gone | narrow:
                self._do(shortened.Narrowed(behind, self.session), behind)
        waiting = [b for b in column[column.index(block) + 1 :] if part.proportional and b.key not in gone | told]
        with self.bare() if waiting else nullcontext():  # what methods placed inside would answer a trial as well
            # A block whose attention gives nothing shows nothing in a trial: one of its kind is enough.
            answers = {type(b.module): [c for c in waiting if type(c.module) is type(b.module)] for b in waiting}
            for alike in answers.values():
                if all(self.obstacle(b, "remember") is not None for b in alike):
                    self._require(alike[0], "remember", "attention")
        for behind in waiting:
            self._do(shortened.Proportional(behind, self.session), behind, "attention")
        if not any(isinstance(c, shortened.Restored) and c.last is column[-1] for c in self.log):
            self._do(shortened.Restored(column[-1], self.session))

    @verb
    def look(self, part: sight.Reader) -> None:
        """part(states) keeps what it makes of the image tower's states [I, N, d_v], once per image; see `gossamer.anatomy.sight`.

        Raises:
            TypeError: the model is not composed of a vision tower and a language model.
        """
        self._do(seams.Looked(sight.of(self.model).readers, part))

    @verb
    def skip(self, block: Block) -> None:
        """The block computes nothing: its states pass."""
        self._do(seams.Skipped(block.module))

    @verb
    def withhold(self, block: Block, meaning: str) -> None:
        """The block gets None for one of its arguments ("bias", "mask": see `call.Call`), whatever the model passes on."""
        self._do(seams.Withheld(block.module, meaning))

    @verb
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
        if site.branch == "attention" and isinstance(site.block.damping("layer_scale1"), Tensor | float):
            raise UserError(
                f"{site.block.name} damps its attention in the sum itself ({site.block.attention.layer_scale}), and would "
                "damp what takes its place: replace whole blocks"
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

    @verb
    def observe(self, block: Block, part: nn.Module, *, at: Literal["start", "end"] = "start") -> None:
        """part(x) is called with the states x [B, N, d] that enter the block, or leave it ("end"); its result is ignored."""
        self._do(seams.Observed(block, part, at))

    @verb
    def enter(self, block: Block, part: nn.Module) -> None:
        """Tokens that enter a column at its first block, before modality types are added, become part(tokens), [B, n, d] both.

        Raises:
            ValueError: the family does not name the place.
        """
        if block.stack.entrance is None:
            raise UserError(f"nothing marks where tokens enter the {block.stack.name} stack")
        self._do(seams.Entered(get(self.owner(block.stack.name), block.stack.entrance), part))
