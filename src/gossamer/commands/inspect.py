"""`gossamer inspect`: the anatomy of a model for people, without its weights."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from gossamer.anatomy import Anatomy
    from gossamer.anatomy.block import Block


def describe(model: nn.Module, family: str | None = None) -> dict[str, Any]:
    """What Gossamer sees in a model, as JSON: its task heads, and for every stack of blocks widths, parts and verbs.

    A verb maps to None where it works, else to the reason why it does not. `family` as in `gossamer.read`.

    Raises:
        TypeError: no family knows the model; the message names the part that was looked for.
    """
    from gossamer import hosts

    found = hosts.read(model, family=family)
    found.check_known()
    return {
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "heads": {name: type(head).__name__ for name, head in found.heads.items()},
        "stacks": {name: _stack(found, blocks) for name, blocks in found.stacks.items()},
    }


def _stack(found: Anatomy, blocks: list[Block]) -> dict[str, Any]:
    from gossamer.anatomy import VERBS

    first = blocks[0]
    start = len(first.name) + 1
    obstacles = {verb: {i: found.obstacle(block, verb) for i, block in enumerate(blocks)} for verb in VERBS}
    return {
        "blocks": len(blocks),
        "block": type(first.module).__name__,
        "at": first.name,
        "main": first.stack.name == found.main,
        "prefix_tokens": first.prefix,
        "causal": first.stack.causal,
        "reads_out": first.stack.readout,
        "sizes": _sizes(blocks),
        "attention_heads": _heads(found, blocks),
        "windows": _shared([block.window for block in blocks]),
        "merges": any(block.merging is not None for block in blocks),
        "parts": {role: name[start:] for role, name in first.roles().items()},
        "verbs": {verb: next((reason for reason in of.values() if reason), None) for verb, of in obstacles.items()},
    }


def _sizes(blocks: list[Block]) -> dict[str, Any]:
    """Widths that all blocks share as numbers, others as one list over the blocks."""
    sizes = [block.sizes._asdict() for block in blocks]
    return {name: _shared([s[name] for s in sizes]) for name in sizes[0]}


def _shared(values: list[Any]) -> Any:
    """What all blocks have in common, or the list."""
    return values[0] if all(value == values[0] for value in values) else values


def _heads(found: Anatomy, blocks: list[Block]) -> Any:
    """Number of attention heads, as the model's configuration or its attention modules say it."""
    return _shared([_heads_of(found, block) for block in blocks])


def _heads_of(found: Anatomy, block: Block) -> int | None:
    owner = found.owner(block.stack.name)
    places = [getattr(owner, "config", None), block.part("attention")]
    names = ("num_attention_heads", "num_heads", "encoder_attention_heads", "n_heads", "heads")
    if block.stack.name == "decoder":
        names = ("decoder_attention_heads", *names)
    values = [getattr(place, name, None) for place in places for name in names]
    return next((value for value in values if isinstance(value, int)), None)


def text(seen: dict[str, Any]) -> str:
    """The description as lines."""
    heads = ", ".join(f"{name} ({kind})" for name, kind in seen["heads"].items()) or "none"
    lines = [f"{seen['model']}: {seen['parameters']:,} parameters", f"task head: {heads}"]
    for name, stack in seen["stacks"].items():
        sizes = ", ".join(f"{k.replace('_', ' ')} {_runs(v)}" for k, v in stack["sizes"].items() if v)
        lines += [
            "",
            f"{name} stack{' (main)' if stack['main'] else ''}: {stack['blocks']} blocks {stack['block']}, {stack['at']} ...",
        ]
        lines += [f"  {'sizes':<15}{sizes}", f"  {'heads':<15}{_runs(stack['attention_heads'] or 'unknown')}"]
        if stack["windows"]:
            merged = ", merged 2 x 2 between stages" if stack["merges"] else ""
            lines += [f"  {'windows':<15}{_runs(stack['windows'])} tokens{merged}"]
        lines += [f"  {'prefix tokens':<15}{stack['prefix_tokens']}{', causal' if stack['causal'] else ''}"]
        lines += [f"  {'read out':<15}{stack['reads_out'] or 'nothing: a map'}", "  parts"]
        lines += [f"    {role:<13}{path}" for role, path in stack["parts"].items()]
        lines += ["  verbs"] + [
            f"    {verb:<13}{'yes' if why is None else f'no: {why}'}" for verb, why in stack["verbs"].items()
        ]
    return "\n".join(lines)


def _runs(value: Any) -> str:
    """A number, a pair as 7 x 7, or the numbers of all blocks, those of equal neighbours together: 128 (2), 256 (2), 512 (18)."""
    if value is None:  # a block without windows, among others
        return "all"
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    if not isinstance(value, list):
        return str(value)
    return ", ".join(f"{_runs(v)} ({sum(1 for _ in of)})" for v, of in itertools.groupby(value))


def command(arguments: Sequence[str]) -> None:
    """`gossamer inspect`: prints the anatomy of a model."""
    parser = argparse.ArgumentParser(prog="gossamer inspect", description="Show where the parts of a model sit.")
    parser.add_argument(
        "model", help="an architecture such as vit-b16, a config.json, a folder, or a model of the zoo or hub"
    )
    parser.add_argument(
        "--family",
        help="read blocks that no family describes as those of this one, such as llama; without weights they are not tried",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)

    from gossamer import architectures

    seen = describe(architectures.build(asked.model), asked.family)
    print(json.dumps(seen, indent=2) if asked.json else text(seen))
