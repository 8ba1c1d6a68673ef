"""CVPT (arXiv 2408.14961) on ViT-B/16: as its authors' code computes it, and folded."""

from __future__ import annotations

from typing import Any

import gossamer as gm
from papers.counted import HOW, macs, parameters, row

PUBLISHED = {1: 2.806, 10: 2.967, 50: 3.678, 100: 4.567, 200: 6.346}  # prompts -> GMACs that the authors' classes add
CODED = "projections of tokens, and of prompts for every image; torch's counter on meta = closed form, a batch of one"
OURS = "what the finished model adds, the cheaper of two forms in each block; torch's counter on meta = closed form"


def costs() -> list[dict[str, Any]]:
    """CVPT (arXiv 2408.14961): added cost at 224 pixels; its paper prints none, the authors' classes were counted."""
    unit, found = "GMACs per image", []
    bare = macs("vit-b16", None, image_size=224)
    for prompts, paper in PUBLISHED.items():
        coded = macs("vit-b16", gm.CVPT(prompts=prompts, form="projected"), finished=False, image_size=224)
        ours = macs("vit-b16", gm.CVPT(prompts=prompts), image_size=224)
        what = f"CVPT m={prompts}, ViT-B/16"
        found.append(row(f"{what}, as coded: added", paper, round((coded - bare) / 1e9, 3), unit, CODED))
        beside = f"{what}, ours, beside the authors' figure: added"
        found.append(row(beside, paper, round((ours - bare) / 1e9, 3), unit, OURS))
    for what, method, paper in (
        ("", gm.CVPT(prompts=10), 92_160),
        (", learnt projections", gm.CVPT(prompts=10, learnable=True), 92_160 + 28_348_416),
    ):
        ours = parameters("vit-b16", method)
        found.append(row(f"CVPT m=10, ViT-B/16{what}, without head", paper, ours, "parameters", HOW["parameters"]))
    return found
