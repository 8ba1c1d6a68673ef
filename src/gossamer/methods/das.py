"""DAS: Dynamic Architecture Skipping. Redundant layers give way to small shortcuts; the others carry adapters.

Q. Wu, W. Yu, Y. Zhou, S. Huang, X. Sun, R. Ji: Parameter and Computation Efficient Transfer Learning for Vision-Language
Pre-trained Models, arXiv 2309.01479. Which layers are redundant for a task is found by a short bandit search, `gossamer.search`.

A layer that stays is x + f(LN(x)) + A(x) in each branch; one that is skipped is x + S(x), S an adapter of larger rank.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy, Branch
from gossamer.anatomy.block import Block, Site
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method
from gossamer.methods.parts import bottleneck
from gossamer.methods.parts.bandit import Bandit
from gossamer.methods.parts.bottleneck import Bottleneck

if TYPE_CHECKING:
    from gossamer.anatomy.replaced import Replaced

STD = 0.02  # of the random matrices of parallel adapters


def grouped(z: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """W z + b for z [..., r] in G groups: output c of d reads the r / G hidden units of group floor(c G / d); W [d, r / G]."""
    parts = z.unflatten(-1, (groups, 1, -1)) @ weight.unflatten(0, (groups, -1)).transpose(1, 2)
    return parts.flatten(-3) + bias


def mixture(first: Tensor, weight: Tensor, bias: Tensor, temperature: float) -> Tensor:
    """alpha = softmax((W_e u_0 + b_e) / t), [B, 2] in float32, of the first token u_0 [B, d]."""
    return F.linear(first.float(), weight.float(), bias.float()).div(temperature).softmax(dim=-1)


@method
@dataclass(frozen=True, kw_only=True)
class DAS(Method):
    """Skipped layers with shortcuts, kept layers with adapters (Wu et al., arXiv 2309.01479).

    Args:
        skip: which modules are skipped, by their indices (0 is the first), or how many. A number alone takes the deepest, until
            `gossamer.search` has found which.
        rank: r of the adapters of kept layers. The paper's 96; LaVIN 8.
        shortcut_rank: r_S of shortcuts. None: r times the adapters that the skipped module would carry. LaVIN: 32.
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
        shortcut_lr: factor of the learning rate of shortcuts. 0.2 reproduces METER's training.
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
    shortcut_lr: float = 1.0

    name = "das"

    def __post_init__(self) -> None:
        chosen = (self.skip,) if isinstance(self.skip, int) else self.skip
        if isinstance(self.skip, bool) or min(chosen, default=0) < 0 or len(set(chosen)) != len(chosen):
            raise UserError(f"skip must be a number of modules or their indices, each once, got {self.skip}")
        for name in ("form", "modules", "init"):
            known = {"form": FORMS, "modules": ("block", "attention"), "init": ("published", "zero_up")}[name]
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.rank < 1 or (self.shortcut_rank is not None and self.shortcut_rank < 1):
            raise UserError(f"ranks must be at least 1, got rank={self.rank}, shortcut_rank={self.shortcut_rank}")
        if self.form == "parallel" and (self.before_ffn or self.plus_input):
            raise UserError("before_ffn and plus_input belong to the forms router and bottleneck, not to parallel")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.temperature <= 0 or self.groups < 1 or self.shortcut_lr <= 0:
            raise UserError(
                f"temperature, groups and shortcut_lr must be positive, got {self.temperature}, {self.groups}, {self.shortcut_lr}"
            )

    # ---- which modules ----

    def candidates(self, anatomy: Anatomy) -> list[Site]:
        """The modules that may be skipped, in the order of their indices."""
        found = []
        for stack in self._stacks(anatomy):
            for block in anatomy.stacks[stack]:
                keep = () if self.form == "parallel" else ("norm1",)
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
        """Places shortcuts and adapters; their tree is `<stack>.blocks.<i>.{attention,cross,ffn,shortcut}`."""
        skipped = self.skipped(anatomy)
        self._warn_of_emptied(anatomy, skipped)
        tree = Part()
        for site in skipped:
            grow(tree, _path(site), self.shortcut(anatomy, site))
            anatomy.replace(site, tree.get_submodule(_path(site)), first=self._routed)
        self.add_adapters(anatomy, tree, {site.key for site in skipped})
        return tree

    def add_adapters(self, anatomy: Anatomy, tree: Part, gone: set[str]) -> None:
        """Places adapters in all branches but those that are gone."""
        for stack in self._stacks(anatomy):
            for block in anatomy.stacks[stack]:
                for branch in self._branches(block):
                    if not gone & {block.key, f"{block.key}.{branch}"}:
                        part = FORMS[self.form](block.sizes.width, self.rank, self, block.device)
                        grow(tree, f"{block.key}.{branch}", part)
                        self._add(anatomy, block, branch, part)

    def _add(self, anatomy: Anatomy, block: Block, branch: Branch, part: Part) -> None:
        if self.form == "parallel":
            outside = (
                branch == "ffn"
            )  # the published code adds the FFN's behind the last norm, the others before theirs
            anatomy.add(block, branch, part, normed=False, damped=False, outside=outside)
        else:
            anatomy.middle(block, part, at="ffn" if branch == "ffn" else "attention", normed=True, first=self._routed)

    def shortcut(self, anatomy: Anatomy, site: Site) -> Part:
        """What stands in the place of a site."""
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

    def _size(self, d: int, r: int) -> int:
        """Parameters of one adapter of rank r."""
        return {
            "parallel": bottleneck.parameters(d, r, norm=True),
            "router": d * r + r + 2 * (d * (r // self.groups) + d) + 2 * d + 2,
            "bottleneck": bottleneck.parameters(d, r),
        }[self.form]

    def _macs(self, n: int, d: int, r: int) -> int:
        """Multiply-adds of one adapter for n tokens; a router looks at one of them."""
        if self.form == "router":
            return n * d * r + 2 * n * d * (r // self.groups) + 2 * d
        return 2 * n * d * r

    def parameters(self, anatomy: Anatomy) -> int:
        """n_A P(r) for each block that stays, P(r_S) for each module that is skipped; P(r) = 2 d r + r + 3 d."""
        return sum(self._size(site.block.sizes.width, rank) for site, rank in self._ranks(anatomy))

    def foresee(self, plan: Plan) -> None:
        """Skipped modules are not computed."""
        for site in self.skipped(plan.anatomy):
            plan.skip(site)

    def finished_macs(self, plan: Plan) -> int:
        """2 n d r for each adapter and shortcut."""
        return sum(self._macs(plan.tokens(s.block), s.block.sizes.width, r) for s, r in self._ranks(plan.anatomy))

    def _ranks(self, anatomy: Anatomy) -> list[tuple[Any, int]]:
        """Every adapter and shortcut there is: where, and its rank."""
        skipped = self.skipped(anatomy)
        gone = {site.key for site in skipped}
        blocks = [block for stack in self._stacks(anatomy) for block in anatomy.stacks[stack]]
        kept = [
            (Site(block), self.rank)
            for block in blocks
            for branch in self._branches(block)
            if not gone & {block.key, f"{block.key}.{branch}"}
        ]
        return kept + [(site, self._shortcut_rank(site)) for site in skipped]

    # ---- training and searching ----

    def rate(self, tensor: str) -> float:
        """`shortcut_lr` for shortcuts, 1 for adapters."""
        return self.shortcut_lr if "shortcut" in tensor else 1.0

    def bandit(self) -> Bandit:
        """The paper's rules."""
        return Bandit()

    def picks(self, anatomy: Anatomy) -> int:
        """How many modules are skipped."""
        return len(self.skipped(anatomy))

    def supernet(self) -> Supernet:
        """Every candidate with its adapters and its shortcut, as the method that a search trains; see `gossamer.search`."""
        return Supernet(das=self)

    def found(self, chosen: Iterable[int]) -> DAS:
        """The same method with these candidates skipped."""
        return replace(self, skip=tuple(sorted(chosen)))


@dataclass(frozen=True, kw_only=True)
class Supernet(Method):
    """All adapters and all shortcuts of a DAS at once; which of them run is switched in its tree, `Switchboard`."""

    das: DAS

    name = "das"

    def attach(self, anatomy: Anatomy) -> Part:
        """Places everything; nothing is skipped until `use` says so."""
        sites = self.das.candidates(anatomy)
        tree = Switchboard([site.key for site in sites])
        self.das.add_adapters(anatomy, tree, set())
        for site in sites:
            grow(tree, _path(site), self.das.shortcut(anatomy, site))
            part = tree.get_submodule(_path(site))
            tree.changes.append(anatomy.replace(site, part, first=self.das.form == "router", active=False))
        return tree

    def parameters(self, anatomy: Anatomy) -> int:
        """Those of the network without skipping, and one shortcut for each candidate."""
        das, sites = self.das, self.das.candidates(anatomy)
        shortcuts = sum(das._size(site.block.sizes.width, das._shortcut_rank(site)) for site in sites)
        return replace(das, skip=0).parameters(anatomy) + shortcuts

    def rate(self, tensor: str) -> float:
        """As of DAS."""
        return self.das.rate(tensor)


class Switchboard(Part):
    """The tree of a super-network: `arms` names the candidates, `use` skips some of them."""

    skips = True

    def __init__(self, arms: list[str]):
        super().__init__()
        self.arms = arms
        self.changes: list[Replaced] = []

    def use(self, chosen: Iterable[int]) -> None:
        """From now on exactly these candidates are skipped."""
        chosen = set(chosen)
        for i, change in enumerate(self.changes):
            change.switch(i in chosen)


class Shortcut(Part):
    """x -> x + S(x); or x + S(u) with u = norm(x), the frozen norm of the block's attention, which the block keeps."""

    norm: nn.Module | None

    def __init__(self, adapter: Part, norm: nn.Module | None, plus_input: bool):
        super().__init__()
        self.adapter, self.plus_input = adapter, plus_input
        self.borrow(norm=norm)  # the backbone's, so no child

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """[B, N, d], and where asked for the first token of each sequence [B, d] -> [B, N, d]."""
        if self.norm is None:
            return x + self.adapter(x)
        u = self.norm.forward(x)
        y = self.adapter(u) if first is None else self.adapter(u, self.norm.forward(first))
        return x + u + y if self.plus_input else x + y


def _parallel(width: int, rank: int, config: DAS, device: torch.device) -> Bottleneck:
    """A(x) = s (W_up ReLU(W_dn LN_A(x) + b_dn) + b_up): beside a branch, or behind x + in place of a block."""
    drawn = partial(nn.init.normal_, std=STD)
    options = {"scale": config.scale, "dropout": config.dropout, "device": device}
    part = Bottleneck(width, rank, norm=True, **options)
    return part.start(drawn, nn.init.zeros_ if config.init == "zero_up" else drawn)


def _bottleneck(width: int, rank: int, config: DAS, device: torch.device) -> Bottleneck:
    """R(u) = s (W_up ReLU(W_dn u + b_dn) + b_up) before a branch; W_dn Xavier, the rest zero."""
    options = {"scale": config.scale, "dropout": config.dropout, "device": device}
    return Bottleneck(width, rank, **options).start(nn.init.xavier_uniform_)


class RouterAdapter(Part):
    """R(u) = s (alpha_0 (W_B z + b_B) + alpha_1 (W_D z + b_D)), z = W_A u + b_A, alpha from the first token; see `grouped`."""

    def __init__(self, width: int, rank: int, config: DAS, device: torch.device):
        super().__init__()
        groups = config.groups
        if rank % groups or width % groups:
            raise UserError(f"groups={groups} must divide the rank, {rank}, and the width, {width}")
        self.down, self.router = nn.Linear(width, rank, device=device), nn.Linear(width, 2, device=device)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        bound = 0.0 if config.init == "zero_up" else 1 / math.sqrt(rank // groups)  # that of a linear layer
        for name in "BD":
            weight = torch.empty(width, rank // groups, device=device).uniform_(-bound, bound)
            bias = torch.empty(width, device=device).uniform_(-bound, bound)
            self.register_parameter(f"up_{name}", nn.Parameter(weight))
            self.register_parameter(f"bias_{name}", nn.Parameter(bias))
        self.groups, self.temperature, self.scale, self.dropout = (
            groups,
            config.temperature,
            config.scale,
            config.dropout,
        )

    def forward(self, u: Tensor, first: Tensor) -> Tensor:
        """u [B, N, d], first token [B, d] -> [B, N, d]."""
        z = F.dropout(self.down(u.to(self.down.weight.dtype)), self.dropout, self.training)
        alpha = mixture(first, self.router.weight, self.router.bias, self.temperature).to(z.dtype)[:, None, None]
        branches = [grouped(z, getattr(self, f"up_{n}"), getattr(self, f"bias_{n}"), self.groups) for n in "BD"]
        return (self.scale * (alpha[..., 0] * branches[0] + alpha[..., 1] * branches[1])).to(u.dtype)


FORMS: dict[str, Any] = {"parallel": _parallel, "router": RouterAdapter, "bottleneck": _bottleneck}


def _path(site: Site) -> str:
    """Where the shortcut of a site stands in the tree: `vision.blocks.3.shortcut`, or `vision.blocks.3.shortcut_cross`."""
    return f"{site.block.key}.shortcut" + ("" if site.branch is None else f"_{site.branch}")


def _depth(anatomy: Anatomy, block: Block) -> int:
    """How many blocks run behind a block, negated."""
    column = anatomy.column(block)
    return column.index(block) - len(column)
