"""APT: one pre-norm block, METER's co-attention layers, whole tiny models under the authors' checkpoint keys; folded and not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViltConfig, ViltForQuestionAnswering, ViltModel

import gossamer as gm
from gossamer.methods import apt
from gossamer.models import checkpoints, meter_checkpoint, vilt
from gossamer.models.meter import MeterModel
from gossamer.models.meter_heads import MeterForQuestionAnswering

from . import Case, Check
from . import meter as meter_case

COVERS = ("apt-self", "apt-coattn", "apt-vilt", "apt-meter")
LETTERS = {"P": "prompts", "W_d": "down", "W_u": "up", "s": "scale"}
THEIRS = {"mm_tokens": "prompts", "mm.0.weight": "down", "mm.1.weight": "up", "scale": "scale"}


def run(case: Case) -> Iterator[Check]:
    kind = next(k for k in COVERS if case.name.startswith(k))
    yield from {"apt-self": block, "apt-coattn": coattention, "apt-vilt": whole_vilt, "apt-meter": whole_meter}[kind](
        case
    )


def method(case: Case, **options: Any) -> gm.APT:
    return gm.APT(prompts=case.config["p"], rank=case.config["r"], **options)


def fill(part: nn.Module, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            part.get_parameter(name).copy_(value)


def block(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    yield Check("A", apt.scores(t["X_norm"], apt.transform(t["P"], t["W_d"], t["W_u"])), t["A"])
    yield Check("w", apt.largest(t["A"]), t["w"])
    config = ViltConfig(
        hidden_size=c["d"], num_attention_heads=c["heads"], num_hidden_layers=1, intermediate_size=c["ffn"],
        layer_norm_eps=c["layer_norm_eps"], image_size=32, vocab_size=9,
    )  # fmt: skip
    adapted = gm.adapt(ViltModel(config), method(case), num_labels=2).eval()
    layer, part = adapted.anatomy.blocks()[0], adapted.methods["apt"].get_submodule("fusion.blocks.0.attention")
    for role, w, b in (
        ("q", "W_q", "b_q"),
        ("k", "W_k", "b_k"),
        ("v", "W_v", "b_v"),
        ("out", "W_o", "b_o"),
        ("up", "W_1", "b_1"),
    ):
        fill(layer.part(role), {"weight": t[w], "bias": t[b]})
    fill(layer.part("down"), {"weight": t["W_2"], "bias": t["b_2"]})
    fill(layer.part("norm1"), {"weight": t["ln1_g"], "bias": t["ln1_b"]})
    fill(layer.part("norm2"), {"weight": t["ln2_g"], "bias": t["ln2_b"]})
    fill(part, {ours: t[theirs] for theirs, ours in LETTERS.items()})
    mask = (1 - t["mask"].float())[:, None, None] * torch.finfo(torch.float32).min
    x = t["X"].clone().requires_grad_()
    y = layer.module(x, mask)[0]
    y.square().sum().backward()
    yield Check("Y", y, t["Y"])
    yield Check("O_apt", t["O"] + part(t["X_norm"], t["O"]), t["O_apt"])
    for theirs, ours in LETTERS.items():
        yield Check(f"grad.{theirs}", part.get_parameter(ours).grad, t[f"grad.{theirs}"], gradient=True)
    yield Check("grad.X", x.grad, t["grad.X"], gradient=True)
    finished: Any = adapted.finalize()
    yield Check("finalized Y", finished.backbone.encoder.layer[0](t["X"], mask)[0], t["Y"])


def coattention(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    sizes = {"hidden_size": c["d"], "num_attention_heads": c["heads"]}
    model = meter_case.tiny(
        vision={**sizes, "num_hidden_layers": 1, "intermediate_size": 8, "patch_size": 4, "image_size": 8},
        text={**sizes, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 9},
        cross_modal={**sizes, "num_hidden_layers": c["L"], "intermediate_size": c["ffn"], "layer_norm_eps": c["layer_norm_eps"]},
        attn_implementation="eager",  # as the authors compute
    )  # fmt: skip
    adapted = gm.adapt(model, method(case), num_labels=2).eval()
    tree = adapted.methods["apt"]
    for block in adapted.anatomy.blocks():
        fill_coattention(block, f"{stream(block)}.{block.index % c['L']}", t)
        for kind, branch in (("self", "attention"), ("cross", "cross")):
            own = f"{stream(block)}.{block.index % c['L']}.{kind}"
            fill(tree.get_submodule(f"{block.key}.{branch}"), {ours: t[f"{own}.{s}"] for s, ours in LETTERS.items()})
    x, y = (t[name].clone().requires_grad_() for name in ("x0", "y0"))
    states = step(model, x, y, t, c)
    (states[-1][0].square().sum() + states[-1][1].square().sum()).backward()
    for layer, (text, image) in enumerate(states, start=1):
        yield Check(f"x{layer}", text, t[f"x{layer}"])
        yield Check(f"y{layer}", image, t[f"y{layer}"])
    pairs = {}
    for block in adapted.anatomy.blocks():
        for kind, branch in (("self", "attention"), ("cross", "cross")):
            own, part = f"{stream(block)}.{block.index % c['L']}.{kind}", tree.get_submodule(f"{block.key}.{branch}")
            for letter, ours in LETTERS.items():
                pairs[f"{own}.{letter}"] = (part.get_parameter(ours).grad, t[f"grad.{own}.{letter}"])
    yield from gradients(pairs)
    yield Check("grad.x0", x.grad, t["grad.x0"], gradient=True)
    yield Check("grad.y0", y.grad, t["grad.y0"], gradient=True)
    finished: Any = adapted.finalize()
    text, image = step(finished.backbone, t["x0"], t["y0"], t, c)[-1]
    yield Check("finalized x", text, t[f"x{c['L']}"])
    yield Check("finalized y", image, t[f"y{c['L']}"])


def stream(block: Any) -> str:
    return "text" if "text_layers" in block.name else "image"


def fill_coattention(block: Any, own: str, t: dict[str, Tensor]) -> None:
    for kind, path in (("self", ""), ("cross", "cross.")):
        for role, letter in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "o")):
            values = {"weight": t[f"{own}.{kind}.W_{letter}"], "bias": t[f"{own}.{kind}.b_{letter}"]}
            fill(block.part(path + role), values)
        fill(
            block.part(path + "norm" if path else "norm1"),
            {"weight": t[f"{own}.{kind}.ln_g"], "bias": t[f"{own}.{kind}.ln_b"]},
        )
    for role, letter in (("up", "1"), ("down", "2")):
        fill(block.part(role), {"weight": t[f"{own}.ffn.W_{letter}"], "bias": t[f"{own}.ffn.b_{letter}"]})
    fill(block.part("norm2"), {"weight": t[f"{own}.ffn.ln_g"], "bias": t[f"{own}.ffn.ln_b"]})


def step(model: Any, x: Tensor, y: Tensor, t: dict[str, Tensor], c: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    masks = [(1 - t[f"mask_{s}"].float())[:, None, None] * c["mask_value"] for s in "xy"]
    states = []
    for text, image in zip(model.text_layers, model.image_layers, strict=True):
        x, y = text(x, masks[0], y, masks[1]), image(y, masks[1], x, masks[0])
        states.append((x, y))
    return states


def split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The backbone's tensors under checkpoint keys, and the adapter's."""
    model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    added = {k: v for k, v in model.items() if ".APT." in k or k == "token4classifier"}
    return {k: v for k, v in model.items() if k not in added}, added


