"""DVP, dynamic visual prompting: an image becomes one prompt that the text at hand has asked for.

S. Huang, Q. Wu, Y. Zhou, W. Chen, R. Zhang, X. Sun, R. Ji: Adapting Pre-trained Language Models to Vision-Language Tasks via
Dynamic Visual Prompting, IJCNN 2024, arXiv 2306.00409.

    Q = q W_q^T + b_q,   K = V W_k^T + b_k,   U = V W_v^T + b_v       q [B, p, d] text states, V [B, m, d_v] visual tokens
    P = concat_j( Dropout(softmax(Q_j K_j^T / sqrt(c / h))) U_j ) W_o^T + b_o
    X = [P + E_1; H + E_0]                                            in front of block K, once; stripped behind the last block

What is not in the paper's abstract and figures follows the authors' code.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy, Branch, sight
from gossamer.anatomy.block import Block
from gossamer.anatomy.leading import Lead
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method, share
from gossamer.methods.parts import bottleneck
from gossamer.methods.parts.arms import Arm
from gossamer.methods.parts.bandit import Bandit
from gossamer.methods.parts.bottleneck import Bottleneck

DROPOUT = 0.1  # on the attention map of the generator, the authors'
ADAPTER_STD, HEAD_STD = 0.01, 0.02  # of weights at the start, the authors'


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Softmax attention [B, p, c] of queries [B, p, c] to keys and values [B, m, c]; mask [B, m]: True where a token is kept."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (queries, keys, values))
    seen = None if mask is None else mask[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, seen, dropout).transpose(1, 2).flatten(2)


def weights(queries: Tensor, keys: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The weights [B, h, p, m] by which `attend` sums the values; over m they sum to 1."""
    q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (queries, keys))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return (scores if mask is None else scores.masked_fill(~mask[:, None, None], -torch.inf)).softmax(dim=-1)


def pooled(states: Tensor, mask: Tensor | None) -> Tensor:
    """Mean [B, 1, d] over the states [B, n, d] that the mask [B, n] keeps (None: all)."""
    if mask is None:
        return states.mean(dim=1, keepdim=True)
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1)


