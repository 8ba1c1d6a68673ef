"""VPT on a plain ViT: both forms, as transformers and as timm build that ViT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import gossamer as gm

from . import Case, Check

COVERS = ("vpt-shallow", "vpt-deep", "vpt-deep-project")


def run(case: Case) -> Iterator[Check]:
    forms = ("exact", "sequence") if case.config["deep"] else ("sequence",)
    for build in (hugging_face, timm_vit):
        for form in forms:
            yield from compare(case, build(case), form, build.__name__)


def compare(case: Case, model: nn.Module, form: str, label: str) -> Iterator[Check]:
    c, t = case.config, case.tensors
    method = gm.VPT(prompts=c["p"], deep=c["deep"], project=c.get("proj"), form=form)
    adapted = gm.adapt(model, method).eval()
    layers = [Recorded(b.module) for b in adapted.anatomy.blocks()]
    prompts = [p for n, p in adapted.trainable().items() if n.endswith(".prompts")]
    load(prompts, t["P"])
    projection = adapted.methods["vpt"]._modules.get("projection")
    if projection is not None:
        load([projection.weight, projection.bias], [t["W_p"], t["b_p"]])
    answer = adapted(pixel_values=t["I"])
    answer.logits.square().sum().backward()
    place = f"{label}, {form}: "
    for i, layer in enumerate(layers):
        expected = t["H"][i] if form == "sequence" else without_prompts(t["H"][i], c["p"])
        yield Check(f"{place}H[{i}]", layer.output, expected)
    yield Check(place + "f", adapted.features(pixel_values=t["I"]), t["f"])
    yield Check(place + "y", answer.logits, t["y"])
    yield Check(place + "dP", torch.stack([p.grad for p in prompts]), t["dP"], gradient=True)
    yield Check(place + "dW_h", adapted.head.weight.grad, t["dW_h"], gradient=True)
    yield Check(place + "db_h", adapted.head.bias.grad, t["db_h"], gradient=True)
    if projection is not None:
        yield Check(place + "dW_p", projection.weight.grad, t["dW_p"], gradient=True)
        yield Check(place + "db_p", projection.bias.grad, t["db_p"], gradient=True)
    finished = adapted.finalize()
    logits = finished(t["I"])
    yield Check(place + "finalized y", getattr(logits, "logits", logits), t["y"])


class Recorded:
    """Keeps what a block returns before any hook has touched it."""

    def __init__(self, block: nn.Module):
        self.forward, block.forward = block.forward, self

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self.output = self.forward(*args, **kwargs)
        return self.output

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        block = memo[id(self.forward.__self__)]  # a copy of the block forgets that it was recorded
        return type(block).forward.__get__(block)


def without_prompts(x: Tensor, p: int) -> Tensor:
    return torch.cat([x[:, :1], x[:, 1 + p :]], dim=1)


@torch.no_grad()
def load(parameters: Any, values: Any) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        assert parameter.shape == value.shape
        parameter.copy_(value)


def hugging_face(case: Case) -> nn.Module:
    """The case's ViT as transformers builds it."""
    c, t = case.config, case.tensors
    config = ViTConfig(
        hidden_size=c["d"], num_attention_heads=c["heads"], num_hidden_layers=c["N"], intermediate_size=c["mlp"],
        patch_size=c["patch"], image_size=c["img"], layer_norm_eps=c.get("ln_eps", 1e-6), hidden_act="gelu",
        num_labels=c["K"],
    )  # fmt: skip
    model = ViTForImageClassification(config)
    state = {
        "vit.embeddings.cls_token": t["x_cls"].view(1, 1, -1),
        "vit.embeddings.position_embeddings": t["e_pos"][None],
        "vit.embeddings.patch_embeddings.projection.weight": t["W_emb"],
        "vit.embeddings.patch_embeddings.projection.bias": t["b_emb"],
        "vit.layernorm.weight": t["gamma_f"],
        "vit.layernorm.bias": t["beta_f"],
        "classifier.weight": t["W_h"],
        "classifier.bias": t["b_h"],
    }
    for i in range(c["N"]):
        state |= {f"vit.layers.{i}.{name}": tensor for name, tensor in hugging_face_block(t, f".{i + 1}").items()}
    model.load_state_dict(state)
    return model


