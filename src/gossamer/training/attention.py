"""Which of torch's attentions a training step uses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from gossamer.runs.run import Training


def attention(chosen: Training) -> AbstractContextManager[Any]:
    """A context for forward and backward pass with the run's `attention`; recomputed activations need the same in both."""
    return sdpa_kernel(SDPBackend.MATH) if chosen.attention == "plain" else nullcontext()
