"""What needs no anatomy works on models that no family knows; a model that is read in part says so."""

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
from peft import IA3Config, LoraConfig
from torch import Tensor

import gossamer as gm
from gossamer import hosts

from ..contract.backbones import LABELS, SWIN, TEXT, VISION

PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
IDS = torch.randint(4, 49, (2, 6), generator=torch.Generator().manual_seed(3))
METHODS: dict[str, Any] = {
    "lora": LoraConfig(r=2, target_modules="all-linear"),
    "bitfit": gm.BitFit(),
    "full": gm.FullFineTuning(),
    "probe": gm.LinearProbe(),
}
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": LABELS}
LARGE = {**TEXT, "num_key_value_heads": 1, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}


def image(model: Any) -> dict[str, Tensor]:
    return {"pixel_values": PIXELS, "labels": torch.tensor([0, 2])}


def text(model: Any) -> dict[str, Tensor]:
    return {"input_ids": IDS, "labels": IDS if "CausalLM" in type(model).__name__ else torch.tensor([0, 2])}


UNKNOWN: dict[str, tuple[Callable[[], Any], Callable[[Any], dict[str, Tensor]], dict[str, Any]]] = {
    "pvt": (
        lambda: tf.PvtForImageClassification(
            tf.PvtConfig(
                image_size=16,
                hidden_sizes=[4, 6],
                depths=[1, 1],
                num_attention_heads=[1, 2],
                num_encoder_blocks=2,
                sequence_reduction_ratios=[2, 1],
                mlp_ratios=[2, 2],
                patch_sizes=[4, 2],
                strides=[4, 2],
                num_labels=LABELS,
            )
        ),
        image,
        {},
    ),
    "timm-xcit": (lambda: timm.create_model("xcit_nano_12_p8_224", **SMALL | {"patch_size": 8}), image, {}),
    "timm-bare": (
        lambda: timm.create_model("xcit_nano_12_p8_224", **SMALL | {"patch_size": 8, "num_classes": 0}),
        image,
        {"num_labels": 4},
    ),
    "albert-bare": (lambda: tf.AlbertModel(tf.AlbertConfig(**TEXT, embedding_size=9)), text, {"num_labels": LABELS}),
    "bio-gpt": (lambda: tf.BioGptForCausalLM(tf.BioGptConfig(**TEXT)), text, {}),
}


