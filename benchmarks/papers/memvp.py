"""MemVP (arXiv 2405.05615)."""

from __future__ import annotations

from typing import Any

import gossamer as gm
from gossamer.reading import read
from papers.counted import HOW, row, seeing, seen_parameters

UNUSED = "ours leaves out what is never run: the last vision block's adapter, and an embedding table the authors make"
ADDED = "closed form of the memory, over the layers' Linears"


def costs() -> list[dict[str, Any]]:
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
            ("the paper's sum", formula, UNUSED),
            ("the authors' module", authors, UNUSED),
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
                ADDED,
            )
        )
    return found