def adapter(adapted: gm.Adapted, added: dict[str, Tensor], names: dict[str, str]) -> dict[str, str]:
    """Loads the authors' adapter; returns their key -> our name of every part of it."""
    ours = {"token4classifier": "classifier_token.fusion.token"}
    for key in added:
        where, _, leaf = key.partition(".APT.")
        if leaf:
            ours[key] = f"apt.{names[where]}.{THEIRS[leaf]}"
    own = adapted.state_dict(keep_vars=True)
    with torch.no_grad():
        for key, name in ours.items():
            own[name].copy_(added[key])
    return ours


def gradients(pairs: dict[str, tuple[Any, Tensor]]) -> Iterator[Check]:
    """Ours and theirs by key. The scales of all modules are one tensor: each is one number, a sum of which most cancels, and the
    stored ones are themselves off by up to 1e-5 from what float64 gives.
    """
    scales = [key for key in pairs if key.rpartition(".")[2] in ("s", "scale")]
    for key, (found, expected) in pairs.items():
        if key not in scales:
            yield Check(f"grad.{key}", found, expected, gradient=True)
    if scales:
        found, expected = (torch.cat([pairs[key][i] for key in scales]) for i in (0, 1))
        yield Check("grad of all scales", found, expected, gradient=True)


def stored(adapted: gm.Adapted, ours: dict[str, str], t: dict[str, Tensor]) -> dict[str, tuple[Any, Tensor]]:
    """Our gradient and theirs, where they stored one."""
    own = adapted.state_dict(keep_vars=True)
    return {key: (own[name].grad, t[f"grad.{key}"]) for key, name in ours.items() if f"grad.{key}" in t}


