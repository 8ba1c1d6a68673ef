"""Changes of the residual stream: at a block's start or end, between its attention and FFN, or in what the FFN alone reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from gossamer.anatomy.block import get
from gossamer.anatomy.call import Arguments, Call
from gossamer.anatomy.replaced import first_token
from gossamer.anatomy.seams import Change
from gossamer.anatomy.session import Session
from gossamer.anatomy.states import answer, as_states, states, tokens_of, with_states

if TYPE_CHECKING:
    from gossamer.anatomy.block import Block


class Start(Change):
    """A block reads x + part(x)."""

    def __init__(self, block: nn.Module, part: nn.Module):
        super().__init__()
        self.block, self.part, self.takes = block, part, Arguments(block)

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [self.block.register_forward_pre_hook(self.before, with_kwargs=True)]

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The block's arguments, the states with the part's answer."""
        call = self.takes.read(args, kwargs)
        call.states = call.states + as_states(self.part(tokens_of(call.states)), call.states)
        return self.takes.write(call, args, kwargs)


class End(Change):
    """A block returns y + part(y)."""

    def __init__(self, block: nn.Module, part: nn.Module):
        super().__init__()
        self.block, self.part = block, part

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [self.block.register_forward_hook(self.after)]

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """What the block returns, the states with the part's answer."""
        y = states(output)
        return with_states(output, y + as_states(self.part(tokens_of(y)), y))


