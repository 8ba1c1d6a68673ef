"""Cost figures of the papers beside ours: paper's figure, ours, difference, how counted. No weights are needed.

    python benchmarks/paper_costs.py           # a table
    python benchmarks/paper_costs.py --json    # the rows, and how they were made

Ours is counted by torch on the meta device and must equal the closed form, or the script fails. A method adds one function that
returns rows, and its name to PAPERS.
"""

from __future__ import annotations

import argparse
import json
import warnings
from typing import Any

import rows

import gossamer as gm
from gossamer import architectures
from gossamer.anatomy import read
from gossamer.cost import cost
from gossamer.counting import Sample, closed_macs, count
from gossamer.methods import Method

HOW = {
    "sequence": "prompts run as tokens; torch's counter on meta = closed form",
    "exact": "stored keys and values of prompts; torch's counter on meta = closed form",
    "parameters": "tensors of the adapter = closed form",
    "alone": "language model and prompt generator, without the image encoder; torch's counter on meta = closed form",
    "both": "image encoder, language model and prompt generator; torch's counter on meta = closed form",
    "projector": "the paper's side leaves the projector out, 0.116; torch's counter on meta = closed form",
    "abstract": "against all visual tokens at the input; what the abstract counts is not known",
    "unused": "ours leaves out what is never run: the last vision block's adapter, and an embedding table the authors make",
    "added": "closed form of the memory, over the layers' Linears",
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


def seeing(vision: str, language: str, **sizes: Any) -> gm.VisionLanguage:
    """A vision tower and a language model on the meta device, without a pooler."""
    model: Any = architectures.build(language, **sizes)
    model.pooler = None
    return gm.VisionLanguage(architectures.build(vision), model)


def seen_gmacs(vision: str, language: str, method: Method, text: int) -> tuple[float, float]:
    """GMACs of one image and text without and with the vision tower, counted; they must equal the closed form."""
    model = seeing(vision, language)
    sample, alone = Sample.of(model, tokens=text), Sample(None, text, None)
    closed = closed_macs(model, None, read(model), sample) + method.macs(read(model), sample.tokens(read(model)))
    tower = count(model, model, sample)[0] - count(model.language, model.language, alone)[0]
    finished: Any = gm.adapt(model, method).finalize()
    counted = count(finished, finished, sample)[0]
    if counted != closed:
        raise SystemExit(f"{language}, {method}: counted {counted:,} MACs, closed form {closed:,}")
    return round((counted - tower) / 1e9, 3), round(counted / 1e9, 3)


def seen_parameters(method: Method, *halves: str, **sizes: Any) -> int:
    """Parameters of the method without a head, counted; they must equal the closed form."""
    closed = method.parameters(read(seeing(*halves, **sizes)))
    counted = sum(p.numel() for p in gm.adapt(seeing(*halves, **sizes), method).trainable().values())
    if counted != closed:
        raise SystemExit(f"{halves}, {method}: {counted:,} parameters, closed form {closed:,}")
    return counted


def dvp() -> list[dict[str, Any]]:
    """DVP (arXiv 2306.00409) with CLIP ViT-B/16, 16 tokens of text; its tables were not at hand: figures of our specification.

    The abstract says 80 % fewer FLOPs on VQA2.0; which parts and which baseline were counted is not known.
    """
    unit, found = "GMACs per image and text", []
    for language, paper in (("bert-base", 5_960_448), ("t5-base", 11_310_720), ("llama-7b", 39_073_280)):
        ours = seen_parameters(gm.DVP(block=4), "clip-vit-b16", language)
        found.append(row(f"DVP_adp, {language}, without head", paper, ours, "parameters", HOW["parameters"]))
    plain = seen_gmacs("clip-vit-b16", "bert-base", gm.VisualTokens(), 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at block 0 the prompt does not depend on the text
        methods = {k: gm.DVP(block=k, train="prompt") for k in (0, 6, 11)}
        one = {k: seen_gmacs("clip-vit-b16", "bert-base", method, 16) for k, method in methods.items()}
    for k, paper in {0: 1.683, 6: 1.640, 11: 1.605}.items():
        found.append(row(f"DVP, BERT-base, K = {k}", paper, one[k][0], unit, HOW["alone"]))
    found.append(row("DVP, BERT-base, K = 0, with the image encoder", 19.25, one[0][1], unit, HOW["both"]))
    found.append(row("all visual tokens, BERT-base", 18.93, plain[0], unit, HOW["projector"]))
    found.append(row("all visual tokens, BERT-base, with the image encoder", 36.49, plain[1], unit, HOW["projector"]))
    for i, what in enumerate(("", " with the image encoder")):
        saved = round(100 * (1 - one[0][i] / plain[i]), 1)
        found.append(row(f"DVP, K = 0, saved{what}: abstract", 80, saved, "% of MACs", HOW["abstract"]))
    return found


def memvp() -> list[dict[str, Any]]:
    """MemVP (arXiv 2405.05615) with CLIP ViT-L/14 on LLaMA."""
    large = {
        "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40,
        "intermediate_size": 13824,
    }  # fmt: skip
    counts = {
        "7B": ({}, 64, 3_870_848, 3_879_040, 3_846_272),
        "13B": (large, 144, 5_477_504, 5_487_744, 5_452_928),
    }
    found = []
    for size, (sizes, extra, formula, authors, executed) in counts.items():
        method = gm.MemVP(extra_slots=extra)
        ours = seen_parameters(method, "clip-vit-l14", "llama-7b", **sizes)
        for what, paper, how in (
            ("the paper's sum", formula, HOW["unused"]),
            ("the authors' module", authors, HOW["unused"]),
            ("what is run", executed, HOW["parameters"]),
        ):
            found.append(row(f"MemVP, LLaMA-{size}: {what}", paper, ours, "parameters", how))
        blocks = read(seeing("clip-vit-l14", "llama-7b", **sizes)).blocks("decoder")
        memory = sum(2 * b.sizes.width * (256 + extra) for b in blocks)
        layers = sum(b.sizes.macs(1) - 2 * b.sizes.inner for b in blocks)
        paper = {"7B": 1.30, "13B": 1.29}[size]
        found.append(
            row(
                f"MemVP, LLaMA-{size}, added to a token",
                paper,
                round(100 * memory / layers, 2),
                "% of MACs",
                HOW["added"],
            )
        )
    return found


PAPERS = (vpt, dvp, memvp)


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
