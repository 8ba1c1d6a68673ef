"""Three accounts of cost: closed form, torch's counter, and what is measured."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as tf
from peft import LoraConfig
from torch import nn

import gossamer as gm
from gossamer import architectures, hosts
from gossamer.commands.cost import answer
from gossamer.cost import cost
from gossamer.cost.counting import Sample, on_meta
from gossamer.cost.measure import measure, peak_bytes
from gossamer.errors import UserError
from gossamer.methods.base import added

from .contract.backbones import LABELS, VISION
from .contract.table import BACKBONES, METHODS, Backbone, Row, adapt, pairs

SIDES = {"encoder": 7, "decoder": 4}
TOKENS = {"text": 7, "both": 7, "seq2seq": SIDES, "all": SIDES, "image": None}


def vit(**values: Any) -> tf.ViTForImageClassification:
    return tf.ViTForImageClassification(tf.ViTConfig(**{**VISION, "num_labels": LABELS, **values})).eval()


@pairs("costed")
def test_closed_form_is_counted(backbone: Backbone, row: Row) -> None:
    adapted = adapt(backbone, row)
    before = {n: p.requires_grad for n, p in adapted.named_parameters()}
    sheet = cost(adapted, tokens=TOKENS[backbone.reads])
    assert {n: p.requires_grad for n, p in adapted.named_parameters()} == before
    assert sheet.bare.counted > 0
    assert sheet.trained_parameters == sum(p.numel() for p in adapted.trainable().values())
    for name in ("bare", "adapted", "per_batch", "finished"):
        macs = getattr(sheet, name)
        assert macs.closed in (None, macs.counted), name
    if isinstance(row.method, list) or "counted" in row.but:
        return
    if all(block.stack.closed for block in adapted.anatomy):
        assert None not in {getattr(sheet, name).closed for name in ("bare", "adapted", "per_batch", "finished")}
    else:
        assert {getattr(sheet, name).closed for name in ("bare", "adapted", "finished")} == {None}
    anatomy = gm.read(backbone.model())
    anatomy.heads = hosts.of(anatomy.model).heads(anatomy.model, anatomy)
    if backbone.map:  # what methods add has a closed form on every level of the map, of sides that are not halves
        sample = Sample.of(anatomy.model, (5, 7), 6)
        closed, wide = (
            added(adapted.applied, anatomy, sample.tokens(anatomy)),
            cost(adapted, image_size=(5, 7), tokens=6),
        )
        assert wide.finished.counted - wide.bare.counted == closed
    (applied,) = adapted.applied
    assert sheet.method_parameters == applied.parameters(anatomy)
    assert sheet.method_parameters + sheet.head_parameters == sheet.trained_parameters
    placed = {id(p): p.numel() for n, p in adapted.trainable().items() if not n.startswith("head.")}
    own = {id(p) for p in adapted.detach().parameters()}
    new = sum(n for p, n in placed.items() if p not in own)
    assert sheet.all_parameters == sheet.backbone_parameters + new + sheet.head_parameters


@pytest.mark.parametrize(
    ("backbone", "method"),
    [("vit", "vpt"), pytest.param("t5", "lora", marks=pytest.mark.slow), ("dinov2+llama", "memvp")],
)
def test_what_is_saved_says_what_it_costs(backbone: str, method: str, tmp_path: Path) -> None:
    adapted = adapt(BACKBONES[backbone], METHODS[method])
    adapted.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "adapter_config.json").read_text())["cost"]
    assert said == json.loads(json.dumps(cost(adapted).to_dict()))


def test_a_model_whose_text_has_a_place_for_every_patch_is_not_counted_on_other_texts() -> None:
    with pytest.raises(UserError, match=r"cannot be counted, since it does not run on .*image tokens do not match"):
        cost(adapt(BACKBONES["llava"], METHODS["vpt"]), tokens=7)


def test_bitfit_and_full_fine_tuning_train_what_is_there() -> None:
    bitfit, full = (cost(gm.adapt(vit(), method)) for method in (gm.BitFit(), gm.FullFineTuning()))
    assert full.trained_percent == 100
    assert full.method_parameters == full.backbone_parameters
    assert full.training_flops == full.full_training_flops
    assert bitfit.all_parameters == full.all_parameters
    assert bitfit.bare == bitfit.finished == full.finished
    assert full.training_flops / 2 < bitfit.training_flops < full.training_flops


def test_a_probe_trains_for_one_forward_pass_and_the_gradient_of_its_head() -> None:
    sheet = cost(gm.adapt(vit(), gm.LinearProbe()))
    assert sheet.training_flops == 2 * sheet.bare.counted + 2 * 12 * LABELS


def test_full_fine_tuning_costs_three_forward_passes_less_the_gradient_of_the_image() -> None:
    sheet = cost(vit())
    patches = 16 * 3 * 4 * 4 * 12
    assert sheet.full_training_flops == 6 * sheet.bare.counted - 2 * patches


def test_what_is_done_once_per_batch_is_shared() -> None:
    alone, together = (cost(gm.adapt(vit(), gm.VPT(prompts=5)), batch=n) for n in (1, 9))
    prompts = 3 * 2 * 5 * 12 * 12
    assert alone.per_batch == together.per_batch
    assert alone.per_batch.counted == prompts
    assert alone.adapted == together.adapted == alone.finished
    bare = alone.bare.counted
    assert alone.ratios["adapted"] == pytest.approx((alone.adapted.counted + prompts) / bare)
    assert together.ratios["adapted"] == pytest.approx((alone.adapted.counted + prompts / 9) / bare)
    assert alone.training_flops - together.training_flops == pytest.approx(2 * 3 * prompts * 8 / 9, rel=0.4)


def test_exact_prompts_are_cheaper_than_tokens_everywhere() -> None:
    exact, sequence = (cost(gm.adapt(vit(), gm.VPT(prompts=5, form=form))) for form in ("exact", "sequence"))
    assert exact.bare == sequence.bare
    assert exact.finished.counted - exact.bare.counted == 3 * 2 * 17 * 5 * 12
    assert exact.finished.counted < sequence.finished.counted
    assert exact.training_flops < sequence.training_flops


def test_combined_methods_have_one_closed_form_where_tokens_change() -> None:
    sheet = cost(gm.adapt(vit(), [gm.VPT(prompts=4, deep=False), gm.Adapter(rank=3)]))
    assert sheet.finished.closed == sheet.finished.counted
    assert sheet.adapted.closed == sheet.adapted.counted
    bottlenecks = 3 * 2 * 21 * 12 * 3  # they see the prompts as well
    alone = cost(gm.adapt(vit(), gm.VPT(prompts=4, deep=False)))
    assert sheet.finished.counted - alone.finished.counted == bottlenecks
    assert str(sheet).count("counted by torch = closed form") == 1


COMBINED: list[list[Any]] = [
    [gm.VPT(prompts=4, deep=False), gm.VPT(prompts=2, form="sequence"), gm.Adapter(rank=3)],
    [gm.VPT(prompts=3, deep=False), gm.VPT(prompts=2), LoraConfig(r=2)],
    [gm.VPT(prompts=3, deep=False), gm.DAS(skip=(1,), rank=3)],
    [gm.VPT(prompts=3, deep=False), gm.CVPT(prompts=2), gm.APT(prompts=2, rank=1)],
]


@pytest.mark.parametrize("methods", COMBINED, ids=[str(i) for i in range(len(COMBINED))])
def test_methods_that_change_each_others_tokens_agree_with_the_counter(methods: list[Any]) -> None:
    sheet = cost(gm.adapt(vit(), methods))
    for macs in (sheet.adapted, sheet.per_batch, sheet.finished):
        assert macs.closed == macs.counted


def test_combined_methods_that_leave_tokens_alone_add_up() -> None:
    sheet = cost(gm.adapt(vit(), [gm.Adapter(rank=3), LoraConfig(r=2)]))
    assert sheet.adapted.closed == sheet.adapted.counted
    assert sheet.finished.closed == sheet.finished.counted


def test_counting_changes_nothing_and_copies_no_storage() -> None:
    adapted = gm.adapt(vit(), [gm.VPT(prompts=5), LoraConfig(r=2)]).train()
    before = copy.deepcopy(adapted.backbone.state_dict())
    flags = {n: p.requires_grad for n, p in adapted.named_parameters()}
    output = adapted(pixel_values=torch.ones(2, 3, 16, 16)).logits
    assert peak_bytes(lambda: on_meta(adapted)) == 0
    cost(adapted)
    assert all(torch.equal(before[n], t) for n, t in adapted.backbone.state_dict().items())
    assert flags == {n: p.requires_grad for n, p in adapted.named_parameters()}
    assert all(p.grad is None for p in adapted.parameters())
    assert adapted.training
    assert torch.equal(adapted(pixel_values=torch.ones(2, 3, 16, 16)).logits, output)


def test_the_copy_on_meta_keeps_ties_and_flags() -> None:
    model = tf.BertForMaskedLM(tf.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=20))
    model.bert.embeddings.requires_grad_(False)
    twin = on_meta(model)
    assert all(t.is_meta for t in [*twin.parameters(), *twin.buffers()])
    assert twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_counts_the_same(dtype: torch.dtype) -> None:
    plain, half = (cost(gm.adapt(vit().to(d), gm.VPT(prompts=5))) for d in (torch.float32, dtype))
    assert plain == half


def test_other_image_sizes() -> None:
    sheet = cost(gm.adapt(vit(), gm.VPT(prompts=5)), image_size=(24, 16))
    assert sheet.image == (24, 16)
    assert sheet.finished.closed == sheet.finished.counted
    patches = 24 // 4 * 16 // 4
    assert sheet.finished.counted - sheet.bare.counted == 3 * 2 * (1 + patches) * 5 * 12


def test_a_model_that_looks_at_values_is_counted_with_its_weights_only() -> None:
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "vocab_size": 50}
    config = tf.BartConfig(d_model=12, encoder_attention_heads=2, decoder_attention_heads=2, **sizes)
    model = tf.BartForSequenceClassification(config).eval()
    adapted = gm.adapt(model, gm.VPT(prompts=3))
    state = torch.random.get_rng_state()
    sheet = cost(adapted, tokens=7)
    assert sheet.finished.closed == sheet.finished.counted > sheet.bare.counted > 0
    assert torch.equal(state, torch.random.get_rng_state())
    with torch.device("meta"):
        bare = tf.BartForSequenceClassification(config)
    with pytest.raises(ValueError, match=r"BartForSequenceClassification looks at values .* without weights"):
        cost(bare, tokens=7)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tokens": 7}, "ViTForImageClassification reads no text, so tokens=7 means nothing"),
        ({"image_size": "224"}, "image_size='224' is neither pixels a side nor"),
        ({"image_size": (16, 16, 3)}, "neither pixels a side nor"),
        ({"batch": 0}, "batch must be a whole number from 1, got 0"),
    ],
)
def test_sizes_an_image_model_cannot_read(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(vit(), **sizes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 16}, "T5ForConditionalGeneration reads no images"),
        ({"tokens": {"text": 3}}, "is for text; T5ForConditionalGeneration reads encoder, decoder"),
        ({"tokens": {"encoder": 3, "decoder": 0}}, "0 tokens of decoder: .* reads a whole number from 1"),
    ],
)
def test_sizes_a_text_model_cannot_read(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(BACKBONES["t5"].model(), **sizes)


def test_texts_longer_than_the_position_table() -> None:
    with pytest.raises(ValueError, match=r"513 tokens of text: BertForSequenceClassification .* from 1 to 512"):
        cost(BACKBONES["bert"].model(), tokens=513)


def test_timm_models_are_made_for_one_size() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(ValueError, match=r"reads \(224, 224\) pixels, not \(96, 96\): create it with img_size=96"):
        cost(model, image_size=96)


def test_the_sheet_as_json_and_as_a_table() -> None:
    sheet = cost(gm.adapt(vit(), gm.VPT(prompts=5, form="sequence")), batch=4)
    values = json.loads(json.dumps(sheet.to_dict()))
    assert values["methods"][0]["method"] == "vpt"
    assert values["finished"] == {"counted": sheet.finished.counted, "closed": sheet.finished.closed}
    assert values["ratios"]["finished"] == sheet.finished.counted / sheet.bare.counted
    assert "2 FLOPs" in values["units"]
    text = str(sheet)
    assert "ViTForImageClassification  vpt(prompts=5, form=sequence)  16 x 16 pixels" in text
    assert f"{sheet.backbone_parameters:,}" in text
    assert "counted by torch = closed form" in text
    assert max(len(line) for line in text.splitlines()) < 100


# ---- named architectures ----

PARAMETERS = {
    "bart-base": 139_420_416,
    "bert-base": 109_482_240,
    "clip-vit-b16": 85_799_424,
    "clip-text-b": 63_165_952,
    "clip-vit-l14": 303_179_776,
    "deit-b16": 85_800_192,
    "dinov2-base": 86_580_480,
    "dinov2-small": 22_056_576,
    "llama-7b": 6_738_415_616,
    "meter-b16": 318_843_648,
    "roberta-base": 124_645_632,
    "beit-b16": 85_761_984,
    "dinov3-b16": 85_660_416,
    "modernbert-base": 149_014_272,
    "qwen3-0.6b": 596_049_920,
    "swin-b": 86_743_224,
    "t5-base": 222_903_552,
    "sd-1.5": 859_520_964,
    "sd-2.1": 865_910_724,
    "sdxl": 2_567_463_684,
    "vilt-b32": 111_595_008,
    "vit-b16": 85_798_656,
    "vit-l16": 303_301_632,
    "vit-h14": 630_764_800,
}

LATER = {  # of kinds that are above
    "aimv2-l14": 309_197_824,
    "bloom-560m": 559_214_592,
    "dinov2-large": 304_368_640,
    "dinov3-l16": 303_129_600,
    "dinov3-s16": 21_596_544,
    "distilbert-base": 66_362_880,
    "electra-base": 108_891_648,
    "electra-small": 13_483_008,
    "falcon-7b": 6_921_720_704,
    "gemma-2b": 2_506_172_416,
    "gemma2-2b": 2_614_341_888,
    "gemma3-1b": 999_885_952,
    "gpt2": 124_439_808,
    "ijepa-h14": 630_762_240,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "modernbert-large": 394_781_696,
    "olmo2-7b": 7_298_617_344,
    "opt-125m": 125_239_296,
    "phi3-mini": 3_821_079_552,
    "pythia-1.4b": 1_414_647_808,
    "pythia-160m": 162_322_944,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-8b": 8_190_735_360,
    "siglip2-b16": 92_884_224,
    "siglip2-so400m14": 427_680_704,
    "smollm2-135m": 134_515_008,
    "smollm3-3b": 3_075_098_624,
    "swin-t": 27_519_354,
    "xlm-roberta-base": 278_043_648,
    "xlm-roberta-large": 559_890_432,
}


def test_every_architecture_has_a_size() -> None:
    assert set(architectures.names()) == PARAMETERS.keys() | LATER.keys()


@pytest.mark.parametrize("sizes", [PARAMETERS, pytest.param(LATER, marks=pytest.mark.slow)], ids=["first", "later"])
def test_every_architecture_has_its_published_size(sizes: dict[str, int]) -> None:
    built = {name: architectures.build(name) for name in sizes}
    assert {n: sum(p.numel() for p in m.parameters()) for n, m in built.items()} == sizes
    assert all(t.is_meta for m in built.values() for t in m.parameters())


@pytest.mark.slow
def test_stable_diffusion_is_counted_by_pass_and_by_image() -> None:
    sheet = cost(gm.adapt(architectures.build("sd-1.5"), gm.APT()), steps=20)
    assert (sheet.image, sheet.tokens, sheet.passes) == ((64, 64), {"text": 77}, 40)
    assert sheet.method_parameters == 5_191_712
    assert sheet.bare.counted / 1e9 == pytest.approx(401.637, abs=5e-4)
    assert sheet.finished.counted - sheet.bare.counted == 9_240_576_000
    assert sheet.per_batch.counted == 39_936_000
    text = str(sheet)
    assert "64 x 64 places, 77 tokens" in text
    assert "one image, 40 passes, GMACs" in text
    assert f"{40 * sheet.finished.counted / 1e9:,.3f}" in text


@pytest.mark.slow
def test_denoisers_of_other_kinds_are_given_what_they_read() -> None:
    small: dict[str, Any] = {
        "block_out_channels": [8, 16, 16],
        "transformer_layers_per_block": [1, 2, 1],
        "norm_num_groups": 4,
    }
    small |= {"cross_attention_dim": 12, "attention_head_dim": 2}
    model = architectures.build("sdxl", **small, projection_class_embeddings_input_dim=6 * 256 + 10)
    sheet = cost(gm.adapt(model, gm.APT(prompts=3, rank=2)), image_size=(9, 6), tokens=5, guidance=False)
    places = [15] * 4 + [6] * (2 + 1 + 3) + [15] * 6  # of 9 x 6, by level: down, middle, up
    assert sheet.passes == 50
    assert sheet.finished.counted - sheet.bare.counted == sum(2 * 2 * n * 3 * 16 for n in places)


def test_steps_are_of_denoisers_alone() -> None:
    with pytest.raises(UserError, match="is no denoiser, so steps=5 mean nothing to it"):
        cost(vit(), steps=5)
    with pytest.raises(UserError, match="steps must be a whole number from 1, got 0"):
        cost(BACKBONES["unet"].model(), steps=0)


NARROW = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}


@pytest.mark.parametrize("model", [
    lambda: tf.OPTForCausalLM(tf.OPTConfig(**NARROW, ffn_dim=20, word_embed_proj_dim=7)),
    lambda: tf.ElectraModel(tf.ElectraConfig(**NARROW, intermediate_size=20, embedding_size=7)),
], ids=["opt", "electra"])  # fmt: skip
def test_embeddings_that_are_narrower_are_projected_once_a_token(model: Callable[[], nn.Module]) -> None:
    sheet = cost(model(), tokens=5)
    assert sheet.bare.closed == sheet.bare.counted


def test_vilt_is_counted_without_weights() -> None:
    sheet = cost(gm.adapt(architectures.build("vilt-b32"), gm.VPT(prompts=200)), tokens=40)
    assert sheet.tokens == {"text": 40}
    assert sheet.bare.closed == sheet.bare.counted
    assert sheet.finished.counted - sheet.bare.counted == 12 * 2 * (40 + 1 + 144) * 200 * 768


@pytest.mark.slow
def test_swin_b_with_prompts_in_every_window() -> None:
    """VPT's formula also counts the merging of prompts that the next stage replaces: 8 C^2 for each, 2.75 MMACs."""
    found = json.loads(answer("swin-b", ["vpt"], {"prompts": 25, "form": "sequence"}, True))
    assert found["bare"]["counted"] == found["bare"]["closed"]
    assert found["bare"]["counted"] / 1e9 == pytest.approx(15.43, abs=0.005)
    merged = 25 * sum(8 * width**2 for width in (128, 256, 512))
    assert found["finished"]["counted"] == found["finished"]["closed"]
    assert (found["finished"]["counted"] + merged) / 1e9 == pytest.approx(19.80, abs=0.005)
    assert found["method_parameters"] == 12_032 * 25


