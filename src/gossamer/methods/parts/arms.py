"""What a search may choose among, as methods with arms name it."""

from __future__ import annotations

from typing import NamedTuple


class Arm(NamedTuple):
    """One arm of a method: our name for it, how deep it lies (larger: deeper), and the block that it skips.

    Arms of two columns side by side may lie equally deep. `block` is None where an arm takes nothing away.
    """

    name: str
    depth: int
    block: str | None = None
