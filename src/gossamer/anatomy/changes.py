"""The log of what methods did to a model, how it is taken back, and what stands in a change's way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from torch import nn

from gossamer.anatomy import probe, replaced, seams, shortened, stream
from gossamer.anatomy.block import Block
from gossamer.anatomy.call import Arguments
from gossamer.anatomy.displaced import Displaced
from gossamer.anatomy.places import Places
from gossamer.anatomy.said import Said
from gossamer.anatomy.session import Session
from gossamer.anatomy.tap import Tap
from gossamer.errors import UnknownName, UserError, WrongKind

VERBS = ("add", "rewrite", "middle", "remember", "insert", "replace", "shorten", "observe")


class Changes(Places):
    """The parts of one model, and the log of what methods did to them."""

    def __init__(
        self,
        model: nn.Module,
        stacks: dict[str, list[Block]],
        owners: dict[str, str],
        *,
        unread: Mapping[str, str] = MappingProxyType({}),
        why: str = "",
    ):
        super().__init__(model, stacks, owners, unread=unread, why=why)
        self.session = Session.of(model)
        self.displaced = Displaced()  # what gave its place to something else meanwhile
        self.log: list[seams.Change] = []
        self.asked: Said | None = None  # the call of a verb that runs now
        self._known: dict[Any, probe.Findings] = {}  # trials, by kind of block

    def _do(self, change: seams.Change, block: Block | None = None, where: str = "around") -> None:
        """Makes a change in a branch or the middle of a block, or around it.

        Raises:
            ValueError: it would never run, because something else stands there.
        """
        change.place, change.said = (block, where), self.asked
        gone = [c.site for c in self.log if isinstance(c, replaced.Replaced) and c.active and c.site.block is block]
        dead = [site.key for site in gone if where != "around" and site.branch in (None, where)]
        if dead:
            raise UserError(
                f"{dead[0]} is replaced, so nothing that is placed in it would ever run: only insert and observe, and what "
                "happens at the start and the end of a block, work there"
            )
        change.apply()
        self._put_ahead()
        self.log.append(change)
        self.session.turn()

    def _put_ahead(self) -> None:
        """Hooks of others run behind ours, so that what they keep of a block (transformers' hidden states) is what it gives now.

        What belongs into the sum of attention and stream comes before all that reads or changes it.
        """
        for module in self.model.modules():
            for own in (module._forward_pre_hooks, module._forward_hooks):
                for key in [key for key, hook in own.items() if _into_a_sum(hook)]:
                    own.move_to_end(key, last=False)  # type: ignore[attr-defined]
            hooks = module._forward_hooks
            ours = [key for key, hook in hooks.items() if _is_ours(hook)]
            for key in [key for key in hooks if key not in ours] if ours else []:
                hooks.move_to_end(key)  # type: ignore[attr-defined]

    def undo(self, *, keep: int = 0) -> None:
        """Takes back every change but the first `keep`, last first."""
        while len(self.log) > keep:
            self.log.pop().revert()
        self.session.turn()

    @contextmanager
    def tentatively(self) -> Iterator[None]:
        """What is changed while the context lasts is taken back at its end."""
        made = len(self.log)
        try:
            yield
        finally:
            self.undo(keep=made)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """The model without any change for as long as the context lasts; the parts, and what they learnt, stay."""
        self.suspend()
        try:
            yield
        finally:
            self.resume()

    def suspend(self) -> None:
        """Takes every change back until `resume`; the parts, and what they learnt, stay."""
        for change in reversed(self.log):
            change.revert()
        self.session.turn()

    def resume(self) -> None:
        """Makes every change again that `suspend` took back."""
        for change in self.log:
            change.apply()
        self._put_ahead()
        self.session.turn()

    def obstacle(self, block: Block, verb: str, branch: str = "attention") -> str | None:
        """Why a verb does not work on a branch of a block (of "middle": on a place of its stream), or None where it does.

        A trial of the block, once for all of its kind, shows whether it is built as its family says; `remember` has one of its own.
        """
        if verb not in VERBS:
            raise UnknownName(f"no verb {verb!r}: there are {', '.join(VERBS)}")
        if block.stack.modulated and verb in ("middle", "remember", "insert", "replace", "shorten"):
            return (
                "the timestep of each sample scales what its branches read and give, which a call of the block alone does not "
                "know; what is inside of a branch can be changed (add, rewrite)"
            )
        if block.stack.modulated:
            return None  # no trial without a timestep; what is added says in a pass if its branch is not entered
        if verb == "middle" and branch == "middle" and block.parallel:
            return "its FFN stands beside its attention, so there is no place between them; other places are before and behind"
        if verb == "middle" and branch in ("attention", "ffn") and block.attention.norm == block.ffn.norm is not None:
            return f"its attention and its FFN both read what {block.ffn.norm} gives, so that of one cannot be changed alone"
        if verb == "insert" and block.stack.packed:
            return "its states are rows of all images one after another, in which no place belongs to one sample"
        if verb == "insert" and block.stack.modality == "latent":
            return "its tokens are the places of a map, which has none for others; keys and values beside them are possible"
        windows = block.stack.windows
        if verb == "insert" and windows is not None and not windows.lets_in:
            return "its attention cuts windows out of a map of patches alone, among which none can stand"
        if verb == "insert" and block.attention.bias is not None and windows is None:
            return (
                f"it gives each of its tokens a position of its own ({block.attention.bias}), and has none for others"
            )
        if verb == "insert" and _placed(block.part("attention")):
            return "its attention scales queries by their places in the text, and tokens that are let in have none"
        if verb == "shorten" and (reason := shortened.obstacle(block)) is not None:
            return reason
        found = self._findings(block).against(verb, branch)
        if found is None and verb == "remember":
            return seams.memory_obstacle(block, branch)
        return found

    def _check_remembers(self, block: Block, branch: str) -> None:
        """TypeError where a trial shows that an attention cannot have a memory."""
        if (reason := seams.memory_obstacle(block, branch)) is not None:
            raise WrongKind(f"{block.name} cannot remember extra keys and values: {reason}")

    def _findings(self, block: Block) -> probe.Findings:
        kind = type(block.module), id(block.stack), block.stage
        if kind not in self._known:
            with self.bare():
                self._known[kind] = probe.probe(block)
        return self._known[kind]

    def _require(self, block: Block, verb: str, branch: str) -> None:
        """Nothing, where a verb works.

        Raises:
            ValueError: a trial of the block shows that it does not.
        """
        reason = self.obstacle(block, verb, branch)
        if reason is not None:
            raise UserError(f"{block.name} ({type(block.module).__name__}) cannot {verb} at its {branch}: {reason}")


def _into_a_sum(hook: Any) -> bool:
    """Whether a hook adds to what an attention gives where the block reads the sum."""
    change = getattr(hook, "__self__", None)
    if not isinstance(change, stream.AddedToSum) or not change.readers:
        return False
    return hook in (change.before_reader, change.after_block)


def _is_ours(hook: Any) -> bool:
    """Whether a hook is a method of ours, and no tap, which reads what the others make of a block."""
    owner = getattr(hook, "__self__", None)
    return not isinstance(owner, Tap) and type(owner).__module__.partition(".")[0] == __name__.partition(".")[0]


def _placed(attention: nn.Module) -> bool:
    """Whether an attention must be told the place of each token, beside what turns queries and keys."""
    return Arguments(attention).names.get("positions") in probe.required(attention)