@pytest.mark.parametrize("backbone", ["swin", "timm-swin"])
def test_windows_and_stages_have_closed_forms_for_images_that_are_not_square(backbone: str) -> None:
    if backbone == "swin":
        model = BACKBONES[backbone].model()
    else:
        sizes = {"embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 3, "patch_size": 2}
        model = timm.create_model("swin_tiny_patch4_window7_224", img_size=(24, 16), num_classes=LABELS, **sizes)
    for prompts in (gm.VPT(prompts=4, deep=False), gm.VPT(prompts=(2, 0, 3))):
        adapted = gm.adapt(model, prompts)
        sheet = cost(adapted, image_size=(24, 16))
        assert sheet.image == (24, 16)
        for name in ("bare", "adapted", "per_batch", "finished"):
            assert getattr(sheet, name).closed == getattr(sheet, name).counted, name
        adapted.detach()


def test_architectures_from_configurations(tmp_path: Path) -> None:
    tf.ViTConfig(**VISION, architectures=["ViTForImageClassification"], num_labels=4).save_pretrained(tmp_path)
    for name in (tmp_path, tmp_path / "config.json"):
        model = architectures.build(str(name))
        assert isinstance(model, tf.ViTForImageClassification)
        assert model.classifier.out_features == 4
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({"model_type": "bert", "hidden_size": 12, "num_attention_heads": 2}))
    assert isinstance(architectures.build(str(plain), num_hidden_layers=2), tf.BertModel)
    timms = tmp_path / "timm.json"
    timms.write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 7, "model_args": {"depth": 2}}))
    small = architectures.build(str(timms), image_size=96)
    assert small.head.out_features == 7
    assert cost(small).tokens == {}
    assert cost(small).image == (96, 96)


