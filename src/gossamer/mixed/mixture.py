"""Adapters that share one pass: a skeleton of their backbone, with one part at each place for all of them."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gossamer import hosts
from gossamer.anatomy.rewritten import Wrapped
from gossamer.methods import peft
from gossamer.mixed.held import HEAD, SWAPS, Held, Key, Node
from gossamer.mixed.parts import Answers, Behind, Heads, LowRank, Memories, Modules, Tokens
from gossamer.mixed.rows import Rows, Share


def ordered(members: Mapping[str, Held]) -> list[Node] | None:
    """What adapters ask for together, each thing once, in an order that has everyone's own; None: there is none.

    Where the order is free, modules that give their place come first: what listens to one is not to be left behind in it.
    """
    nodes: dict[Key, Node] = {}
    graph: dict[Key, set[Key]] = {}
    for held in members.values():
        before: set[Key] = set()
        for node in held.nodes:
            nodes.setdefault(node.key, node)
            graph.setdefault(node.key, set()).update(before)
            before = {node.key}
    sorter, found = graphlib.TopologicalSorter(graph), list[Node]()
    try:
        sorter.prepare()
    except graphlib.CycleError:
        return None
    ready: list[tuple[tuple[int, int], int, Key]] = []
    places = {key: place for place, key in enumerate(nodes)}
    while sorter.is_active():
        for key in sorter.get_ready():
            heapq.heappush(ready, (nodes[key].turn, places[key], key))
        _, _, key = heapq.heappop(ready)
        found.append(nodes[key])
        sorter.done(key)
    return found


class Mixture(nn.Module):
    """One pass for the rows of several adapters.

    Args:
        backbone: a skeleton for this alone.
        members: the adapters by name. They fit together (`ordered`, and of one `shape`).
    """

    def __init__(self, backbone: nn.Module, members: Mapping[str, Held]):
        super().__init__()
        first = next(iter(members.values())).adapted
        self.rows, self.backbone, self.host = Rows(list(members)), backbone, first.host
        self.anatomy = hosts.read(backbone, first.head_named, first.family_named)
        self.readout = self.host.read_out(self.anatomy)
        found: dict[Key, dict[str, Node]] = {}
        for name, held in members.items():
            for node in held.nodes:
                found.setdefault(node.key, {})[name] = node
        with torch.no_grad():
            for node in ordered(members) or ():
                self._place(node, {name: own.part for name, own in found[node.key].items()})
        built = {name: held.adapted.head_built for name, held in members.items()}
        self.heads = None if first.head_built is None else Heads(self.rows, built)  # type: ignore[arg-type]
        self.eval().requires_grad_(False)

    def _place(self, node: Node, parts: Mapping[str, Any]) -> None:
        asked = node.asked
        if asked is None:
            kind, name = node.key
            inner = self.backbone.get_submodule(name)
            self.anatomy.swap(name, Heads(self.rows, parts) if kind == HEAD else Modules(self.rows, inner, parts))
        elif asked.role is None:
            asked.again(self.anatomy, None)
        else:
            asked.again(self.anatomy, self._part(asked, parts))

    def _part(self, asked: Any, parts: Mapping[str, Any]) -> nn.Module:
        rows = self.rows
        if asked.verb == "remember":
            return Memories(rows, parts)
        if asked.verb == "insert":
            return Tokens(rows, parts)
        if asked.verb not in SWAPS:
            return Answers(rows, parts, passes=asked.verb == "enter")
        given = dict(asked.given)
        if asked.verb == "rewrite":
            inner: nn.Module = {b.key: b for b in self.anatomy}[given["block"].key].part(given["role"])
        else:
            inner = self.backbone.get_submodule(given["name"])
        if all(isinstance(part, Wrapped) for part in parts.values()):
            return Behind(rows, inner, parts)
        updates = {name: peft.low_rank(part) for name, part in parts.items()}
        if all(update is not None for update in updates.values()):
            return LowRank(rows, inner, updates)  # type: ignore[arg-type]
        return Modules(rows, inner, parts)

    def forward(self, shares: Sequence[Share], args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
        """What the adapters answer for samples that are sorted by adapter, as one of them alone would."""
        with self.rows.showing(shares):
            if self.heads is None:
                return self.host.respond(self.backbone, self.readout, args, inputs, None)
            as_tuple, inputs = self.host.wants_tuple(self.backbone, inputs)
            features = self.host.features(self.backbone, self.readout, args, inputs)
            answer = self.readout.answer(self.heads(features))
            return answer.to_tuple() if as_tuple else answer

    def generate(self, shares: Sequence[Share], args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
        """What the model writes for samples that are sorted by adapter."""
        with self.rows.showing(shares):
            return self.backbone.generate(*args, **inputs)  # type: ignore[operator]
