"""CVPT under SETR-PUP heads: features, losses, statistics, gradients; sliding windows; scores; built by timm and transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

import gossamer as gm
from gossamer import metrics
from gossamer.hosts import dense

from . import Case, Check
from .vpt import load

COVERS = ("cvpt-setr",)


def run(case: Case) -> Iterator[Check]:
    for build in (timm_vit, hugging_face):
        yield from whole(case, build)
    yield from scores(case)


def timm_vit(case: Case) -> nn.Module:
    c = case.config
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=c["image"], patch_size=c["patch"], embed_dim=c["d"], depth=c["L"],
        num_heads=c["H"], mlp_ratio=c["F"] / c["d"], num_classes=0,
    )  # fmt: skip
    found = model.load_state_dict({k.removeprefix("vit."): v for k, v in vit(case).items()}, strict=False)
    assert found.missing_keys == ["norm.weight", "norm.bias"], "its heads stand before the last norm"
    return model


def vit(case: Case) -> dict[str, Tensor]:
    return {k: v for k, v in case.tensors.items() if k.startswith("vit.")}


def hugging_face(case: Case) -> nn.Module:
    c, t = case.config, case.tensors
    config = ViTConfig(
        hidden_size=c["d"], num_attention_heads=c["H"], num_hidden_layers=c["L"], intermediate_size=c["F"],
        patch_size=c["patch"], image_size=c["image"], layer_norm_eps=c["ln_eps"], hidden_act="gelu",
    )  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False)
    state = {
        "embeddings.cls_token": t["vit.cls_token"],
        "embeddings.position_embeddings": t["vit.pos_embed"],
        "embeddings.patch_embeddings.projection.weight": t["vit.patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": t["vit.patch_embed.proj.bias"],
    }
    names = {
        "layernorm_before": "norm1", "layernorm_after": "norm2", "attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    for i in range(c["L"]):
        for leaf in ("weight", "bias"):
            state |= {f"layers.{i}.{ours}.{leaf}": t[f"vit.blocks.{i}.{name}.{leaf}"] for ours, name in names.items()}
            thirds = t[f"vit.blocks.{i}.attn.qkv.{leaf}"].chunk(3)
            state |= {f"layers.{i}.attention.{r}_proj.{leaf}": third for r, third in zip("qkv", thirds, strict=True)}
    found = model.load_state_dict(state, strict=False)
    assert found.missing_keys == ["layernorm.weight", "layernorm.bias"]
    return model


def whole(case: Case, build: Any) -> Iterator[Check]:
    c, t, place = case.config, case.tensors, f"{build.__name__}, "
    made: Any = gm.Segmenter(
        build(case), gm.Decoder(outputs=c["classes"], kind="setr-pup", taps=tuple(c["out"]), channels=c["channels"])
    )
    heads = [made.decode_head, *made.auxiliary_head]
    assert sum(p.numel() for head in heads for p in head.parameters()) == c["head_parameters"]
    statistics(made, t, "head.")
    made.eval()
    for i, map in enumerate(made.maps(t["pixel_values"])):
        yield Check(f"{place}features_frozen.{i}", map, t[f"features_frozen.{i}"])
    adapted = gm.adapt(made, gm.CVPT(prompts=c["prompts"]))
    prompts = [p for n, p in adapted.trainable().items() if n.endswith(".prompts")]
    load(prompts, t["P"])
    assert sum(p.numel() for p in prompts) == c["prompt_parameters"]
    for mode in ("eval", "train"):
        adapted.train(mode == "train")
        before = {k: v.clone() for k, v in made.state_dict().items()}
        maps = made.maps(t["pixel_values"])
        if mode == "eval":
            for i, map in enumerate(maps):
                yield Check(f"{place}features.{i}", map, t[f"features.{i}"])
        for name, head, map in named(made, maps):
            yield Check(f"{place}{mode}.logits.{name}", head(map), t[f"{mode}.logits.{name}"])
        for average, tensor in (("labelled", "loss"), ("all", "loss_all_pixels")):
            made.load_state_dict(before)
            parts = [dense.loss(head(map), t["labels"], average=average) for _, head, map in named(made, maps)]
            found = sum(w * part for w, part in zip(c["weights"], parts, strict=True))
            yield Check(f"{place}{mode}.{tensor}", torch.as_tensor(found).view(1), t[f"{mode}.{tensor}"])
        made.load_state_dict(before)
    out = adapted.train()(pixel_values=t["pixel_values"], labels=t["labels"])
    out.loss.backward()
    yield Check(f"{place}train.loss of the model", out.loss.view(1), t["train.loss"])
    for name, head, _ in named(made, maps):
        for key, buffer in head.named_buffers():
            if "running" in key:
                yield Check(f"{place}train.{name}.{key}", buffer.clone(), t[f"train.{name}.{key}"])
        for key, p in head.named_parameters():
            assert p.grad is not None
            yield Check(f"{place}grad.{name}.{key}", p.grad, t[f"grad.head.{name}.{key}"], gradient=True)
    yield Check(f"{place}grad.P", torch.stack([p.grad for p in prompts]), t["grad.P"], gradient=True)  # type: ignore[misc]
    statistics(made, t, "head.")
    adapted.eval()
    finished: Any = adapted.finalize()
    for label, model in (("", adapted), ("finalized ", finished)):
        with torch.no_grad():
            logits = dense.slide(lambda x, m=model: m(pixel_values=x).logits, t["slide.images"], c["crop"], c["stride"])
        yield Check(f"{place}{label}slide.logits", logits, t["slide.logits"])
        yield Check(f"{place}{label}slide.prediction", logits.argmax(1), t["slide.prediction"])
    assert not list(finished.auxiliary_head)
    assert not [m for m in finished.modules() if isinstance(m, nn.BatchNorm2d)]


def named(made: Any, maps: list[Tensor]) -> list[tuple[str, nn.Module, Tensor]]:
    others = [(f"auxiliary_head.{i}", head, maps[i]) for i, head in enumerate(made.auxiliary_head)]
    return [("decode_head", made.decode_head, maps[-1]), *others]


def statistics(made: Any, t: dict[str, Tensor], prefix: str) -> None:
    """Weights and running statistics of the heads."""
    state = {k.removeprefix(prefix): v for k, v in t.items() if k.startswith(prefix)}
    found = made.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(k.startswith("backbone.") or k.endswith("num_batches_tracked") for k in found.missing_keys)


def scores(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    boxes = dense.windows(tuple(t["slide.images"].shape[-2:]), c["crop"], c["stride"])
    order = [[top, bottom, left, right] for top, bottom, left, right in boxes]
    yield Check("slide.boxes", torch.tensor(order), t["slide.boxes"])
    pairs = zip(t["score.prediction"], t["score.labels"], strict=True)
    confusion = sum(metrics.counted(p, y, c["classes"], c["ignore"]) for p, y in pairs)
    assert isinstance(confusion, Tensor)
    yield Check("score.confusion", confusion, t["score.confusion"])
    found = metrics.overlap(confusion)
    yield Check("score.iou", torch.tensor([-1 if v is None else v for v in found.iou]), t["score.iou"])
    yield Check("score.accuracy", torch.tensor([-1 if v is None else v for v in found.accuracy]), t["score.accuracy"])
    for name in ("miou", "mean_accuracy", "pixel_accuracy"):
        yield Check(f"score.{name}", torch.tensor([getattr(found, name)]), t[f"score.{name}"])
