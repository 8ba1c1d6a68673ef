"""One row of backbones in the contract: how it is built, what it reads, and the facts that methods ask for.

Tiny random models with odd, unequal sizes: 3 samples, 2 or 3 blocks, 7 tokens, so that a swapped axis cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import twins

VISION = {
    "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
DINO = {
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "layerscale_value": 0.3,
}
TEXT = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20, "vocab_size": 50}
LABELS = 3


@dataclass(frozen=True)
class Backbone:
    """A row: how the model is built, what its blocks are by hand, what it reads, and the facts that methods ask for.

    `kinds` has the by-hand twin of every stack, or says in words where the twin is; there is no row without one.
    """

    build: Callable[..., nn.Module]
    kinds: Mapping[str, twins.Names] | str
    reads: str = "image"  # "image", "text", "both", "seq2seq", "all"
    num_labels: int | None = None  # for models without a head of their own
    eager: bool = True  # whether attn_implementation can be chosen
    generates: bool = False
    biases: bool = True
    post_norm: bool = False
    crosses: bool = False  # its main stack has cross-attention
    precise: bool = False  # its logits are of single precision, whatever its weights are
    rounds: bool = False  # its norms compute in single precision, whatever they are given
    keeps_places: bool = False  # upstream keeps a table of places, on the CPU, for all models of a size
    looks: bool = False  # its forward pass looks at values
    headless: bool = False  # a language model: nothing but a method can be trained
    causal: bool = False  # its main stack sees only what stands before
    sees: bool = False  # composed of a vision tower and a language model
    windows: bool = False  # its attention is in windows
    stages: bool = True  # of those: blocks of several widths
    flat: bool = True  # its blocks read rows of tokens, not a map
    rotary: bool = False  # a vision model whose patches have rotary positions
    dense: bool = True  # its FFN is made of Linears
    projected: bool = True  # queries and keys are attended to as they are projected, without norms of their own
    classed: bool = True  # the main stack, if tokens can become one there, has a class token
    grows: bool = True  # tokens can be let in
    damps_apart: bool = True  # what damps its branches is a module, not a factor in the sum
    between: bool = True  # a stream between attention and FFN
    weighed: bool = True  # its norms have weights
    alone: bool = True  # each of them has a norm of its own
    masks: tuple[str, ...] | None = None  # kinds of mask that its attention takes; None: all
    pickles: bool = True  # after a pass; upstream hooks local functions onto a tower that it taps
    runs_again: bool = True  # upstream checkpoints its blocks
    counted: bool = False  # what reads its tower takes as many rows as there are patches
    packed: bool = False  # the states of its tower are rows of all images
    map: bool = False  # its tokens are the places of a map, of several widths
    tapped: bool = False  # its tower is read before its end
    sampled: bool = True  # a cost sheet can make what it reads: an image, and a text of any length
    images_in_text: int = 0  # tokens of each text that stand for its image
    gives: Callable[[dict[str, Tensor]], dict[str, Tensor]] = (
        dict  # of the usual inputs those that it takes, where it takes others
    )
    like: str | None = None  # the row that is built as this one is: all tests of this one are slow
    meets_all: bool = False  # every method meets it by default; the others' full table is slow

    @property
    def merges(self) -> bool:
        """Whether its tokens have no order, so that some can become one."""
        sees = self.reads == "image" or (
            (self.images_in_text or self.kinds is HALVES) and not (self.sees or self.tapped)
        )
        return bool(sees) and self.grows and self.pre_norm and not (self.windows or self.rotary)

    @property
    def pre_norm(self) -> bool:
        return not self.post_norm

    @property
    def headed(self) -> bool:
        return not self.headless

    @property
    def untapped(self) -> bool:
        return not self.tapped

    @property
    def apart(self) -> bool:
        """Whether each sample has states of its own."""
        return not self.packed

    @property
    def takes_more(self) -> bool:
        """Whether its output may be longer than its input."""
        return not (self.generates or self.causal or self.counted)

    @property
    def one_width(self) -> bool:
        return not ((self.windows and self.stages) or self.map)

    @property
    def drops(self) -> bool:
        """Whether prompts can be dropped: as tokens where the windows of a sample would share a mask."""
        return self.grows or not self.windows

    @property
    def unwindowed(self) -> bool:
        return not self.windows

    @property
    def but(self) -> dict[str, str]:
        """Promises of the contract that mean nothing here, and why."""
        reasons = {
            "kernels": None if self.eager else "its attention has one kernel",
            "padding": "it reads no text"
            if self.reads == "image"
            else "images stand in it" * bool(self.images_in_text) or None,
            "generation": None if self.generates else "it does not write",
            "checkpointing": None if self.runs_again else "upstream cannot run its blocks again",
            "forms": None if self.grows else "tokens cannot be let in",
            "costed": None if self.sampled else "it reads more than an image and a text of any length",
            "moved": "its norms round double precision" if self.rounds else None,
            "device": "its own forward pass looks at values"
            if self.looks
            else "a table of places is kept on the CPU"
            if self.keeps_places
            else None,
        }
        return {promise: reason for promise, reason in reasons.items() if reason is not None}

    def model(self, attention: str = "sdpa") -> nn.Module:
        torch.default_generator.manual_seed(1)
        model = self.build(**({"attn_implementation": attention} if self.eager else {}))
        with torch.no_grad():
            for parameter in model.parameters():  # zero biases and unit norms would hide mistakes
                parameter.add_(0.05 * torch.randn(parameter.shape))
        return model.eval()

    def inputs(self, batch: int = 3) -> dict[str, Tensor]:
        return self.gives(self._inputs(batch))

    def _inputs(self, batch: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(2)
        pixels = torch.randn(3, 3, 16, 16, generator=generator)[:batch]
        ids = torch.randint(4, 49, (3, 7), generator=generator)
        ids[:, -1] = 49
        mask = torch.ones(3, 7, dtype=torch.long)
        ids[1, 5:], mask[1, 5:] = 1, 0
        text = {"input_ids": ids[:batch], "attention_mask": mask[:batch]}
        if self.reads == "image":
            return {"pixel_values": pixels}
        if self.images_in_text:
            places = torch.full((3, self.images_in_text), 48)
            ids = torch.cat([ids[:, :1], places, ids[:, 1:].clamp(max=47)], dim=1)[:batch]
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        if self.reads in ("seq2seq", "all"):
            text["decoder_input_ids"] = torch.randint(4, 49, (3, 4), generator=generator)[:batch]
        return {**text, "pixel_values": pixels} if self.reads in ("both", "all") else text


def of(model: Any, config: Any, values: dict[str, Any], **more: Any) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:
        return model(config(**values, **more, **options))

    return build


T5 = {"d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "vocab_size": 50}
T5_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
BART = {
    "d_model": 12, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20, "decoder_ffn_dim": 28, "vocab_size": 50, "max_position_embeddings": 40,
}  # fmt: skip
BART_IDS = {
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
TOWER = {**VISION, "hidden_size": 10}
LLAMA = {**TEXT, "num_key_value_heads": 1, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}

HALVES = "each half has a row of its own"
TRANSPOSED = "its projections are no Linears: they are computed by hand in tests/anatomy/test_projection.py"
BESIDE = "its branches are added at once: they are computed by hand in tests/anatomy/test_parallel.py"
IN_MASK = (
    "its mask has its bias by place, and its blocks are BLOOM's otherwise: both forms of prompts are one function on it"
)
TURNED = "its rotation turns a part of each head: both forms of prompts are one function on it"
TALKING = "its heads talk to each other: they are computed by hand in tests/anatomy/test_cait.py"
DISTANCES = "upstream's own function says what distances add; a probe holds what is around it to upstream's"


def vision(model: Any, config: Any, kind: twins.Names, values: dict[str, Any] = VISION, **more: Any) -> Backbone:
    """An image classifier that brings its head."""
    return Backbone(of(model, config, values, num_labels=LABELS, **more), {"vision": kind})


def bare(model: Any, config: Any, kind: twins.Names, values: dict[str, Any] = VISION, **more: Any) -> Backbone:
    """An image encoder without a head."""
    return Backbone(of(model, config, values, **more), {"vision": kind}, num_labels=LABELS)
