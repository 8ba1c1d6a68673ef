"""Folders that peft saved are adapters of ours, and adapters of ours are written as such folders."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
import transformers as tf
from peft import IA3Config, LoraConfig, OFTConfig, VeraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import gossamer as gm
from gossamer.errors import AdapterError, UserError

SIZES: dict[str, Any] = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3, "image_size": 12,
    "patch_size": 4, "num_labels": 5,
}  # fmt: skip
HEAD: dict[str, Any] = {"modules_to_save": ["classifier"]}
ROWS: dict[str, Any] = {
    "lora": LoraConfig(r=3, target_modules=["q_proj", "v_proj"], **HEAD),
    "lora, no head": LoraConfig(r=2, target_modules=["q_proj"]),
    "lora, more": LoraConfig(
        r=3, target_modules="all-linear", use_rslora=True, use_dora=True, modules_to_save=["classifier", "layernorm"]
    ),
    "lora, biases": LoraConfig(r=3, target_modules=["q_proj"], bias="lora_only", **HEAD),
    "ia3": IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"], **HEAD),
    "oft": OFTConfig(oft_block_size=3, target_modules=["q_proj", "v_proj"], **HEAD),
}
QUICK = ("lora", "ia3", "oft")


def vit() -> nn.Module:
    return tf.ViTForImageClassification(tf.ViTConfig(**SIZES, intermediate_size=20)).eval()


def pictures() -> Tensor:
    return torch.randn(3, 3, 12, 12)


def scattered(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@torch.no_grad()
def answer(model: Any, images: Tensor) -> Tensor:
    given = model(images)
    return given if isinstance(given, Tensor) else given.logits


@pytest.mark.parametrize("row", [r if r in QUICK else pytest.param(r, marks=pytest.mark.slow) for r in ROWS])
def test_a_folder_of_peft_goes_in_and_out(row: str, tmp_path: Path) -> None:
    bare, images = vit(), pictures()
    model: Any = scattered(peft.get_peft_model(copy.deepcopy(bare), copy.deepcopy(ROWS[row])))
    model.save_pretrained(tmp_path / "theirs")
    adapted = gm.load(tmp_path / "theirs", copy.deepcopy(bare))
    expected = answer(model, images)
    assert torch.allclose(answer(adapted, images), expected, atol=1e-6)
    assert not torch.allclose(expected, answer(bare, images), atol=1e-3)
    assert adapted.cost().trained_parameters == model.get_nb_trainable_parameters()[0]
    adapted.to_peft(tmp_path / "ours")
    first, second = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("theirs", "ours"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(bare), tmp_path / "ours")
    assert torch.allclose(answer(again, images), expected, atol=1e-6)
    adapted.save_pretrained(tmp_path / "kept")
    assert torch.equal(answer(gm.load(tmp_path / "kept", copy.deepcopy(bare)), images), answer(adapted, images))
    assert torch.allclose(answer(adapted.finalize(), images), expected, atol=1e-5)


def test_a_model_of_timm(tmp_path: Path) -> None:
    bare = timm.create_model(
        "vit_tiny_patch16_224", img_size=12, patch_size=4, embed_dim=12, depth=2, num_heads=2, num_classes=5
    ).eval()
    images = pictures()
    config = LoraConfig(r=3, target_modules=["qkv", "fc1"], modules_to_save=["head"])
    model: Any = scattered(peft.get_peft_model(copy.deepcopy(bare), config))
    model.save_pretrained(tmp_path)
    adapted = gm.load(tmp_path, copy.deepcopy(bare))
    assert torch.allclose(answer(adapted, images), answer(model, images), atol=1e-6)
    adapted.to_peft(tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(copy.deepcopy(bare), tmp_path / "ours")
    assert torch.allclose(answer(again, images), answer(model, images), atol=1e-6)


def test_a_backbone_by_its_name(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path / "backbone")  # type: ignore[operator]
    bare: Any = tf.ViTForImageClassification.from_pretrained(tmp_path / "backbone")
    images = pictures()
    model: Any = scattered(peft.get_peft_model(bare, copy.deepcopy(ROWS["lora"])))
    model.save_pretrained(tmp_path / "theirs")
    assert torch.allclose(answer(gm.load(tmp_path / "theirs"), images), answer(model, images), atol=1e-6)


def test_what_a_folder_of_peft_cannot_hold_is_refused(tmp_path: Path) -> None:
    applied: Any
    for applied, says in (
        (gm.VPT(prompts=2), "and this is vpt: save_pretrained keeps it whole"),
        ([LoraConfig(r=2), gm.VPT(prompts=2)], "this is peft, vpt"),
        (VeraConfig(r=2), "the layers of VERA share tensors"),
    ):
        with pytest.raises(UserError, match=says):
            gm.adapt(vit(), applied).to_peft(tmp_path)
    model = tf.ViTModel(tf.ViTConfig(**SIZES, intermediate_size=20))
    with pytest.raises(UserError, match="the head was built here"):
        gm.adapt(model, LoraConfig(r=2), num_labels=3).to_peft(tmp_path)
    fused = timm.create_model(
        "vit_tiny_patch16_224", img_size=12, patch_size=4, embed_dim=12, depth=2, num_heads=2, num_classes=5
    )
    with pytest.raises(UserError, match="a third of a fused projection"):
        gm.adapt(fused, LoraConfig(r=2)).to_peft(tmp_path)
    adapted = gm.adapt(vit(), LoraConfig(r=2))
    adapted.save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match="holds an adapter of ours"):
        adapted.to_peft(tmp_path / "ours")
    assert list(tmp_path.iterdir()) == [tmp_path / "ours"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("missing", "missing"),
        ("shape", "has shape"),
        ("pattern", "no pattern"),
        ("module", "has no setting 'megatron_config'"),
        ("kind", "a folder may ask for"),
        ("inside", "after `import gossamer.peft`"),
        ("pickle", "a pickle, which may run code"),
        ("nowhere", "give backbone="),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_and_the_backbone_stays(change: str, says: str, tmp_path: Path) -> None:
    bare = vit()
    before = {name: tensor.clone() for name, tensor in bare.state_dict().items()}
    peft.get_peft_model(copy.deepcopy(bare), copy.deepcopy(ROWS["lora"])).save_pretrained(str(tmp_path))
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    tensors, told = load_file(weights), json.loads(config.read_text())
    name = next(n for n in tensors if "lora_A" in n)
    if change == "missing":
        del tensors[name]
    if change == "shape":
        tensors[name] = tensors[name][1:]
    told |= {
        "pattern": {"target_modules": ".*q_proj"},
        "module": {"megatron_config": {"tensor_model_parallel_size": 2}},
        "kind": {"peft_type": "XLORA"},
        "inside": {"peft_type": "GOSSAMER_VPT"},
    }.get(change, {})
    save_file(tensors, weights, metadata={"format": "pt"})
    config.write_text(json.dumps(told))
    if change == "pickle":
        weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(AdapterError, match=says):
        gm.load(tmp_path, None if change == "nowhere" else bare)
    assert bare.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in bare.state_dict().items())


def test_another_adapter_steps_aside_and_comes_back(tmp_path: Path) -> None:
    bare, images = vit(), pictures()
    model: Any = scattered(peft.get_peft_model(copy.deepcopy(bare), copy.deepcopy(ROWS["lora"])))
    model.save_pretrained(tmp_path)
    first = gm.adapt(bare, gm.VPT(prompts=2)).eval()
    expected = answer(first, images)
    second = gm.load(tmp_path, bare)
    assert torch.allclose(answer(second, images), answer(model, images), atol=1e-6)
    assert torch.equal(answer(first.attach(), images), expected)