def test_architectures_that_cannot_be_built(tmp_path: Path) -> None:
    known = "aimv2-l14, bart-base, .*xlm-roberta-large, config files"
    with pytest.raises(ValueError, match=rf"no architecture 'resnet': there are {known}"):
        architectures.build("resnet")
    with pytest.raises(ValueError, match="no architecture 'dinov2'"):  # the beginning of two
        architectures.build("dinov2")
    with pytest.raises(ValueError, match="ViTConfig has no field 'layers'"):
        architectures.build("vit-b16", layers=3)
    strange = tmp_path / "config.json"
    strange.write_text(json.dumps({"model_type": "strange", "auto_map": {"AutoModel": "strange.Model"}}))
    with pytest.raises(ValueError, match=r"model_type is 'strange', which transformers .* does not know"):
        architectures.build(str(tmp_path))


# ---- the command ----


def test_command_prints_a_table_or_json() -> None:
    settings = {"prompts": "100", "image_size": "224", "num_labels": 7}
    values = json.loads(answer("vit-b16", ["vpt"], settings, True))
    assert values["model"] == "vit-b16"
    assert values["method_parameters"] == 12 * 100 * 768
    assert values["head_parameters"] == 769 * 7
    assert values["finished"]["counted"] == 17_563_060_224 + 12 * 2 * 197 * 100 * 768 + 768 * 7
    assert answer("deit", [], {}, False).startswith("deit  224 x 224 pixels\n")


