"""APT (arXiv 2306.15706) on ViLT and METER, and the ways of counting deep prompts."""

from __future__ import annotations

import functools
from typing import Any

from peft import LoraConfig

import gossamer as gm
from gossamer import architectures
from gossamer.cost.counting import Sample, count, on_meta
from gossamer.methods import Method, as_method
from gossamer.reading import read
from papers.counted import HOW, parameters, row

ADDED = "with the method less without it, batch of one, P~ included; torch's counter on meta = closed form"
SCALED = {"placement": "parallel-attention", "scale": 4.0, "norm": True}
ON_VILT = {  # method -> parameters and added GMACs as published, None where neither the paper nor its code says
    "APT p=200 r=4": (gm.APT(), 1_916_940, 0.907),
    "deep prompts p=200": (gm.VPT(prompts=200), 1_843_200, None),
    "LoRA r=4": (LoraConfig(r=4, target_modules=["fusion.q", "fusion.v"]), 147_456, None),
    "adapter r=96": (gm.Adapter(rank=96, placement="houlsby"), 3_559_680, 0.86),
    "scaled PA r=96": (gm.Adapter(rank=96, **SCALED), 1_798_272, 0.44),
}
ON_METER = {
    "APT p=200 r=4": (gm.APT(), 3_833_880, 2.308),
    "deep prompts p=200": (gm.VPT(prompts=200, attention="both"), 3_686_400, None),
    "shallow prompts p=200": (gm.VPT(prompts=200, deep=False), 307_200, 28.71),
    "LoRA r=4": (LoraConfig(r=4, target_modules=["fusion.q", "fusion.v"]), 294_912, None),
    "adapter r=96": (gm.Adapter(rank=96, placement="houlsby"), 5_339_520, 1.64),
    "scaled PA r=102": (gm.Adapter(rank=102, **SCALED), 3_817_872, 1.12),
}
WAYS = {
    "stored": "prompts are constants, so their keys and values need no computing: 2 n p d a module, counted",
    "projected": "2 p d^2 a module for keys and values of every sample, counted at a batch of one",
    "with queries": "p d^2 a module on top, for queries of prompts that are thrown away, by formula",
    "in the table": "and each module charged with the tokens of both streams instead of its own, by formula; APT is not",
}
DEEP = {"ViLT": {"with queries": (5.139, 82.30)}}
DEEP["METER"] = {
    "stored": (2.28, 0.0), "projected": (7.94, 70.9), "with queries": (10.77, 78.6), "in the table": (13.05, 82.30)
}  # fmt: skip


def costs() -> list[dict[str, Any]]:
    """APT (arXiv 2306.15706): parameters and added cost, on ViLT (41 + 201 tokens) and METER (41 and 577)."""
    found = []
    for name, model, table in (("ViLT", "vilt-b32", ON_VILT), ("METER", "meter-b16", ON_METER)):
        for what, (method, paper, _) in table.items():
            ours = parameters(model, method)
            found.append(row(f"{what}, {name}, without head", paper, ours, "parameters", HOW["parameters"]))
        for what, (method, _, paper) in table.items():
            if paper is not None:
                ours = added(name, method)
                found.append(row(f"{what}, {name}: added", paper, ours, "GMACs per sample", ADDED))
        found += deep_prompts(name, table["deep prompts p=200"][0], added(name, gm.APT()))
    return found


def deep_prompts(name: str, method: Method, apt: float) -> list[dict[str, Any]]:
    """Deep prompts by the ways of counting them, and what APT saves against each: 82.30 % is one way of counting."""
    modules, tokens, p, d = {"ViLT": (12, 242), "METER": (24, 618)}[name] + (method.prompts, 768)
    ways = {"stored": added(name, method, stored=True), "projected": added(name, method)}
    ways["with queries"] = round(ways["projected"] + modules * p * d * d / 1e9, 3)
    charged = modules * 2 * tokens * p * d / 1e9  # METER: half of its 24 modules see 41 of the 618 tokens, half 577
    ways["in the table"] = round(ways["with queries"] + charged - ways["stored"], 3)
    found = []
    for way, (paper, saving) in DEEP[name].items():
        what = f"deep prompts p=200, {name}, {way}"
        found.append(row(f"{what}: added", paper, ways[way], "GMACs per sample", WAYS[way]))
        saved = round(100 * (1 - apt / ways[way]), 2)
        found.append(row(f"{what}: saved by APT", saving, saved, "percent", f"1 - {apt} / {ways[way]}: {WAYS[way]}"))
    return found


def added(name: str, method: Any, *, stored: bool = False) -> float:
    """GMACs that a method adds to a sample alone in its batch: in training, what is computed once included, or `stored`."""
    method = as_method(method)
    backbone, sample = fusion_model(name)
    anatomy = read(backbone)
    tokens = sample.tokens(anatomy)
    closed = method.macs(anatomy, tokens) + (0 if stored else sum(method.overhead(anatomy, tokens)))
    adapted: Any = on_meta(gm.adapt(backbone, method))
    counted = count(adapted.finalize() if stored else adapted.train(), backbone, sample)[0] - bare_macs(name)
    if counted != closed:
        raise SystemExit(f"{name}, {method}: counted {counted:,} MACs, closed form {closed:,}")
    return round(counted / 1e9, 3)


def fusion_model(name: str) -> tuple[Any, Sample]:
    """ViLT or METER, and a sample of the sizes of APT's table."""
    if name == "ViLT":  # 200 patches; ViLT has 40 text positions, one less than the paper's table counts
        backbone, size = architectures.build("vilt-b32", max_position_embeddings=41), (320, 640)
    else:
        backbone, size = architectures.build("meter-b16"), (384, 384)
    return backbone, Sample.of(backbone, size, 41)


@functools.cache
def bare_macs(name: str) -> int:
    """MACs of the bare model, counted."""
    backbone, sample = fusion_model(name)
    return count(on_meta(backbone), backbone, sample)[0]
