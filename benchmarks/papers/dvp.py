"""DVP (arXiv 2306.00409)."""

from __future__ import annotations

import warnings
from typing import Any

import gossamer as gm
from gossamer.cost.counting import Sample, closed_macs, count
from gossamer.methods import Method
from gossamer.reading import read
from papers.counted import HOW, row, seeing, seen_parameters

SEEN = {
    "alone": "language model and prompt generator, without the image encoder; torch's counter on meta = closed form",
    "both": "image encoder, language model and prompt generator; torch's counter on meta = closed form",
    "projector": "the paper's side leaves the projector out, 0.116; torch's counter on meta = closed form",
    "abstract": "against all visual tokens at the input; what the abstract counts is not known",
}


def costs() -> list[dict[str, Any]]:
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
        found.append(row(f"DVP, BERT-base, K = {k}", paper, one[k][0], unit, SEEN["alone"]))
    found.append(row("DVP, BERT-base, K = 0, with the image encoder", 19.25, one[0][1], unit, SEEN["both"]))
    found.append(row("all visual tokens, BERT-base", 18.93, plain[0], unit, SEEN["projector"]))
    found.append(row("all visual tokens, BERT-base, with the image encoder", 36.49, plain[1], unit, SEEN["projector"]))
    for i, what in enumerate(("", " with the image encoder")):
        saved = round(100 * (1 - one[0][i] / plain[i]), 1)
        found.append(row(f"DVP, K = 0, saved{what}: abstract", 80, saved, "% of MACs", SEEN["abstract"]))
    return found


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
