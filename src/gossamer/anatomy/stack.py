"""How a family describes its blocks: names of parts, and the facts in which families differ. Nothing of what is done to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

Modality = Literal["vision", "text", "both", "latent"]
Packed = Literal["rows", "sequence"]
"""What tokens stand for: both has the text in front; latent are the places of a noised map."""


@dataclass(frozen=True, kw_only=True)
class AttentionNames:
    """Names of the parts of one attention, relative to its block; `head_width` and `scaling` are attributes of `module`."""

    module: str  # the module that turns states into attended states
    q: str
    k: str
    v: str
    out: str
    norm: str | None  # normalisation before the branch; None in post-norm blocks
    entry: str | None = None  # a module that is called with what the branch reads, where `q` reads other things as well
    fused: str | None = None  # one Linear for q, k, v, or in cross-attention for k, v; these then name its parts
    grouped: bool = (
        False  # rows of the fused Linear come head by head of the keys: the queries that read it, its key, its value
    )
    apart: tuple[str, str, str] | None = None  # parameters of the block: biases of q, k, v that the fused Linear lacks
    bypassed: bool = (
        False  # `module` takes the weights of the fused Linear and does not call it: only `own_attention` does
    )
    after: str | None = None  # post-norm blocks: the normalisation after the residual sum
    closing: str | None = None  # a normalisation of what the branch gives, before LayerScale and the sum
    head_width: str = "head_dim"
    heads: str | None = None  # an attribute of `module`: the number of heads, where it does not say their width
    scaling: str | None = "scaling"  # factor of q k^T; None: head_width ** -0.5
    q_norm: str | None = None  # normalisation of queries and keys, of each head or of all of them at once
    k_norm: str | None = None
    clamp: str | None = None  # an attribute of `module`: how far from zero projections may be; None there: any
    layer_scale: str | None = None  # the module, parameter [d] or number that damps the branch before the residual sum
    bias: str | None = (
        None  # a module, parameter or number that gives every row a position inside the block: none can be let in
    )
    adds: str | None = None  # an argument of `module`: the stream, to which it adds what it gives
    returns: int = 2  # values that `module` returns: states, bias or weights, ...; 0: the states alone, no tuple


@dataclass(frozen=True, kw_only=True)
class FfnNames:
    """Names of the parts of one feed-forward branch, relative to its block; alternatives in order of preference."""

    up: str  # where gate and up are one Linear of twice the width, that
    down: str
    norm: str | None
    gate: str | None = None
    after: str | None = None
    closing: str | None = None
    layer_scale: str | None = None
    act: str | None = None  # the activation; of gated ones that of the gate
    experts: str | None = (
        None  # inside of `up` and `down`, which are one module then: it sends each token to some of them
    )


@dataclass(frozen=True, kw_only=True)
class WindowNames:
    """Where a stack that attends in windows keeps them, and how patches become one between its stages of different width.

    `size` is an attribute of a block, or a function of it: height and width of its windows in tokens, or one number for both; 0
    or None where it attends to all.

    In some stacks other tokens may stand in front of a window: there `merging` is the merging of four patches to one, relative to
    the owner, a star for the number of the stage at whose end (or, with `merges_first`, at whose start) it runs; it has a `norm`
    and a Linear `reduction`. Behind the owner's last norm the read-out averages everything that comes through. `grid` is an
    attribute of a block: height and width of its states in tokens; `dimensions` the argument that says so, of blocks that take
    states as one row [B, h w, d] and not as a grid [B, h, w, d]. Where `merging` is None a block cuts its windows by itself, out
    of states that are nothing but patches, and no other tokens can stand there.
    """

    size: str | Callable[[Any], tuple[int, int] | None]
    merging: str | None = None
    grid: str = "input_resolution"
    dimensions: str | None = None
    norms_last: bool = False  # merging: behind its `reduction`, not before it
    merges_first: bool = False

    @property
    def lets_in(self) -> bool:
        """Whether other tokens may stand in front of a window."""
        return self.merging is not None


@dataclass(frozen=True, kw_only=True)
class MapNames:
    """A map that an owner gives in place of a row of states: [B, c, h, w], or with `channels_last` [B, h, w, c].

    `width` is c, of the owner's configuration (of timm's models, which have none, of the owner).
    """

    width: Callable[[Any], int]
    channels_last: bool = False


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One column of equal blocks: where it sits and the facts in which families differ.

    Two descriptions of one owner with the same name are two columns of one stack (METER's fusion, text and image), which run side
    by side, position by position; their blocks are numbered on.

    `prefix` counts the class-like tokens in front of the sequence (an attribute path on the owner, or a number);
    inserted tokens go behind them. `readout` says how one vector a sample is read from the owner's output: "first" token,
    "last" token that is no padding, "mean" over tokens that are none, or the owner's "pooled" output. `own_attention` names
    the class that computes attention from the block's Linears, for families that offer no public seam inside theirs.
    """

    name: Literal["vision", "connector", "text", "encoder", "decoder", "fusion", "denoiser"]
    owners: tuple[str, ...]  # config.model_type, or package.Class for models without a Hugging Face config
    blocks: (
        str | tuple[str, ...]
    )  # the list of blocks, relative to the owner; with stars, all such lists; several: as they run
    level: Callable[[Any, str], int] | None = (
        None  # of the owner and the name of a block: how often its map was halved before it
    )
    aside: tuple[
        str, ...
    ] = ()  # lists of others behind them, in the owner, that make tokens of their own: nothing is placed there
    kinds: tuple[
        str, ...
    ] = ()  # classes of blocks, where an owner may have others with parts of the same names; (): any
    attention: tuple[AttentionNames, ...]  # alternatives in order of preference
    ffn: tuple[FfnNames, ...]
    patch_convolution: tuple[
        str, ...
    ]  # in the owner, alternatives: makes tokens of patches; (): it reads no images, or no convolution does it
    final_norm: tuple[
        str, ...
    ]  # in the owner, alternatives: the norm behind the last block; (): blocks end with one, a map follows them, or nothing does
    cross: AttentionNames | None = None  # of those blocks that have it
    prefix: int | tuple[str, ...] = 0  # a number, or attributes of the owner to try, in order
    extra_prefix: int = 0
    causal: bool = False
    whole: bool = False  # a causal stack that only ever reads whole texts: its blocks take no key/value cache
    readout: Literal["first", "last", "mean", "pooled"] | None = "first"  # None: no vector a sample is read from it
    modality: Modality = "vision"
    visual_prefix: int = 0  # of both: class-like tokens between text and patches
    patches: str | None = None  # in the owner: gives the patch tokens [B, n, d] before positions are added
    patch_side: str | None = (
        None  # in the owner: pixels a side of a patch, where `patches` is a Linear that makes tokens of them
    )
    patches_norm: str | None = None  # in the owner: a norm behind the positions puts tokens on another scale
    rotary: str | None = None  # in the owner: rotary(states, positions) = cosine and sine for its blocks
    patch_rotary: bool = False  # its blocks get tables for the patches alone: tokens in front of these are not rotated
    fixed: Callable[[Any], tuple[int | tuple[int, int], dict[str, Any]]] | None = (
        None  # of a block: how many tokens it takes, or height and width of its map of them, and what it is told
    )
    between: Callable[[Any], int | None] | None = (
        None  # of one in the list: None for a block of the stream; of one that pools or widens between stages how often it halves
    )
    gives: MapNames | None = None  # what the owner gives, where that is no row of states
    packed: Packed | None = (
        None  # its states are those of all samples: rows [N, d], and an argument says where each begins; or [1, N, d], and a mask
    )
    modulated: bool = (
        False  # factors of each sample's timestep stand between norms and branches, and between branches and sums
    )
    parallel: bool | str = (
        False  # attention and FFN both read what enters the block, and are added at once; an attribute of a block that says so
    )
    alibi: bool | str = (
        False  # a bias by the keys' places comes from outside, and its attention needs one; an attribute of a block that says so
    )
    own_attention: type[nn.Module] | None = None
    pooled: int = 1  # widths of the stream in one vector that "pooled" reads out
    masked_pool: bool = False  # "pooled" is told which rows are real, and takes no others
    entrance: str | None = None  # in the owner: gives the (text) tokens that enter, before modality types are added
    passed: tuple[str, ...] = ()  # in the owner, where it has them: Linears around the blocks that every token passes
    words: str | None = None  # in the owner: ids -> embedded words, as the text begins its way
    closed: bool = (
        True  # what the bare model computes has a closed form here; False: cost sheets have what was counted alone
    )
    counts_as: str | None = None  # the stack whose number of tokens its blocks see; None: a number of its own
    context: tuple[
        str, ...
    ] = ()  # stacks whose tokens the cross-attention may read: the first that the model has, or is given
    relative_bias: bool = False  # the first block computes a bias that the others receive
    returns_tuple: int = 0  # a block returns a tuple of so many, the states first, and not the states alone
    windows: WindowNames | None = None
    needs_zero: str | None = (
        None  # an attribute of the owner; above 0 it sees only a part of its input, and cannot be adapted
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """Where its blocks are, one path or several."""
        return (self.blocks,) if isinstance(self.blocks, str) else self.blocks
