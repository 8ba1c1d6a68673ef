"""A bar over anything that takes a while."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def shown(items: Sequence[T], of: str) -> Iterable[T]:
    """The items, with a bar on the terminal (stderr) that says how many are done; without a terminal nothing is shown."""
    console = Console(stderr=True)
    return track(items, of, console=console, transient=True, disable=not console.is_terminal)
