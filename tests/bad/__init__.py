"""Cases of bad files, by kind.

A case is a name, what is made in a folder and read, and what the sentence about it must name; None where reading gives something.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Read = Callable[[Path], Any]
Case = tuple[str, Read, "str | None"]
