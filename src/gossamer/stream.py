"""Changes of the residual stream: at a block's start or end, between its attention and FFN, or in what the FFN alone reads."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gossamer.seams import Change, as_states, states, tokens_of, with_states


class Start(Change):
    """A block reads x + part(x)."""

    def __init__(self, block: nn.Module, part: nn.Module):
        super().__init__()
        self.block, self.part = block, part
        self.name = next(iter(inspect.signature(block.forward).parameters))

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [self.block.register_forward_pre_hook(self.before, with_kwargs=True)]

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The block's arguments, the states with the part's answer."""
        x = args[0] if args else kwargs[self.name]
        x = x + as_states(self.part(tokens_of(x)), x)
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {self.name: x})


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


class MiddlePreNorm(Change):
    """x + part(x) between attention and FFN of a pre-norm block.

    The block reads that stream twice: through its second norm, and in its last sum. Both get the addition.
    """

    def __init__(self, block: nn.Module, norm: nn.Module, part: nn.Module):
        super().__init__()
        self.block, self.norm, self.part = block, norm, part
        self.addition: Tensor | None = None

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [
            self.norm.register_forward_pre_hook(self.before_norm),
            self.block.register_forward_hook(self.after_block, prepend=True),  # before inserted tokens leave
        ]

    def before_norm(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The norm reads x + part(x)."""
        self.addition = self.part(args[0])
        return (args[0] + self.addition, *args[1:])

    def after_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The block's last sum, which used x, gets part(x) as well."""
        addition, self.addition = self.addition, None
        assert addition is not None, "the norm runs before the block ends"
        y = states(output)
        return with_states(output, y + as_states(addition, y))


class MiddlePostNorm(Change):
    """x + part(x) behind the normalisation that ends the attention of a post-norm block."""

    def __init__(self, norm: nn.Module, part: nn.Module):
        super().__init__()
        self.norm, self.part = norm, part

    def apply(self) -> None:
        """Hooks in."""
        self.handles = [self.norm.register_forward_hook(self.after_norm)]

    def after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Adds the part's answer to the normalised states."""
        return output + self.part(output)


class FfnReads(Change):
    """The FFN reads norm(x) + part(x), or x + part(x) where no norm stands before it; the residual sum has x as it was."""

    def __init__(self, readers: Sequence[nn.Module], part: nn.Module, *, behind: bool):
        super().__init__()
        self.readers, self.part, self.behind = list(readers), part, behind

    def apply(self) -> None:
        """Hooks in, behind the norm or before the first Linears."""
        if self.behind:
            self.handles = [norm.register_forward_hook(self.after_norm) for norm in self.readers]
        else:
            self.handles = [linear.register_forward_pre_hook(self.before_linear) for linear in self.readers]

    def after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """norm(x) + part(x)."""
        return output + self.part(args[0])

    def before_linear(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """x + part(x)."""
        return (args[0] + self.part(args[0]), *args[1:])
