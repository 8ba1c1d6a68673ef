"""What was asked of a model: calls of verbs, kept so that they can be asked of another model of the same structure.

A change knows by which call of a verb it was made. Blocks are kept by our name for them, never as modules.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from torch import nn

from gossamer.anatomy.block import Block, Site
from gossamer.anatomy.places import Places

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Named:
    """A block, or what of it something else takes the place of, by our name for the block."""

    key: str
    branch: Any = None
    keep: tuple[str, ...] = ()
    whole: bool = True  # a Block, no Site

    @classmethod
    def of(cls, one: Block | Site) -> Named:
        """The name of a block or a site."""
        return cls(one.key) if isinstance(one, Block) else cls(one.block.key, one.branch, one.keep, False)

    def found(self, blocks: dict[str, Block]) -> Block | Site:
        """What it names among other blocks."""
        return blocks[self.key] if self.whole else Site(blocks[self.key], self.branch, self.keep)


@dataclass(frozen=True, eq=False)
class Said:
    """One call of a verb.

    Attributes:
        verb: its name.
        given: its arguments by name, but the part; blocks as `Named`. Calls with the same ones differ in their part alone.
        role: the argument that is the part; None: the verb places none.
        part: what was placed.
    """

    verb: str
    given: tuple[tuple[str, Any], ...]
    role: str | None
    part: Any

    @property
    def key(self) -> tuple[Any, ...]:
        """What it asks for, whatever the part."""
        return self.verb, *self.given

    def again(self, anatomy: Places, part: nn.Module | None) -> None:
        """Asks the same of another model, with another part."""
        blocks = {block.key: block for block in anatomy}
        given = {n: v.found(blocks) if isinstance(v, Named) else v for n, v in self.given}
        getattr(anatomy, self.verb)(**given, **({} if self.role is None else {self.role: part}))


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a method of an anatomy a verb: the changes that a call makes know it; where verbs call others, the outermost call."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> R:
        anatomy: Any = args[0]
        if anatomy.asked is not None:
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        anatomy.asked = _said(function.__name__, dict(list(bound.arguments.items())[1:]))
        try:
            return function(*args, **kwargs)
        finally:
            anatomy.asked = None

    return asked


def _said(name: str, arguments: dict[str, Any]) -> Said:
    role = next((n for n, v in arguments.items() if isinstance(v, nn.Module)), None)
    others = {
        n: v for n, v in arguments.items() if n != role and not inspect.isroutine(v)
    }  # how a part is merged is its own
    return Said(
        name,
        tuple((n, Named.of(v) if isinstance(v, Block | Site) else v) for n, v in others.items()),
        role,
        arguments.get(role) if role else None,
    )


def calls(log: Iterable[Any]) -> list[Said]:
    """The calls that made some changes, in order, each once."""
    return list({id(change.said): change.said for change in log if change.said is not None}.values())
