"""CVPT on ADE20K (arXiv 2408.14961): ViT-L/16 at 512 x 512 under SETR-PUP; no cost is printed, so beside closed forms by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import gossamer as gm
from gossamer.hosts import dense
from papers.counted import macs, parameters, row

HAND = "no figure is published: the closed form by hand; torch's counter on meta = closed form"
SIZE = {"image_size": 512}
BASE = 361.985
# prompts -> parameters, and GMACs that CVPT adds with K, V of every image, with K, V stored, folded; that VPT-deep adds
EXTRA = {10: (245_760, 52.597, 52.094, 8.061), 200: (4_915_200, 71.732, 61.666, 161.219)}
HEADS = {"main head": (4_171_414, 63.217, {}), "an auxiliary head": (2_990_742, 22.146, {"convs": 2, "up": 4})}


def costs() -> list[dict[str, Any]]:
    """Backbone, prompts by form, heads: parameters and GMACs of one window."""
    found, unit = [], "GMACs per window"
    bare = macs("vit-l16", None, **SIZE)
    found.append(row("ViT-L/16 at 512 x 512", BASE, round(bare / 1e9, 3), unit, HAND))
    for prompts, (size, every, stored, folded) in EXTRA.items():
        what = f"CVPT m={prompts}, ViT-L/16 at 512 x 512"
        ours = parameters("vit-l16", gm.CVPT(prompts=prompts))
        found.append(row(what, size, ours, "parameters", HAND))
        for form, hand, method, finished in (
            ("K, V of every image", every, gm.CVPT(prompts=prompts, form="projected"), False),
            ("K, V stored", stored, gm.CVPT(prompts=prompts, form="projected"), True),
            ("folded", folded, gm.CVPT(prompts=prompts, form="folded"), True),
        ):
            ours = macs("vit-l16", method, finished=finished, **SIZE) - bare
            found.append(row(f"{what}, {form}: added", hand, round(ours / 1e9, 3), unit, HAND))
    for name, (size, hand, settings) in HEADS.items():
        ours, cost = head(**settings)
        found.append(row(f"SETR-PUP, {name}, 150 classes", size, ours, "parameters", HAND))
        found.append(row(f"SETR-PUP, {name}, 150 classes at 512 x 512", hand, round(cost / 1e9, 3), unit, HAND))
    return found


def head(**settings: Any) -> tuple[int, int]:
    """Parameters and multiply-adds of one head on 32 x 32 places of width 1024."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        made: Any = dense.Setr(1024, 150, **settings).eval()
        made(torch.empty(1, 1024, 32, 32))
    if counter.get_total_flops() != 2 * made.macs(32, 32):
        raise SystemExit(
            f"a SETR head: counted {counter.get_total_flops():,} FLOPs, closed form {made.macs(32, 32):,} MACs"
        )
    return sum(p.numel() for p in made.parameters()), made.macs(32, 32)