@method
@dataclass(frozen=True, kw_only=True)
class DVP(Method):
    """One visual prompt, generated from text and image (Huang et al., arXiv 2306.00409); for models made by `VisionLanguage`.

    The prompt enters the language model's last stack: BERT's encoder, T5's decoder, LLaMA's layers.

    Args:
        block: K, the block in front of which the prompt enters; 0 is the first. Where the query is a state of this stack, at 0 it
            is an embedding, and hardly depends on the text. 4 is that of the authors' script for ScienceQA; search for it.
        query: "token": the class token of an encoder, the last token of a decoder-only model's question, the mean over the
            encoder's output of an encoder-decoder (the authors'); "mean": the mean over the question's tokens; "all": every token
            of the question asks for a prompt of its own.
        width: c, of the generator's attention. None: that of the language model; 512 (or less) for decoder-only models.
        heads: of the generator. None: 12; 16 for decoder-only models. They must divide the width.
        train: what is trained besides generator, modality embedding and head: "adapters" behind every sub-layer and all norms of
            the language model (DVP_adp); "language", the whole language model; "prompt", nothing.
        rank: r of the adapters. None: an eighth of the width; a 64th for decoder-only models.
        init_std: of the modality embedding at the start, which decoder-only models do not have. The authors: 1.
        released_compat: T5 as the authors released it: relative bias in the first block of each stack only, a prompt that sees
            the start token, a query averaged over padding too.
        super_network: a generator in front of every block, of which one acts at a time (`choose`), `block` at first: what a
            search for the placement trains.
    """

    block: int = 4
    query: Literal["token", "mean", "all"] = "token"
    width: int | None = None
    heads: int | None = None
    train: Literal["adapters", "language", "prompt"] = "adapters"
    rank: int | None = None
    init_std: float = 0.02
    released_compat: bool = False
    super_network: bool = False

    name = "dvp"

    def __post_init__(self) -> None:
        for field in ("width", "heads", "rank"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"{field} must be at least 1 (or None for the authors'), got {value}")
        for field, known in (("query", ("token", "mean", "all")), ("train", ("adapters", "language", "prompt"))):
            if getattr(self, field) not in known:
                raise UserError(f"{field} must be one of {', '.join(known)}, got {getattr(self, field)!r}")
        if self.init_std < 0:
            raise UserError(f"init_std must be 0 or more, got {self.init_std}")

    def trained_parts(self, anatomy: Anatomy) -> list[nn.Module]:
        """The language model where it is trained itself; the vision tower stays as it is."""
        return [anatomy.model.language] if self.train == "language" else []  # type: ignore[list-item]

    def attach(self, anatomy: Anatomy) -> Part:
        """Places generator and adapters; their tree is `<stack>.blocks.<i>.prompt`, `.adapters.<branch>` and `.norm<j>`.

        Raises:
            TypeError: the model is not made by `VisionLanguage`.
            ValueError: the generator's heads do not divide its width, or there is nothing to be compatible with.
        """
        sight.of(anatomy.model)
        stack = anatomy.readout.name
        (first,) = anatomy.blocks(stack, (self.block,))
        if self.released_compat and not first.stack.relative_bias:
            raise UserError(
                f"released_compat=True is about T5's relative bias, which {type(anatomy.model).__name__} has not"
            )
        self._warn(anatomy)
        tree = share(anatomy, self._shared(anatomy))
        placement = Placement(self.block)
        for block in self._placed(anatomy):
            self._place(anatomy, block, tree, placement)
        if self.train == "adapters":
            self._adapt(anatomy, tree)
        if self.released_compat:
            for block in (b for name in anatomy.adapted for b in anatomy.blocks(name)[1:]):
                anatomy.withhold(block, "bias")
        arms = [f"{anatomy.readout.name}.blocks.{i}" for i in sorted(placement.known)]
        tree.borrow(placement=placement, arms=arms, use=placement.use)
        return tree

    def bandit(self) -> Bandit:
        """The paper's rules of the search for K."""
        return Bandit.dvp()

    def picks(self, anatomy: Anatomy) -> int:
        """One placement."""
        return 1

    def arms(self, anatomy: Anatomy) -> list[Arm]:
        """The blocks in front of which the prompt may enter, as a race names them."""
        return [Arm(block.key, block.index) for block in anatomy.blocks(anatomy.readout.name)]

    def supernet(self) -> DVP:
        """A generator in front of every block; see `gossamer.search`."""
        return replace(self, super_network=True)

    def found(self, chosen: Iterable[int]) -> DVP:
        """The same method with the prompt in front of this block."""
        (block,) = chosen
        return replace(self, block=block, super_network=False)

    def _warn(self, anatomy: Anatomy) -> None:
        if self.block == 0 and self.query == "token" and not _two_sided(anatomy) and not self.super_network:
            warnings.warn(
                "block=0: the query is a token before the first block, the same for every text, so the prompt depends on the "
                "image alone; put it in front of a later block",
                stacklevel=4,
            )

    def _placed(self, anatomy: Anatomy) -> list[Block]:
        return anatomy.blocks(anatomy.readout.name, None if self.super_network else (self.block,))

    def _place(self, anatomy: Anatomy, block: Block, tree: Part, placement: Placement) -> None:
        """Generator, prompt and modality embedding in front of one block."""
        prompt = VisualPrompt(anatomy, block, self, placement)
        grow(tree, f"{block.key}.prompt", prompt)
        anatomy.look(prompt.generator)
        anatomy.lead(block, prompt, both_ways=self.released_compat)
        if prompt.modality is not None:
            anatomy.middle(block, TextModality(prompt), at="start")

    def _adapt(self, anatomy: Anatomy, tree: Part) -> None:
        """Bottlenecks behind every sub-layer of the language model: z + U phi(D z + b_D) + b_U."""
        causal = _decoder_only(anatomy)
        draw = nn.init.xavier_uniform_ if causal else partial(nn.init.normal_, std=ADAPTER_STD)
        activation = "silu" if causal else "relu"
        for block, branch in self._branches(anatomy):
            width, rank = block.sizes.width, self._rank(anatomy)
            adapter = Bottleneck(width, rank, activation=activation, reads="output", device=block.device)
            adapter.start(draw, draw)
            grow(tree, f"{block.key}.adapters.{branch}", adapter)
            anatomy.add(block, branch, adapter)

    def _branches(self, anatomy: Anatomy) -> list[tuple[Block, Branch]]:
        blocks = [b for name in anatomy.adapted for b in anatomy.blocks(name)]
        crossed: tuple[Branch, ...] = ("attention", "cross", "ffn")
        return [(b, branch) for b in blocks for branch in crossed if branch != "cross" or b.cross is not None]

    def _shared(self, anatomy: Anatomy) -> dict[str, nn.Parameter]:
        """The language model's own parameters that are trained: all, or those of norms in and behind its blocks, or none."""
        if self.train == "prompt":
            return {}
        owned = dict(anatomy.model.language.named_parameters(prefix="language"))  # type: ignore[union-attr, operator]
        if self.train == "language":
            pooler: Any = getattr(anatomy.owner(), "pooler", None)
            unread = set() if pooler is None else {id(p) for p in pooler.parameters()}
            return {n: p for n, p in owned.items() if id(p) not in unread}
        norms = set()
        for name in anatomy.adapted:
            blocks = anatomy.blocks(name)
            norms |= {block.roles().get(role) for block in blocks for role in ("norm1", "norm2", "cross.norm")}
            norms.add(anatomy.around(name).get("norm"))
        return {n: p for n, p in owned.items() if n.rpartition(".")[0] in norms}

    def _sizes(self, anatomy: Anatomy) -> tuple[int, int, int, int]:
        """d, d_v, c and number of heads of the generator."""
        d, d_v = (anatomy.blocks(name)[0].sizes.width for name in (anatomy.readout.name, "vision"))
        causal = _decoder_only(anatomy)
        c = self.width or (min(d, 512) if causal else d)
        heads = self.heads or (16 if causal else 12)
        if c % heads:
            raise UserError(f"{heads} heads do not divide the generator's width {c}: choose DVP(heads=..., width=...)")
        return d, d_v, c, heads

    def _rank(self, anatomy: Anatomy) -> int:
        d = anatomy.blocks()[0].sizes.width
        return self.rank or max(1, d // (64 if _decoder_only(anatomy) else 8))

    def head(self, anatomy: Anatomy, width: int, outputs: int) -> nn.Module:
        """W_b GELU(LN(W_a x + b_a)) + b_b, 2 d wide (decoder-only models: d / 8); weights start normal (0.02), biases zero."""
        hidden = max(2, width // 8) if _decoder_only(anatomy) else 2 * width
        head = nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, outputs))
        for linear in (head[0], head[-1]):
            nn.init.normal_(linear.weight, std=HEAD_STD)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        return head

    def parameters(self, anatomy: Anatomy) -> int:
        """2 c (d_v + d) + 3 c + d, with 2 d of modality embedding, for each placement; 2 d r + r + d for each adapter; norms."""
        d, d_v, c, _ = self._sizes(anatomy)
        each = 2 * c * (d_v + d) + 3 * c + d + (0 if _decoder_only(anatomy) else 2 * d)
        total = each * len(self._placed(anatomy))
        if self.train == "adapters":
            r = self._rank(anatomy)
            total += sum(bottleneck.parameters(b.sizes.width, r) for b, _ in self._branches(anatomy))
        return total + sum(p.numel() for p in {id(p): p for p in self._shared(anatomy).values()}.values())

    def foresee(self, plan: Plan) -> None:
        """p tokens from block K on."""
        stack = plan.anatomy.readout.name
        plan.insert(plan.anatomy.stacks[stack][self.block], self._count(plan), last=plan.anatomy.stacks[stack][-1])

    def _count(self, plan: Plan) -> int:
        """p, the prompts of one sample."""
        asks = plan.anatomy.stacks["encoder" if _two_sided(plan.anatomy) else plan.anatomy.readout.name][0]
        return asks.tokens(plan.counts) if self.query == "all" else 1

    def finished_macs(self, plan: Plan) -> int:
        """The generator, 2 m d_v c + 2 p d c + 2 p m c, and 2 d r for each adapter and token."""
        d, d_v, c, _ = self._sizes(plan.anatomy)
        p, m = self._count(plan), plan.counts["vision"]
        total = 2 * m * d_v * c + 2 * p * d * c + 2 * p * m * c
        if self.train == "adapters":
            r = self._rank(plan.anatomy)
            total += sum(2 * b.sizes.width * r * plan.tokens(b) for b, _ in self._branches(plan.anatomy))
        return total


