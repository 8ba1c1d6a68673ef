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


PAPERS = (vpt,)


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
