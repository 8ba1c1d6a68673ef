"""VPT and PC on Swin, as transformers and as timm build it: prompts in every window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import SwinConfig, SwinForImageClassification

import gossamer as gm
from gossamer.anatomy.windows import WindowInserted
from gossamer.methods.vpt import prompts_of

from . import Case, Check, pc
from .vpt import load

COVERS = ("vpt-swin-shallow", "vpt-swin-deep", "pc-swin-deep")


def run(case: Case) -> Iterator[Check]:
    deep = case.config["deep"]
    for build in (hugging_face, timm_swin):
        for form in ("exact", "sequence") if deep else ("sequence",):
            method, place = gm.VPT(prompts=case.config["p"], deep=deep, form=form), f"{build.__name__}, {form}: "
            if "t" in case.tensors:
                yield from pc.compare(case, build(case), method, pc.rows(case.tensors, "P"), place)
            else:
                yield from compare(case, build(case), method, place)


def compare(case: Case, model: nn.Module, method: gm.VPT, place: str) -> Iterator[Check]:
    t = case.tensors
    adapted = gm.adapt(model, method).eval()
    prompts = [p.prompts for p in prompts_of(adapted).values()]
    load(prompts, pc.rows(t, "P"))
    stages, normed = record(model, len(case.config["depths"])), Kept()
    normed.watch(model.swin.layernorm if hasattr(model, "swin") else model.norm)  # type: ignore[arg-type,union-attr]
    answer = adapted(pixel_values=t["I"])
    answer.logits.square().sum().backward()
    for i, stage in enumerate(stages):
        yield Check(f"{place}E.{i + 1}", stage.output.flatten(1, -2), t[f"E.{i + 1}"])
    last = len(stages)
    yield Check(f"{place}Q.{last}", normed.input.flatten(1, -2)[:, : case.config["p"]], t[f"Q.{last}"])
    yield from between(case, adapted, place)
    yield Check(place + "f", adapted.features(pixel_values=t["I"]), t["f"])
    yield Check(place + "y", answer.logits, t["y"])
    for i, (prompt, expected) in enumerate(zip(prompts, pc.rows(t, "dP"), strict=True)):
        yield Check(f"{place}dP[{i}]", prompt.grad, expected, gradient=True)  # type: ignore[union-attr,arg-type]
    yield Check(place + "dW_h", adapted.head.weight.grad, t["dW_h"], gradient=True)  # type: ignore[union-attr]
    yield Check(place + "db_h", adapted.head.bias.grad, t["db_h"], gradient=True)  # type: ignore[union-attr]
    if len(t["I"]) == 1:  # inside a batch, too
        together = adapted(pixel_values=torch.cat([torch.randn(2, *t["I"].shape[1:]), t["I"]])).logits[-1:]
        yield Check(place + "y in a batch", together, t["y"])
    finished = adapted.finalize()(t["I"])
    yield Check(place + "finalized y", getattr(finished, "logits", finished), t["y"])


def between(case: Case, adapted: gm.Adapted, place: str) -> Iterator[Check]:
    """Shallow prompts behind each stage, merged: what enters the next."""
    if case.config["deep"]:
        return
    (change,) = [c for c in adapted.anatomy.log if isinstance(c, WindowInserted)]
    for walked in [w for w in change.walked if w.block.merging is not None]:
        name = f"Q.{walked.block.stage}"
        assert walked.tokens is not None
        yield Check(place + name, walked.tokens, case.tensors[name])


class Kept:
    """Keeps what enters and leaves a module."""

    def watch(self, module: nn.Module) -> Kept:
        module.register_forward_hook(self.keep)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a copied model forgets what was kept

    def keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.input, self.output = args[0], output[0] if isinstance(output, tuple) else output


def record(model: Any, count: int) -> Sequence[Kept]:
    """What leaves each stage; timm merges patches at the start of the next."""
    if hasattr(model, "swin"):
        return [Kept().watch(stage) for stage in model.swin.encoder.layers]
    return [*(Kept().watch(model.layers[i + 1].downsample) for i in range(count - 1)), Kept().watch(model.layers[-1])]


def sizes(case: Case) -> dict[str, Any]:
    c = case.config
    return {"embed_dim": c["C"], "depths": c["depths"], "num_heads": c["heads"], "window_size": c["window"]}


def hugging_face(case: Case) -> nn.Module:
    """The case's Swin as transformers builds it."""
    c, t = case.config, case.tensors
    config = SwinConfig(
        **sizes(case), image_size=c["img"], patch_size=c["patch"], mlp_ratio=ratio(case), num_labels=c["K"]
    )
    model = SwinForImageClassification(config)
    state = {
        "swin.embeddings.patch_embeddings.projection.weight": t["W_emb"],
        "swin.embeddings.patch_embeddings.projection.bias": t["b_emb"],
        "swin.embeddings.norm.weight": t["gamma_e"], "swin.embeddings.norm.bias": t["beta_e"],
        "swin.layernorm.weight": t["gamma_f"], "swin.layernorm.bias": t["beta_f"],
        "classifier.weight": t["W_h"], "classifier.bias": t["b_h"],
    }  # fmt: skip
    names = {
        "layernorm_before": ("gamma_1", "beta_1"), "layernorm_after": ("gamma_2", "beta_2"),
        "attention.q_proj": ("W_q", "b_q"), "attention.k_proj": ("W_k", "b_k"), "attention.v_proj": ("W_v", "b_v"),
        "attention.o_proj": ("W_o", "b_o"), "mlp.fc1": ("W_1", "b_1"), "mlp.fc2": ("W_2", "b_2"),
    }  # fmt: skip
    for stage, depth in enumerate(c["depths"]):
        path = f"swin.encoder.layers.{stage}"
        for j in range(depth):
            end = f".{stage + 1}.{j + 1}"
            for name, pair in names.items():
                state |= {f"{path}.blocks.{j}.{name}.{leaf}": t[x + end] for leaf, x in zip(LEAVES, pair, strict=True)}
            state[f"{path}.blocks.{j}.attention.relative_position_bias.relative_position_bias_table"] = t["T" + end]
        if stage < len(c["depths"]) - 1:
            state |= merging(t, f"{path}.downsample", stage)
    model.load_state_dict(state)
    return model


