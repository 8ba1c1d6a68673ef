"""APT: approximated prompt tuning.

Q. Wu, S. Huang, Y. Zhou, P. Dai, A. Shu, G. Jiang, R. Ji: Approximated Prompt Tuning for Vision-Language Pre-trained Models,
arXiv 2306.15706.

What a prompt of deep prompt tuning does to the tokens is taken out of the frozen attention's softmax, and computed beside it as one
cheap read-out of a small table P: of one head, without softmax, with the prompts themselves as values.

    P~ = P + (P W_d^T) W_u^T      A = relu(X P~^T)      w = max over A, held constant      APT(O, X) = e^s (O + w * A P)

X is what the attention's queries read, O its output behind W_o; P [p, d], W_d [r, d], W_u [d, r], s [1] belong to one attention.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy, Branch
from gossamer.anatomy.block import Block
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.projection import quantised
from gossamer.anatomy.rewritten import Swapped
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method

PLACES: dict[str, tuple[Branch, ...]] = {
    "attention": ("attention", "cross"),
    "self": ("attention",),
    "cross": ("cross",),
    "ffn": ("ffn",),
    "all": ("attention", "cross", "ffn"),
}
LAST = {"attention": "out", "cross": "cross.out", "ffn": "down"}  # role of the last Linear of a branch
SPREAD = 0.02  # standard deviation of P at the start, and of W_d and W_u where they start as the authors' runs did


def transform(P: Tensor, W_d: Tensor, W_u: Tensor) -> Tensor:
    """P~ = P + (P W_d^T) W_u^T: prompts [p, d], W_d [r, d], W_u [d, r] -> what tokens are scored against, [p, d]."""
    return P + F.linear(F.linear(P, W_d), W_u)


def scores(x: Tensor, scoring: Tensor, activation: str = "relu") -> Tensor:
    """A = relu(X P~^T) or softmax(X P~^T): x [..., n, d] and P~ [p, d] -> [..., n, p]; no scale, no bias, one head."""
    products = F.linear(x, scoring)
    return products.softmax(dim=-1) if activation == "softmax" else F.relu(products)


def largest(A: Tensor) -> Tensor:
    """w = the largest score of each token, which passes no gradient: [..., n, p] -> [..., n, 1]."""
    return A.detach().amax(dim=-1, keepdim=True)


@method
@dataclass(frozen=True, kw_only=True)
class APT(Method):
    """A softmax-free read-out of learnt prompts beside every attention (Wu et al., arXiv 2306.15706). Not an identity at the start.

    Args:
        prompts: p. 200 in the paper's tables; 0 leaves e^s alone.
        rank: r of the map from P to P~. 4 in the tables; 0: P~ = P.
        where: "attention": beside self-attention and, in blocks that have one, cross-attention; "self" or "cross": one of them;
            "ffn"; "all" three. The tables have "attention".
        activation: of the scores, "relu" or "softmax".
        gate: what stands for the unknown amplitude of a token's read-out: its "max" score, or a "learned" number (starts at 1).
        start: of W_d and W_u: "run" N(0, 0.02^2) both, as the host models' own initialisation left them in the authors' runs;
            "declared" N(0, 1) and 0, as the authors' module says: P~ = P at the start.
        dropout: of the scores in training; the maximum is taken behind it. 0 in every published setting.
        learn_scale: whether s is trained. The authors' METER runs left it at 0, through a slip in a filter of names.
        blocks: indices, None: all.
        stack: one, several, or "both" towers of a pair (CLIP); None: the model's main stack.
    """

    prompts: int = 200
    rank: int = 4
    where: Literal["attention", "self", "cross", "ffn", "all"] = "attention"
    activation: Literal["relu", "softmax"] = "relu"
    gate: Literal["max", "learned"] = "max"
    start: Literal["run", "declared"] = "run"
    dropout: float = 0.0
    learn_scale: bool = True
    blocks: tuple[int, ...] | None = None
    stack: str | tuple[str, ...] | None = None

    name = "apt"

    def __post_init__(self) -> None:
        for field in ("prompts", "rank"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} must be 0 or more, got {getattr(self, field)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")
        choices = {"where": PLACES, "activation": ("relu", "softmax"), "gate": ("max", "learned")}
        for field, allowed in {**choices, "start": ("run", "declared")}.items():
            if getattr(self, field) not in allowed:
                raise UserError(f"{field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Places the read-outs; their tree is `<stack>.blocks.<i>.<branch>.{prompts, down, up, scale, gate}`.

        Raises:
            ValueError: no block has the attention that is asked for.
        """
        tree, places = ReadOuts(), []
        for block, branch in self.places(anatomy):
            part = ReadOut(block, self)
            grow(tree, f"{block.key}.{branch}", part)
            anatomy.add(block, branch, part)
            places.append((block, LAST[branch], part))
        tree.borrow(anatomy=anatomy, places=places)
        return tree

    def places(self, anatomy: Anatomy) -> list[tuple[Block, Branch]]:
        """Where the read-outs stand: every asked-for branch that a block has.

        Raises:
            ValueError: there is none.
        """
        blocks = anatomy.blocks(self.stack, self.blocks)
        found: list[tuple[Block, Branch]] = [
            (b, branch) for b in blocks for branch in PLACES[self.where] if branch != "cross" or b.cross
        ]
        if not found:
            stack = blocks[0].stack.name
            raise UserError(f"where='cross', but blocks of the {stack} stack have no cross-attention; use 'attention'")
        return found

    def parameters(self, anatomy: Anatomy) -> int:
        """p d + 2 r d + 1 for each read-out; without 1 where s is not trained, and one more for a learned gate."""
        return sum(self._each(block.sizes.width) for block, _ in self.places(anatomy))

    def _each(self, d: int) -> int:
        if self.prompts == 0:
            return int(self.learn_scale)
        return self.prompts * d + 2 * self.rank * d + self.learn_scale + (self.gate == "learned")

    def finished_macs(self, plan: Plan) -> int:
        """2 n p d for each read-out."""
        places = self.places(plan.anatomy)
        return sum(2 * plan.seen(b, where) * self.prompts * b.sizes.width for b, where in places)

    def training_macs(self, plan: Plan) -> tuple[int, int]:
        """Once per batch: 2 p r d for P~ of each read-out."""
        return 0, sum(2 * self.prompts * self.rank * b.sizes.width for b, _ in self.places(plan.anatomy))