def answer(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


@pytest.mark.filterwarnings("ignore:this .* looks as if it had never been trained:UserWarning")
@pytest.mark.parametrize(
    ("row", "method"),
    [
        pytest.param(row, method, marks=pytest.mark.slow if (i + j) % 2 else ())  # each row by two of the methods
        for i, row in enumerate(UNKNOWN)
        for j, method in enumerate(METHODS)
    ],
)
def test_life_without_an_anatomy(row: str, method: str, tmp_path: Path) -> None:
    """A training step, cost, saving, loading, finishing, detaching."""
    build, inputs_of, options = UNKNOWN[row]
    torch.default_generator.manual_seed(1)
    model = build().eval()
    assert not hosts.read(model).stacks
    if row == "bio-gpt" and method == "probe":
        with pytest.raises(ValueError, match="nothing would be trained"):
            gm.adapt(model, METHODS[method])
        return
    fresh, before = copy.deepcopy(model), {k: v.clone() for k, v in model.state_dict().items()}
    adapted, inputs = gm.adapt(model, METHODS[method], **options), inputs_of(model)
    adapted.train()(**inputs).loss.backward()
    assert any(p.grad is not None for p in adapted.trainable().values())
    torch.optim.SGD(list(adapted.trainable().values()), lr=0.1).step()
    inputs = {k: v for k, v in inputs.items() if k != "labels"}
    found = answer(adapted.eval()(**inputs))
    adapted.save_pretrained(tmp_path / "adapter")
    assert torch.equal(answer(gm.load(tmp_path / "adapter", fresh)(**inputs)), found)
    sheet = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["cost"]
    assert sheet["bare"]["counted"] > 0
    assert sheet["bare"]["closed"] is None
    finished = adapted.finalize()
    again = finished(*inputs.values()) if "timm" in row and adapted.head_built is None else finished(**inputs)
    assert torch.allclose(answer(again), found, atol=1e-5)
    adapted.detach()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_methods_that_need_blocks_say_what_is_not_known() -> None:
    model = UNKNOWN["pvt"][0]()
    for method in (gm.VPT(prompts=2), gm.Adapter(rank=2), gm.DAS(skip=(1,), rank=2)):
        with pytest.raises(TypeError, match=r"cannot read PvtForImageClassification"):
            gm.adapt(model, method)
    with pytest.raises(TypeError, match=r"cannot read|looks like"):
        gm.adapt(model, LoraConfig(r=2, target_modules=["q", "v"]))
    with pytest.raises(ValueError, match="IA3Config goes to keys, values and the FFN, and which these are"):
        gm.adapt(model, IA3Config())


def test_lora_without_targets_says_where_it_goes() -> None:
    with pytest.warns(UserWarning, match=r"no family knows the queries and values of .*\(XCABlock: .*\): all Linears"):
        adapted = gm.adapt(UNKNOWN["timm-xcit"][0](), LoraConfig(r=2))
    reached = {n.rpartition(".lora")[0].rpartition(".")[2] for n in adapted.trainable() if "lora_A" in n}
    assert len(reached) >= 4  # attention and FFN
    assert not any(n.startswith("head") for n in adapted.trainable() if "lora" in n)


# ---- models that are read in part ----


def llava() -> Any:
    """A tower that a family knows, a language model that none does."""
    tower, language = tf.CLIPVisionConfig(**VISION), tf.BioGptConfig(**TEXT)
    config = tf.LlavaConfig(vision_config=tower, text_config=language, image_token_index=49)
    return tf.LlavaForConditionalGeneration(config)


def two_texts() -> Any:
    """Two stacks of one name, of which one is read."""
    one, other = tf.BertConfig(**TEXT), tf.ElectraConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    return tf.EncoderDecoderModel(tf.EncoderDecoderConfig.from_encoder_decoder_configs(one, other))


PARTIAL = {"llava": (llava, "vision", "BioGptDecoderLayer"), "two-texts": (two_texts, "text", "ElectraLayer")}


@pytest.mark.parametrize("row", PARTIAL)
def test_a_model_that_is_read_in_part_says_so(row: str) -> None:
    build, stack, unread = PARTIAL[row]
    model = build()
    message = (
        rf"is read in part: {stack} \(3 blocks, .*no family knows .*\({unread}\).*stack='{stack}' if that is meant"
    )
    for method in (gm.VPT(prompts=2), gm.Adapter(rank=2)):
        with pytest.raises(TypeError, match=message):
            gm.adapt(model, method)
    with pytest.raises(TypeError, match=rf"is read in part.* say stacks=\('{stack}',\) if that is meant"):
        gm.adapt(model, gm.DAS(skip=(1,), rank=2))
    with pytest.raises(ValueError, match=rf"would be found in {stack} alone: say so \({stack}\.q\)"):
        gm.adapt(model, LoraConfig(r=2, target_modules=["q", "v"]))
    said = gm.adapt(model, gm.Adapter(rank=2, stack=stack))
    assert all(n.startswith(f"adapter.{stack}.") for n in said.trainable())
    said.detach()
    skipping = gm.adapt(model, gm.DAS(skip=(1,), rank=2, stacks=(stack,)))
    assert all(n.startswith(f"das.{stack}.") for n in skipping.trainable())
    skipping.detach()
    meant = gm.adapt(model, LoraConfig(r=2, target_modules=[f"{stack}.q"]))
    assert all(n.startswith(f"peft.{stack}.") for n in meant.trainable())


@pytest.mark.parametrize("row", PARTIAL)
def test_lora_reaches_every_part_and_is_saved(row: str, tmp_path: Path) -> None:
    build, _, unread = PARTIAL[row]
    model = build()
    fresh = copy.deepcopy(model)
    with pytest.warns(UserWarning, match=rf"no family knows the queries and values of .*\({unread}\)"):
        adapted = gm.adapt(model, LoraConfig(r=2))
    part = next(iter(hosts.read(fresh).unread))
    assert any(part in name for name in adapted.trainable())
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    again = gm.load(tmp_path / "adapter", fresh)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in adapted.state_dict().items())