class Between(Change):
    """x + part(x) between attention and FFN, where the block reads that stream twice: in its FFN, and in its last sum.

    Both get the addition. `readers` are what the FFN reads the stream with: the norm before it, or its first Linears.
    """

    def __init__(self, block: nn.Module, readers: Sequence[nn.Module], part: nn.Module):
        super().__init__()
        self.block, self.readers, self.part = block, list(readers), part
        self.addition: Tensor | None = None

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [
            *(reader.register_forward_pre_hook(self.before_reader) for reader in self.readers),
            self.block.register_forward_hook(self.after_block, prepend=True),  # before inserted tokens leave
        ]

    def answer(self, x: Tensor | None) -> Tensor:
        """What is added to the stream x between."""
        assert x is not None, "what reads the stream was given it"
        return answer(self.part, x)

    def before_reader(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What reads the stream reads x + part(x)."""
        if module is self.readers[0]:
            self.addition = self.answer(args[0])
        return (args[0] + self.addition, *args[1:])

    def after_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The block's last sum, which used x, gets part(x) as well."""
        addition, self.addition = self.addition, None
        assert addition is not None, "what reads the stream runs before the block ends"
        y = states(output)
        return with_states(output, y + as_states(addition, y))


class AddedToSum(Between):
    """s branch(x) + part(x, s branch(x)), where the block damps a branch by a parameter or number s in its sum.

    Nothing stands between s and the sum, so the addition goes where the sum is read: of an attention as between it and the FFN,
    of an FFN (without `readers`) at the block's end.
    """

    def __init__(
        self, block: Block, role: str, enter: nn.Module, leave: nn.Module, readers: Sequence[nn.Module], part: Any
    ):
        super().__init__(block.module, readers, part)
        self.damps, self.role, self.enter, self.leave = block, role, enter, leave
        self.x: Tensor | None = None
        self.given: Tensor | None = None

    def apply(self) -> None:
        """Hooks in."""
        super().apply()
        self.handles += [
            self.enter.register_forward_pre_hook(self.entered),
            self.leave.register_forward_hook(self.left),
        ]

    def entered(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Keeps the branch's input."""
        self.x = args[0]

    def left(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the branch's output."""
        self.given = output
        if not self.readers:
            self.addition = self.answer(None)

    def answer(self, x: Tensor | None) -> Tensor:
        """The part's, for what the branch read and gave."""
        assert self.x is not None, "the branch was entered"
        assert self.given is not None, "the branch was left"
        found = answer(self.part, self.x, self.damps.damped(self.role, self.given))
        self.x = self.given = None
        return found


class MiddlePostNorm(Change):
    """x + part(x) behind the normalisation that ends the last attention of a post-norm block.

    That of its cross-attention, or of its self-attention where a call gives nothing to attend to: a decoder that runs alone.
    """

    def __init__(self, block: Block, part: nn.Module):
        super().__init__()
        self.block, self.part, self.takes = block.module, part, Arguments(block.module)
        after = [branch.after for branch in (block.attention, block.cross) if branch is not None]
        self.norms = [get(block.module, name) for name in after if name is not None]
        self.last = self.norms[-1]

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [norm.register_forward_hook(self.after_norm) for norm in self.norms]
        if len(self.norms) > 1:
            self.handles.append(self.block.register_forward_pre_hook(self.before, with_kwargs=True))

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Sees which attention is the last one of this call."""
        self.last = self.norms[0 if self.takes.read(args, kwargs).context is None else 1]

    def after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Adds the part's answer to the normalised states."""
        return output + answer(self.part, output) if module is self.last else output


class Reads(Change):
    """A branch reads u + part(u) in place of u, its normalised input; the residual sum has x as it was.

    Without `normed` the part gets x. Where no norm stands before the branch, u = x, and its first Linears read the sum. With
    `firsts` the part also gets the first token of each sequence, part(u, first).
    """

    def __init__(
        self, readers: Sequence[nn.Module], part: nn.Module, *, behind: bool, normed: bool, firsts: Firsts | None = None
    ):
        super().__init__()
        self.readers, self.part = list(readers), part
        self.behind, self.normed, self.firsts = behind, normed, firsts

    def apply(self) -> None:
        """Hooks in, behind the norm or before the first Linears."""
        if self.firsts is not None:
            self.handles = self.firsts.hooks()
        if self.behind:
            self.handles += [norm.register_forward_hook(self.after_norm) for norm in self.readers]
        else:
            self.handles += [linear.register_forward_pre_hook(self.before_linear) for linear in self.readers]

    def answer(self, u: Tensor) -> Tensor:
        """The part's."""
        if self.firsts is None:
            return answer(self.part, u)
        rows = u.reshape(self.firsts.samples, -1, u.shape[-1])  # OPT's FFN reads the rows of all samples at once
        found = self.part(rows, first_token(rows, self.firsts.now, self.part, self.firsts.session, self.firsts.packed))
        return found.reshape(u.shape)

    def after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """u + part(u), or u + part(x)."""
        if self.suspended:
            return output
        return output + self.answer(output if self.normed else args[0])

    def before_linear(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """x + part(x)."""
        return (args[0] + self.answer(args[0]), *args[1:])


class Firsts:
    """What tells the first token of a sequence inside a block: the mask, the cache and the bounds that it was called with.

    Checkpointing runs what is inside a block a second time, later, and without the block's own hooks. In training the arguments
    are therefore found by the states they came with.
    """

    def __init__(self, block: nn.Module, norm: nn.Module, session: Session, packed: bool):
        self.block, self.norm, self.session, self.takes, self.packed = block, norm, session, Arguments(block), packed
        self.now, self.samples = Call(), 0
        self.known = WeakIdKeyDictionary()

    def hooks(self) -> list[Any]:
        """On the block and on the norm that it begins with."""
        return [
            self.block.register_forward_pre_hook(self.enter, with_kwargs=True),
            self.norm.register_forward_pre_hook(self.begin),
        ]

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the arguments."""
        call = self.takes.read(args, kwargs)
        self.now = Call(mask=call.mask, cache=call.cache, bounds=call.bounds)
        self.samples = len(tokens_of(call.states))
        if self.block.training:
            self.now.cache = None  # as transformers does while it checkpoints
            self.known[call.states] = self.now

    def begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Finds those of these states again."""
        known = self.known.get(args[0]) if self.block.training else None
        self.now = self.now if known is None else known

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"now": Call(), "known": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, known=WeakIdKeyDictionary())
