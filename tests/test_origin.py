"""The backbone of a folder: settings that are no weights come back or are refused, and a folder says when nobody will find it."""

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
from timm.models import save_for_hf
from torch import nn

import gossamer as gm
from gossamer import storage, zoo
from gossamer.hosts import settings

from .contract.backbones import VISION
from .contract.table import BACKBONES, disturb, run

pytestmark = pytest.mark.usefixtures("uncounted")

VIT = BACKBONES["vit"]
IMAGES = VIT.inputs()
TIMM: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def jolted(model: Any) -> Any:
    """A model whose weights nobody made by a formula."""
    torch.default_generator.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def published(folder: Path, **options: Any) -> Path:
    """A ViT of timm in a folder."""
    model = jolted(timm.create_model("vit_tiny_patch16_224", num_classes=4, **TIMM, **options))
    arguments = {"model_config": {"num_classes": 4}, "model_args": {**TIMM, **options}, "safe_serialization": True}
    save_for_hf(model, folder, **arguments)
    return folder


def saved(adapted: gm.Adapted, folder: Path) -> Path:
    disturb(adapted.eval()).save_pretrained(folder)
    return folder


# ---- settings of timm ----

CHANGED: dict[str, Callable[[Any], Any]] = {
    "pooled by maximum": lambda name: zoo.load(name, global_pool="max", fc_norm=False),
    "pooled by the mean": lambda name: zoo.load(name, global_pool="avg", fc_norm=False),
    "another size": lambda name: zoo.load(name, img_size=48),
    "any size": lambda name: zoo.load(name, dynamic_img_size=True),
}


@pytest.mark.parametrize("make", CHANGED.values(), ids=list(CHANGED))
def test_a_model_of_timm_that_was_made_in_another_way_comes_back(make: Any, tmp_path: Path) -> None:
    name = published(tmp_path / "model")
    adapted = gm.adapt(make(name), gm.VPT(prompts=2), num_labels=3)
    again = gm.load(saved(adapted, tmp_path / "adapter"))
    size = 48 if "48" in str(again.backbone.patch_embed.img_size) else 32
    x = torch.randn(3, 3, size, size)
    assert torch.equal(again(x), adapted(x))
    with pytest.raises(
        gm.AdapterError, match="this VisionTransformer computes something else than the one it was trained on: "
    ):
        gm.load(tmp_path / "adapter", zoo.load(name))


def test_a_classifier_that_was_reset_pools_as_it_did(tmp_path: Path) -> None:
    model = zoo.load(published(tmp_path / "model"))
    model.reset_classifier(3, "avg")  # type: ignore[operator]
    adapted = gm.adapt(model, gm.VPT(prompts=2))
    again = gm.load(saved(adapted, tmp_path / "adapter"))
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(again(x), adapted(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"act_layer": "relu"}, r"blocks\.\*\.mlp\.act was ReLU\(.* and is GELU"),
        ({"act_layer": nn.Tanh}, r"blocks\.\*\.mlp\.act was Tanh\(.* and is GELU"),
        ({"norm_layer": "layernormfp32"}, "LayerNormFp32"),
    ],
)
def test_what_a_model_of_timm_does_not_take_by_itself_is_refused(options: Any, message: str, tmp_path: Path) -> None:
    name = published(tmp_path / "model")
    folder = saved(gm.adapt(zoo.load(name, **options), gm.VPT(prompts=2)), tmp_path / "adapter")
    with pytest.raises(gm.AdapterError, match=message):
        gm.load(folder)
    gm.load(folder, zoo.load(name, **options))


def test_one_module_among_many_is_seen() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **TIMM)
    before = settings.structure(model, ["head"])
    assert before["blocks.*.mlp.act"] == "GELU(approximate='none')"
    assert not any(name.startswith("head") for name in before)
    model.blocks[1].mlp.act = nn.ReLU()
    found = settings.apart(before, settings.structure(model, ["head"]), "not there")
    assert [words.partition(" ")[0] for words in found] == [
        "blocks.*.mlp.act", "blocks.0.mlp.act", "blocks.1.mlp.act", "blocks.2.mlp.act",
    ]  # fmt: skip


# ---- settings of transformers ----


def test_an_autoencoder_that_sees_everything_comes_back(tmp_path: Path) -> None:
    jolted(tf.ViTMAEModel(tf.ViTMAEConfig(**VISION))).save_pretrained(tmp_path / "mae")
    model = tf.ViTMAEModel.from_pretrained(tmp_path / "mae", mask_ratio=0.0)
    adapted = gm.adapt(model, gm.VPT(prompts=2), num_labels=3)
    again = gm.load(saved(adapted, tmp_path / "adapter"))
    assert again.backbone.config.mask_ratio == 0.0
    noise = torch.rand(3, 16)
    assert torch.equal(again(**IMAGES, noise=noise).logits, adapted(**IMAGES, noise=noise).logits)
    options = json.loads((tmp_path / "adapter" / storage.CONFIG).read_text())["backbone"]["options"]
    assert options == {"mask_ratio": 0.0, **VISION}


FUNCTIONS: list[dict[str, Any]] = [{"hidden_act": "relu"}, {"layer_norm_eps": 0.1}, {"num_attention_heads": 3}]


