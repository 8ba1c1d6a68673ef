"""Gossamer: adapt vision and vision-language transformers by training a sliver of their parameters, and leave them cheap to run.

The whole public surface. Names are imported when they are first used, so that `import gossamer` costs nothing. Methods are not
listed here: every class that a file of `gossamer/methods` decorates with `@method` is offered under its own name.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.version import __version__

_WHERE = {
    "adapt": "gossamer.adapting",
    "Adapted": "gossamer.adapting",
    "load": "gossamer.adapting",
    "load_finished": "gossamer.adapting",
    "AdapterError": "gossamer.storage",
    "Mixed": "gossamer.mixed",
    "read": "gossamer.reading",
    "condense": "gossamer.condensation",
    "VisionLanguage": "gossamer.models.vision_language",
    "ZeroShot": "gossamer.models.zero_shot",
    "Segmenter": "gossamer.models.segmenter",
    "Decoder": "gossamer.models.segmenter",
    "METHODS": "gossamer.methods",
    "CostSheet": "gossamer.cost",
    "search": "gossamer.searching.search",
    "Search": "gossamer.runs.run",
    "Bandit": "gossamer.methods.parts.bandit",
}
_MODULES = (
    *("anatomy", "comparison", "condensation", "cost", "data", "evaluate", "export", "methods", "recipes"),
    *("runs", "storage", "tasks", "training", "zoo"),
)
_METHOD = re.compile(r"^@method\n(?:@.+\n)*class (\w+)", re.MULTILINE)

# Read from the source, not imported: the methods need torch.
_WHERE |= {
    name: f"gossamer.methods.{file.stem}"
    for file in sorted((Path(__file__).parent / "methods").glob("*.py"))
    for name in _METHOD.findall(file.read_text(encoding="utf-8"))
}

__all__ = ["__version__", *_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from gossamer.adapting import Adapted as Adapted
    from gossamer.adapting import adapt as adapt
    from gossamer.adapting import load as load
    from gossamer.adapting import load_finished as load_finished
    from gossamer.condensation import condense as condense
    from gossamer.cost import CostSheet as CostSheet
    from gossamer.methods import METHODS as METHODS
    from gossamer.methods.parts.bandit import Bandit as Bandit
    from gossamer.mixed import Mixed as Mixed
    from gossamer.models.segmenter import Decoder as Decoder
    from gossamer.models.segmenter import Segmenter as Segmenter
    from gossamer.models.vision_language import VisionLanguage as VisionLanguage
    from gossamer.models.zero_shot import ZeroShot as ZeroShot
    from gossamer.reading import read as read
    from gossamer.runs.run import Search as Search
    from gossamer.searching.search import search as search
    from gossamer.storage import AdapterError as AdapterError


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"gossamer.{name}")
    raise AttributeError(f"module 'gossamer' has no attribute {name!r}; it offers {', '.join([*_WHERE, *_MODULES])}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE, *_MODULES])