class ReadOut(Part):
    """The APT of one branch: owner of P, W_d, W_u, s and, where it is learned, the gate."""

    scoring: Tensor | None  # of a finished one: P~
    values: Tensor | None  # e^s P
    growth: Tensor | None  # e^s - 1; None where the branch's last Linear has it in its weights

    def __init__(self, block: Block, config: APT):
        super().__init__()
        p, d, device = config.prompts, block.sizes.width, block.device
        r, declared = config.rank if p else 0, config.start == "declared"
        self.prompts = _drawn(p, d, SPREAD, device) if p else None
        self.down = _drawn(r, d, 1.0 if declared else SPREAD, device) if r else None
        self.up = _drawn(d, r, 0.0 if declared else SPREAD, device) if r else None
        self.gate = nn.Parameter(torch.ones(1, device=device)) if p and config.gate == "learned" else None
        self.scale: nn.Parameter | None = nn.Parameter(torch.zeros(1, device=device), requires_grad=config.learn_scale)
        self.activation, self.dropout, self.gated = config.activation, config.dropout, config.gate == "max"
        for name in ("scoring", "values", "growth"):
            self.register_buffer(name, None)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """x, output [B, n, d]: what the branch reads and gives -> APT(output, x) - output, [B, n, d], computed in float32.

        Written as (e^s - 1) (O + Delta) + Delta, so that nothing is lost where s is 0.
        """
        with _full_precision(x.device.type):
            if self.scale is None:
                delta = self.delta(x, self.scoring, self.values)
                change = delta if self.growth is None else delta + self.growth * output
            else:
                delta = self.delta(x, self.transformed(), self.prompts)
                delta = delta if self.gate is None else self.gate * delta
                change = delta + self.scale.expm1() * (output + delta)
        return change.to(output.dtype).expand_as(output)

    def transformed(self) -> Tensor | None:
        """P~ [p, d]; P itself at rank 0, None without prompts."""
        if self.prompts is None or self.down is None or self.up is None:
            return self.prompts
        return transform(self.prompts, self.down, self.up)

    def delta(self, x: Tensor, scoring: Tensor | None, values: Tensor | None) -> Tensor:
        """w * A V for x [B, n, d], P~ and V [p, d]; A V where a gate is learned; 0 without prompts."""
        if scoring is None or values is None:
            return x.new_zeros(())
        A = F.dropout(scores(x.to(scoring.dtype), scoring, self.activation), self.dropout, self.training)
        return largest(A) * (A @ values) if self.gated else A @ values

    @torch.no_grad()
    def finalize(self) -> None:
        """P~, e^s P (with the learned gate) and e^s - 1 are stored in place of P, W_d, W_u and s."""
        assert self.scale is not None
        self.eval()
        if self.prompts is not None:
            factor = self.scale.exp() if self.gate is None else self.scale.exp() * self.gate
            self.scoring, self.values = (t.clone() for t in (self.transformed(), factor * self.prompts))  # type: ignore
        self.growth = self.scale.expm1()
        self.prompts = self.down = self.up = self.gate = self.scale = None

    @torch.no_grad()
    def fold(self, last: nn.Linear) -> None:
        """After `finalize`: the branch's last Linear gives e^s O by itself."""
        assert self.growth is not None
        for tensor in (last.weight, last.bias):
            if tensor is not None:
                tensor.mul_((1 + self.growth).to(tensor.dtype))
        self.growth = None


class ReadOuts(Part):
    """All read-outs of a model. When finished, e^s goes into the weights behind which they stand, if nobody else reads these."""

    anatomy: Anatomy
    places: list[tuple[Block, str, ReadOut]]

    def finalize(self) -> None:
        """Every read-out becomes two tables; nothing more is computed for s, unless other methods work beside APT."""
        super().finalize()
        own = {id(part) for _, _, part in self.places}
        alone = all(isinstance(c, Swapped) or id(c.part) in own for c in self.anatomy.log)
        for block, role, part in self.places if alone else ():
            last = block.part(role) if block.path(role) else None  # None: many experts are the last
            if type(last) is nn.Linear and not quantised(last):
                part.fold(last)
        self.borrow(anatomy=None, places=[])


def _drawn(rows: int, columns: int, spread: float, device: torch.device) -> nn.Parameter:
    return nn.Parameter(spread * torch.randn(rows, columns, device=device))


def _full_precision(device: str) -> AbstractContextManager[object]:
    """Scores, their maximum and the product grow with the third power of P and leave the range of float16."""
    enabled = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if enabled else nullcontext()
