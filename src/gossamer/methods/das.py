"""DAS: Dynamic Architecture Skipping. Redundant layers give way to small shortcuts; the others carry adapters.

Q. Wu, W. Yu, Y. Zhou, S. Huang, X. Sun, R. Ji: Parameter and Computation Efficient Transfer Learning for Vision-Language
Pre-trained Models, arXiv 2309.01479. Which layers are redundant for a task is found by a short bandit search, `gossamer.search`.

A layer that stays is x + f(LN(x)) + A(x) in each branch; one that is skipped is x + S(x), S an adapter of larger rank. Bridges in
place of shortcuts (`bridge`, `bridge_start`) are not the paper's: see `gossamer.methods.parts.bridges`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gossamer.anatomy import Anatomy, Branch
from gossamer.anatomy.block import Block, Site
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method
from gossamer.methods.parts import bridges, shortcuts
from gossamer.methods.parts.arms import Arm
from gossamer.methods.parts.bandit import Bandit
from gossamer.methods.parts.bridges import Bridge, Identity
from gossamer.methods.parts.shortcuts import FORMS, Shortcut
from gossamer.methods.parts.supernet import Supernet

if TYPE_CHECKING:
    from gossamer.anatomy.replaced import Replaced

KNOWN = {
    "form": tuple(FORMS),
    "modules": ("block", "attention"),
    "init": ("published", "zero_up"),
    "bridge": ("per-block", "per-run"),
    "bridge_start": ("zero", "closed"),
}


@method
@dataclass(frozen=True, kw_only=True)
class DAS(Method):
    """Skipped layers with shortcuts, kept layers with adapters (Wu et al., arXiv 2309.01479).

    Args:
        skip: which modules are skipped, by their indices (0 is the first), or how many. A number alone takes the deepest, until
            `gossamer.search` has found which.
        rank: r of the adapters of kept layers. The paper's 96; LaVIN 8. 0 (ours): they carry none, beside LoRA and the like.
        shortcut_rank: r_S of shortcuts. None: r times the adapters that the skipped module would carry. LaVIN: 32. Of bridges
            the rank of A; None: whole.
        form: "parallel": A beside every branch, reading the residual stream through a LayerNorm of its own (ViLT, METER);
            "router": before attention, MHA(u + R(u)) with u = norm(x), two linear outputs mixed by the first token (LaVIN's LLaMA);
            "bottleneck": the same place, W_up ReLU(W_dn u + b_dn) + b_up (language-only LLaMA). The last two need pre-norm blocks.
        modules: what is skipped: a "block", or an "attention" alone (self and cross each for itself, in this order), while the FFN
            stays (Wu et al., arXiv 2403.15226).
        before_ffn: router and bottleneck: a second adapter before the FFN (LLaVA).
        plus_input: router and bottleneck: a skipped block is x + u + S(u) (LLaVA) instead of x + S(u).
        init: "published": both matrices of a parallel adapter random, N(0, 0.02^2), and a router's outputs random: the model starts
            near the backbone; "zero_up": the outputs start at zero, and kept layers as the backbone's.
        scale: s. 1 in all published settings.
        dropout: rate on the r hidden units. 0; LaVIN 0.1.
        groups: G, router only.
        temperature: t, router only.
        stacks: the stacks whose modules are candidates, numbered through in this order. None: the main one; METER's is the fusion,
            text layers first.
        shortcut_lr: factor of the learning rate of shortcuts and bridges. None: 1, and 0.3 where bridges have a closed-form
            start. 0.2 reproduces METER's training.
        bridge: ours. "per-block": what is skipped has a shortcut each; "per-run": neighbours that are skipped have one bridge
            together, x -> x + x A + b. A search gives every candidate a bridge of its own.
        bridge_start: ours. "zero": shortcuts as the paper's, bridges as the identity; "closed": bridges, also per block, start as
            the affine map that is nearest to what they stand for on training images; `start` computes it.
        bridge_ridge: lambda of that start, as a share of the mean eigenvalue.
    """

    skip: int | tuple[int, ...] = 1
    rank: int = 96
    shortcut_rank: int | None = None
    form: Literal["parallel", "router", "bottleneck"] = "parallel"
    modules: Literal["block", "attention"] = "block"
    before_ffn: bool = False
    plus_input: bool = False
    init: Literal["published", "zero_up"] = "published"
    scale: float = 1.0
    dropout: float = 0.0
    groups: int = 2
    temperature: float = 10.0
    stacks: tuple[str, ...] | None = None
    shortcut_lr: float | None = None
    bridge: Literal["per-block", "per-run"] = "per-block"
    bridge_start: Literal["zero", "closed"] = "zero"
    bridge_ridge: float = 1e-2

    name = "das"

    def __post_init__(self) -> None:
        chosen = (self.skip,) if isinstance(self.skip, int) else self.skip
        if isinstance(self.skip, bool) or min(chosen, default=0) < 0 or len(set(chosen)) != len(chosen):
            raise UserError(f"skip must be a number of modules or their indices, each once, got {self.skip}")
        for name, known in KNOWN.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.rank < 0 or (self.shortcut_rank is not None and self.shortcut_rank < 1):
            raise UserError(f"ranks must be at least 1, got rank={self.rank}, shortcut_rank={self.shortcut_rank}")
        if self.rank == 0 and self.shortcut_rank is None and not self.bridged:
            raise UserError("ranks must be at least 1, got rank=0 and no shortcut_rank: shortcuts need one")
        if self.bridged and (self.modules != "block" or self.plus_input):
            raise UserError(
                "bridges stand in place of whole blocks, x + x A + b: not with modules='attention' or plus_input"
            )
        if self.form == "parallel" and (self.before_ffn or self.plus_input):
            raise UserError("before_ffn and plus_input belong to the forms router and bottleneck, not to parallel")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.temperature <= 0 or self.groups < 1 or (self.shortcut_lr is not None and self.shortcut_lr <= 0):
            raise UserError(
                f"temperature, groups and shortcut_lr must be positive, got {self.temperature}, {self.groups}, {self.shortcut_lr}"
            )
        if not 0 <= self.bridge_ridge < float("inf"):
            raise UserError(f"bridge_ridge must be 0 or more, got {self.bridge_ridge}")

    @property
    def bridged(self) -> bool:
        """Whether bridges stand in place of the paper's shortcuts."""
        return self.bridge == "per-run" or self.bridge_start == "closed"

    # ---- which modules ----

    def candidates(self, anatomy: Anatomy) -> list[Site]:
        """The modules that may be skipped, in the order of their indices."""
        found = []
        for stack in self._stacks(anatomy):
            for block in anatomy.stacks[stack]:
                keep = () if self.form == "parallel" or self.bridged else ("norm1",)
                if self.modules == "block":
                    found.append(Site(block, None, keep))
                    continue
                found.append(Site(block, "attention", keep))
                if block.cross and self.form == "parallel":
                    found.append(Site(block, "cross"))
        return found

    def skipped(self, anatomy: Anatomy) -> list[Site]:
        """The modules that are skipped.

        Raises:
            ValueError: more than there are to skip, or an index that there is not.
        """
        sites = self.candidates(anatomy)
        if isinstance(self.skip, int):
            deepest = sorted(range(len(sites)), key=lambda i: (_depth(anatomy, sites[i].block), i))
            chosen = deepest[len(sites) - self.skip :] if self.skip <= len(sites) else []
        else:
            chosen = sorted(self.skip)
        count = self.skip if isinstance(self.skip, int) else len(chosen)
        if count >= len(sites) or any(i >= len(sites) for i in chosen):
            raise UserError(
                f"skip={self.skip}: {type(anatomy.model).__name__} has {len(sites)} candidates "
                f"({', '.join(s.key for s in sites[:2])}, ... numbered 0 to {len(sites) - 1}), of which at least one must stay"
            )
        return [sites[i] for i in sorted(chosen)]

    def _stacks(self, anatomy: Anatomy) -> tuple[str, ...]:
        chosen = self.stacks or (anatomy.main,)
        for first in (anatomy.columns(name)[0][0] for name in chosen):
            if first.stack.windows is not None:
                raise UserError(f"{first.name} attends in windows, beside which DAS has no place for its adapters")
        return chosen

    # ---- placing ----

    def attach(self, anatomy: Anatomy) -> Part:
        """Places shortcuts and adapters; their tree is `<stack>.blocks.<i>.{attention,cross,ffn,shortcut,bridge}`."""
        skipped = self.skipped(anatomy)
        self._warn_of_emptied(anatomy, skipped)
        tree = Part()
        for run in self.runs(anatomy, skipped):
            self.stand_in(anatomy, tree, run)
        self.add_adapters(anatomy, tree, {site.key for site in skipped})
        return tree

    def runs(self, anatomy: Anatomy, skipped: Sequence[Site]) -> list[list[Site]]:
        """What is skipped by what one shortcut or bridge stands for."""
        if self.bridge == "per-block":
            return [[site] for site in skipped]
        sites = {site.block.key: site for site in skipped}
        return [[sites[block.key] for block in run] for run in bridges.runs([s.block for s in skipped], anatomy)]

    def stand_in(self, anatomy: Anatomy, tree: Part, run: Sequence[Site], *, active: bool = True) -> Replaced:
        """Places what stands for a run of sites: it takes the place of the first, and the others let their states pass."""
        site, *others = run
        path = f"{site.block.key}.bridge" if self.bridged else _path(site)
        grow(tree, path, self._bridge(run) if self.bridged else self._shortcut(site))
        change = anatomy.replace(site, tree.get_submodule(path), first=self._routed and not self.bridged, active=active)
        for other in others:
            anatomy.replace(other, Identity())
        return change

    def add_adapters(self, anatomy: Anatomy, tree: Part, gone: set[str]) -> None:
        """Places adapters in all branches but those that are gone."""
        for block, branch in self._carrying(anatomy, gone):
            part = FORMS[self.form](block.sizes.width, self.rank, self, block.device)
            grow(tree, f"{block.key}.{branch}", part)
            self._add(anatomy, block, branch, part)

    def _carrying(self, anatomy: Anatomy, gone: set[str]) -> list[tuple[Block, Branch]]:
        """The branches that carry an adapter, of blocks that are not gone."""
        return [
            (block, branch)
            for stack in self._stacks(anatomy)
            for block in anatomy.stacks[stack]
            for branch in (self._branches(block) if self.rank else ())
            if not gone & {block.key, f"{block.key}.{branch}"}
        ]

    def _add(self, anatomy: Anatomy, block: Block, branch: Branch, part: Part) -> None:
        if self.form == "parallel":
            outside = (
                branch == "ffn"
            )  # the published code adds the FFN's behind the last norm, the others before theirs
            anatomy.add(block, branch, part, normed=False, damped=False, outside=outside)
        else:
            anatomy.middle(block, part, at="ffn" if branch == "ffn" else "attention", normed=True, first=self._routed)

    def _bridge(self, run: Sequence[Site]) -> Bridge:
        first, last = run[0].block, run[-1].block
        closed = self.bridge_start == "closed"
        return Bridge(first.sizes.width, self.shortcut_rank, (first.key, last.key), closed, first.device)

    def _shortcut(self, site: Site) -> Part:
        """What stands in the place of a site, where it is no bridge."""
        block = site.block
        rank = self._shortcut_rank(site)
        adapter = FORMS[self.form](block.sizes.width, rank, self, block.device)
        if site.branch is not None:
            return adapter
        norm = None if self.form == "parallel" else block.part("norm1")
        return Shortcut(adapter, norm, self.plus_input)

    def _branches(self, block: Block) -> list[Branch]:
        """The branches of a block that carry an adapter."""
        if self.form == "parallel":
            return ["attention", "cross", "ffn"] if block.cross else ["attention", "ffn"]
        if block.attention.norm is None:
            raise UserError(
                f"form={self.form!r} reads what a norm gives to attention; {block.name} is a post-norm block"
            )
        return ["attention", "ffn"] if self.before_ffn else ["attention"]

    def _warn_of_emptied(self, anatomy: Anatomy, skipped: list[Site]) -> None:
        gone = {site.block.key for site in skipped if site.branch is None}
        for stack in self._stacks(anatomy):
            if all(block.key in gone for block in anatomy.stacks[stack]):
                warnings.warn(
                    f"every block of the {stack} stack is skipped: it hears nothing of the other", stacklevel=4
                )

    @property
    def _routed(self) -> bool:
        return self.form == "router"

    # ---- counting ----

    def _shortcut_rank(self, site: Site) -> int:
        carried = len(self._branches(site.block)) if site.branch is None else 1
        return self.shortcut_rank or carried * self.rank

    def size(self, anatomy: Anatomy, skipped: Sequence[Site]) -> int:
        """Parameters of the shortcuts or bridges of what is skipped."""
        firsts = [run[0] for run in self.runs(anatomy, skipped)]
        if self.bridged:
            return sum(bridges.parameters(site.block.sizes.width, self.shortcut_rank) for site in firsts)
        return sum(self._size(site.block, self._shortcut_rank(site)) for site in firsts)

    def _size(self, block: Block, rank: int) -> int:
        """Parameters of one adapter."""
        return shortcuts.parameters(self.form, block.sizes.width, rank, self.groups)

    def parameters(self, anatomy: Anatomy) -> int:
        """n_A P(r) for each block that stays, P(r_S) for each module that is skipped; P(r) = 2 d r + r + 3 d.

        A bridge has d² + d, or with a rank 2 d r_S + d, for each run.
        """
        skipped = self.skipped(anatomy)
        kept = self._carrying(anatomy, {site.key for site in skipped})
        return sum(self._size(block, self.rank) for block, _ in kept) + self.size(anatomy, skipped)

    def foresee(self, plan: Plan) -> None:
        """Skipped modules are not computed."""
        for site in self.skipped(plan.anatomy):
            plan.skip(site)

    def finished_macs(self, plan: Plan) -> int:
        """2 n d r for each adapter and shortcut; n d², or 2 n d r, for each bridge."""
        skipped = self.skipped(plan.anatomy)
        kept = self._carrying(plan.anatomy, {site.key for site in skipped})
        total = sum(self._macs(plan.seen(block, branch), block, self.rank) for block, branch in kept)
        for site, *_ in self.runs(plan.anatomy, skipped):
            if self.bridged:
                total += bridges.macs(plan.tokens(site.block), site.block.sizes.width, self.shortcut_rank)
            else:
                total += self._macs(plan.tokens(site.block), site.block, self._shortcut_rank(site))
        return total

    def _macs(self, tokens: int, block: Block, rank: int) -> int:
        return shortcuts.macs(self.form, tokens, block.sizes.width, rank, self.groups)

    # ---- training and searching ----

    def rate(self, tensor: str) -> float:
        """`shortcut_lr` for shortcuts and bridges, 1 for adapters."""
        if not {"bridge", "shortcut", "shortcut_attention", "shortcut_cross"} & set(tensor.split(".")):
            return 1.0
        return self.shortcut_lr or (0.3 if self.bridge_start == "closed" else 1.0)

    @property
    def learns_from(self) -> Literal["nothing", "images", "items"]:
        """Items of any kind, where bridges have a closed-form start."""
        return "items" if self.bridge_start == "closed" else "nothing"

    def prepare(self, adapted: Any, data: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
        """Gives bridges their closed-form start."""
        bridges.start(adapted, data, self.bridge_ridge, collate=collate)

    def bandit(self) -> Bandit:
        """The paper's rules."""
        return Bandit()

    def picks(self, anatomy: Anatomy) -> int:
        """How many modules are skipped."""
        return len(self.skipped(anatomy))

    def arms(self, anatomy: Anatomy) -> list[Arm]:
        """The modules that may be skipped, as a race names them."""
        return [Arm(s.key, _depth(anatomy, s.block), s.block.key) for s in self.candidates(anatomy)]

    def supernet(self) -> Supernet:
        """Every candidate with its adapters and its shortcut, as the method that a search trains; see `gossamer.search`."""
        return Supernet(das=self)

    def found(self, chosen: Iterable[int]) -> DAS:
        """The same method with these candidates skipped."""
        return replace(self, skip=tuple(sorted(chosen)))


def start(adapted: Any, data: Any, *, collate: Callable[[list[Any]], Any] | None = None) -> None:
    """Gives the bridges of a DAS in an adapted model their closed-form start; the rest stays.

    Args:
        adapted: from `gm.adapt(model, gm.DAS(bridge_start="closed", ...))`, also among other methods.
        data: training set: items by index, and a length. At most 1,024 are drawn.
        collate: makes a batch of a list of items. None: torch's.
    """
    for one in adapted.applied:
        if isinstance(one, DAS | Supernet):
            one.prepare(adapted, data, collate)


def _path(site: Site) -> str:
    """Where the shortcut of a site stands in the tree: `vision.blocks.3.shortcut`, or `vision.blocks.3.shortcut_cross`."""
    return f"{site.block.key}.shortcut" + ("" if site.branch is None else f"_{site.branch}")


def _depth(anatomy: Anatomy, block: Block) -> int:
    """How many blocks run behind a block, negated."""
    column = anatomy.column(block)
    return column.index(block) - len(column)