def placements(adapted: Any) -> int:
    """M, the number of blocks in front of which a super-network can place its prompt."""
    return len(_tree(adapted).placement.known)


def choose(adapted: Any, block: int) -> None:
    """From now on the super-network's prompt enters in front of this block, made by this block's own generator.

    Raises:
        ValueError: the adapter has no such placement.
    """
    placement = _tree(adapted).placement
    if block not in placement.known:
        raise UserError(f"no placement {block}: this adapter has {', '.join(map(str, sorted(placement.known)))}")
    placement.block = block


def _tree(adapted: Any) -> Any:
    if "dvp" not in adapted.methods:
        raise UserError(f"no placement of a visual prompt: this model is adapted by {', '.join(adapted.methods)}")
    return adapted.methods["dvp"]


class Placement:
    """The block in front of which the prompt enters now, of those that have a generator."""

    def __init__(self, block: int):
        self.block = block
        self.known: set[int] = set()

    def use(self, chosen: Iterable[int]) -> None:
        """From now on the prompt enters in front of this one of the blocks, counted from 0."""
        (self.block,) = chosen


class Generator(sight.Reader):
    """Cross-attention of text states to visual tokens: W_q [c, d], W_k and W_v [c, d_v], W_o [d, c], as Linears start."""

    placement: Placement

    def __init__(self, block: Block, config: DVP, sizes: tuple[int, int, int, int], placement: Placement):
        super().__init__()
        d, d_v, c, self.heads = sizes
        self.q, self.k, self.v = (nn.Linear(n, c, device=block.device) for n in (d, d_v, d_v))
        self.o = nn.Linear(c, d, device=block.device)
        self.at = block.index
        placement.known.add(block.index)
        self.borrow(placement=placement)

    @property
    def acts(self) -> bool:
        """Whether the prompt is placed here now."""
        return self.placement.block == self.at

    def forward(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """The vision tower's states [I, m, d_v], all tokens -> K, U [I, m, c] and which exist [I, m]; nothing while it rests."""
        if not self.acts:
            return ()
        states = states.to(self.k.weight.dtype)
        exists = () if mask is None else (mask,)
        return (self.k(states), self.v(states), *exists)

    def prompts(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries [B, p, d] and what was kept of the images -> prompts [B, p, d]."""
        dropout = DROPOUT if self.training else 0.0
        return self.o(attend(self.q(queries.to(self.q.weight.dtype)), keys, values, self.heads, mask, dropout))

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much each of these prompts [B, p] takes of each visual token, mean over heads, [B, p, m]."""
        return weights(self.q(queries.to(self.q.weight.dtype)), keys, self.heads, mask).mean(dim=1)


class VisualPrompt(Lead):
    """The prompts [B, p, d] in front of one block, with the modality embedding E [2, d] (row 0 text, row 1 image)."""

    generator: Generator
    seeing: sight.Sight
    block: Block

    def __init__(self, anatomy: Anatomy, block: Block, config: DVP, placement: Placement):
        super().__init__()
        self.generator = Generator(block, config, config._sizes(anatomy), placement)
        causal, two_sided = _decoder_only(anatomy), _two_sided(anatomy)
        self.modality: nn.Parameter | None = None
        if not causal:
            self.modality = nn.Parameter(torch.randn(2, block.sizes.width, device=block.device) * config.init_std)
        kind = "last" if causal else "first" if block.prefix and not two_sided else "mean"
        self.query = kind if config.query == "token" else config.query
        self.everywhere = config.released_compat  # a mean over padding as well
        self.borrow(seeing=sight.of(anatomy.model), block=block)

    def acting(self) -> bool:
        """Whether the prompt is placed here and there is an image at all."""
        return self.generator.acts and self.seeing.scene.rows is not None

    def forward(self, x: Tensor, side: Tensor | None) -> Tensor:
        """States x [B, N, d] that enter the block and the encoder's [B, n, d], where there are any -> [B, p, d]."""
        if not self.acting():
            return x.new_zeros(x.shape[0], 0, x.shape[-1])
        kept = self._kept(x.shape[0])
        prompts = self.generator.prompts(self._queries(x if side is None else side), *kept)
        if self.modality is None:
            return prompts
        return prompts + (self.modality[1] - self.modality[0])  # TextModality adds E_0 to every row

    def weights(self, x: Tensor, side: Tensor | None) -> Tensor:
        """How much of each visual token the prompts of `forward` are made of, mean over heads, [B, p, m]; only with images."""
        keys, _, *mask = self._kept(x.shape[0])
        return self.generator.weights(self._queries(x if side is None else side), keys, *mask)

    def _kept(self, batch: int) -> list[Tensor]:
        """What the generator kept of the images of `batch` sequences."""
        kept = [sight.spread(t, batch) for t in self.seeing.of(self.generator) or ()]
        if not kept:
            raise RuntimeError("these images were seen under another placement: call see() again after choose()")
        return kept

    def _queries(self, states: Tensor) -> Tensor:
        """Of states [B, n, d] those that ask, [B, p, d]."""
        question = self._question(states.shape[0])
        if self.query == "first":
            return states[:, :1]
        if self.query == "last":
            end = sight.question_end(question, states)
            return states[torch.arange(states.shape[0], device=states.device), end][:, None]
        states = states if question is None else states[:, : question.shape[1]]
        if self.query == "mean":
            return pooled(states, None if self.everywhere else question)
        return states if question is None else sight.last(states, question)

    def _question(self, batch: int) -> Tensor | None:
        question = self.seeing.scene.question
        return None if question is None else sight.spread(question, batch)

    def visible(self, batch: int) -> Tensor | None:
        """[batch, p or 1]: hidden are the prompts of texts without an image, and those that padding would have asked for."""
        present, question = self.seeing.scene.present, self._question(batch)
        seen = None if present is None else sight.spread(present, batch)[:, None]
        if self.query != "all" or question is None:
            return seen
        asked = sight.last(question, question)
        return asked if seen is None else asked & seen


class TextModality(Part):
    """E_0 for every text state of a sample with an image, where the prompt enters. Owns nothing."""

    prompt: VisualPrompt

    def __init__(self, prompt: VisualPrompt):
        super().__init__()
        self.borrow(prompt=prompt)

    def forward(self, x: Tensor) -> Tensor:
        """States x [B, N, d] -> what is added, [d] or [B, 1, d]."""
        if not self.prompt.acting():
            return x.new_zeros(())
        assert self.prompt.modality is not None
        present, text = self.prompt.seeing.scene.present, self.prompt.modality[0].to(x.dtype)
        return text if present is None else sight.spread(present, x.shape[0])[:, None, None] * text


def _decoder_only(anatomy: Anatomy) -> bool:
    return anatomy.adapted == ["decoder"]


def _two_sided(anatomy: Anatomy) -> bool:
    return {"encoder", "decoder"} <= set(anatomy.stacks)
