"""Gossamer: adapt vision and vision-language transformers by training a sliver of their parameters, and leave them cheap to run.

The whole public surface. Names are imported when they are first used, so that `import gossamer` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gossamer.version import __version__

_WHERE = {
    "adapt": "gossamer.adapting",
    "Adapted": "gossamer.adapting",
    "load": "gossamer.adapting",
    "AdapterError": "gossamer.storage",
    "read": "gossamer.anatomy",
    "condense": "gossamer.condensation",
    "VPT": "gossamer.methods.vpt",
    "SPT": "gossamer.methods.spt",
    "CVPT": "gossamer.methods.cvpt",
    "DAS": "gossamer.methods.das",
    "DVP": "gossamer.methods.dvp",
    "MemVP": "gossamer.methods.memvp",
    "VisualTokens": "gossamer.methods.visual_tokens",
    "VisionLanguage": "gossamer.models.vision_language",
    "APT": "gossamer.methods.apt",
    "LinearProbe": "gossamer.methods.linear_probe",
    "FullFineTuning": "gossamer.methods.full",
    "BitFit": "gossamer.methods.bitfit",
    "Adapter": "gossamer.methods.adapter",
    "ClassifierToken": "gossamer.methods.classifier_token",
    "Unfreeze": "gossamer.methods.unfreeze",
    "METHODS": "gossamer.methods",
    "CostSheet": "gossamer.cost",
    "search": "gossamer.searching.search",
    "Search": "gossamer.runs.run",
    "Bandit": "gossamer.methods.parts.bandit",
}
_MODULES = (
    *("anatomy", "comparison", "condensation", "cost", "data", "evaluate", "export", "methods", "recipes"),
    *("storage", "tasks", "train", "zoo"),
)

__all__ = [
    "APT",
    "CVPT",
    "DAS",
    "DVP",
    "METHODS",
    "SPT",
    "VPT",
    "Adapted",
    "Adapter",
    "AdapterError",
    "Bandit",
    "BitFit",
    "ClassifierToken",
    "CostSheet",
    "FullFineTuning",
    "LinearProbe",
    "MemVP",
    "Search",
    "Unfreeze",
    "VisionLanguage",
    "VisualTokens",
    "__version__",
    "adapt",
    "condense",
    "load",
    "read",
    "search",
]

if TYPE_CHECKING:
    from gossamer.adapting import Adapted as Adapted
    from gossamer.adapting import adapt as adapt
    from gossamer.adapting import load as load
    from gossamer.anatomy import read as read
    from gossamer.condensation import condense as condense
    from gossamer.cost import CostSheet as CostSheet
    from gossamer.methods import APT as APT
    from gossamer.methods import CVPT as CVPT
    from gossamer.methods import DAS as DAS
    from gossamer.methods import DVP as DVP
    from gossamer.methods import METHODS as METHODS
    from gossamer.methods import SPT as SPT
    from gossamer.methods import VPT as VPT
    from gossamer.methods import Adapter as Adapter
    from gossamer.methods import BitFit as BitFit
    from gossamer.methods import ClassifierToken as ClassifierToken
    from gossamer.methods import FullFineTuning as FullFineTuning
    from gossamer.methods import LinearProbe as LinearProbe
    from gossamer.methods import MemVP as MemVP
    from gossamer.methods import Unfreeze as Unfreeze
    from gossamer.methods import VisualTokens as VisualTokens
    from gossamer.methods.parts.bandit import Bandit as Bandit
    from gossamer.models.vision_language import VisionLanguage as VisionLanguage
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
