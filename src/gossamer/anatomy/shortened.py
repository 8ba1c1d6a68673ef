"""Blocks between whose attention and FFN some tokens become one; behind the last block every token has its place again.

Merging is linear, M h. The block's own sum h + f needs as many rows of f as of h, so f is copied back, U f, and what the block
gives is merged, M (h + U f) = M h + f, because M U = 1. Behind the last block rows are given to every token they stand for, so that
norms, read-outs and heads see what they know: a mean over tokens is then one that weighs rows by their size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from gossamer.anatomy import memory
from gossamer.anatomy.block import Block, get, has
from gossamer.anatomy.memory import Memory
from gossamer.anatomy.seams import Change
from gossamer.anatomy.session import Session
from gossamer.anatomy.states import states, with_states
from gossamer.anatomy.tokens import cut, summed, taken
from gossamer.errors import UserError


@dataclass(frozen=True)
class Merge:
    """Which rows of a stream [B, N, d] become one.

    Attributes:
        rows: [B, N], for every row the one that holds it from now on, 0 to length - 1.
        weights: [B, N], of each row in the one that holds it.
        length: rows from now on.
        mean: divide by the sum of weights; else rows are summed as weighted.
    """

    rows: Tensor
    weights: Tensor
    length: int
    mean: bool = True

    def totals(self) -> Tensor:
        """Sum of weights in each new row, [B, length]."""
        return self.weights.new_zeros(self.rows.shape[0], self.length).scatter_add(1, self.rows, self.weights)

    def merge(self, x: Tensor) -> Tensor:
        """M x: rows [B, N, d] -> [B, length, d]."""
        merged = summed(x * self.weights[:, :, None].to(x.dtype), self.rows, self.length)
        return merged / self.totals()[:, :, None].to(x.dtype) if self.mean else merged

    def copy_back(self, y: Tensor) -> Tensor:
        """U y: rows [B, length, d] -> [B, N, d], so that merging gives y again."""
        if not self.mean:
            y = y / self.totals()[:, :, None].to(y.dtype)
        return taken(y, self.rows)


@dataclass
class Seen:
    """What a part chooses by.

    Attributes:
        queries, keys: [B, N, heads, d_h], as the block's projections give them; queries None where they are not asked for.
        protected: rows in front that stay as they are: class tokens, registers, prompts.
        sizes: [B, N], tokens that each row stands for.
        remembered: keys [B or 1, p, heads, d_h] beside these, of prompts in their exact form.
        scaling: factor of q k^T.
    """

    queries: Tensor | None
    keys: Tensor
    protected: int
    sizes: Tensor
    remembered: Tensor | None
    scaling: float


class Chooser(Protocol):
    """What a method places with `shorten`."""

    asks: bool  # whether it needs queries
    proportional: bool  # whether keys count as often as the tokens that they stand for

    def __call__(self, seen: Seen) -> Merge | None:
        """Which rows become one; None: none do."""
        ...


class Shortened(Change):
    """Between attention and FFN of a pre-norm block some of its rows become one."""

    def __init__(self, block: Block, part: Any, session: Session):
        super().__init__()
        self.block, self.part, self.session = block, part, session
        self.attention_norm, self.ffn_norm = (
            get(block.module, n or "") for n in (block.attention.norm, block.ffn.norm)
        )
        scale = block.ffn.layer_scale
        self.last = get(block.module, scale if scale is not None and has(block.module, scale) else block.ffn.down)
        self.begin()

    def begin(self) -> None:
        """Nothing is known of any pass yet."""
        self.sizes: Tensor | None = None
        self.protected = 0
        self.queries: Tensor | None = None
        self.keys: Tensor | None = None
        self.merging: Merge | None = None
        self.passes = Passes(self.block)

    def apply(self) -> None:
        """Hooks in: inside the stream before what other methods placed there, which then sees merged rows, as the FFN does."""
        self.begin()
        block = self.block
        self.handles = [
            *self.passes.hooks(self.attention_norm, self.ask, self.tell),
            self.ffn_norm.register_forward_pre_hook(self.middle, prepend=True),
            self.last.register_forward_hook(self.widen),
            block.module.register_forward_hook(self.leave, prepend=True),
        ]
        self.merged()

    def merged(self) -> None:
        """Listens to the projections as they are now."""
        block = self.block
        found = memory.memory_of(block.part("attention"))
        if found is not None and self.part.asks:
            found.keeps = True
        if block.attention.fused and not has(block.module, block.attention.q):
            wanted = {block.part("qkv"): self.keep_thirds}
        else:
            wanted = {block.part("k"): self.keep_keys} | (
                {block.part("q"): self.keep_queries} if self.part.asks else {}
            )
        for module, keep in wanted.items():
            if keep not in module._forward_hooks.values():
                self.handles.append(module.register_forward_hook(keep))

    def ask(self, x: Tensor) -> tuple[Tensor, int]:
        """How many tokens each row stands for, and how many rows are protected, as the ledger says."""
        ledger = self.session.ledger(self.block.stack)
        assert ledger is not None, "the column's first block began one"
        return ledger.weights(x), ledger.at + ledger.count

    def tell(self, known: tuple[Tensor, int]) -> None:
        """The same of the pass that runs now."""
        self.sizes, self.protected = known

    def keep_keys(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Keeps keys."""
        self.keys = output

    def keep_queries(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Keeps queries."""
        self.queries = output

    def keep_thirds(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Keeps queries and keys of a fused projection."""
        self.queries, self.keys, _ = output.chunk(3, dim=-1)

    def middle(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The second norm reads merged rows."""
        assert self.keys is not None and self.sizes is not None, "the attention ran"  # noqa: PT018
        self.merging = self.part(self._seen())
        self.queries = self.keys = None
        return None if self.merging is None else (self.merging.merge(args[0]), *args[1:])

    @torch.no_grad()
    def _seen(self) -> Seen:
        width = self.block.head_width
        queries, keys = (
            None if t is None else t.detach().unflatten(-1, (-1, width)) for t in (self.queries, self.keys)
        )
        found = memory.memory_of(self.block.part("attention")) if self.part.asks else None
        remembered = None if found is None or found.kept is None else found.kept.detach().transpose(1, 2)
        assert keys is not None, "the attention ran"
        assert self.sizes is not None, "the block was entered"
        return Seen(
            queries if self.part.asks else None, keys, self.protected, self.sizes, remembered, self.block.scaling
        )

    def widen(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """What the FFN gives, copied back to the rows of the stream."""
        return output if self.merging is None else self.merging.copy_back(output)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The block gives merged rows, and the ledger knows where tokens are."""
        merging, self.merging = self.merging, None
        if merging is None:
            return output
        ledger = self.session.ledger(self.block.stack)
        assert ledger is not None, "the block was entered"
        y = states(output)
        if ledger.length == y.shape[1]:  # else it runs again, together with its hooks
            own = cut(merging.rows, ledger.at, ledger.count, 1)
            ledger.shorten(torch.where(own >= ledger.at, own - ledger.count, own), merging.length - ledger.count)
        return with_states(output, merging.merge(y))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"merging": None}


class Known:
    """What is known of states, for as long as they live, by a pass that a backward pass may make again.

    A compiler makes such passes itself, from what it has traced once: under it nothing is kept, and nothing is found.
    """

    def __init__(self) -> None:
        self.of = WeakIdKeyDictionary()

    def find(self, states: Tensor | None) -> Any:
        """What was kept with these states; None: nothing."""
        return None if torch.compiler.is_compiling() else self.of.get(states)

    def keep(self, value: Any, *states: Tensor | None) -> None:
        """Keeps a value with states that a backward pass may need again."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            for one in states:
                self.of[one] = value

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()


class Passes:
    """What is known of the rows that enter a block, pass by pass.

    Activation checkpointing runs blocks a second time, later, some with the block's hooks and some without, when the ledger is
    that of another pass. So what it said is kept with the states that entered, as they came and as other hooks made them.
    """

    def __init__(self, block: Block):
        self.block = block
        self.known = Known()
        self.came: Tensor | None = None

    def hooks(self, norm: nn.Module, ask: Callable[[Tensor], Any], tell: Callable[[Any], None]) -> list[Any]:
        """On the block, first and last of all, and on the norm that it begins with.

        `ask` gives what is to be known of states, and `tell` is told it when the block begins.
        """
        self.ask, self.tell = ask, tell
        return [
            self.block.module.register_forward_pre_hook(self.come, with_kwargs=True, prepend=True),
            self.block.module.register_forward_pre_hook(self.enter, with_kwargs=True),
            norm.register_forward_pre_hook(self.again),
        ]

    def come(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the states as they came."""
        self.came = self.block.arguments.read(args, kwargs).states

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Asks, or finds what was known."""
        x, came = self.block.arguments.read(args, kwargs).states, self.came
        self.came = None
        found = self.known.find(came)
        if found is None:
            found = self.ask(x)
            self.known.keep(found, x, came)
        self.tell(found)

    def again(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Tells what was known, where the block is run again without its hooks."""
        found = self.known.find(args[0])
        if found is not None:
            self.tell(found)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"came": None}


