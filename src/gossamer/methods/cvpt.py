"""CVPT: Cross Visual Prompt Tuning.

L. Huang, J. Mao, J. Yi, Z. Tao, Y. Wang: CVPT: Cross Visual Prompt Tuning, arXiv 2408.14961.

Tokens read the prompts of their block through a cross-attention of its own, CA(X, P), whose projections are the frozen ones of the
block's self-attention, held by reference. The sequence and its self-attention stay as they are. The prompts do not depend on the
sample, so the queries' and outputs' projections can be folded into them: cheaper while H m < d + m, and the same function.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.projection import Projection, Rows
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method
from gossamer.methods.vpt import patch_area, prompt_range

PLACEMENTS = (1, 2, 3, 4, 5, "parallel_ffn")
ROLES = ("q", "k", "v", "out")
Form = Literal["constant", "folded", "projected"]


def cross_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(s q k^T) v over the m prompts: q [B, H, N, h], k and v [H, m, h] or [B, H, m, h] -> [B, H, N, h]."""
    k, v = (t.expand(len(q), *t.shape[-3:]) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def fold(
    k: Tensor, v: Tensor, w_q: Tensor, b_q: Tensor | None, w_o: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Per head j G_j = s K_j W_q^j, g_j = s K_j b_q^j, U_j = V_j W_o^j^T.

    k, v [..., H, m, h], w_q [H h, d], w_o [d, H h] -> G [..., H, m, d], g [..., H, m], U [..., H, m, d].
    """
    heads = (k.shape[-3], k.shape[-1])
    g = k.new_zeros(k.shape[:-1]) if b_q is None else scale * (k * b_q.unflatten(0, heads)[:, None]).sum(dim=-1)
    return scale * (k @ w_q.unflatten(0, heads)), g, v @ w_o.T.unflatten(0, heads)


def folded_attention(x: Tensor, G: Tensor, g: Tensor, U: Tensor) -> Tensor:
    """sum_j softmax(x G_j^T + g_j) U_j for x [B, N, d], without the output's bias; the softmax is in float32 at least."""
    scores = x @ G.flatten(-3, -2).mT + g.flatten(-2).unsqueeze(-2)
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.unflatten(-1, G.shape[-3:-1]).softmax(dim=-1, dtype=precise)
    return weights.flatten(-2).to(x.dtype) @ U.flatten(-3, -2)


@method
@dataclass(frozen=True, kw_only=True)
class CVPT(Method):
    """Prompts that the tokens of each block read by a cross-attention (Huang et al., arXiv 2408.14961).

    Args:
        prompts: m, in each block. The paper chooses among 1, 5, 10, 20, 50, 100 and 200 by task.
        placement: where CA is added. 1: before self-attention; 2: beside it; 3: between attention and FFN, the paper's; 4: to what
            the FFN reads, as the authors' code has it; 5: behind the FFN; "parallel_ffn": beside the FFN.
        start: "published": training starts with CA of small random prompts P0, which is not 0; "identity" (ours): with the
            backbone's function, because values count from their start, W_v (P - P0), and b_o is left out. None: "identity" on
            blocks with LayerScale, where the published start wrecks the features, "published" elsewhere.
        prompt_start: "xavier": uniform in +-sqrt(6 / ((L + m) d)) over the L prompted blocks, the authors'; "vpt": VPT's; "zero":
            also in the authors' code; without dropout the prompts of a block then stay equal to each other.
        projections: "shared" with the block's self-attention, or "random", as torch starts Linears (the paper's ablation).
        learnable: the projections are copies of their own and are trained.
        layer_scale: CA goes through the host's LayerScale of the attention branch, where it has one, or floods the stream.
        query_norm: what CA reads: "none", the residual stream, or "host_norm1", the stream after the block's first norm.
        prompt_norm: the same for the prompts.
        dropout: rate on prompt coordinates in training. The paper: 0.1; the default is 0, as in VPT.
        dropout_mask: drawn for each "sample", as the paper does, or once a "batch", which costs less.
        form: "folded", "projected" or "auto": the cheaper of the two.
        blocks: indices of the prompted blocks, 0 first. None: all.
        stack: one, several, or "both" towers of a pair (CLIP); None: the model's main stack.
    """

    prompts: int = 10
    placement: Literal[1, 2, 3, 4, 5, "parallel_ffn"] = 3
    start: Literal["published", "identity"] | None = None
    prompt_start: Literal["xavier", "vpt", "zero"] = "xavier"
    projections: Literal["shared", "random"] = "shared"
    learnable: bool = False
    layer_scale: bool = True
    query_norm: Literal["none", "host_norm1"] = "none"
    prompt_norm: Literal["none", "host_norm1"] = "none"
    dropout: float = 0.0
    dropout_mask: Literal["sample", "batch"] = "sample"
    form: Literal["auto", "folded", "projected"] = "auto"
    blocks: tuple[int, ...] | None = None
    stack: str | tuple[str, ...] | None = None

    name = "cvpt"
    learning_rate = 3e-2  # ours, for some ten epochs (docs/cvpt.md); the authors' 5e-3 is for a hundred

    def __post_init__(self) -> None:
        if self.prompts < 0:
            raise UserError(f"prompts must be 0 or more, got {self.prompts}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")
        choices = {
            "placement": PLACEMENTS, "start": (None, "published", "identity"), "prompt_start": ("xavier", "vpt", "zero"),
            "projections": ("shared", "random"), "query_norm": ("none", "host_norm1"), "prompt_norm": ("none", "host_norm1"),
            "dropout_mask": ("sample", "batch"), "form": ("auto", "folded", "projected"),
        }  # fmt: skip
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                known = ", ".join(map(repr, allowed))
                raise UserError(f"{field} must be one of {known}, got {getattr(self, field)!r}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Places the branches; their tree is `<stack>.blocks.<i>.{prompts, origin, own}`.

        Raises:
            ValueError: a block that cannot be folded, copied or normalised as asked.
        """
        tree = Part()
        blocks = anatomy.blocks(self.stack, self.blocks)
        for block in blocks if self.prompts else ():
            bound = {
                "xavier": math.sqrt(6 / ((_beside(block, blocks) + self.prompts) * block.sizes.width)),
                "vpt": prompt_range(patch_area(anatomy, block), block.sizes.width),
                "zero": 0.0,
            }[self.prompt_start]
            part = CrossPrompts(block, self, bound)
            grow(tree, block.key, part)
            self._place(anatomy, block, part)
        return tree

    def _place(self, anatomy: Anatomy, block: Block, part: CrossPrompts) -> None:
        if self.placement in (2, "parallel_ffn"):
            branch = "attention" if self.placement == 2 else "ffn"
            anatomy.add(block, branch, part, normed=False, damped=False)
        else:
            anatomy.middle(block, part, at={1: "start", 3: "middle", 4: "ffn", 5: "end"}[self.placement])  # type: ignore

    def from_identity(self, block: Block) -> bool:
        """Whether training starts with the backbone's function."""
        return self.start == "identity" or (self.start is None and block.damping("layer_scale1") is not None)

    def form_on(self, block: Block) -> Form:
        """How CA is computed on a block.

        Raises:
            ValueError: "folded" was asked for and the block's projections cannot be folded.
        """
        shared = self.projections == "shared" and not self.learnable
        obstacle = None
        if block.active("q_norm") is not None:
            obstacle = "the queries are normalised after their projection"
        elif shared and not all(block.projection(role, bare=True).plain for role in ("q", "out")):
            obstacle = "its projections are no plain Linears"
        if self.form == "folded" and obstacle:
            raise UserError(f"{block.name} cannot be folded: {obstacle}; use form='auto'")
        if self.form != "auto":
            return self.form
        if self.prompts == 1:
            return "constant"
        sizes, heads = block.sizes, block.sizes.inner // block.head_width
        cheaper = heads * self.prompts * sizes.width < sizes.inner * (sizes.width + self.prompts)
        return "folded" if cheaper and obstacle is None else "projected"

    def parameters(self, anatomy: Anatomy) -> int:
        """m d for each block, + the projections' weights and biases where they are learnt."""
        return sum(self._per_block(b) for b in anatomy.blocks(self.stack, self.blocks)) if self.prompts else 0

    def _per_block(self, block: Block) -> int:
        tensors = [t for role in ROLES for t in block.projection(role, bare=True).weights()] if self.learnable else []
        own = sum(t.numel() for t in tensors if t is not None)
        return self.prompts * block.sizes.width + own

    def finished_macs(self, plan: Plan) -> int:
        """For each block: folded 2 n d H m; projected 2 n h H (d + m); one prompt is a constant and costs nothing."""
        if not self.prompts:
            return 0
        total = 0
        for block in plan.anatomy.blocks(self.stack, self.blocks):
            n = plan.seen(block, "attention" if self.placement in (1, 2) else "ffn")
            sizes, heads = block.sizes, block.sizes.inner // block.head_width
            total += {
                "constant": 0,
                "folded": 2 * n * sizes.width * heads * self.prompts,
                "projected": 2 * n * sizes.inner * (sizes.width + self.prompts),
            }[self.form_on(block)]
        return total

    def training_macs(self, plan: Plan) -> tuple[int, int]:
        """Once per batch: K, V of each block, with them G, U where folded, and V of P0 where training starts from the identity.

        With dropout masks by sample all but the last are for each sample.
        """
        total, origins = 0, 0
        for block in plan.anatomy.blocks(self.stack, self.blocks) if self.prompts else ():
            sizes = block.sizes
            used = {"constant": sizes.inner, "folded": 2 * sizes.inner, "projected": 0}[self.form_on(block)]
            total += self.prompts * sizes.width * (2 * sizes.inner_kv + used)
            origins += self.prompts * sizes.width * sizes.inner_kv * self.from_identity(block)
        return (total, origins) if self.dropout and self.dropout_mask == "sample" else (0, total + origins)


def _beside(block: Block, blocks: list[Block]) -> int:
    """Blocks of its own stack."""
    return sum(other.stack.name == block.stack.name for other in blocks)


class CrossPrompts(Part):
    """CA of one block: owner of its prompts [m, d], of their start, and of projections that are not shared."""

    block: Block
    origin: Tensor | None  # P0 [m, d], where values count from their start
    bias: Tensor  # what is added to every token: damp(b_o), or all of CA where there is one prompt
    keys: Tensor
    values: Tensor
    G: Tensor
    g: Tensor
    U: Tensor

    def __init__(self, block: Block, config: CVPT, bound: float):
        super().__init__()
        norms = "host_norm1" in (config.query_norm, config.prompt_norm)
        if norms and block.attention.norm is None:
            raise UserError(f"{block.name} has no norm before its attention, so there is no 'host_norm1' to use")
        width, device = block.sizes.width, block.device
        start = torch.empty(config.prompts, width, device=device).uniform_(-bound, bound)
        self.prompts: nn.Parameter | None = nn.Parameter(start)
        self.from_identity = config.from_identity(block)
        self.register_buffer("origin", start.clone() if self.from_identity else None)
        self.own: OwnProjections | None = None
        if config.learnable or config.projections == "random":
            self.own = OwnProjections(block, config)
        self.borrow(block=block)  # the block is the backbone's, no child
        self.config, self.form, self.dropout = config, config.form_on(block), config.dropout
        for name in ("bias", "keys", "values", "G", "g", "U"):
            self.register_buffer(name, None)

    def forward(self, x: Tensor, output: Tensor | None = None) -> Tensor:
        """What is added to the residual stream x [B, N, d], or beside a branch that reads it: CA(x, P), damped."""
        queries = self._normed(x, self.config.query_norm)
        if self.prompts is None:
            return self._finished(queries).to(x.dtype)
        k, v = self.keys_values(self._tokens(len(x), x.dtype))
        if self.form == "constant":
            y = self._out(v).expand_as(x)
        elif self.form == "folded":
            y = folded_attention(queries.to(k.dtype), *self._fold(k, v)) + self._bias()
        else:
            y = self._projected(queries, k, v)
        return self._damped(y).to(x.dtype)

    def _tokens(self, batch: int, dtype: torch.dtype) -> Tensor:
        """The prompts [m, d], or [batch, m, d] while every sample has a dropout mask of its own."""
        assert self.prompts is not None
        tokens: Tensor = self.prompts
        if self.training and self.dropout > 0:
            if self.config.dropout_mask == "sample":
                tokens = tokens.expand(batch, -1, -1)
            tokens = F.dropout(tokens, self.dropout)
        return self._normed(tokens.to(dtype), self.config.prompt_norm)

    def _normed(self, x: Tensor, which: str) -> Tensor:
        return x if which == "none" else self._through("norm1", x)

    def _through(self, role: str, x: Tensor) -> Tensor:
        """An optional part of the host on the way, in the host's precision."""
        module = self.block.active(role)
        return x if module is None else module.forward(x.to(next(module.parameters()).dtype)).to(x.dtype)

    def _projection(self, role: str) -> Projection:
        return self.block.projection(role, bare=True) if self.own is None else self.own.projection(role)

    def _heads(self, role: str, x: Tensor) -> Tensor:
        """One of the projections, in heads: [..., N, d] -> [..., H, N, h]; own projections have a precision of their own."""
        projected = self._projection(role)(x if self.own is None else x.to(self.own.dtype))
        if role in ("q", "k"):
            projected = self.block.normed(f"{role}_norm", projected)
        return projected.unflatten(-1, (-1, self.block.head_width)).transpose(-3, -2)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """K, V [..., H, m, h] of prompts [..., m, d], V from its start; what several heads share is repeated."""
        k, v = self._heads("k", tokens), self._heads("v", tokens)
        if self.origin is not None:
            v = v - self._heads("v", self._normed(self.origin.to(tokens.dtype), self.config.prompt_norm))
        repeats = self.block.sizes.inner // self.block.head_width // k.shape[-3]
        return k.repeat_interleave(repeats, dim=-3), v.repeat_interleave(repeats, dim=-3)

    def weights(self, x: Tensor) -> Tensor:
        """How much each token of x [B, N, d] reads of each prompt, [B, H, N, m], in evaluation."""
        k, _ = self.keys_values(self._normed(self.prompts.to(x.dtype), self.config.prompt_norm))  # type: ignore[union-attr]
        q = self._heads("q", self._normed(x, self.config.query_norm))
        return (q @ k.mT * self.block.scaling).softmax(dim=-1)

    def _fold(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w_o = self._projection("out").weights()[0]
        return fold(k, v, *self._projection("q").weights(), w_o, self.block.scaling)

    def _projected(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = self._heads("q", x)
        return self._out(cross_attention(q, k, v, self.block.scaling))

    def _out(self, heads: Tensor) -> Tensor:
        out = self._projection("out")
        y, b_o = out(heads.transpose(-3, -2).flatten(-2)), out.linear.bias
        return y - b_o if self.from_identity and b_o is not None else y

    def _bias(self) -> Tensor | float:
        b_o = self._projection("out").linear.bias
        return 0.0 if self.from_identity or b_o is None else b_o

    def _damped(self, y: Tensor) -> Tensor:
        return self.block.damped("layer_scale1", y) if self.config.layer_scale else y

    def _finished(self, x: Tensor) -> Tensor:
        if self.form == "constant":
            return self.bias.expand_as(x)
        if self.form == "folded":
            return folded_attention(x.to(self.G.dtype), self.G, self.g, self.U) + self.bias
        return self._damped(self._projected(x, self.keys, self.values))

    @torch.no_grad()
    def finalize(self) -> None:
        """Stores, in place of the prompts, K and V, or G, g and U with LayerScale in them, or one vector for one prompt."""
        self.eval()
        k, v = self.keys_values(self._tokens(1, self.block.dtype))
        if self.form == "constant":
            self.bias = self._damped(self._out(v)).clone()
        elif self.form == "folded":
            self.G, self.g, U = self._fold(k, v)
            self.U, self.bias = self._damped(U), self._damped(U.new_zeros(U.shape[-1]) + self._bias())
        else:
            self._keep_projections()
            self.keys, self.values = (t.clone() if self.own is None else t.to(self.own.dtype).clone() for t in (k, v))
        self.prompts = self.origin = None
        if self.form != "projected":
            self.own = None

    def _keep_projections(self) -> None:
        """Where peft has wrapped a projection and will merge into it, the pre-trained one is copied."""
        wrapped = any(
            self.block.projection(role).linear is not self.block.projection(role, bare=True).linear
            for role in ("q", "out")
        )
        if self.own is None and wrapped:
            self.own = OwnProjections(self.block, None)


class OwnProjections(Part):
    """Projections that are not shared: learnt copies, random ones, or (without a configuration) frozen copies of q and out."""

    def __init__(self, block: Block, config: CVPT | None):
        super().__init__()
        self.rows: dict[str, tuple[Rows | None, Tensor | None]] = {}  # and a bias that the block keeps apart
        for role in ROLES if config else ("q", "out"):
            source = block.projection(role, bare=True)
            self.rows[role] = (None, None) if source.plain else (source.rows, source.apart)
            if not source.plain:
                if config:
                    kind = type(source.linear).__name__
                    raise UserError(
                        f"{block.name}: the projection {role!r} is a {kind}, of which no trainable copy can be made"
                    )
                self.add_module(role, copy.deepcopy(source.linear))
                continue
            weight, bias = source.weights()
            dtype = (
                weight.dtype if config is None else None
            )  # what is learnt is in single precision, as all that is trained
            sizes = weight.shape[1], weight.shape[0]
            linear = nn.Linear(*sizes, bias=bias is not None, device=weight.device, dtype=dtype)
            if config is None or config.projections == "shared":
                with torch.no_grad():
                    linear.weight.copy_(weight)
                    if bias is not None:
                        linear.bias.copy_(bias)
            self.add_module(role, linear.requires_grad_(config is not None and config.learnable))

    @property
    def dtype(self) -> torch.dtype:
        """The precision that they compute in."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    def projection(self, role: str) -> Projection:
        """The projection as a function."""
        return Projection(self.get_submodule(role), *self.rows[role])
