"""Cost figures of the papers beside ours: paper's figure, ours, difference, how counted. No weights are needed.

    python benchmarks/paper_costs.py           # a table
    python benchmarks/paper_costs.py --json    # the rows, and how they were made

Ours is counted by torch on the meta device and must equal the closed form, or the script fails. A method adds one function that
returns rows, and its name to PAPERS.
"""

from __future__ import annotations

import argparse
import functools
import json
from typing import Any

import rows
from peft import LoraConfig

import gossamer as gm
from gossamer import architectures
from gossamer.anatomy import read
from gossamer.counting import Sample, closed_macs, count, on_meta
from gossamer.methods import Method, as_method

HOW = {
    "windows": "prompts as tokens in every window; torch's counter on meta = closed form",
    "merged": "the same, and 8 C^2 a prompt and merging, which the formula counts though the next stage replaces them",
    "sequence": "prompts run as tokens; torch's counter on meta = closed form",
    "exact": "stored keys and values of prompts; torch's counter on meta = closed form",
    "parameters": "tensors of the adapter = closed form",
    "added": "with the method less without it, batch of one, P~ included; torch's counter on meta = closed form",
}


def row(what: str, paper: float, ours: float, unit: str, how: str) -> dict[str, Any]:
    """One line of the table; a difference of 0.1 from a figure printed with one decimal is its rounding."""
    return {"what": what, "paper": paper, "ours": ours, "difference": round(ours - paper, 6), "unit": unit, "how": how}


def gmacs(model: str, method: Method | None, **sizes: Any) -> float:
    """GMACs of one sample in the finished model (None: in the bare backbone), counted; they must equal the closed form."""
    backbone = architectures.build(model)
    sample, anatomy = Sample.of(backbone, **sizes), read(backbone)
    closed = closed_macs(backbone, None, anatomy, sample)
    closed += method.macs(anatomy, sample.tokens(anatomy)) if method else 0
    finished = gm.adapt(backbone, method).finalize() if method else backbone
    counted = count(finished, finished, sample)[0]
    if counted != closed:
        raise SystemExit(f"{model}, {method}: counted {counted:,} MACs, closed form {closed:,}")
    return round(counted / 1e9, 3)


def parameters(model: str, method: Any) -> int:
    """Parameters of the method without a head, counted; they must equal the closed form."""
    closed = as_method(method).parameters(read(architectures.build(model)))
    placed = gm.adapt(architectures.build(model), method).methods.parameters()
    counted = sum(p.numel() for p in placed if p.requires_grad)
    if counted != closed:
        raise SystemExit(f"{model}, {method}: {counted:,} parameters, closed form {closed:,}")
    return counted


def vpt() -> list[dict[str, Any]]:
    """VPT (arXiv 2203.12119) on ViT-B/16 at 224: N (12 n d^2 + 2 n^2 d) + patches, and what PC (arXiv 2305.17223) prints of it."""
    formula = {0: 17.56, 50: 22.22, 100: 26.97, 150: 31.81, 200: 36.74}
    printed = {0: 17.6, 50: 22.2, 100: 26.9, 150: 31.8, 200: 36.7}
    unit, found = "GMACs per image", []
    for prompts in formula:
        method = gm.VPT(prompts=prompts, form="sequence") if prompts else None
        ours = gmacs("vit-b16", method, image_size=224)
        what = f"VPT-deep, sequence form, ViT-B/16, {prompts} prompts"
        found.append(row(f"{what}: by formula", formula[prompts], ours, unit, HOW["sequence"]))
        found.append(row(f"{what}: printed by PC, table 1", printed[prompts], ours, unit, HOW["sequence"]))
    exact = gmacs("vit-b16", gm.VPT(prompts=100, form="exact"), image_size=224)
    found.append(row("VPT-deep, exact form, ViT-B/16, 100 prompts: at most", 17.95, exact, unit, HOW["exact"]))
    for deep, paper in ((True, 460_800), (False, 38_400)):
        method = gm.VPT(prompts=50, deep=deep)
        what = f"VPT-{'deep' if deep else 'shallow'}, ViT-B/16, 50 prompts, without head"
        found.append(row(what, paper, parameters("vit-b16", method), "parameters", HOW["parameters"]))
    return found


