"""The network that a search of DAS trains: every candidate with its adapters and with what would stand in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.methods.base import Method

if TYPE_CHECKING:
    from gossamer.anatomy.replaced import Replaced


@dataclass(frozen=True, kw_only=True)
class Supernet(Method):
    """All adapters and all shortcuts of a DAS at once; which of them run is switched in its tree, `Switchboard`."""

    das: Any

    name = "das"

    def attach(self, anatomy: Anatomy) -> Part:
        """Places everything; nothing is skipped until `use` says so."""
        sites = self.das.candidates(anatomy)
        tree = Switchboard([site.key for site in sites])
        self.das.add_adapters(anatomy, tree, set())
        tree.changes = [self.das.stand_in(anatomy, tree, [site], active=False) for site in sites]
        return tree

    def parameters(self, anatomy: Anatomy) -> int:
        """Those of the network without skipping, and one shortcut for each candidate."""
        each = replace(self.das, skip=0, bridge="per-block")
        if self.das.bridged:
            each = replace(each, bridge_start="closed")
        return each.parameters(anatomy) + each.size(anatomy, each.candidates(anatomy))

    def rate(self, tensor: str) -> float:
        """As of DAS."""
        return self.das.rate(tensor)

    @property
    def learns_from(self) -> Literal["nothing", "images", "items"]:
        """As DAS."""
        return self.das.learns_from

    def prepare(self, adapted: Any, data: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
        """Gives every candidate's bridge its start."""
        self.das.prepare(adapted, data, collate)


class Switchboard(Part):
    """The tree of a super-network: `arms` names the candidates, `use` skips some of them."""

    skips = True

    def __init__(self, arms: list[str]):
        super().__init__()
        self.arms = arms
        self.changes: list[Replaced] = []

    def use(self, chosen: Iterable[int]) -> None:
        """From now on exactly these candidates are skipped."""
        chosen = set(chosen)
        for i, change in enumerate(self.changes):
            change.switch(i in chosen)
