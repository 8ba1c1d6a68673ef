"""APT on CLIP, of which its paper (arXiv 2306.15706) says no more than that it was done: ours beside the closed forms by hand."""

from __future__ import annotations

from typing import Any

import gossamer as gm
from papers.counted import macs, parameters, row

HAND = "no figure is published: the closed form by hand, "
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "vision B/32": ("clip-vit-b16", {"patch_size": 32}), "vision B/16": ("clip-vit-b16", {}), "vision L/14": ("clip-vit-l14", {}),
    "text of B": ("clip-text-b", {}),
}  # fmt: skip
PARAMETERS = {  # tower -> at p = 16 and at p = 200, r = 4
    "vision B/32": (221_196, 1_916_940), "vision B/16": (221_196, 1_916_940), "vision L/14": (589_848, 5_111_832),
    "text of B": (147_468, 1_277_964),
}  # fmt: skip
ADDED = {"vision B/32": 0.184, "vision B/16": 0.726, "text of B": 0.189}  # at p = 200
TEXT = 2.98  # GMACs of the text tower at 77 tokens


def costs() -> list[dict[str, Any]]:
    """APT in a tower of CLIP: parameters, and what it adds to an image, or to the prompt of a class, of 77 tokens."""
    found = []
    for tower, figures in PARAMETERS.items():
        for prompts, hand in zip((16, 200), figures, strict=True):
            name, sizes = TOWERS[tower]
            ours = parameters(name, gm.APT(prompts=prompts), **sizes)
            how = f"{HAND}p d + 2 r d + 1 a layer; tensors of the adapter"
            found.append(row(f"APT p={prompts} r=4, CLIP {tower}", hand, ours, "parameters", how))
    for tower, hand in ADDED.items():
        (name, sizes), text = TOWERS[tower], tower.startswith("text")
        sample = {"tokens": 77} if text else {"image_size": 224}
        bare = macs(name, None, changes=sizes, **sample)
        ours = round((macs(name, gm.APT(), changes=sizes, **sample) - bare) / 1e9, 3)
        unit = "GMACs per class prompt" if text else "GMACs per image"
        how = f"{HAND}2 n p d a layer; torch's counter on meta = closed form"
        found.append(row(f"APT p=200 r=4, CLIP {tower}: added", hand, ours, unit, how))
        if text:
            whole = f"{HAND}12 (12 n d^2 + 2 n^2 d); torch's counter on meta = closed form"
            found.append(row("CLIP text of B, 77 tokens", TEXT, round(bare / 1e9, 2), unit, whole))
    return found
