"""DAS (arXiv 2309.01479) on ViLT and METER: the -11.97 % of its abstract, and what its formula gives for other choices."""

from __future__ import annotations

import functools
from typing import Any

import gossamer as gm
from papers.counted import HOW, macs, parameters, row

WIDTH, TEXT, IMAGE = 768, 40, 577  # tokens of METER's towers at 384 pixels
NORM = 5  # multiply-adds an element, as the authors count
NORMS = "torch's counter on meta = closed form, and norms at 5 per element as the authors count them"
METER = {(2, 2): -11.97, (0, 4): -21.24, (1, 3): -16.60, (3, 1): -7.34, (4, 0): -2.70}  # text and image layers skipped


def costs() -> list[dict[str, Any]]:
    """The abstract's figure is METER's with two layers of each tower skipped."""
    unit, found = "% of the bare model's MACs", []
    for skip, paper in ((0, 4.0), (1, -4.2), (2, -12.3), (3, -20.5)):
        kept, tokens = 12 - skip, NORM * WIDTH * 185
        ours = change("vilt-b32", gm.DAS(skip=skip), bare=24 * tokens, finished=(4 * kept + skip) * tokens)
        found.append(row(f"DAS, ViLT, 185 tokens, {skip} of 12 blocks skipped", paper, ours, unit, NORMS))
    around = NORM * WIDTH * (24 * IMAGE + 24 * TEXT)  # of eleven CLIP blocks, before and behind them, and of RoBERTa
    for (text, image), paper in METER.items():
        method = gm.DAS(skip=(*range(text), *range(6, 6 + image)))
        layers = [NORM * WIDTH * n * (6 * (6 - s) + s) for n, s in ((TEXT, text), (IMAGE, image))]
        bare = around + NORM * WIDTH * 18 * (TEXT + IMAGE)
        ours = change("meter-b16", method, bare=bare, finished=around + sum(layers))
        what = f"DAS, METER at 384, {text} text and {image} image layers of 12 skipped"
        found.append(row(what, paper, ours, unit, NORMS))
    for name, model, skip, paper in (("ViLT", "vilt-b32", 1, 3_594_240), ("METER", "meter-b16", 4, 5_376_384)):
        ours = parameters(model, gm.DAS(skip=skip))
        found.append(
            row(f"DAS, {name}, {skip} of 12 skipped, without head", paper, ours, "parameters", HOW["parameters"])
        )
    return found


def change(model: str, method: gm.DAS, *, bare: int, finished: int) -> float:
    """Percent that a finished model costs more than the bare one, norms of both added to what is counted."""
    ours = macs(model, method, image_size=384, tokens=TEXT)
    return round(100 * ((ours + finished) / (_bare(model) + bare) - 1), 2)


@functools.cache
def _bare(model: str) -> int:
    return macs(model, None, image_size=384, tokens=TEXT)
