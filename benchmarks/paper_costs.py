"""Cost figures of the papers beside ours: paper's figure, ours, difference, how counted. No weights are needed.

    python benchmarks/paper_costs.py           # a table
    python benchmarks/paper_costs.py --json    # the rows, and how they were made

Ours is counted by torch on the meta device and must equal the closed form, or the script fails. A method adds one function that
returns rows, and its name to PAPERS.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import rows

import gossamer as gm
from gossamer import architectures
from gossamer.anatomy import read
from gossamer.cost import cost
from gossamer.methods import Method

HOW = {
    "sequence": "prompts run as tokens; torch's counter on meta = closed form",
    "exact": "stored keys and values of prompts; torch's counter on meta = closed form",
    "parameters": "tensors of the adapter = closed form",
    "norms": "torch's counter on meta = closed form, and norms at 5 per element as the authors count them",
    "closed": "closed form from the model's published sizes, norms at 5 per element",
}


def row(what: str, paper: float, ours: float, unit: str, how: str) -> dict[str, Any]:
    """One line of the table; a difference of 0.1 from a figure printed with one decimal is its rounding."""
    return {"what": what, "paper": paper, "ours": ours, "difference": round(ours - paper, 6), "unit": unit, "how": how}


def gmacs(model: str, method: Method | None, **sizes: Any) -> float:
    """GMACs of one sample in the finished model (None: in the bare backbone), counted; they must equal the closed form."""
    backbone = architectures.build(model)
    macs = cost(gm.adapt(backbone, method) if method else backbone, **sizes).finished
    if macs.counted != macs.closed:
        raise SystemExit(f"{model}, {method}: counted {macs.counted:,} MACs, closed form {macs.closed:,}")
    return round(macs.counted / 1e9, 3)


def parameters(model: str, method: Method) -> int:
    """Parameters of the method without a head, counted; they must equal the closed form."""
    closed = method.parameters(read(architectures.build(model)))
    counted = gm.adapt(architectures.build(model), method).cost().method_parameters
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


D, FFN, RANK = 768, 3072, 96  # of ViLT and METER, and of DAS's adapters on both
NORM = 5  # multiply-adds an element, as DAS's authors count


def das() -> list[dict[str, Any]]:
    """DAS (arXiv 2309.01479): the -11.97 % of its abstract on METER, and what its formula gives for other choices."""
    unit, found = "% of the bare model's MACs", []
    for skip, paper in ((0, 4.0), (1, -4.2), (2, -12.3), (3, -20.5)):
        sheet = gm.adapt(architectures.build("vilt-b32"), gm.DAS(skip=skip)).cost(image_size=384, tokens=40)
        if sheet.finished.counted != sheet.finished.closed:
            raise SystemExit(f"DAS on ViLT: counted {sheet.finished.counted:,}, closed form {sheet.finished.closed:,}")
        norms = NORM * D * 185
        bare = sheet.bare.counted + 12 * 2 * norms
        finished = sheet.finished.counted + (12 - skip) * 4 * norms + skip * norms
        ours = round(100 * (finished / bare - 1), 2)
        found.append(row(f"DAS, ViLT, 185 tokens, {skip} of 12 blocks skipped", paper, ours, unit, HOW["norms"]))
    base = meter_macs()
    for (text, image), paper in {(2, 2): -11.97, (0, 4): -21.24, (1, 3): -16.60, (3, 1): -7.34, (4, 0): -2.70}.items():
        what = f"DAS, METER at 384, {text} text and {image} image layers of 12 skipped"
        found.append(row(what, paper, round(100 * meter_change(text, image) / base, 2), unit, HOW["closed"]))
    found.append(
        row(
            "DAS, ViLT, 1 block skipped",
            3_594_240,
            parameters("vilt-b32", gm.DAS(skip=1)),
            "parameters",
            HOW["parameters"],
        )
    )
    adapter, shortcut = (2 * D * r + r + 3 * D for r in (RANK, 3 * RANK))
    found.append(
        row("DAS, METER, 4 layers skipped", 5_376_384, 8 * 3 * adapter + 4 * shortcut, "parameters", HOW["closed"])
    )
    return found


TEXT, IMAGE = 40, 577  # tokens of METER's two towers at 384 pixels


def fusion_macs(own: int, other: int) -> int:
    """One fusion layer of METER for `own` tokens that look at `other` ones: self-attention, cross-attention, FFN, three norms."""
    attention = 6 * D * D * own + 2 * D * D * other + 2 * own * own * D + 2 * own * other * D
    return attention + 2 * D * FFN * own + 3 * NORM * D * own


def meter_macs() -> int:
    """METER without text embedding and head: patches, 11 CLIP blocks with the norms around them, RoBERTa, fusion, poolers."""

    def block(n: int) -> int:
        return (4 * D * D + 2 * D * FFN) * n + 2 * n * n * D + 2 * NORM * D * n

    vision = (IMAGE - 1) * D * 3 * 16 * 16 + 11 * block(IMAGE) + 2 * NORM * D * IMAGE
    joined = (TEXT + IMAGE) * D * D + 6 * fusion_macs(TEXT, IMAGE) + 6 * fusion_macs(IMAGE, TEXT) + 2 * D * D
    return vision + 12 * block(TEXT) + joined


def meter_change(text: int, image: int) -> int:
    """What DAS adds to METER's multiply-adds with so many layers of its towers skipped."""

    def adapter(n: int, rank: int) -> int:
        return 2 * D * rank * n + NORM * D * n

    change = 0
    for skipped, own, other in ((text, TEXT, IMAGE), (image, IMAGE, TEXT)):
        change += (6 - skipped) * 3 * adapter(own, RANK)
        change += skipped * (adapter(own, 3 * RANK) - fusion_macs(own, other))
    return change


PAPERS = (vpt, das)


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
