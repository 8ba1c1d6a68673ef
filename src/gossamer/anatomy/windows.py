"""Tokens inserted where attention is in windows: they stand in front of every window, and beside the grid of patches.

A block of such a family reshapes its states to a grid, so inserted tokens cannot travel in the sequence. Every window of a sample
gets a copy of the sample's tokens in front; behind the attention a token is the mean of its copies; then comes the FFN. Where
patches are merged between stages, a token is taken for four equal patches. Tokens that stay come before the last norm again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import memory
from gossamer.anatomy.block import Block, get
from gossamer.anatomy.inserted import Inserted
from gossamer.anatomy.session import Session
from gossamer.anatomy.states import states, tokens_of, with_states
from gossamer.errors import UserError


def into_windows(tokens: Tensor, windows: Tensor) -> Tensor:
    """Tokens [B, p, d] in front of each of their sample's windows [B n, w, d], which lie together -> [B n, p + w, d]."""
    count = windows.shape[0] // tokens.shape[0]
    return torch.cat([tokens.repeat_interleave(count, dim=0).to(windows.dtype), windows], dim=1)


def out_of_windows(windows: Tensor, samples: int, count: int) -> tuple[Tensor, Tensor]:
    """Windows [B n, p + w, d] -> the mean of each of the p tokens over its sample's windows [B, p, d], and the rest."""
    tokens = windows[:, :count].unflatten(0, (samples, -1)).mean(dim=1)
    return tokens, windows[:, count:]


def merge(tokens: Tensor, merging: Any, *, norms_last: bool = False) -> Tensor:
    """Tokens [B, p, d] as a merging of patches makes them of four equal ones -> [B, p, 2 d]."""
    four = tokens.repeat(1, 1, 4)
    return merging.norm(merging.reduction(four)) if norms_last else merging.reduction(merging.norm(four))


class WindowInserted(Inserted):
    """Tokens enter before the first block of a span of windowed blocks, and leave after its last, or stay."""

    def __init__(self, norm: nn.Module, span: list[Block], part: nn.Module, session: Session, stay: bool):
        super().__init__(span, part, session, stay)
        self.norm = norm  # behind the last block
        self.walked = [WindowedBlock(block) for block in span]
        for one, two in zip(self.walked, self.walked[1:], strict=False):
            one.following = two

    def apply(self) -> None:
        """Hooks into blocks and their attentions, which become ours, and before the last norm.

        Raises:
            ValueError: a block of the span was replaced by something that has no windows.
        """
        for block in self.span:
            if "forward" in block.module.__dict__:
                raise UserError(f"tokens cannot pass {block.name}: it was replaced, and they live in its windows")
        for walked in self.walked:
            self.handles += walked.apply()
        self.handles.append(self.span[0].module.register_forward_pre_hook(self.enter, with_kwargs=True))
        if self.stay:
            self.handles.append(self.norm.register_forward_pre_hook(self.read_tokens))

    def revert(self) -> None:
        """Takes everything back, the attentions too."""
        for walked in reversed(self.walked if self.handles else []):
            walked.revert()
        super().revert()

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The first block gets the tokens of the part."""
        x = self.span[0].arguments.read(args, kwargs).states
        self.walked[0].tokens = self.part(tokens_of(x)).to(x.dtype)

    def read_tokens(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The last norm reads the tokens too, in front; a grid [B, h, w, d] becomes one row of all."""
        tokens, x = self.walked[-1].left, args[0]
        assert tokens is not None, "the norm runs behind the blocks"
        all_of_it = torch.cat([tokens, tokens_of(x)], dim=1)
        ledger = self.session.begin(self.span[0].stack, 0, all_of_it.shape[1] - tokens.shape[1])
        ledger.enter(self, tokens.shape[1])
        return (all_of_it if x.dim() == 3 else all_of_it[:, None], *args[1:])


class WindowedBlock:
    """One block of a span: its attention gets the tokens in every window, and they get its FFN.

    `tokens` are kept until the next forward pass, because a checkpointed block runs once more in the backward pass.
    """

    def __init__(self, block: Block):
        self.block, self.following = block, None
        self.following: WindowedBlock | None = None
        self.tokens: Tensor | None = None  # that enter the block
        self.middle: Tensor | None = None  # behind its attention
        self.read: Tensor | None = (
            None  # what the FFN's norm, or first Linear, has read last, additions of other methods included
        )
        self.left: Tensor | None = None  # that leave it

    def apply(self) -> list[Any]:
        """Makes the attention ours and hooks in; before what other methods hooked, which then see the tokens as well."""
        memory.attach(self.block)
        attention, module = self.block.part("attention"), self.block.module
        return [
            attention.register_forward_pre_hook(self.before_attention, prepend=True),
            attention.register_forward_hook(self.after_attention),
            self.block.part("norm2" if self.block.ffn.norm else "up").register_forward_hook(self.after_reader),
            module.register_forward_hook(self.after),
        ]

    def revert(self) -> None:
        """Gives the attention back."""
        memory.detach(self.block)

    def before_attention(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The windows with the normalised tokens in front."""
        assert self.tokens is not None, "the tokens entered"
        tokens = self.block.part("norm1").forward(self.tokens) if self.block.attention.norm else self.tokens
        return (into_windows(tokens, args[0]), *args[1:])

    def after_attention(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The windows alone; the tokens get what the attention made of them."""
        assert self.tokens is not None, "the tokens entered"
        attended, windows = out_of_windows(states(output), *self.tokens.shape[:2])
        closing = self.block.active("closing1")
        self.middle = self.tokens + (attended if closing is None else closing.forward(attended))
        return with_states(output, windows)

    def _fed(self, x: Tensor) -> Tensor:
        """What the FFN makes of tokens, by the modules around its two Linears, with what other methods placed there."""
        ffn = self.block.ffn
        if ffn.norm:
            x = self.block.part("norm2")(x)
        for name in dict.fromkeys(path.rpartition(".")[0] for path in (ffn.up, ffn.down)):
            x = get(self.block.module, name)(x)
        closing = self.block.active("closing2")
        return x if closing is None else closing(x)

    def after_reader(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the stream between attention and FFN as the FFN reads it."""
        self.read = args[0]

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The tokens go through norm and FFN, with what other methods placed there, and are handed to the next block."""
        assert self.middle is not None, "the attention ran"
        answer = self._fed(self.middle)
        assert self.read is not None, "the norm read the tokens"
        left = self.left = self.read + answer
        self.read = None
        if self.following is not None:
            merging = self.following.block.merging
            last = self.following.block.stack.windows
            assert last is not None, "all of them have windows"
            self.following.tokens = left if merging is None else merge(left, merging, norms_last=last.norms_last)

    def __getstate__(self) -> dict[str, Any]:
        # What a forward pass has left behind is not state.
        return {k: (None if isinstance(v, Tensor) else v) for k, v in self.__dict__.items()}
