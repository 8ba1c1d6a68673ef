"""What a comparison file says."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gossamer.documents import expanded
from gossamer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How a setting is chosen from a method's grid: on held-out training images, never on the test split.

    Args:
        validation: part of the training images held out while choosing, for sets without a validation split.
        seeds: each candidate is trained once with each; the best mean validation accuracy wins, ties go to the one listed first.
    """

    validation: float = 0.2
    seeds: list[int] = field(default_factory=lambda: [0])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods x tasks x seeds: `gossamer compare comparison.yaml`.

    Args:
        run: what all cells have in common, as in a run file.
        methods: name -> what the method changes, as in a run file; and under `grid` settings to choose among, such as
            {training.lr: [1e-3, 1e-2]}.
        tasks: name -> what the task changes, as in a run file.
        seeds: every method is trained on every task with each.
        output: folder of the comparison: a run folder for every cell, rows.jsonl, rows.csv and report.html.
        baseline: the method that the others are set against. None: the first.
        selection: how settings are chosen from grids.
    """

    run: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    output: str
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    baseline: str | None = None
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        if not self.output.strip():
            raise UserError("output is empty; it is the folder of the comparison")
        object.__setattr__(self, "output", str(expanded(self.output)))
        for name in ("methods", "tasks", "seeds"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; a comparison needs one or more")
        for name in ("methods", "tasks"):
            _require_distinct_folders(name, getattr(self, name))
        for name, seeds in (("seeds", self.seeds), ("selection.seeds", self.selection.seeds)):
            if not seeds or len(set(seeds)) < len(seeds):
                raise UserError(f"{name} must be different whole numbers, got {seeds}")
        if self.baseline is not None and self.baseline not in self.methods:
            raise UserError(f"baseline {self.baseline!r} is no method; {known_as(self.baseline, self.methods)}")

    @property
    def reference(self) -> str:
        """The method that the others are set against."""
        return self.baseline or next(iter(self.methods))


def written(comparison: Comparison) -> str:
    """A comparison as the file that it is read from."""
    import yaml

    values = {k: v for k, v in dataclasses.asdict(comparison).items() if v is not None}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _require_distinct_folders(kind: str, names: Mapping[str, Any]) -> None:
    """Names become folders, also on disks that do not tell A from a."""
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(folder_of(name).lower(), name)
        if other != name:
            raise UserError(f"{kind} {other!r} and {name!r} would have the same folder; rename one")


def known_as(name: str, known: Mapping[str, Any]) -> str:
    """What there is, and which of it was meant."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"there are {', '.join(known)}" + (f" (did you mean {close[0]!r}?)" if close else "")


def folder_of(name: str) -> str:
    """A name as a folder's: letters, digits and -_.=,+ stay, all else becomes a single -."""
    return re.sub(r"[^\w.=,+-]+", "-", name).strip("-.") or "-"