def swin() -> list[dict[str, Any]]:
    """VPT-deep on Swin-B at 224, prompts as tokens in every window (arXiv 2203.12119, appendix; the totals are of its formula)."""
    formula = {0: 15.43, 5: 16.29, 10: 17.16, 25: 19.80, 50: 24.33}
    unit, found = "GMACs per image", []
    for prompts, paper in formula.items():
        method = gm.VPT(prompts=prompts, form="sequence") if prompts else None
        ours = gmacs("swin-b", method, image_size=224)
        merged = round(ours + prompts * sum(8 * width**2 for width in (128, 256, 512)) / 1e9, 3)
        what = f"VPT-deep, sequence form, Swin-B, {prompts} prompts"
        found.append(row(what, paper, ours, unit, HOW["windows"]))
        found.append(row(f"{what}, prompts merged: by formula", paper, merged, unit, HOW["merged"]))
    exact = gmacs("swin-b", gm.VPT(prompts=50), image_size=224)
    found.append(
        row("VPT-deep, exact form but for the last block, Swin-B, 50 prompts", 24.33, exact, unit, HOW["exact"])
    )
    counted = parameters("swin-b", gm.VPT(prompts=50))
    found.append(
        row("VPT-deep, Swin-B, 50 prompts, without head", 12_032 * 50, counted, "parameters", HOW["parameters"])
    )
    return found


def pc() -> list[dict[str, Any]]:
    """PC (arXiv 2305.17223) on ViT-B/16: 100 deep prompts before, 30 % of them after; evenly, and packed into four blocks."""
    even, packed, unit = (30,) * 12, (100, 100, 100, 60) + (0,) * 8, "GMACs per image"
    plans = {
        "100 prompts": (100, 26.97),
        "30 % kept, evenly": (even, 20.35),
        "30 % kept, in four blocks": (packed, 20.38),
    }
    found = []
    for what, (prompts, paper) in plans.items():
        for form in ("sequence", "exact"):
            ours = gmacs("vit-b16", gm.VPT(prompts=prompts, form=form), image_size=224)  # type: ignore[arg-type]
            beside = "" if form == "sequence" else ", beside the sequence form's figure"
            found.append(row(f"PC, {form} form, ViT-B/16, {what}{beside}", paper, ours, unit, HOW[form]))
    kept = parameters("vit-b16", gm.VPT(prompts=even))
    found.append(row("PC, ViT-B/16, 30 % of 100 kept, without head", 276_480, kept, "parameters", HOW["parameters"]))
    return found


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


def apt() -> list[dict[str, Any]]:
    """APT (arXiv 2306.15706): parameters and added cost, on ViLT (41 + 201 tokens) and METER (41 and 577)."""
    found = []
    for name, model, table in (("ViLT", "vilt-b32", ON_VILT), ("METER", "meter-b16", ON_METER)):
        for what, (method, paper, _) in table.items():
            ours = parameters(model, method)
            found.append(row(f"{what}, {name}, without head", paper, ours, "parameters", HOW["parameters"]))
        for what, (method, _, paper) in table.items():
            if paper is not None:
                ours = added(name, method)
                found.append(row(f"{what}, {name}: added", paper, ours, "GMACs per sample", HOW["added"]))
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


PAPERS = (vpt, swin, pc, apt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = [line for paper in PAPERS for line in paper()]
    if options.json:
        print(json.dumps({"rows": found, **rows.describe(seed=0)}, indent=2))
    else:
        columns = {
            "what": "{what}",
            "paper": "{paper:,}",
            "ours": "{ours:,}",
            "difference": "{difference:+}",
            "unit": "{unit}",
        }
        print(rows.table(found, columns))
        print(
            "1 MAC = 1 multiplication + 1 addition = 2 FLOPs; papers of this field usually print MACs and call them FLOPs"
        )


if __name__ == "__main__":
    main()
