"""Prompt condensation (arXiv 2305.17223)."""

from __future__ import annotations

from typing import Any

import gossamer as gm
from papers.counted import HOW, gmacs, parameters, row


def costs() -> list[dict[str, Any]]:
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
