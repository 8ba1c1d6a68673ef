"""Modules that gave their place to others, until they get it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Displaced(nn.Module):
    """Holds modules that are out of use: they move and change their type with the model, and are no part of its state.

    A child of a module that stays. What it holds has no parameters, buffers or names in the model's eyes.
    """

    def __init__(self, *held: nn.Module):
        super().__init__()
        self.held = list(held)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Displaced:
        for module in self.held:
            module._apply(fn, recurse)
        return super()._apply(fn, recurse)
