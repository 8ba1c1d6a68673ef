"""One call of a block or an attention, its arguments by what they mean. What upstream calls things stands here, and in families.

A block's arguments are found by name. Names change between releases, so which of them a module takes is read from its signature
when the model is read, what a family needs and does not find is an error there, and a verb that changes the sequence refuses a
block with an argument that nobody knows: it could depend on the number of tokens.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import WrongKind

SPELLINGS: dict[str, tuple[str, ...]] = {  # what an argument means -> what transformers, timm and METER call it
    "states": ("hidden_states", "x"),
    "mask": ("attention_mask", "attn_mask", "mask"),
    "cache": ("cache", "past_key_values", "layer_past"),
    "rotary": ("position_embeddings", "rope"),
    "positions": ("position_ids",),
    "bias": ("position_bias", "relative_position_bias", "shared_rel_pos_bias", "shared_rel_pos", "alibi"),
    "context": ("encoder_hidden_states", "key_value_states"),
    "context_mask": ("encoder_attention_mask",),
    "context_bias": ("encoder_decoder_position_bias",),
    "bounds": ("cu_seqlens", "cu_seq_lens_q"),
}
SQUARE = "attn_mask"  # timm's mask may be [N, N], for all samples; elsewhere two dimensions are [B, N]
JOINED = "rope"  # timm's rotary tables are one tensor, the sine in front; elsewhere they are two, the cosine first
FLAT = "alibi"  # a bias of BLOOM's making is [B heads, 1, M], the same for all queries; elsewhere [1, heads, N, M]
WHATEVER_THE_LENGTH = {  # arguments that stay right when a sequence grows
    "use_cache", "output_attentions", "output_hidden_states", "return_dict", "is_causal", "input_dimensions",
    "always_partition", "resolution", "interpolate_pos_encoding",
    "query_states", "rel_embeddings", "relative_pos", "position_mask",  # of DeBERTa and V-JEPA, which let no tokens in
    "max_seqlen",  # of packed rows, as well
    "query_length",  # Q-Formers', as well
    "timestep", "class_labels", "cross_attention_kwargs", "added_cond_kwargs",  # of denoisers, one for each sample
}  # fmt: skip
TAPS = (
    "config.vision_feature_layer",
    "config.vision_feature_layers",
)  # what models call the blocks of their tower behind which they read; -1: the last
PLACES = (
    "config.image_token_id",
    "config.image_token_index",
)  # of models that give each row of a tower a place in their text


@dataclass
class Call:
    """What one call of a block was given; `None` where it was not, or was given None.

    Attributes:
        states: [B, N, d], in windowed families a grid.
        mask: of the block's own sequence: [B, N], or [B or 1, 1, N or 1, M], boolean (True: visible) or additive.
        cache: of keys and values.
        rotary: cosine and sine [B or 1, N, d_h].
        positions: [B or 1, N], where the block takes them beside the tables.
        bias: by relative position [1 or B, heads, N or 1, M].
        context: what cross-attention reads [B, n, d].
        context_mask, context_bias: the same of cross-attention.
        bounds: of packed rows, where each sample begins, and behind them the number of rows [B + 1].
        others: arguments that mean none of these, by name.
    """

    states: Any = None
    mask: Tensor | None = None
    cache: Any = None
    rotary: tuple[Tensor, Tensor] | None = None
    positions: Tensor | None = None
    bias: Tensor | None = None
    context: Tensor | None = None
    context_mask: Tensor | None = None
    context_bias: Tensor | None = None
    bounds: Tensor | None = None
    others: dict[str, Any] = field(default_factory=dict)


MEANINGS = tuple(f.name for f in dataclasses.fields(Call) if f.name != "others")


class Arguments:
    """How one kind of module takes its arguments, read from the signature of its forward."""

    def __init__(self, module: nn.Module):
        self.kind = type(module).__name__
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.order = tuple(p.name for p in named)
        self.open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.names = {m: n for m in MEANINGS for n in SPELLINGS[m] if n in self.order}
        known = {*self.names.values(), *WHATEVER_THE_LENGTH}
        self.unknown = tuple(name for name in self.order if name not in known)

    def takes(self, meaning: str) -> bool:
        """Whether the module names an argument of this meaning."""
        return meaning in self.names

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """A call by what its arguments mean."""
        given = dict(zip(self.order, args, strict=False)) | dict(kwargs)
        found = {meaning: given.pop(name) for meaning, name in self._spelled(given).items()}
        mask = found.get("mask")
        if mask is not None and mask.dim() == 2 and self.names.get("mask") == SQUARE:
            found["mask"] = mask[None, None]
        bias = found.get("bias")
        if bias is not None and bias.dim() == 3 and self.names.get("bias") == FLAT:
            found["bias"] = bias.unflatten(0, (len(found["states"]), -1))
        tables = found.get("rotary")
        if isinstance(tables, Tensor) and self.names.get("rotary") == JOINED:
            sine, cosine = tables.tensor_split(2, dim=-1)
            found["rotary"] = cosine, sine
        return Call(**found, others=given)

    def write(
        self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `args` and `kwargs`, which `read` gave as this call, with what was changed in it since.

        Raises:
            TypeError: something was added to the call that the module does not take.
        """
        given = dict(zip(self.order, args, strict=False)) | dict(kwargs)
        spelled = self._spelled(given)
        for meaning in MEANINGS:
            value = getattr(call, meaning)
            name = spelled.get(meaning, self.names.get(meaning))
            if name == JOINED and value is not None:
                value = torch.cat(value[::-1], dim=-1)
            if name == FLAT and value is not None:
                value = value.flatten(0, 1)
            if name is not None and (meaning in spelled or value is not None):
                given[name] = value
            elif value is not None:
                raise WrongKind(
                    f"{self.kind} takes no {meaning} (known as {', '.join(SPELLINGS[meaning])}), which this change needs; it "
                    f"takes {', '.join(self.order)}"
                )
        return tuple(given.pop(name) for name in self.order[: len(args)]), given

    def _spelled(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Meaning -> the name under which a call gives it: the declared one, or an older or newer one of an open signature."""
        spelled = {}
        for meaning in MEANINGS:
            names = [n for n in SPELLINGS[meaning] if n in given]
            if len(names) > 1:
                names = [n for n in names if given[n] is not None] or names[:1]
            if len(names) > 1:
                raise WrongKind(f"{self.kind} was given its {meaning} twice, as {' and '.join(names)}")
            if names:
                spelled[meaning] = names[0]
        return spelled


def one_of(meaning: str, given: Mapping[str, Any]) -> Any:
    """The value that keyword arguments give for a meaning, under whatever name; None where they give none."""
    found = [given[name] for name in SPELLINGS[meaning] if given.get(name) is not None]
    return found[0] if found else None


# ---- key/value caches ----


def number(attention: nn.Module) -> int:
    """The place of an attention's keys and values in a cache.

    Raises:
        TypeError: it has none, so that what it stores cannot be found again.
    """
    found = getattr(attention, "layer_idx", None)
    if not isinstance(found, int):
        raise WrongKind(
            f"{type(attention).__name__} does not say its place in a key/value cache (layer_idx is {found!r})"
        )
    return found


def past(cache: Any, attention: nn.Module) -> int:
    """Number of tokens whose keys and values a cache (None: no cache) holds for this attention."""
    return 0 if cache is None else int(cache.get_seq_length(number(attention)))


def own(cache: Any) -> Any:
    """The cache of self-attention: of an encoder-decoder's two the first."""
    return getattr(cache, "self_attention_cache", cache)  # a cache for one attention is its own


def with_own(cache: Any, view: Any) -> Any:
    """A cache whose self-attention looks at `view`; what cross-attention has kept stays where it is."""
    if own(cache) is cache:
        return view
    both = copy.copy(cache)
    both.self_attention_cache = view
    return both


def relative_bias(attention: Any, queries: int, keys: int, seen: int) -> Tensor:
    """The bias by relative position [1, heads, queries, keys] that an attention computes, `seen` keys before its first query."""
    return attention.compute_bias(queries, keys, past_seen_tokens=seen)