LEAVES = ("weight", "bias")


def timm_swin(case: Case) -> nn.Module:
    """The case's Swin as timm builds it, with a fused qkv and patches merged at the start of a stage."""
    c, t = case.config, case.tensors
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=c["img"], patch_size=c["patch"], mlp_ratio=ratio(case),
        num_classes=c["K"], **sizes(case),
    )  # fmt: skip
    state = {
        "patch_embed.proj.weight": t["W_emb"], "patch_embed.proj.bias": t["b_emb"],
        "patch_embed.norm.weight": t["gamma_e"], "patch_embed.norm.bias": t["beta_e"],
        "norm.weight": t["gamma_f"], "norm.bias": t["beta_f"], "head.fc.weight": t["W_h"], "head.fc.bias": t["b_h"],
    }  # fmt: skip
    names = {
        "norm1": ("gamma_1", "beta_1"), "norm2": ("gamma_2", "beta_2"), "attn.proj": ("W_o", "b_o"),
        "mlp.fc1": ("W_1", "b_1"), "mlp.fc2": ("W_2", "b_2"),
    }  # fmt: skip
    for stage, depth in enumerate(c["depths"]):
        for j in range(depth):
            path, end = f"layers.{stage}.blocks.{j}", f".{stage + 1}.{j + 1}"
            for name, pair in names.items():
                state |= {f"{path}.{name}.{leaf}": t[x + end] for leaf, x in zip(LEAVES, pair, strict=True)}
            for leaf, letter in zip(LEAVES, "Wb", strict=True):
                state[f"{path}.attn.qkv.{leaf}"] = torch.cat([t[f"{letter}_{x}{end}"] for x in "qkv"])
            state[f"{path}.attn.relative_position_bias_table"] = t["T" + end]
        if stage > 0:
            state |= merging(t, f"layers.{stage}.downsample", stage - 1)
    model.load_state_dict(state)
    return model


def ratio(case: Case) -> float:
    """Width of the FFN over that of the stream."""
    return case.tensors["W_1.1.1"].shape[0] / case.config["C"]


def merging(t: dict[str, Tensor], path: str, stage: int) -> dict[str, Tensor]:
    """The state of the merging behind a stage."""
    end = f".{stage + 1}"
    return {
        f"{path}.norm.weight": t["gamma_m" + end], f"{path}.norm.bias": t["beta_m" + end],
        f"{path}.reduction.weight": t["W_m" + end],
    }  # fmt: skip
