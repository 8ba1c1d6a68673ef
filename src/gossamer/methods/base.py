"""What every method offers: a frozen configuration that places modules in a model and knows what they cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from torch import nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Site
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part


class Method(ABC):
    """A way of adapting a model. Subclasses are frozen keyword-only dataclasses of plain values, so they are JSON."""

    name: ClassVar[str]
    learning_rate: ClassVar[float] = 1e-3  # AdamW's largest, where a run says nothing
    trains: ClassVar[bool] = True  # False: it asks for a model as it is
    turn: ClassVar[int] = 1  # methods are placed by turns: peft's first, 0, and those that shorten the stream last, 2
    reads_blocks: ClassVar[bool] = (
        True  # whether it needs a family that knows the model; the others work on every model
    )

    @abstractmethod
    def attach(self, anatomy: Anatomy) -> Part:
        """Places modules in the model through the verbs; returns the tree of what is trained and saved."""

    @abstractmethod
    def parameters(self, anatomy: Anatomy) -> int:
        """Trained parameters without the head, by closed formula."""

    def settled(self, anatomy: Anatomy) -> Method:
        """The method as a folder says it, with what it asks of this model by a pattern written out. Default: as it is."""
        return self

    def skipped(self, anatomy: Anatomy) -> list[Site]:
        """What this method takes the place of, where no other method then places anything. Default: nothing."""
        return []

    def trained_parts(self, anatomy: Anatomy) -> list[nn.Module]:
        """Parts of the backbone that are in training mode while training, their dropout on. Default: none."""
        return []

    def rate(self, tensor: str) -> float:
        """Factor of the learning rate of one of its tensors, by its name in the tree. Default: 1."""
        return 1.0

    @property
    def learns_from(self) -> Literal["nothing", "images", "items"]:
        """What `prepare` needs: images, or items of any task. Default: nothing."""
        return "nothing"

    def prepare(self, adapted: Any, data: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:  # noqa: B027
        """What the method takes from training data before its training starts; most take nothing.

        Args:
            adapted: the model that the method is part of.
            data: has a length, and items by index, dictionaries of the model's inputs.
            collate: makes a batch of a list of items. None: torch's.
        """

    def head(self, anatomy: Anatomy, width: int, outputs: int) -> nn.Module | None:
        """The task head that the method comes with, from what is read out [B, width] to [B, outputs]; None: one Linear."""
        return None

    def macs(self, anatomy: Anatomy, tokens: Mapping[str, int]) -> int:
        """Multiply-adds added to one sample in the finished model, by closed formula; `tokens` counts each stack's tokens."""
        return added([self], anatomy, tokens)

    def foresee(self, plan: Plan) -> None:  # noqa: B027 most methods leave the tokens alone
        """Tells a plan which tokens the method lets in, and what it takes the place of. Default: nothing."""

    def finished_macs(self, plan: Plan) -> int:
        """Multiply-adds of its own modules for one sample in the finished model, by closed formula. Default: none."""
        return 0

    def overhead(self, anatomy: Anatomy, tokens: Mapping[str, int]) -> tuple[int, int]:
        """Multiply-adds that only the model in training has, before it is finished: for each sample, and once per batch.

        Raises:
            UserError: there is no closed formula.
        """
        return self.training_macs(foreseen([self], anatomy, tokens))

    def training_macs(self, plan: Plan) -> tuple[int, int]:
        """Those of `overhead`, with the tokens that a plan foresees. Default: none.

        Raises:
            UserError: there is no closed formula.
        """
        return 0, 0


def foreseen(applied: Iterable[Method], anatomy: Anatomy, tokens: Mapping[str, int]) -> Plan:
    """The tokens in every block of a model that is adapted by these methods together."""
    plan = Plan(anatomy, tokens)
    for one in applied:
        one.foresee(plan)
    return plan


def added(applied: Sequence[Method], anatomy: Anatomy, tokens: Mapping[str, int]) -> int:
    """Multiply-adds that these methods together add to one sample in the finished model."""
    plan = foreseen(applied, anatomy, tokens)
    return plan.macs() - Plan(anatomy, tokens).macs() + sum(one.finished_macs(plan) for one in applied)


METHODS: dict[str, type[Method]] = {}
"""Every method by its name, as run files and saved adapters say it."""

M = TypeVar("M", bound=type[Method])


def method(kind: M) -> M:
    """Makes a method known by its `name`, as a decorator of its class; it is then listed nowhere else.

    `METHODS`, run files, messages and `gossamer.<ClassName>` follow from it, for every file of this folder.

    Raises:
        ValueError: it has no name of its own, or that name is taken; or it has a `prepare` that no run would call.
    """
    if "name" not in vars(kind):
        raise ValueError(f"{kind.__name__} has no name of its own: set one, such as name = {kind.__name__.lower()!r}")
    if kind.name in METHODS:
        raise ValueError(f"two methods are called {kind.name!r}: {METHODS[kind.name].__name__} and {kind.__name__}")
    if kind.prepare is not Method.prepare and kind.learns_from is Method.learns_from:
        raise ValueError(f"{kind.__name__} has a prepare(), and learns_from nothing: say what it is to be given")
    METHODS[kind.name] = kind
    return kind


def share(anatomy: Anatomy, parameters: dict[str, nn.Parameter]) -> Part:
    """A tree of the backbone's own parameters, made trainable, under our names for them (`vision.blocks.3.q.bias`)."""
    tree, keys = Part(), anatomy.keys()
    for name, parameter in parameters.items():
        module, _, leaf = name.rpartition(".")
        branch = _branch(tree, keys.get(module, module))
        parameter.requires_grad = True
        branch.register_parameter(leaf, parameter)
    return tree


def grow(tree: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module at a dotted path of a tree, adding the branches on the way."""
    branch, _, leaf = path.rpartition(".")
    _branch(tree, branch).add_module(leaf, module)


def _branch(tree: nn.Module, path: str) -> nn.Module:
    for name in path.split(".") if path else ():
        if name not in dict(tree.named_children()):
            tree.add_module(name, Part())
        tree = tree.get_submodule(name)
    return tree
