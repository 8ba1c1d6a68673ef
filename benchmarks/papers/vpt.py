"""VPT on ViT-B/16 (M. Jia et al., arXiv 2203.12119; totals also as PC prints them, arXiv 2305.17223) and on Swin-B."""

from __future__ import annotations

from typing import Any

import gossamer as gm
from papers.counted import HOW, gmacs, parameters, row

WINDOWS = {
    "windows": "prompts as tokens in every window; torch's counter on meta = closed form",
    "merged": "the same, and 8 C^2 a prompt and merging, which the formula counts though the next stage replaces them",
}


def costs() -> list[dict[str, Any]]:
    """Both backbones."""
    return vit() + swin()


def vit() -> list[dict[str, Any]]:
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
        found.append(row(what, paper, ours, unit, WINDOWS["windows"]))
        found.append(row(f"{what}, prompts merged: by formula", paper, merged, unit, WINDOWS["merged"]))
    exact = gmacs("swin-b", gm.VPT(prompts=50), image_size=224)
    found.append(
        row("VPT-deep, exact form but for the last block, Swin-B, 50 prompts", 24.33, exact, unit, HOW["exact"])
    )
    counted = parameters("swin-b", gm.VPT(prompts=50))
    found.append(
        row("VPT-deep, Swin-B, 50 prompts, without head", 12_032 * 50, counted, "parameters", HOW["parameters"])
    )
    return found
