"""Activation checkpointing of a frozen backbone: time for memory, the same numbers.

transformers checkpoints a block only while the block is in training mode, and a frozen backbone is in evaluation mode, so that
mode is set on the block alone and not on what is inside. Never re-entrant: methods reach blocks from outside their arguments.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from gossamer.errors import UserError


def never_reentrant(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Options of torch's checkpointing with `use_reentrant` off.

    Raises:
        ValueError: re-entrant checkpointing was asked for.
    """
    kwargs = dict(kwargs or {})
    if kwargs.setdefault("use_reentrant", False):
        raise UserError("use_reentrant=True would lose the gradients of what methods place in a block; use False")
    return kwargs


def prepare(block: nn.Module, owner: nn.Module) -> None:
    """Puts a block that is to be checkpointed in training mode, and nothing inside it.

    Where the model that runs it decides by that mode as well whether its blocks get a cache (GPT-2), it gets the mode too.

    Raises:
        ValueError: the block itself draws dropout in that mode (BART), which a frozen backbone must not.
    """
    if not getattr(block, "gradient_checkpointing", False):
        return
    if getattr(owner, "gradient_checkpointing", False) and not getattr(owner, "layerdrop", 0):
        owner.training = True
    rate = getattr(block, "dropout", 0.0)
    if isinstance(rate, float) and rate > 0:
        raise UserError(
            f"{type(block).__name__} draws dropout whenever it checkpoints (rate {rate}), and a frozen backbone must not: "
            "load the model with dropout=0.0, or train without gradient checkpointing"
        )
    block.training = True