def whole_vilt(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    theirs, added = split(t)
    config = ViltConfig(
        hidden_size=c["d"], num_attention_heads=c["heads"], num_hidden_layers=c["layers"], intermediate_size=c["ffn"],
        layer_norm_eps=c["layer_norm_eps_blocks"], image_size=c["image_size_of_position_table"], patch_size=c["patch"],
        vocab_size=c["vocab"], max_position_embeddings=len(theirs["text_embeddings.position_embeddings.weight"]),
        num_labels=c["labels"],
    )  # fmt: skip
    tensors, unknown = vilt.table(ViltForQuestionAnswering).ours(theirs)
    model = checkpoints.build(ViltForQuestionAnswering, config, tensors, unknown, case.name)
    model.vilt.embeddings.text_embeddings.LayerNorm.eps = c["layer_norm_eps_text_embeddings"]
    adapted = gm.adapt(model, [method(case), gm.ClassifierToken(token=0)]).eval()
    places = {f"transformer.blocks.{i}.attn": f"fusion.blocks.{i}.attention" for i in range(c["layers"])}
    ours = adapter(adapted, added, places)
    pixels = torch.ones(len(t["image"]), *t["image"].shape[-2:], dtype=torch.long)
    inputs = {
        "input_ids": t["text_ids"].long(),
        "attention_mask": t["text_mask"].long(),
        "pixel_values": t["image"],
        "pixel_mask": pixels,
    }
    output = adapted.backbone.vilt(**inputs)
    output.pooler_output.square().sum().backward()
    n = t["text_ids"].shape[1]
    yield Check("text_feats", output.last_hidden_state[:, :n], t["text_feats"])
    yield Check("image_cls_feats", output.last_hidden_state[:, n], t["image_cls_feats"])
    yield Check("cls_feats", output.pooler_output, t["cls_feats"])
    yield Check("vqa_logits", adapted(**inputs).logits, t["vqa_logits"])
    head = (theirs["itm_score.fc.weight"], theirs["itm_score.fc.bias"])
    yield Check("itm_logits", nn.functional.linear(output.pooler_output, *head), t["itm_logits"])
    yield from gradients(stored(adapted, ours, t))
    yield Check("finalized vqa_logits", adapted.finalize()(**inputs).logits, t["vqa_logits"])


def whole_meter(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    theirs, added = split(t)
    for attention in ("sdpa", "eager"):
        config = meter_case.config(c, theirs, attn_implementation=attention)
        tensors, unknown = meter_checkpoint.table(MeterForQuestionAnswering).ours(theirs)
        model = meter_checkpoint.build(MeterForQuestionAnswering, config, tensors, unknown, case.name)
        adapted = gm.adapt(model, [method(case, learn_scale=False), gm.ClassifierToken(token=0)]).eval()
        names = {"attention": "attention", "crossattention": "cross"}
        layers = c["fusion"]["layers"]
        places = {
            f"cross_modal_{s}_layers.{i}.{theirs}.output": f"fusion.blocks.{i + j * layers}.{ours}"
            for j, s in enumerate(("text", "image")) for i in range(layers) for theirs, ours in names.items()
        }  # fmt: skip
        ours = adapter(adapted, added, places)
        inputs = meter_case.inputs(t)
        base: MeterModel = adapted.backbone.meter  # type: ignore[assignment]
        output = base(**inputs)
        output.pooler_output.square().sum().backward()
        yield from meter_case.compare(f"{attention}, ", output, t)
        yield Check(f"{attention}, vqa_logits", adapted(**inputs).logits, t["vqa_logits"])
        yield from gradients(stored(adapted, ours, t))
        yield Check(f"{attention}, finalized vqa_logits", adapted.finalize()(**inputs).logits, t["vqa_logits"])
