"""Adapters that share one pass: a skeleton of their backbone, with one part at each place for all of them."""

from __future__ import annotations

import graphlib
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


def ordered(members: Mapping[str, Held]) -> list[Key] | None:
    """What adapters ask for together, in an order that has everyone's own; None: there is none."""
    graph: dict[Key, set[Key]] = {}
    for held in members.values():
        keys = [node.key for node in held.nodes]
        for key, before in zip(keys, [None, *keys], strict=False):
            graph.setdefault(key, set()).update(() if before is None else (before,))
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError:
        return None


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
            for key in ordered(members) or ():
                self._place(key, found[key])
        built = {name: held.adapted.head_built for name, held in members.items()}
        self.heads = None if first.head_built is None else Heads(self.rows, built)  # type: ignore[arg-type]
        self.eval().requires_grad_(False)

    def _place(self, key: Key, nodes: Mapping[str, Node]) -> None:
        asked, parts = next(iter(nodes.values())).asked, {name: node.part for name, node in nodes.items()}
        if asked is None:
            kind, name = key
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
