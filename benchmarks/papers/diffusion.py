"""APT on Stable Diffusion, of which its paper (arXiv 2306.15706) says that it was done: ours beside closed forms by hand."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig

import gossamer as gm
from gossamer import architectures
from gossamer.cost.counting import Sample, count, on_meta
from gossamer.reading import read
from papers.counted import parameters, row

HAND = "no figure is published: the closed form by hand, "
SIZES = {"sd-1.5": 859_520_964, "sd-2.1": 865_910_724, "sdxl": 2_567_463_684}
LORA = LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
TRAINED: dict[str, dict[str, tuple[int, Any]]] = {
    "sd-1.5": {
        "APT p=200 r=4": (5_191_712, gm.APT()),
        "APT p=200 r=4, cross alone": (2_595_856, gm.APT(where="cross")),
        "LoRA r=4 on q, k, v, out": (797_184, LORA),
    },
    "sd-2.1": {"APT p=200 r=4": (5_191_712, gm.APT()), "LoRA r=4 on q, k, v, out": (829_952, LORA)},
}
ADDED = {"APT p=200 r=4": (9.240576, gm.APT()), "APT p=200 r=4, cross alone": (4.620288, gm.APT(where="cross"))}
PASS = 401.637  # GMACs of the UNet of SD 1.x itself, 64 x 64 places and 77 tokens: counted, there is no closed form


def costs() -> list[dict[str, Any]]:
    """Sizes, parameters by method, GMACs of one pass at 64 x 64 places and 77 tokens, and what APT adds to it."""
    found = []
    for name, size in SIZES.items():
        ours = sum(p.numel() for p in architectures.build(name).parameters())
        found.append(row(f"UNet of {name}", size, ours, "parameters", "as published; the model on meta"))
        for what, (hand, method) in TRAINED.get(name, {}).items():
            how = f"{HAND}summed over sites; tensors of the adapter"
            found.append(row(f"{what}, {name}", hand, parameters(name, method), "parameters", how))
    bare = passes(None)
    found.append(
        row("UNet of sd-1.5, 64 x 64", PASS, round(bare / 1e9, 3), "GMACs per pass", "torch's counter on meta")
    )
    for what, (hand, method) in ADDED.items():
        ours = round((passes(method) - bare) / 1e9, 6)
        how = f"{HAND}2 n p d a site; torch's counter on meta = closed form"
        found.append(row(f"{what}, sd-1.5, 64 x 64: added", hand, ours, "GMACs per pass", how))
    return found


def passes(method: gm.APT | None) -> int:
    """Multiply-adds of one pass for one sample, finished, counted; what the method adds must equal its closed form."""
    model = architectures.build("sd-1.5")
    sample, anatomy = Sample.of(model), read(model)
    bare = count(on_meta(model), model, sample)[0]
    if method is None:
        return bare
    closed = method.macs(anatomy, sample.tokens(anatomy))
    finished: Any = on_meta(gm.adapt(model, method)).finalize()
    counted = count(finished, finished, sample)[0]
    if counted - bare != closed:
        raise SystemExit(f"sd-1.5, {method}: counted {counted - bare:,} MACs more, closed form {closed:,}")
    return counted