class Proportional(Change):
    """In the attention of a block a key counts as often as it stands for tokens: log s is added to its logits."""

    def __init__(self, block: Block, session: Session):
        super().__init__()
        self.block, self.session = block, session
        self.norm = get(block.module, block.attention.norm or "")
        self.passes = Passes(block)
        self.memory: Memory | None = None

    def apply(self) -> None:
        """Makes the attention ours and hooks in."""
        self.memory = memory.attach(self.block)
        self.handles = self.passes.hooks(self.norm, self.ask, self.tell)

    def revert(self) -> None:
        """The attention counts keys alike."""
        super().revert()
        assert self.memory is not None, "it was made ours"
        self.memory.log_sizes = self.memory = None
        memory.detach(self.block)

    def ask(self, x: Tensor) -> tuple[Tensor | None]:
        """log s of every row [B, N]; None where each stands for itself."""
        ledger = self.session.ledger(self.block.stack)
        if ledger is None or ledger.sizes is None:
            return (None,)
        return (ledger.weights(x.to(torch.promote_types(x.dtype, torch.float32))).log(),)

    def tell(self, known: tuple[Tensor | None]) -> None:
        """The same to the attention."""
        assert self.memory is not None, "it was made ours"
        (self.memory.log_sizes,) = known


class Narrowed(Change):
    """A block behind gets masks, which models make for all tokens, for the rows that are left; none of them may hide a token."""

    def __init__(self, block: Block, session: Session):
        super().__init__()
        self.block, self.takes, self.session = block, block.arguments, session

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [self.block.module.register_forward_pre_hook(self.enter, with_kwargs=True)]

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The block's arguments with a mask of as many columns as there are rows."""
        call = self.takes.read(args, kwargs)
        mask, rows = call.mask, call.states.shape[1]
        if mask is None or mask.shape[-1] == rows:
            return None
        ledger = self.session.ledger(self.block.stack)
        if ledger is not None and ledger.shows is not mask:
            _require_visible(mask)
            ledger.shows = mask
        call.mask = mask[..., :rows] if mask.dim() == 2 or mask.shape[-2] == 1 else mask[..., :rows, :rows]
        return self.takes.write(call, args, kwargs)


