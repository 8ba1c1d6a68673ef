"""What blocks give, for a model that reads it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy.states import states


class Tap:
    """Takes what blocks give, in the order in which they run, behind all that methods do there.

    Its hooks stay: made anew for each call they would break a compiled graph, as a context manager does in torch 2.11.

    Args:
        blocks: modules.
        read: what a block returned -> the tensor that is taken; called while the pass runs. Default: its states.
    """

    def __init__(self, blocks: Sequence[nn.Module], read: Callable[[Any], Tensor] = states):
        self.read = read
        self.taken: list[Tensor] | None = None  # None: nobody asks
        for block in blocks:
            block.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Takes it, where somebody asks for it now."""
        if self.taken is not None:
            self.taken.append(self.read(output))

    def of(self, run: Callable[[], Any]) -> list[Tensor]:
        """What the blocks gave while `run` ran."""
        self.taken = found = []
        try:
            run()
        finally:
            self.taken = None
        return found