def hugging_face_block(t: dict[str, Tensor], suffix: str) -> dict[str, Tensor]:
    """The state of a ViTLayer from the spec's letters."""
    names = {
        "layernorm_before": ("gamma_1", "beta_1"), "layernorm_after": ("gamma_2", "beta_2"),
        "attention.q_proj": ("W_q", "b_q"), "attention.k_proj": ("W_k", "b_k"), "attention.v_proj": ("W_v", "b_v"),
        "attention.o_proj": ("W_o", "b_o"), "mlp.fc1": ("W_1", "b_1"), "mlp.fc2": ("W_2", "b_2"),
    }  # fmt: skip
    leaves = ("weight", "bias")
    return {f"{n}.{leaf}": t[f"{x}{suffix}"] for n, pair in names.items() for leaf, x in zip(leaves, pair, strict=True)}


def timm_vit(case: Case, **options: Any) -> nn.Module:
    """The case's ViT as timm builds it, with one fused qkv; averaging models have their last norm behind the average."""
    c, t = case.config, case.tensors
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=c["img"], patch_size=c["patch"], embed_dim=c["d"], depth=c["N"],
        num_heads=c["heads"], mlp_ratio=c["mlp"] / c["d"], num_classes=c["K"], **options,
    )  # fmt: skip
    norm = "fc_norm" if options.get("global_pool") == "avg" else "norm"
    state = {
        "cls_token": t["x_cls"].view(1, 1, -1), "pos_embed": t["e_pos"][None], "patch_embed.proj.weight": t["W_emb"],
        "patch_embed.proj.bias": t["b_emb"], f"{norm}.weight": t["gamma_f"], f"{norm}.bias": t["beta_f"],
        "head.weight": t["W_h"], "head.bias": t["b_h"],
    }  # fmt: skip
    for i in range(c["N"]):
        state |= {f"blocks.{i}.{name}": tensor for name, tensor in timm_block(t, f".{i + 1}").items()}
    model.load_state_dict(state)
    return model


def timm_block(t: dict[str, Tensor], suffix: str) -> dict[str, Tensor]:
    """The state of a timm Block from the spec's letters."""
    state = {
        "attn.qkv.weight": torch.cat([t[f"W_{x}{suffix}"] for x in "qkv"]),
        "attn.qkv.bias": torch.cat([t[f"b_{x}{suffix}"] for x in "qkv"]),
        "attn.proj.weight": t[f"W_o{suffix}"], "attn.proj.bias": t[f"b_o{suffix}"],
    }  # fmt: skip
    for i in (1, 2):
        state |= {f"norm{i}.weight": t[f"gamma_{i}{suffix}"], f"norm{i}.bias": t[f"beta_{i}{suffix}"]}
        state |= {f"mlp.fc{i}.weight": t[f"W_{i}{suffix}"], f"mlp.fc{i}.bias": t[f"b_{i}{suffix}"]}
    return state


def in_these_letters(case: Case) -> Case:
    """A case of SPT or CVPT, whose legends name the same ViT's parts otherwise and count blocks from 0."""
    c, t = case.config, case.tensors
    config = {
        "d": c["d"], "heads": c["heads"], "N": c["layers"], "mlp": c["ffn"], "patch": c["patch"], "img": c["image"],
        "K": c["classes"], "ln_eps": c["ln_eps"],
    }  # fmt: skip
    new = {"W_patch": "W_emb", "b_patch": "b_emb", "W_head": "W_h", "b_head": "b_h"}
    tensors = {"e_pos": t["E_pos"][0], "x_cls": t["x_cls"], "gamma_f": t["gamma_f"], "beta_f": t["beta_f"]}
    tensors |= {new[name]: t[name] for name in new}
    for i in range(c["layers"]):
        parts = [name for name in t if name.endswith(f".{i}") and name.count(".") == 1]
        tensors |= {f"{name.removesuffix(f'.{i}')}.{i + 1}": t[name] for name in parts}
    return Case(case.name, config, tensors)
