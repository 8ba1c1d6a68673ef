"""A tiny DINOv2 and a tiny BERT of one width, with a tokenizer that cuts some words in two, as folders that the zoo loads."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.utils import logging

from gossamer.data.easy_vqa import easy_vqa
from gossamer.pretraining.pretrain import Recipe
from gossamer.zoo.convert import DINOV2_PREPROCESSOR

from .. import squares

SPECIAL = ("<pad>", "<s>", "</s>", "<mask>", "<unk>")
PIECES = (
    *(
        "a",
        "the",
        "image",
        "contains",
        "contain",
        "there",
        "is",
        "in",
        "color",
        "of",
        "shape",
        "present",
        "no",
        "does",
        "not",
        "that",
    ),
    *(
        "black",
        "blue",
        "brown",
        "gray",
        "green",
        "red",
        "tea",
        "##l",
        "yellow",
        "circle",
        "rec",
        "##tangle",
        "triangle",
    ),
)
VISION = {
    "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "mlp_ratio": 2, "image_size": 20, "patch_size": 4,
    "initializer_range": 0.3, "use_mask_token": False,
}  # fmt: skip
WORDS = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "initializer_range": 0.3,
    "vocab_size": len(SPECIAL + PIECES), "max_position_embeddings": 31, "pad_token_id": 0,
}  # fmt: skip


def vision(**changes: Any) -> Any:
    """Every LayerScale other than 1, every bias other than 0."""
    return _stirred(tf.Dinov2Model(tf.Dinov2Config(**{**VISION, **changes})))


def words(**changes: Any) -> Any:
    return _stirred(tf.BertModel(tf.BertConfig(**{**WORDS, **changes})))


def _stirred(model: Any) -> Any:
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=draw))
    return model.eval()


def tokenizer() -> tf.PreTrainedTokenizerFast:
    pieces = {piece: i for i, piece in enumerate(SPECIAL + PIECES)}
    made = Tokenizer(models.WordPiece(pieces, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    named = {"pad_token": "<pad>", "mask_token": "<mask>", "unk_token": "<unk>"}
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, **named)


@functools.cache
def folders() -> dict[str, str]:
    """Both as the zoo reads them."""
    logging.disable_progress_bar()
    found = {name: squares.home() / f"{name}-to-start-from" for name in ("vision", "words")}
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(6)
        vision().save_pretrained(found["vision"])
        words().save_pretrained(found["words"])
    tokenizer().save_pretrained(found["words"])
    (found["vision"] / "preprocessor_config.json").write_text(json.dumps(DINOV2_PREPROCESSOR))
    return {name: str(folder) for name, folder in found.items()}


def recipe(model: str, **changes: Any) -> Recipe:
    """Some steps on drawings of 12 pixels."""
    from gossamer.pretraining.pretrain import RECIPES

    of = RECIPES[f"{model}-small-easy"]
    values = {"image_size": 12, "steps": 6, "batch": 5, "scored": 40, **folders(), **changes}
    return Recipe(model=of.model, frozen=of.frozen, fresh=of.fresh, **values)


@functools.cache
def few() -> Any:
    """The records of some sixty training drawings."""
    return easy_vqa("train").subset(range(600))


def hashes(folder: Path) -> dict[str, str]:
    return json.loads((folder / "digests.json").read_text())["files"]