TIMM_VITS = {
    "beit3": ("beit3_base_patch16_224", {}),  # norms inside of both branches
    "so150m": ("vit_so150m_patch16_reg4_gap_256", {}),  # registers, no class token
    "so150m2": ("vit_so150m2_patch16_reg1_gap_256", {}),
    "qk-norm": ("vit_base_patch16_224", {"qk_norm": True}),
}


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("row", TIMM_VITS)
def test_variants_of_timms_vit_have_prompts_in_both_forms(row: str) -> None:
    name, more = TIMM_VITS[row]
    answers = []
    for form in ("exact", "sequence"):
        torch.default_generator.manual_seed(1)
        model = timm.create_model(name, **SMALL, **more).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        torch.default_generator.manual_seed(2)
        adapted = gm.adapt(model, gm.VPT(prompts=3, form=form)).eval()
        answers.append(adapted(pixel_values=PIXELS.double()).logits)
    torch.testing.assert_close(*answers, rtol=1e-9, atol=1e-9)


def test_a_part_that_nothing_can_describe_says_why() -> None:
    tower, language = tf.AlbertConfig(**TEXT, embedding_size=8), tf.MistralConfig(**LARGE)
    pair = tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(vision_config=tower, text_config=language, image_token_index=48)
    )
    with pytest.raises(TypeError, match=r"albert_layer_groups \(AlbertLayerGroup: it runs one block again and again"):
        gm.adapt(pair, gm.VPT(prompts=2))
    assert gm.adapt(pair, gm.VPT(prompts=2, stack="decoder")).trainable()


@pytest.mark.parametrize("name", ["mistral3", "qwen2-vl"])
def test_no_head_reads_a_tower_that_gives_the_patches_of_all_images(name: str) -> None:
    from ..contract.backbones import BACKBONES

    tower = gm.read(BACKBONES[name].model()).owner("vision")
    with pytest.raises(TypeError, match="gives the patches of all images in one row"):
        gm.adapt(tower, gm.VPT(prompts=2), num_labels=3)


def test_whole_models_are_read_whole() -> None:
    from ..contract.backbones import BACKBONES

    for name, row in BACKBONES.items():
        assert hosts.read(row.model()).unread == {}, name


# ---- composed models ----


def test_a_tower_in_stages_is_refused() -> None:
    llama = tf.LlamaForCausalLM(tf.LlamaConfig(**LARGE))
    with pytest.raises(TypeError, match="SwinModel attends in windows and merges its patches"):
        gm.VisionLanguage(tf.SwinModel(tf.SwinConfig(**SWIN)), llama)
    with pytest.raises(TypeError, match="Swinv2Model attends in windows and merges its patches"):
        gm.VisionLanguage(tf.Swinv2Model(tf.Swinv2Config(**SWIN)), llama)
    with pytest.raises(TypeError, match="cannot read PvtModel"):
        gm.VisionLanguage(UNKNOWN["pvt"][0]().pvt, llama)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dvp", "visual_tokens"])
def test_composed_classifiers_are_exported_with_a_mask(method: str, tmp_path: Path) -> None:
    from gossamer import export

    seeing = gm.VisionLanguage(tf.CLIPVisionModel(tf.CLIPVisionConfig(**VISION)), tf.BertModel(tf.BertConfig(**TEXT)))
    one: Any = gm.DVP(block=1, width=8, heads=2, rank=2) if method == "dvp" else gm.VisualTokens(rank=2)
    adapted = gm.adapt(seeing, one, num_labels=LABELS).eval()
    mask = torch.ones_like(IDS)
    mask[1, 4:] = 0
    inputs = {"input_ids": IDS, "attention_mask": mask, "pixel_values": PIXELS}
    found = export.export(adapted, inputs, tmp_path / "model.pt2", format="torch")
    assert found["difference"] < 1e-5
    three = {name: torch.cat([tensor, tensor[:1]]) for name, tensor in inputs.items()}
    torch.testing.assert_close(export.answers(tmp_path / "model.pt2")(three), adapted(**three).logits)
