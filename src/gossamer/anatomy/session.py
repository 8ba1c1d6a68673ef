"""What lasts as long as a forward pass or a generation: what is seen, the tokens of each column, what is kept beside a cache."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from gossamer.anatomy import call
from gossamer.anatomy.stack import Stack
from gossamer.anatomy.tokens import Ledger

BESIDE = "beside_gossamer"  # attribute of a cache


@dataclass(frozen=True)
class Layout:
    """What is known of a batch of texts with images, so that no pass has to wait for a device to look at its tensors.

    Attributes:
        padding: on which side texts are padded.
        images: which texts have one.
    """

    padding: Literal["none", "left", "right"]
    images: Literal["all", "some", "none"]

    @classmethod
    def of(cls, mask: Tensor | None, index: Tensor | None) -> Layout:
        """Looked up in the mask [B, n] of texts and the image of each [B], -1 for none. None: nothing is padded, all have one."""
        padding, images = "none", "all"
        if mask is not None and not bool(mask.all()):
            padding = "right" if bool(mask[:, 0].all()) else "left"
        if index is not None and not bool((index >= 0).all()):
            images = "some" if bool((index >= 0).any()) else "none"
        return cls(padding, images)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scene:
    """What a composed model sees in one call: what its readers kept of images, row by text.

    Attributes:
        rows: for each reader its tensors [B, ...]; None where no text of the call has an image.
        present: [B], whether a text has an image; None: all have.
        question: [B, n], which tokens are the question: neither padding nor answer; None: all.
        layout: what is known of the batch.
    """

    rows: list[tuple[Tensor, ...]] | None
    present: Tensor | None
    question: Tensor | None
    layout: Layout


@dataclass
class Beside:
    """What is kept for as long as a key/value cache lives.

    Attributes:
        prompts: by who inserted tokens and number of the attention, their keys and values [B, heads, p, d_h].
        firsts: by who asks, the first token of each sequence [B, d].
    """

    prompts: dict[Any, dict[int, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    firsts: dict[nn.Module, Tensor] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Beside:
        """Of a copied cache: the same modules, and tensors that grow apart from those of the first one."""
        prompts = {owner: copy.deepcopy(stored, memo) for owner, stored in self.prompts.items()}
        return Beside(prompts, {module: copy.deepcopy(first, memo) for module, first in self.firsts.items()})


class Session:
    """What the changes of one model know of the pass that runs now. Nothing of it is state: a copy begins anew.

    Attributes:
        turns: how often changes were made, taken back or made again: what was computed at another count, other changes computed.
    """

    def __init__(self) -> None:
        self.scene: Scene | None = None
        self.ledgers: dict[str, Ledger] = {}
        self.turns = 0

    @classmethod
    def of(cls, model: nn.Module) -> Session:
        """A composed model's own, which it reads as well, else a new one."""
        found = getattr(model, "session", None)
        return found if isinstance(found, cls) else cls()

    def turn(self) -> None:
        """From now on the model is changed in another way: no ledger of a pass before tells what is in the stream."""
        self.turns += 1
        self.ledgers.clear()

    def begin(self, stack: Stack, at: int, own: int) -> Ledger:
        """A new ledger for a column of blocks: the first tokens of a pass enter it."""
        ledger = self.ledgers[_column(stack)] = Ledger(at, own)
        return ledger

    def ledger(self, stack: Stack) -> Ledger | None:
        """That of the present, or the last, pass through a column of blocks; None: nothing ever entered."""
        return self.ledgers.get(_column(stack))

    def beside(self, cache: Any) -> Beside:
        """What is kept beside the self-attention of a cache; of none at all, for nobody.

        It is the cache's own attribute, as dictionaries of weak references cannot be compiled, and goes where the cache goes.
        """
        if cache is None:
            return Beside()
        cache = call.own(cache)
        while isinstance(cache, View):
            cache = cache.cache
        if not hasattr(cache, BESIDE):
            setattr(cache, BESIDE, Beside())
        return getattr(cache, BESIDE)

    @contextmanager
    def showing(self, scene: Scene | None) -> Iterator[None]:
        """Shows a scene while the context lasts."""
        before, self.scene = self.scene, scene
        try:
            yield
        finally:
            self.scene = before

    def again(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """For activation checkpointing: what is computed again in the backward pass sees what was seen the first time."""
        return nullcontext(), self.showing(self.scene)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()


def _column(stack: Stack) -> str:
    return f"{stack.name}: {stack.blocks}"


class View:
    """A key/value cache as somebody else sees it; what it does not change is the cache's own."""

    def __init__(self, cache: Any):
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        if name == "cache":
            raise AttributeError(name)  # a copy in the making
        return getattr(self.cache, name)
