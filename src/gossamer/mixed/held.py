"""An adapter on a skeleton of the backbone, and what it asked for there: what others can share a pass with, and what not."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from gossamer import hosts
from gossamer.adapting import Adapted
from gossamer.anatomy import said
from gossamer.anatomy.rewritten import SplitLinear
from gossamer.anatomy.seams import Part

BRANCHES = ("add", "middle", "remember", "enter")  # parts act on rows, and change neither depth nor length
BUILDING = ("own", "split")  # place no part; what they make is the same function
SHAPING = ("insert", "replace")  # adapters share them that ask for the same
SWAPS = ("swap", "rewrite")
ROWS = (nn.Linear, Conv1D, nn.LayerNorm, nn.Conv2d)  # what has rows of samples for input, and no other
BASES = (".base_layer", ".inner")  # what a module is called by that stands in its place
HEAD, LEAF = "head", "leaf"

Key = tuple[Any, ...]


class Node(NamedTuple):
    """Something that an adapter asked for: by the same key others ask for it with a part of their own.

    `asked` is the call of a verb; None for a head or another module of the backbone's with values of its own, whose name is in the
    key.
    """

    key: Key
    asked: said.Said | None
    part: Any

    @property
    def turn(self) -> tuple[int, int]:
        """When it is placed, if it may be: what is split, then what gives its place, inner modules first, then the rest."""
        verb = None if self.asked is None else self.asked.verb
        if verb in BUILDING:
            return 0, 0
        if verb == "swap" or self.key[0] == LEAF:
            name = self.key[1] if self.asked is None else dict(self.asked.given)["name"]
            return 1, -name.count(".")
        return (2 if verb == "rewrite" else 3), 0


class Held:
    """One adapter as a mixture holds it.

    Args:
        adapted: on a skeleton, in evaluation mode. Its parts get their finished form, where they stand in branches.
        backbone: the bare one, whose weights the skeleton shares.

    Attributes:
        nodes: what it asked for, in order.
        why: why it can share no pass with other adapters; None: it can.
        shape: what adapters must have in common to share a pass.
        shaping: the same in words; None where it leaves depth and length as they are.
    """

    def __init__(self, adapted: Adapted, backbone: nn.Module):
        self.adapted = adapted
        asked = said.calls(adapted.anatomy.log)
        for one in reversed(asked):
            if one.verb in BRANCHES and isinstance(one.part, Part):
                one.part.finalize()
        heads = dict(adapted.anatomy.heads)
        asked = [one for one in asked if not (one.verb == "swap" and dict(one.given)["name"] in heads)]
        own = _own_leaves(adapted, backbone)
        self.nodes = [Node((LEAF, name), None, adapted.backbone.get_submodule(path)) for name, path in own.items()]
        counts: Counter[Key] = Counter()
        for one in asked:
            counts[one.key] += 1
            self.nodes.append(Node((one.key, counts[one.key]), one, one.part))
        self.nodes += [Node((HEAD, name), None, head) for name, head in heads.items()]
        self.why = _alone(adapted, asked, own)
        shaping = [one for one in asked if one.verb in SHAPING]
        self.shape: Key = (adapted.head_built is None, *(_shaped(adapted, one) for one in shaping))
        places = {place.key: None for one in shaping for _, place in one.given if isinstance(place, said.Named)}
        self.shaping = f"depth or length is another in {', '.join(places)}" if shaping else None


def _own_leaves(adapted: Adapted, backbone: nn.Module) -> dict[str, str]:
    """Modules of the backbone whose parameters are an adapter's own: name in the bare backbone -> path where they are now."""
    heads = {id(p) for head in adapted.anatomy.heads.values() for p in head.parameters()}
    shared = {name: parameter.data_ptr() for name, parameter in backbone.named_parameters()}
    found: dict[str, str] = {}
    for name, parameter in adapted.backbone.named_parameters():
        bare = functools.reduce(lambda place, base: place.replace(base, ""), BASES, name)
        if id(parameter) not in heads and shared.get(bare, parameter.data_ptr()) != parameter.data_ptr():
            found[bare.rpartition(".")[0]] = name.rpartition(".")[0]
    return found


def _alone(adapted: Adapted, asked: list[said.Said], leaves: Mapping[str, str]) -> str | None:
    """Why an adapter shares no pass, in words. `leaves` are the modules of the backbone that it trained; see `_own_leaves`."""
    anatomy, names = adapted.anatomy, ", ".join(method.name for method in adapted.applied)
    others = sorted({one.verb for one in asked} - {*BRANCHES, *BUILDING, *SHAPING, *SWAPS})
    if others:
        return f"{names} works on all samples of a pass at once ({', '.join(others)})"
    if any(block.stack.packed for block in anatomy):
        return "states of this backbone are rows of all images, one after another"
    if any(block.attention.bias is not None and block.stack.windows is None for block in anatomy):
        return "this backbone's projections are of distances as well, which no sample has to itself"
    thirds = [
        m for whole in adapted.backbone.modules() if isinstance(whole, SplitLinear) for m in (whole.q, whole.k, whole.v)
    ]
    if any(type(third) is nn.Linear and any(p.requires_grad for p in third.parameters()) for third in thirds):
        return f"{names} trains a third of a fused Linear of the backbone"
    if place := next(_computed_once(adapted, asked, leaves), None):
        return f"{names} changes {place}, which is computed once for all samples"
    read = {*anatomy.keys(), *(name for stack in anatomy.stacks for name in anatomy.around(stack).values())}
    swapped = {dict(one.given)["name"]: one.part for one in asked if one.verb == "swap"}
    for name, module in {**{n: adapted.backbone.get_submodule(path) for n, path in leaves.items()}, **swapped}.items():
        if not (name in read and _has_rows(module)):
            return f"{names} changes {name}, of which nothing says that its rows are samples"
    return None


def _computed_once(adapted: Adapted, asked: list[said.Said], leaves: Mapping[str, str]) -> Iterator[str]:
    """Places in what a composed model computes once, whose rows are no samples: classes in words."""
    backbone, anatomy = adapted.backbone, adapted.anatomy
    if not isinstance(backbone, hosts.Halves):
        return
    inside = {id(module) for root in backbone.once()[0] for module in root.modules()}
    blocks = {block.key for block in anatomy if id(block.module) in inside}
    for one in asked:
        given = dict(one.given)
        if one.verb == "swap" and id(backbone.get_submodule(given["name"])) in inside:
            yield given["name"]
        yield from (place.key for place in given.values() if isinstance(place, said.Named) and place.key in blocks)
    yield from (path for path in leaves.values() if id(backbone.get_submodule(path)) in inside)


def _has_rows(module: nn.Module) -> bool:
    """Whether a module, or what it stands in the place of, takes rows of samples and nothing else."""
    while not isinstance(module, ROWS):
        inside = getattr(module, "base_layer", None) or getattr(module, "inner", None)
        if not isinstance(inside, nn.Module):
            return False
        module = inside
    return True


@torch.no_grad()
def _shaped(adapted: Adapted, one: said.Said) -> Key:
    """What is asked for of a stream's depth or length, and how many tokens it is."""
    if one.verb == "replace":
        return one.key
    blocks = {block.key: block for block in adapted.anatomy}
    block, like = blocks[dict(one.given)["first"].key], next(adapted.backbone.parameters())
    return *one.key, one.part(like.new_zeros(1, 2, block.sizes.width)).shape[1]
