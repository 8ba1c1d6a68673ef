"""Which of torch's attentions a training step uses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from gossamer.anatomy import Anatomy
from gossamer.cost.counting import Sample
from gossamer.runs.run import Training

SHORT = 256  # tokens up to which, on a CPU in bfloat16, plain steps take no longer; see docs/decisions.md


def attention(chosen: Training) -> AbstractContextManager[Any]:
    """A context for forward and backward pass with the run's `attention`; recomputed activations need the same in both.

    An `auto` that nobody has settled is torch's choice.
    """
    return sdpa_kernel(SDPBackend.MATH) if chosen.attention == "plain" else nullcontext()


def settled(chosen: Training, anatomy: Anatomy, sizes: Mapping[str, Any]) -> Training:
    """The settings with no `auto` left of `attention`: plain on a CPU in bfloat16 for images of at most `SHORT` tokens.

    Args:
        chosen: settings.
        anatomy: of the model that is trained.
        sizes: of an item, as a task gives them (`Task.sizes`).
    """
    if chosen.attention != "auto":
        return chosen
    slow = chosen.bfloat16 and next(anatomy.model.parameters()).device.type == "cpu"
    plain = slow and 0 < _longest(anatomy, sizes) <= SHORT
    return dataclasses.replace(chosen, attention="plain" if plain else "fused")


def _longest(anatomy: Anatomy, sizes: Mapping[str, Any]) -> float:
    """Tokens of an item in the stack that has most of them; 0 where no family knows the model, no limit where it reads texts.

    Packed, all items of a batch are one.
    """
    if any(block.stack.packed or block.stack.modality in ("text", "both") for block in anatomy):
        return math.inf
    sample = Sample.of(anatomy.model, sizes.get("image_size"), sizes.get("tokens"))
    return max(sample.tokens(anatomy).values(), default=0)
