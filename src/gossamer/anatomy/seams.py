"""The changes that verbs make to a model, each with its way back.

A change hooks or swaps modules of the backbone and calls a *part*: the module a method placed there. Hooks are bound methods of
these small objects, never closures, so that a changed model can be copied, pickled and compiled. Parts belong to the method's
own tree of modules; the backbone's tree, and with it its state dict, stays as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gossamer.anatomy import memory
from gossamer.anatomy.call import Arguments
from gossamer.anatomy.remembering import remembering
from gossamer.anatomy.states import answer, states, tokens_of, with_states
from gossamer.errors import UserError, WrongKind

if TYPE_CHECKING:
    from gossamer.anatomy.block import Block


class Part(nn.Module):
    """What a method places in a model, and the owner of what is trained there.

    Attributes:
        ready: whether it can be used; one that waits for training data (a method's `prepare`) says no, and refuses to answer.
    """

    ready: bool = True

    def finalize(self) -> None:
        """Turns itself and its children, in place, into their cheapest equal form for inference. Default: nothing to gain."""
        for child in self.children():
            if isinstance(child, Part):
                child.finalize()

    def release(self) -> None:
        """Lets go of what has been merged into the model, in place. Default: nothing was."""
        for child in self.children():
            if isinstance(child, Part):
                child.release()

    def borrow(self, **others: Any) -> None:
        """Keeps what belongs to somebody else under these names: no children, which would be trained and saved here too."""
        self.__dict__.update(others)


class Change:
    """One change of a model; `revert` restores exactly what `apply` found.

    `place` is the block and its branch, or "middle", that it changes; "around" where what the block computes does not matter.
    """

    place: tuple[Block | None, str] = (None, "around")
    part: Any = None  # the module that a method placed there
    said: Any = None  # the call of a verb (`said.Said`) that asked for it
    suspended = False  # while something else stands in place of the branch, whose norm and projections only pass on

    def __init__(self) -> None:
        self.handles: list[Any] = []

    def apply(self) -> None:
        """Makes the change."""
        raise TypeError(f"{type(self).__name__} does not say what it changes")

    def revert(self) -> None:
        """Takes the change back."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def merged(self) -> None:
        """What is placed in the model has been merged into it: other modules may stand where this listens. Default: it does not."""

    def __getstate__(self) -> dict[str, Any]:
        # A forward pass that was cut short may have left activations behind; they are not state.
        return {k: (None if isinstance(v, Tensor) else v) for k, v in self.__dict__.items()}


class Owned(Change):
    """An attention that goes past its projections gives its place to one of ours, which calls them."""

    def __init__(self, block: Block):
        super().__init__()
        self.block = block

    def apply(self) -> None:
        """Puts ours in place; TypeError where a probe shows that it is another function."""
        reason = memory_obstacle(self.block)
        if reason is not None:
            raise WrongKind(f"nothing can be placed in the attention of {self.block.name}: {reason}")
        memory.attach(self.block)

    def revert(self) -> None:
        """Gives the attention its place back."""
        memory.detach(self.block)


class Added(Change):
    """branch(x) + part(x, branch(x)), from the input of `enter` to the output of `leave`."""

    def __init__(self, enter: nn.Module, leave: nn.Module, part: nn.Module):
        super().__init__()
        self.enter, self.leave, self.part = enter, leave, part
        self.x: Tensor | None = None

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [
            self.enter.register_forward_pre_hook(self.entered),
            self.leave.register_forward_hook(self.left),
        ]

    def entered(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Keeps the branch's input until the branch is done."""
        self.x = args[0]

    def left(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Adds the part's answer to the branch's output; an FFN of experts may give their scores beside it."""
        x, self.x = self.x, None
        if self.suspended:
            return output
        if x is None:
            raise UserError(
                f"{type(self.part).__name__} stands from a {type(self.enter).__name__} to the {type(self.leave).__name__} that "
                "ends the same branch, and the branch ran without the first: its weights were fused, or what calls it was "
                "exchanged; take that back"
            )
        given = states(output)
        return with_states(output, given + answer(self.part, x, given))


class Entered(Change):
    """part(tokens) instead of the tokens that a module gives."""

    def __init__(self, module: nn.Module, part: nn.Module):
        super().__init__()
        self.module, self.part = module, part

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [self.module.register_forward_hook(self.after)]

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The part's answer."""
        return self.part(output)


class Observed(Change):
    """part(x) is shown the states that enter a block, or those that leave it."""

    def __init__(self, block: Block, part: nn.Module, at: str = "start"):
        super().__init__()
        self.block, self.part, self.at = block, part, at

    def apply(self) -> None:
        """Hooks in."""
        module = self.block.module
        if self.at == "end":
            self.handles = [module.register_forward_hook(self.after)]
        else:
            self.handles = [module.register_forward_pre_hook(self.before, with_kwargs=True)]

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Shows the states, changes nothing."""
        self.part(tokens_of(self.block.arguments.read(args, kwargs).states))

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Shows the states, changes nothing."""
        self.part(tokens_of(states(output)))


class Remembered(Change):
    """Attention that also attends to keys and values which a part supplies (see `gossamer.anatomy.memory`)."""

    def __init__(self, block: Block, part: nn.Module, branch: str):
        super().__init__()
        self.block, self.part, self.branch = block, part, branch

    def apply(self) -> None:
        """Gives the attention its memory."""
        memory.attach(self.block, self.branch).parts.append(self.part)

    def revert(self) -> None:
        """Takes the memory away."""
        found = memory.memory_of(self.block.part(self.branch))
        assert found is not None, "it was given one"
        found.parts.remove(self.part)
        memory.detach(self.block, self.branch)


def memory_obstacle(block: Block, branch: str = "attention") -> str | None:
    """Why a block's attention cannot take extra keys and values, or None where a probe shows that it can."""
    return remembering(block, branch)


class Skipped(Change):
    """A block lets its states pass as they are."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def apply(self) -> None:
        """Stands in for the block's computation; its parts stay where they are."""
        self.block.forward = self.passed

    def revert(self) -> None:
        """The block computes again."""
        del self.block.__dict__["forward"]

    def passed(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x -> x."""
        return hidden_states


class Withheld(Change):
    """A block no longer receives one of its arguments."""

    def __init__(self, block: nn.Module, meaning: str):
        super().__init__()
        self.block, self.takes, self.meaning = block, Arguments(block), meaning

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [self.block.register_forward_pre_hook(self.before, with_kwargs=True)]

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The block's arguments without that one."""
        call = self.takes.read(args, kwargs)
        setattr(call, self.meaning, None)
        return self.takes.write(call, args, kwargs)


class Looked(Change):
    """A part joins those that look at images for a composed model."""

    def __init__(self, readers: list[nn.Module], part: nn.Module):
        super().__init__()
        self.readers, self.part = readers, part

    def apply(self) -> None:
        """Joins."""
        self.readers.append(self.part)

    def revert(self) -> None:
        """Leaves."""
        self.readers.remove(self.part)
