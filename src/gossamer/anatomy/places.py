"""Where the parts of a model sit: its stacks, their blocks, and what stands around them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

from torch import nn

from gossamer.anatomy import call as calls
from gossamer.anatomy.block import Block, Site, attribute, get, has
from gossamer.anatomy.stack import Stack
from gossamer.errors import UnknownName, UserError, WrongKind

STACK_ORDER = (
    "denoiser",
    "fusion",
    "vision",
    "connector",
    "encoder",
    "text",
    "decoder",
)  # the first that a model has is its main stack


TOWERS, BOTH = ("vision", "text"), "both"
Stacks = str | tuple[str, ...] | None
"""Which stacks a method is for: the main one, one by name, several, or "both" towers of a pair of an image and a text tower."""


class Places:
    """The parts of one model, as the families that know it say."""

    def __init__(
        self,
        model: nn.Module,
        stacks: dict[str, list[Block]],
        owners: dict[str, str],
        *,
        unread: Mapping[str, str] = MappingProxyType({}),
        why: str = "",
    ):
        self.model, self.stacks, self.owners = model, stacks, owners
        self.unread = unread  # path -> class of blocks: lists of blocks that no family describes
        self.why = why  # no family knows the model, where none does
        self.heads: dict[str, nn.Module] = {}  # task heads of the model, by name: no part of the backbone
        self.output: nn.Module | None = None  # the output layer of a language model
        self.sites: list[Site] = []  # what a method takes the place of, known before any is placed

    def check_known(self) -> None:
        """Nothing, where a family describes a stack of the model.

        Raises:
            TypeError: none does.
        """
        if not self.stacks:
            raise WrongKind(self.why)

    @property
    def whole(self) -> bool:
        """Whether families describe every list of blocks of the model."""
        return bool(self.stacks) and not self.unread

    @property
    def main(self) -> str:
        """Name of the stack that methods use unless told otherwise: the first that the model runs.

        Raises:
            TypeError: no family knows the model.
        """
        self.check_known()
        return next(iter(self.stacks))

    @property
    def readout(self) -> Stack:
        """The stack whose states the model returns: the decoder where an encoder stands before it, else the main one."""
        return self.stacks.get("decoder", self.stacks[self.main])[0].stack

    def named(self, stack: Stacks = None) -> list[str]:
        """Names of the stacks that are asked for: the main one, one, several, or "both" towers of a pair.

        Raises:
            KeyError: the model has no such stack.
            ValueError: none at all, or one of them twice.
        """
        names = (
            [self.main]
            if stack is None
            else [*TOWERS]
            if stack == BOTH
            else [stack]
            if isinstance(stack, str)
            else [*stack]
        )
        if not names or len(set(names)) != len(names):
            raise UserError(f"stack={stack!r} names {'a stack twice' if names else 'no stack'}; None means {self.main}")
        for name in names:
            if name not in self.stacks:
                found = ", ".join(f"{other} ({len(blocks)} blocks)" for other, blocks in self.stacks.items())
                raise UnknownName(f"no stack {name!r} in {type(self.model).__name__}: it has {found}")
        return names

    def blocks(self, stack: Stacks = None, indices: Sequence[int] | None = None) -> list[Block]:
        """The blocks of a stack (default: the main one), or of several, all or those at `indices` (0 is the first to run).

        Without indices, blocks are left out that a method replaces, whole or in part, or that run behind what the model reads
        (the last one of LLaVA's tower): nothing is to be placed there.

        Raises:
            KeyError: no such stack, or an index that the stack does not have.
            ValueError: no index at all, one of them twice, one of a block that is replaced or that nothing reads, or every block is
                replaced.
        """
        return [block for name in self.named(stack) for block in self._of(name, indices)]

    def _of(self, stack: str, indices: Sequence[int] | None) -> list[Block]:
        blocks, gone = self.stacks[stack], {site.block.key for site in self.sites}
        read = self._read(blocks)
        if indices is None:
            left = [block for block in blocks[:read] if block.key not in gone]
            if not left:
                raise UserError(f"every block of the {stack} stack of this {type(self.model).__name__} is replaced")
            return left
        if not indices:
            raise UserError(
                f"blocks={tuple(indices)} names no block: the {stack} stack has {len(blocks)}; None means all"
            )
        if len(set(indices)) != len(indices):
            raise UserError(f"blocks={tuple(indices)} names a block twice")
        for i in indices:
            if not 0 <= i < len(blocks):
                raise UnknownName(
                    f"no block {i}: the {stack} stack of this {type(self.model).__name__} has {len(blocks)} "
                    f"(0..{len(blocks) - 1}); asked for by blocks={tuple(indices)}"
                )
            if i >= read:
                raise UserError(
                    f"this {type(self.model).__name__} reads its {stack} stack behind block {read - 1} ({calls.TAPS[0]}): "
                    f"block {i} runs for nothing, and what is placed in it would learn nothing; "
                    f"asked for by blocks={tuple(indices)}"
                )
            if blocks[i].key in gone:
                raise UserError(
                    f"block {i} of the {stack} stack is replaced by another method, so nothing can be placed in it; asked for "
                    f"by blocks={tuple(indices)}: leave it out, or give None for all that stand"
                )
        return [blocks[i] for i in sorted(indices)]

    @property
    def adapted(self) -> list[str]:
        """Names of the stacks that methods reach by the role of a part: all, but of a composed model the language model's."""
        return [name for name in self.stacks if name != "vision" or name == self.main]

    def __iter__(self) -> Iterator[Block]:
        for blocks in self.stacks.values():
            yield from blocks

    def columns(self, stack: Stacks = None) -> list[list[Block]]:
        """The blocks of a stack that run one after another: one list, or of METER's fusion two, text and image; of several all."""
        blocks = [block for name in self.named(stack) for block in self.stacks[name]]
        return [list(column) for _, column in itertools.groupby(blocks, key=lambda b: id(b.stack))]

    def column(self, block: Block) -> list[Block]:
        """The blocks that run before and after a block, with itself."""
        return next(c for c in self.columns(block.stack.name) if c[0].stack is block.stack)

    def owner(self, stack: str | None = None) -> nn.Module:
        """The module that embeds the inputs of a stack and runs it."""
        return self.model.get_submodule(self.owners[stack or self.main])

    def around(self, stack: str | None = None) -> dict[str, str]:
        """role -> full module name of what stands around a stack's blocks: "patches", a convolution, and "norm", behind the last.

        Left out is what the family has not: patches where it reads no images, a norm where its blocks end with one. Where a model
        lost its norm, an Identity has the role.
        """
        names, owner, path = (
            self.stacks[stack or self.main][0].stack,
            self.owner(stack),
            self.owners[stack or self.main],
        )
        norms = sorted(
            filter(partial(has, owner), names.final_norm), key=lambda n: isinstance(get(owner, n), nn.Identity)
        )
        patches = next(filter(partial(has, owner), names.patch_convolution), None)
        found = {"patches": patches, "norm": norms[0] if norms else None}
        return {role: f"{path}.{name}" if path else name for role, name in found.items() if name is not None}

    def patch_convolution(self, stack: str | None = None) -> nn.Conv2d:
        """The convolution that makes a stack's tokens of patches, also where something is wrapped around it.

        Raises:
            KeyError: the stack reads no images, or makes tokens of them in another way.
        """
        name = self.around(stack).get("patches")
        inside = () if name is None else self.model.get_submodule(name).modules()
        found = next((module for module in inside if isinstance(module, nn.Conv2d)), None)
        if found is None:
            raise UnknownName(
                f"the {stack or self.main} stack of {type(self.model).__name__} has no convolution of patches"
            )
        return found

    def patch_steps(self, stack: str | None = None) -> tuple[int, int]:
        """Pixels from one patch to the next, down and across.

        Raises:
            KeyError: the stack reads no images, or its family does not say how it makes tokens of them.
        """
        side = self.stacks[stack or self.main][0].stack.patch_side
        if side is None:
            down, across = self.patch_convolution(stack).stride
            return int(down), int(across)
        pixels = attribute(self.owner(stack), side)
        return pixels, pixels

    def patches(self, stack: str | None = None) -> nn.Module | None:
        """The module whose output is the patch tokens [B, n, d] of a stack before positions, or None where there is none."""
        names, owner = self.stacks[stack or self.main][0].stack, self.owner(stack)
        norm = names.patches_norm
        if names.patches is None or (norm and has(owner, norm) and not isinstance(get(owner, norm), nn.Identity)):
            return None
        return get(owner, names.patches)

    def tap(self, block: Block) -> int | Sequence[int] | None:
        """The block, counted from the end, behind which other parts of the model read this one's stack; None: behind the last.

        Several where they read it at several depths; from 0 on they are counted from the start, 0 being what enters the first.
        """
        if block.stack.name != "vision" or self.readout.name == "vision":
            return None
        found = (attribute(module, name) for module in self.model.modules() for name in calls.TAPS)
        return next((tap for tap in found if tap not in (None, -1)), None)

    def _read(self, blocks: list[Block]) -> int:
        """How many blocks of a stack, from the first on, the model has something of."""
        tap = self.tap(blocks[0])
        taps = [-1] if tap is None else [tap] if isinstance(tap, int) else tap
        return max(t if t >= 0 else len(blocks) + 1 + t for t in taps)

    def must_leave(self, block: Block) -> str | None:
        """Why tokens let in before a block may not be in the model's output, in words that begin with whose; None: they may."""
        stack, kind = block.stack, type(self.model).__name__
        if (tap := self.tap(block)) is not None:
            return (
                f"the {stack.name} stack of {kind}: it reads the states behind block {tap}, and would find too many; let them "
                "leave (stay=False)"
            )
        readers = [b.stack.name for b in self if stack.name in b.stack.context and stack.name != b.stack.name]
        if stack.causal and (self.heads or stack.readout == "pooled" or self.output is not None):
            return (
                f"{kind}: it reads its own answer by position in the text, which they would move; let them leave (stay=False), or "
                "give the bare model a head with num_labels"
            )
        if stack.gives is not None:
            return f"the {stack.name} stack of {kind}: it gives a map of its patches; let them leave (stay=False)"
        if stack.aside and stack.readout == "first":
            return (
                f"{kind}: a class token comes in front of its tokens behind the last of these blocks, and is read there; let them "
                "leave (stay=False)"
            )
        if readers and stack.modality == "text":
            return (
                f"the {stack.name} stack of {kind}: its {readers[0]} reads that stack by the mask of the text alone; let them "
                "leave (stay=False)"
            )
        matched = any(attribute(m, name) is not None for m in self.model.modules() for name in calls.PLACES)
        if stack.masked_pool or (stack.name == "vision" and matched and not readers):
            return f"the {stack.name} stack of {kind}: what reads it has places for patches alone; let them leave (stay=False)"
        return None

    def keys(self) -> dict[str, str]:
        """module name -> our name for it, `vision.blocks.3.q`, for every part that has a role."""
        return {name: f"{block.key}.{role}" for block in self for role, name in block.roles().items()}

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the model without its task heads, and without what a method takes the place of."""
        others = {id(p) for head in self.heads.values() for p in head.parameters()}
        others |= {id(p) for site in self.sites for p in site.parameters()}
        return ((name, p) for name, p in self.model.named_parameters() if id(p) not in others)

    def standing(self) -> list[Block]:
        """The blocks of all stacks in which nothing is replaced."""
        gone = {site.block.key for site in self.sites}
        return [block for block in self if block.key not in gone]

    @contextmanager
    def without_sites(self) -> Iterator[None]:
        """The model with empty modules where blocks are replaced, for tools that look for modules by name."""
        known = [site.block for site in self.sites]
        for block in known:
            _set(self.model, block.name, nn.Identity())
        try:
            yield
        finally:
            for block in known:
                _set(self.model, block.name, block.module)

    def check_whole_input(self) -> None:
        """Nothing, if every stack sees its whole input.

        Raises:
            ValueError: one is set up for masked pre-training.
        """
        for name, blocks in self.stacks.items():
            path = blocks[0].stack.needs_zero
            value = 0 if path is None else attribute(self.owner(name), path)
            if value:
                raise UserError(
                    f"{type(self.owner(name)).__name__} leaves out {value:.0%} of its input at random ({path}={value}), "
                    f"which is for pre-training: set {path} to 0, or load the weights into the plain class (ViTModel)"
                )


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