def _require_visible(mask: Tensor) -> None:
    """UserError where a mask hides a token. Blocks of a pass share a mask, so that a device is waited for once.

    A compiled pass does not wait: it ends with torch's own error.
    """
    visible = (mask == 0 if mask.is_floating_point() and mask.dim() > 2 else mask.bool()).all()
    message = "a mask hides some of the tokens, and which of them became one nobody can tell by it"
    if torch.compiler.is_compiling():
        torch._assert_async(visible, message)  # type: ignore[attr-defined]  # the one that needs no value
    elif type(mask) is Tensor and not mask.is_meta and not bool(visible):
        raise UserError(message)


class Restored(Change):
    """Behind the last block of a column every token has a row again."""

    def __init__(self, last: Block, session: Session):
        super().__init__()
        self.last, self.session = last, session
        self.known = Known()
        self.came: Tensor | None = None

    def apply(self) -> None:
        """Hooks in, behind whatever leaves there."""
        self.handles = [
            self.last.module.register_forward_pre_hook(self.come, with_kwargs=True, prepend=True),
            self.last.module.register_forward_hook(self.after),
        ]

    def come(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the states as they came."""
        self.came = self.last.arguments.read(args, kwargs).states

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The rows of all tokens."""
        came, self.came = self.came, None
        found: Any = self.known.find(came)
        if found is None:
            ledger = self.session.ledger(self.last.stack)
            if ledger is None or ledger.places is None:
                return output
            found = ledger.places, ledger.at, ledger.count
            ledger.restore()
            self.known.keep(found, came)
        return with_states(output, restored(states(output), *found))


def restored(y: Tensor, places: Tensor, at: int, count: int) -> Tensor:
    """Rows [B, n, d], `count` of them inserted behind the first `at` -> all tokens, at `places` [B, N] of the other rows."""
    own = cut(y, at, count, 1)
    whole = taken(own, places)
    return torch.cat([whole[:, :at], y[:, at : at + count], whole[:, at:]], dim=1) if count else whole


def obstacle(block: Block) -> str | None:
    """Why tokens of a block cannot become one, in words; None where they can."""
    stack = block.stack
    reasons = {
        "it attends in windows, whose tokens keep their places": stack.windows is not None,
        "its states are rows of all images one after another": stack.packed,
        "its FFN stands beside its attention, not behind it": block.parallel,
        "it is causal: its tokens have an order": stack.causal,
        "its tokens are the places of a map, and the map is read as a whole behind it": stack.modality == "latent",
        "it reads text, whose tokens have an order": stack.modality != "vision",
        "it reads another stack, whose rows nobody merges": block.cross is not None,
        "it is a post-norm block: no norm stands before its attention and its FFN": None
        in (block.attention.norm, block.ffn.norm),
        "its attention has a bias by position": stack.relative_bias or block.attention.bias is not None,
        "its tokens have rotary positions": block.arguments.takes("rotary"),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
