"""METER: a whole tiny model, loaded from the authors' key names; both attention implementations, and back under their names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from gossamer.models import checkpoints, meter_checkpoint
from gossamer.models.meter import MeterConfig, MeterModel, MeterOutput
from gossamer.models.meter_heads import MeterForQuestionAnswering

from . import Case, Check

COVERS = ("meter-tiny",)


def tiny(vision: dict[str, Any], text: dict[str, Any], cross_modal: dict[str, Any], **options: Any) -> MeterModel:
    return MeterModel(MeterConfig(vision_config=vision, text_config=text, cross_modal_config=cross_modal, **options))


def config(c: dict[str, Any], theirs: dict[str, Tensor], **options: Any) -> MeterConfig:
    """A configuration from a legend; the width of the vision FFN is in the tensors only."""
    vision, text, fusion = c["vision"], c["text"], c["fusion"]
    inner = len(theirs["vit_model.visual.transformer.resblocks.0.mlp.c_fc.bias"])
    return MeterConfig(
        vision_config={
            "hidden_size": vision["width"], "num_attention_heads": vision["heads"], "num_hidden_layers": vision["blocks_kept"],
            "intermediate_size": inner, "patch_size": vision["patch"], "image_size": vision["image"],
            "hidden_act": vision["act"], "layer_norm_eps": vision["layer_norm_eps"],
        },
        text_config={
            "hidden_size": text["hidden"], "num_hidden_layers": text["layers"], "num_attention_heads": text["heads"],
            "intermediate_size": text["ffn"], "vocab_size": text["vocab"], "type_vocab_size": text["type_vocab_size"],
            "max_position_embeddings": text["max_position_embeddings"], "pad_token_id": text["pad_token_id"],
            "hidden_act": text["act"], "layer_norm_eps": text["layer_norm_eps"],
        },
        cross_modal_config={
            "hidden_size": fusion["hidden"], "num_hidden_layers": fusion["layers"], "num_attention_heads": fusion["heads"],
            "intermediate_size": fusion["ffn"], "hidden_act": fusion["act"], "layer_norm_eps": fusion["layer_norm_eps"],
        },
        num_labels=c["labels"],
        **options,
    )  # fmt: skip


def inputs(t: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"input_ids": t["text_ids"].long(), "attention_mask": t["text_mask"].long(), "pixel_values": t["image"]}


def compare(place: str, output: MeterOutput, t: dict[str, Tensor]) -> Iterator[Check]:
    yield Check(f"{place}text_hidden", output["encoded_text"], t["text_hidden"])
    yield Check(f"{place}image_hidden", output["encoded_image"], t["image_hidden"])
    yield Check(f"{place}text_feats", output["last_hidden_state"], t["text_feats"])
    yield Check(f"{place}image_feats", output["image_hidden_state"], t["image_feats"])
    yield Check(f"{place}cls_feats", output["pooler_output"], t["cls_feats"])


def run(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    theirs = {k.removeprefix("model."): v for k, v in t.items() if k.startswith("model.")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.safetensors"
        safetensors.torch.save_file(theirs, path)
        for attention in ("sdpa", "eager"):
            own = config(c, theirs, attn_implementation=attention)
            model = meter_checkpoint.load(path, MeterForQuestionAnswering, config=own)
            output = model.meter(**inputs(t))
            yield from compare(f"{attention}, ", output, t)
            yield Check(f"{attention}, vqa_logits", model(**inputs(t)).logits, t["vqa_logits"])
            head = (theirs["itm_score.fc.weight"], theirs["itm_score.fc.bias"])
            yield Check(f"{attention}, itm_logits", nn.functional.linear(output.pooler_output, *head), t["itm_logits"])
    for key, tensor in meter_checkpoint.export(model).items():
        yield Check(f"exported {key}", tensor, theirs[key])
    side = round((len(t["pos_after"]) - 1) ** 0.5)
    yield Check("pos_after", checkpoints.grid(t["pos_before"], side), t["pos_after"])
