"""APT in CLIP's towers under the zero-shot head; the few-shot heads beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

import gossamer as gm
from gossamer.models.words import Words
from gossamer.models.zero_shot import unit

from . import Case, Check
from .apt import LETTERS, fill, method

COVERS = ("apt-clip",)
TOWERS = {"vision": "vision", "text": "text", "both": ("vision", "text")}


def run(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    model = zero_shot(c, t)
    with torch.no_grad():
        yield Check("logits_zero_shot", model(t["pixel_values"]).logits, t["logits_zero_shot"])
        yield Check("class_unit", model.class_vectors(), t["class_unit"])
        yield Check("image_unit", unit(model.image_vectors(t["pixel_values"])), t["image_unit"])
    for towers, stack in TOWERS.items():
        yield from adapted(case, towers, stack)
    yield from few_shot(case)


def few_shot(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    adapter = gm.adapt(zero_shot(c, t), gm.ClipAdapter(ratio=c["adapter_ratio"]))
    fill(adapter.methods["clip_adapter"], {"down.weight": t["adapter.W_1"], "up.weight": t["adapter.W_2"]})
    shots = len(t["tip.keys"]) // c["classes"]
    tip = gm.adapt(zero_shot(c, t), gm.TipAdapter(shots=shots, alpha=c["tip_alpha"], beta=c["tip_beta"]))
    voting: Any = tip.methods["tip_adapter"]
    with torch.no_grad():
        voting.keys.copy_(t["tip.keys"])
        voting.values.copy_(t["tip.values"])
        yield Check("adapter.logits", adapter(pixel_values=t["pixel_values"]).logits, t["adapter.logits"])
        classifier: Any = tip.backbone
        # Theirs are 100 cos, whatever tau is.
        found = voting(classifier.image_vectors(t["pixel_values"]), classifier.class_vectors(), torch.tensor(100.0))
        yield Check("tip.logits", found, t["tip.logits"])


def zero_shot(c: dict[str, Any], t: dict[str, Tensor]) -> Any:
    common = {"hidden_act": c["act"], "layer_norm_eps": c["eps"]}
    vision = {
        "hidden_size": c["vd"], "intermediate_size": c["vf"], "num_hidden_layers": c["vl"], "num_attention_heads": c["vh"],
        "image_size": c["image"], "patch_size": c["patch"],
    }  # fmt: skip
    ends = {name: c[name] for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    text = {
        "hidden_size": c["td"], "intermediate_size": c["tf"], "num_hidden_layers": c["tl"], "num_attention_heads": c["th"],
        "vocab_size": c["vocab"], "max_position_embeddings": c["pos"], **ends,
    }  # fmt: skip
    config = CLIPConfig(
        vision_config={**vision, **common}, text_config={**text, **common}, projection_dim=c["proj"], **ends
    )
    pair = CLIPModel(config).eval()
    pair.load_state_dict({k.removeprefix("clip."): v for k, v in t.items() if k.startswith("clip.")})
    rows = [row[: row.index(c["eos_token_id"]) + 1] for row in t["input_ids"].long().tolist()]
    words = Words.of(
        [f"class {i}" for i in range(c["classes"])], [f"{{}} {j}" for j in range(c["templates"])], lambda _: rows
    )  # fmt: skip
    return gm.ZeroShot(pair, words)


def adapted(case: Case, towers: str, stack: Any) -> Iterator[Check]:
    c, t = case.config, case.tensors
    model = gm.adapt(zero_shot(c, t), method(case, stack=stack)).eval()
    classifier: Any = model.backbone
    sites = {}
    for block in model.anatomy:
        if block.stack.name in TOWERS[towers]:
            site = block.name.removeprefix("pair.")
            sites[site] = part = model.methods["apt"].get_submodule(f"{block.key}.attention")
            fill(part, {ours: t[f"apt.{site}.{letter}"] for letter, ours in LETTERS.items()})
    classifier.forget()
    assert sum(p.numel() for p in model.trainable().values()) == c["parameters"][towers]
    out = model(pixel_values=t["pixel_values"], labels=t["labels"].long())
    out.loss.backward()
    yield Check(f"{towers}.logits", out.logits, t[f"{towers}.logits"])
    yield Check(f"{towers}.loss", out.loss.view(1), t[f"{towers}.loss"])
    with torch.no_grad():
        yield Check(f"{towers}.class_unit", classifier.class_vectors(), t[f"{towers}.class_unit"])
        images = unit(classifier.image_vectors(t["pixel_values"]))
        yield Check(f"{towers}.image_unit", images, t[f"{towers}.image_unit"])
    scales: list[tuple[Tensor, Tensor]] = []
    for site, part in sites.items():
        for letter, ours in LETTERS.items():
            pair = (part.get_parameter(ours).grad, t[f"{towers}.grad.{site}.{letter}"])
            if letter == "s":
                scales.append(pair)  # one number each: compared with the largest of all
            else:
                yield Check(f"{towers}.grad.{site}.{letter}", *pair, gradient=True)
    yield Check(f"{towers}.grad.s", *(torch.cat([s[i] for s in scales]) for i in (0, 1)), gradient=True)
    finished: Any = model.finalize()
    yield Check(f"{towers}.finalized", finished(pixel_values=t["pixel_values"]).logits, t[f"{towers}.logits"])