def test_command_gives_settings_to_every_method_that_has_them() -> None:
    settings = {"prompts": 3, "rank": "5", "blocks": "[0, 11]", "deep": "False", "r": 4, "peft_type": "LORA"}
    with pytest.raises(ValueError, match=r"blocks=\(0, 11\)"):
        answer("vit-b16", ["vpt", "adapter", "peft"], settings, True)
    values = json.loads(answer("vit-b16", ["vpt", "adapter", "peft"], {**settings, "blocks": "[11]"}, True))
    assert values["method_parameters"] == 3 * 768 + (2 * 768 * 5 + 5 + 768) + 24 * 4 * 2 * 768


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (["vpt"], {"promts": 3}, "no setting 'promts'; cost has image_size, .*; vpt: prompts, deep"),
        ([], {"prompts": 3}, "no setting 'prompts'; cost has .*; no method was named"),
        (["lora"], {}, "no method 'lora'; there are adapter.*peft"),
        (["peft"], {}, "peft_type is None; peft knows .*LORA"),
        ([], {"num_labels": 3}, "num_labels=3 asks for a head.* add --method linear_probe"),
        (["vpt"], {"prompts": -1}, "prompts must be 0 or more, got -1"),
    ],
)
def test_command_refuses(method: list[str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        answer("vit-b16", method, settings, False)


# ---- measured ----


def test_measured_times_are_taken_in_turns() -> None:
    calls: list[str] = []
    found = measure({"one": lambda: calls.append("one"), "two": lambda: calls.append("two")}, repeats=3)
    assert calls == ["one", "two"] * 4
    assert [len(m.times) for m in found.values()] == [len(m.processor) for m in found.values()] == [3, 3]
    one = found["one"]
    assert one.fastest <= one.seconds
    assert one.ratio(one) == one.processor_ratio(one) == 1
    with pytest.raises(ValueError, match="got 0 runs, repeats=3"):
        measure({}, repeats=3)


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    weight = torch.ones(250, 1000)

    def run() -> None:
        first = weight + 1  # 1 MB
        second = first * 2  # 2 MB alive
        del first
        second.view(-1).add_(1)  # a view and a change in place take nothing
        second + weight[:1]  # 2 MB again

    assert peak_bytes(run) == 2_000_000
    assert peak_bytes(lambda: weight.t().view(1000, 250)) == 0


def test_training_with_a_frozen_backbone_keeps_less() -> None:
    images = torch.ones(2, 3, 16, 16)
    peaks = {}
    for name, method in {"probe": gm.LinearProbe(), "exact": gm.VPT(prompts=9), "full": gm.FullFineTuning()}.items():
        adapted = gm.adapt(vit(), method).train()

        def step(model: gm.Adapted = adapted) -> None:
            model(pixel_values=images).logits.sum().backward()
            model.zero_grad()

        step()
        peaks[name] = peak_bytes(step)
    assert peaks["probe"] < peaks["exact"] < peaks["full"]