@pytest.mark.parametrize("changes", FUNCTIONS, ids=str)
def test_settings_of_a_configuration_come_back_and_are_told_apart(changes: dict[str, Any], tmp_path: Path) -> None:
    VIT.model().save_pretrained(tmp_path / "model")
    kind = tf.ViTForImageClassification
    adapted = gm.adapt(kind.from_pretrained(tmp_path / "model", **changes), gm.VPT(prompts=2))
    again = gm.load(saved(adapted, tmp_path / "adapter"))
    assert torch.equal(run(again, IMAGES), run(adapted, IMAGES))
    plain = kind.from_pretrained(tmp_path / "model")
    assert not torch.allclose(
        run(gm.adapt(copy.deepcopy(plain), gm.VPT(prompts=2)).eval(), IMAGES), run(adapted, IMAGES)
    )
    [(name, value)] = changes.items()
    with pytest.raises(gm.AdapterError, match=f"computes something else .*: {name} was {value} and is "):
        gm.load(tmp_path / "adapter", plain)


def test_settings_that_do_not_matter_are_no_difference(tmp_path: Path) -> None:
    VIT.model().save_pretrained(tmp_path / "model")
    kind = tf.ViTForImageClassification
    folder = saved(gm.adapt(kind.from_pretrained(tmp_path / "model"), gm.VPT(prompts=2)), tmp_path / "adapter")
    gm.load(folder, kind.from_pretrained(tmp_path / "model", hidden_dropout_prob=0.3, attn_implementation="eager"))


def test_a_folder_cannot_ask_for_a_model_of_other_sizes(tmp_path: Path) -> None:
    VIT.model().save_pretrained(tmp_path / "model")
    model = tf.ViTForImageClassification.from_pretrained(tmp_path / "model")
    folder = saved(gm.adapt(model, gm.VPT(prompts=2)), tmp_path / "adapter")
    config = json.loads((folder / storage.CONFIG).read_text())
    for options, message in (
        ({"num_hidden_layers": 10**9}, "published with another num_hidden_layers than 1000000000"),
        ({"intermediate_size": 10**9}, "the published weights do not fit intermediate_size"),
        ({"quantization_config": {"quant_method": "gossamer"}}, "quantization_config was .* and is the default"),
    ):
        config["backbone"]["options"] = {**VISION, **options}
        (folder / storage.CONFIG).write_text(json.dumps(config))
        with pytest.raises(gm.AdapterError, match=message):
            gm.load(folder)


# ---- one moment ----


def test_an_adapter_that_was_cast_comes_back(tmp_path: Path) -> None:
    VIT.model().save_pretrained(tmp_path / "model")
    model = tf.ViTForImageClassification.from_pretrained(tmp_path / "model")
    adapted = gm.adapt(model, [gm.VPT(prompts=2), LoraConfig(r=2)])
    folder = saved(adapted.to(torch.bfloat16), tmp_path / "adapter")
    assert json.loads((folder / storage.CONFIG).read_text())["backbone"]["dtype"] == "float32"
    for again in (gm.load(folder), gm.load(folder, VIT.model())):
        stored = adapted.tensors()
        assert all(torch.equal(stored[n].float(), t) for n, t in again.tensors().items())


@pytest.mark.parametrize("row", ["llama", "bert"])
def test_embeddings_resized_under_an_adapter_are_refused(row: str, tmp_path: Path) -> None:
    adapted = gm.adapt(BACKBONES[row].model(), LoraConfig(r=2))
    adapted.resize_token_embeddings(70)
    with pytest.raises(
        gm.AdapterError,
        match=r"the backbone was changed after adapt\(\).*(embed|lm_head).* was \(\d+, \d+\) and is \(70, ",
    ):
        adapted.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_frozen_weight_that_was_changed_is_refused_and_a_trained_one_is_not(tmp_path: Path) -> None:
    adapted = gm.adapt(VIT.model(), gm.BitFit())
    saved(adapted, tmp_path / "adapter")
    with torch.no_grad():
        adapted.backbone.vit.layers[1].mlp.fc1.weight[0, 0] += 1
    with pytest.raises(gm.AdapterError, match="the frozen weights of ViTForImageClassification have other values"):
        adapted.save_pretrained(tmp_path / "adapter")


# ---- what a folder says about where it came from ----


def test_a_backbone_without_a_name_is_told_of(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning,
        match=r"this ViTForImageClassification has no name, for it was not loaded by one: gm\.load will need",
    ):
        gm.adapt(VIT.model(), gm.VPT(prompts=2)).save_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["transformers", "timm"])
def test_random_weights_under_a_published_name_are_told_of(kind: str, tmp_path: Path) -> None:
    if kind == "timm":
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **TIMM)
        model.pretrained_cfg["hf_hub_id"] = "timm/vit_tiny_patch16_224.augreg_in21k"
    else:
        model = tf.ViTForImageClassification(tf.ViTConfig(**VISION, name_or_path="google/vit-base-patch16-224"))
    adapted = gm.adapt(model, gm.VPT(prompts=2))
    with pytest.warns(UserWarning, match=r"is called '(timm|google)/.*' and looks as if it had never been trained"):
        adapted.save_pretrained(tmp_path / "adapter")


# ---- a figure is no reason to lose an adapter ----


def test_a_cost_that_cannot_be_counted_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("no tokens")

    monkeypatch.setattr("gossamer.saving.cost", broken)
    adapted = gm.adapt(VIT.model(), gm.VPT(prompts=2))
    folder = saved(adapted, tmp_path / "adapter")
    assert json.loads((folder / storage.CONFIG).read_text())["cost"] == {"not_counted": "ZeroDivisionError: no tokens"}
    assert "- not counted: ZeroDivisionError: no tokens" in (folder / storage.CARD).read_text()
    assert torch.equal(run(gm.load(folder, VIT.model()), IMAGES), run(adapted, IMAGES))
