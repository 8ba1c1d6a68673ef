"""ViLT: the authors' key names both ways, and its random patch order held still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers as tf
from torch import Tensor

import gossamer as gm
from gossamer.models import vilt
from gossamer.models.ranking import ViltForRetrieval

SIZES: dict[str, Any] = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "image_size": 16, "patch_size": 4,
    "vocab_size": 50,
}  # fmt: skip


def build(kind: Any = tf.ViltModel, **options: Any) -> Any:
    torch.default_generator.manual_seed(1)
    model = kind(tf.ViltConfig(**SIZES, **options))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn(tensor.shape))
    return model.eval()


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 50, (3, 7), generator=generator)
    pixels = torch.randn(3, 3, 16, 16, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def save(tensors: dict[str, Tensor], path: Path) -> Path:
    safetensors.torch.save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (tf.ViltModel, {}),
        (tf.ViltForQuestionAnswering, {"num_labels": 6}),
        (tf.ViltForImagesAndTextClassification, {"num_labels": 2, "modality_type_vocab_size": 3, "num_images": 2}),
        (tf.ViltForImageAndTextRetrieval, {}),
        (ViltForRetrieval, {}),
    ],
)
def test_written_under_the_authors_names_and_loaded_back(kind: Any, options: Any, tmp_path: Path) -> None:
    model = build(kind, **options)
    theirs = vilt.export(model)
    assert "transformer.blocks.1.attn.qkv.weight" in theirs
    theirs["text_embeddings.position_ids"] = torch.arange(40)[None]
    again = vilt.load(save(theirs, tmp_path / "v.safetensors"), kind, config=tf.ViltConfig(**SIZES))
    assert not again.training
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())
    given = inputs()
    if kind is tf.ViltForImagesAndTextClassification:
        given["pixel_values"] = torch.randn(3, 2, 3, 16, 16)
    found, expected = again(**given), model(**given)
    name = "pooler_output" if kind is tf.ViltModel else "logits"
    torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_pretrained_file_makes_the_heads_of_a_task(tmp_path: Path) -> None:
    theirs = vilt.export(build())
    theirs |= {
        "itm_score.fc.weight": torch.randn(2, 12),
        "itm_score.fc.bias": torch.randn(2),
        "mlm_score.bias": torch.zeros(50),
    }
    path = save(theirs, tmp_path / "v.safetensors")
    for kind in (tf.ViltForImageAndTextRetrieval, ViltForRetrieval):
        rank = vilt.load(path, kind, config=tf.ViltConfig(**SIZES))
        assert torch.equal(rank.rank_output.weight, theirs["itm_score.fc.weight"][1:])
    assert torch.equal(rank.itm_score.weight, theirs["itm_score.fc.weight"])
    without = save({k: v for k, v in theirs.items() if "itm" not in k}, tmp_path / "w.safetensors")
    assert not vilt.load(without, ViltForRetrieval, config=tf.ViltConfig(**SIZES)).itm_score.known
    two = vilt.load(path, tf.ViltForImagesAndTextClassification, config=tf.ViltConfig(**SIZES), num_labels=2)
    types = two.vilt.embeddings.token_type_embeddings.weight
    assert torch.equal(types[2], types[1])
    assert two.config.num_images == 2
    pairs = {**inputs(), "pixel_values": torch.randn(3, 2, 3, 16, 16)}
    assert two(**pairs).logits.shape == (3, 2)
    bare = gm.adapt(two, gm.APT(prompts=2)).cost(tokens=7).bare
    assert bare.counted == bare.closed > 0
    answers = vilt.load(path, tf.ViltForQuestionAnswering, config=tf.ViltConfig(**SIZES), num_labels=7)
    assert answers(**inputs()).logits.shape == (3, 7)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    theirs, config, where = vilt.export(build()), tf.ViltConfig(**SIZES), tmp_path / "v.safetensors"
    for tensors, message in (
        ({**theirs, "transformer.blocks.0.gamma_1": torch.ones(12)}, "unknown: transformer.blocks.0.gamma_1"),
        ({k: v for k, v in theirs.items() if k != "transformer.cls_token"}, "missing: embeddings.cls_token"),
        ({**theirs, "token4classifier": torch.zeros(1, 1, 12)}, "holds a backbone with APT inside"),
        ({**theirs, "pooler.dense.bias": torch.zeros(11)}, r"of another shape: pooler.dense.bias \(11,\) for \(12,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            vilt.load(save(tensors, where), config=config)
    answers = vilt.export(build(tf.ViltForQuestionAnswering, num_labels=6))
    with pytest.raises(ValueError, match=r"num_labels=5, but the head in .* has 6"):
        vilt.load(save(answers, where), tf.ViltForQuestionAnswering, config=config, num_labels=5)
    with pytest.raises(ValueError, match="no table for ViltForMaskedLM; there are ViltModel, ViltForQuestionAnswering"):
        vilt.table(tf.ViltForMaskedLM)


def test_a_held_order_repeats_itself_and_draws_nothing() -> None:
    model, given = build(), inputs()
    assert not torch.equal(model(**given).last_hidden_state, model(**given).last_hidden_state)
    vilt.hold_order(model)
    torch.default_generator.manual_seed(7)
    expected = torch.rand(2)
    torch.default_generator.manual_seed(7)
    first = model(**given)
    assert torch.equal(torch.rand(2), expected)  # what is random elsewhere goes on as if ViLT drew nothing
    assert torch.equal(model(**given).last_hidden_state, first.last_hidden_state)
    other = build()
    vilt.hold_order(other, seed=1)
    again = other(**given)
    assert not torch.equal(again.last_hidden_state, first.last_hidden_state)
    torch.testing.assert_close(again.pooler_output, first.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.last_hidden_state[:, :8], first.last_hidden_state[:, :8], rtol=1e-5, atol=1e-5)


def test_a_held_order_while_training_an_adapter_and_not_while_training_the_model() -> None:
    adapted = gm.adapt(build(), gm.APT(prompts=2), num_labels=2)
    vilt.hold_order(adapted.backbone)
    adapted.train()
    assert torch.equal(adapted.backbone(**inputs()).last_hidden_state, adapted.backbone(**inputs()).last_hidden_state)
    model = build().train()
    vilt.hold_order(model)
    assert not torch.equal(model(**inputs()).last_hidden_state, model(**inputs()).last_hidden_state)
    with pytest.raises(TypeError, match="ViTModel has no ViltEmbeddings, whose patch order could be held"):
        vilt.hold_order(
            tf.ViTModel(tf.ViTConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
        )
