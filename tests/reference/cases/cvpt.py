"""CVPT: one block in every placement, and the whole model, as transformers and as timm build that ViT; folded and not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

import gossamer as gm

from . import Case, Check
from .vpt import hugging_face, hugging_face_block, in_these_letters, load, timm_block, timm_vit

COVERS = (
    "cvpt-block",
    "cvpt-model",
    "CVPT block with weights shared from self-attention, five placements",
    "CVPT model (deep prompts, placement after self-attention)",
)
FORMS = ("folded", "projected")


def run(case: Case) -> Iterator[Check]:
    whole = "layers" in case.config
    for form in FORMS:
        for build in (hugging_face, timm_vit) if whole else (one_hugging_face, one_timm):
            place = f"{build.__name__}, {form}: "
            yield from model(case, build, form, place) if whole else block(case, build, form, place)


def block(case: Case, build: Any, form: str, place: str) -> Iterator[Check]:
    t = case.tensors
    for tensor, prompts in (("CA", t["P"]), ("CA.P1", t["P"][:1]), ("CA.zero", torch.zeros_like(t["P"]))):
        _, part = placed(build(case), prompts, form)
        yield Check(place + tensor, part(t["X"]), t[tensor])
    for position in (1, 2, 3, 4, 5):
        adapted, part = placed(build(case), t["P"], form, placement=position)
        x = t["X"].clone().requires_grad_()
        y = adapted.anatomy.blocks()[0].module(x)
        y.square().sum().backward()
        yield Check(f"{place}Y.pos{position}", y, t[f"Y.pos{position}"])
        yield Check(f"{place}grad_P.pos{position}", part.prompts.grad, t[f"grad_P.pos{position}"], gradient=True)
        yield Check(f"{place}grad_X.pos{position}", x.grad, t[f"grad_X.pos{position}"], gradient=True)


def placed(model: nn.Module, prompts: Tensor, form: str, **options: Any) -> tuple[gm.Adapted, Any]:
    """A model of one block, and the branch in it."""
    adapted = gm.adapt(model, gm.CVPT(prompts=len(prompts), form=form, **options), num_labels=2).eval()
    part: Any = adapted.methods["cvpt"].get_submodule("vision.blocks.0")
    load([part.prompts], [prompts])
    return adapted, part


def one_hugging_face(case: Case) -> nn.Module:
    c = case.config
    model = ViTModel(
        ViTConfig(
            hidden_size=c["d"], num_attention_heads=c["heads"], num_hidden_layers=1, intermediate_size=c["ffn"],
            layer_norm_eps=c["ln_eps"], image_size=8, patch_size=4,
        )
    )  # fmt: skip
    model.layers[0].load_state_dict(hugging_face_block(case.tensors, ""))
    return model


def one_timm(case: Case) -> nn.Module:
    c = case.config
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=c["d"], depth=1, num_heads=c["heads"],
        mlp_ratio=c["ffn"] / c["d"],
    )  # fmt: skip
    model.blocks[0].load_state_dict(timm_block(case.tensors, ""))
    return model


def model(case: Case, build: Any, form: str, place: str) -> Iterator[Check]:
    t = case.tensors
    for suffix, prompts in (("", t["P"]), (".init", t["P_init"]), (".P1", t["P"][:, :1])):
        adapted = gm.adapt(build(in_these_letters(case)), gm.CVPT(prompts=prompts.shape[1], form=form)).eval()
        parameters = [p for n, p in adapted.trainable().items() if n.endswith(".prompts")]
        load(parameters, prompts)
        logits = adapted(pixel_values=t["x"]).logits
        logits.square().sum().backward()
        yield Check(f"{place}f{suffix}", adapted.features(pixel_values=t["x"]), t[f"f{suffix}"])
        yield Check(f"{place}logits{suffix}", logits, t[f"logits{suffix}"])
        grad = torch.stack([p.grad for p in parameters])
        yield Check(f"{place}grad_P{suffix}", grad, t[f"grad_P{suffix}"], gradient=True)
        yield Check(f"{place}grad_W_head{suffix}", adapted.head.weight.grad, t[f"grad_W_head{suffix}"], gradient=True)
        yield Check(f"{place}grad_b_head{suffix}", adapted.head.bias.grad, t[f"grad_b_head{suffix}"], gradient=True)
        finished = adapted.finalize()(t["x"])
        yield Check(f"{place}finalized logits{suffix}", getattr(finished, "logits", finished), t[f"logits{suffix}"])
