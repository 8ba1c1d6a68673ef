"""How each authors' case is run through Gossamer: one small file a method, found by its name.

A file defines COVERS, the case names it knows, and `run(case) -> Iterator[Check]`.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One case: its configuration and tensors, in the letters of the spec."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    folder: Path = Path()  # some cases take their weights from another one beside them

    @classmethod
    def read(cls, legend: Path) -> Case:
        """The case whose legend is NAME.json, with NAME.safetensors beside it; some legends repeat the name, some have a title."""
        described = json.loads(legend.read_text())
        name = next((n for n in (legend.stem, described.get("case")) if n and runner(n)), legend.stem)
        return cls(name, described.get("config", {}), tensors(legend.with_suffix(".safetensors")), legend.parent)


def tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, floating ones in float64: all that is left to differ is how the authors' own were rounded."""
    return {k: v.double() if v.is_floating_point() else v for k, v in safetensors.torch.load_file(file).items()}


@dataclass(frozen=True)
class Check:
    """One tensor we computed beside the authors'; a gradient is compared relative to its largest entry alone."""

    tensor: str
    found: Tensor
    expected: Tensor
    gradient: bool = False

    @property
    def error(self) -> float:
        """Largest difference, relative to 1 + the largest entry (values) or to the largest entry (gradients)."""
        largest = float(self.expected.abs().max())
        assert self.found.shape == self.expected.shape, f"{self.tensor}: {self.found.shape} and {self.expected.shape}"
        return float((self.found - self.expected).detach().abs().max()) / (largest if self.gradient else 1 + largest)


Runner = Callable[[Case], Iterator[Check]]


def runner(name: str) -> Runner | None:
    """How a case is run: the runner of its name, or of the longest covered name that its name goes on from (`vpt-deep-2`)."""
    known = runners()
    fitting = [k for k in known if name == k or name.startswith((f"{k}-", f"{k}_"))]
    return known[max(fitting, key=len)] if fitting else None


def runners() -> dict[str, Runner]:
    """case name -> how it is run."""
    found: dict[str, Runner] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        found |= dict.fromkeys(module.COVERS, module.run)
    return found
