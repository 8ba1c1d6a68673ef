"""Training steps of prompt methods against that of peft's LoRA, side by side on one backbone.

    python benchmarks/step_times.py                                  # both settings; minutes on two cores
    python benchmarks/step_times.py --model vit-b16 --prompts 10     # one of them
    python benchmarks/step_times.py --check                          # exits with 1 where SPT or CVPT takes over 1.15 x LoRA

A step is forward, backward and AdamW on a batch of images that are decoded already; dinov2-small reads 32 of 84 pixels a side,
vit-b16 8 of 224. LoRA has rank 16 on queries and values; the prompts are deep, and SPT's harvest lies before its first step. One
row of JSON for each method goes to benchmarks/results/step_times.jsonl: the median step, its ratios against every other method
taken within each repetition, on the clock and on the processor, and peak memory. Weights are random: neither depends on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import rows
import torch
from das_latency import backbone
from deep_prompts import LABELS, SEED, training_step
from peft import LoraConfig
from torch import Tensor

import gossamer as gm
from gossamer.cost.measure import measure
from gossamer.methods.spt import harvest

RESULTS = Path(__file__).parent / "results" / "step_times.jsonl"
SETTINGS = {"dinov2-small": (84, 32), "vit-b16": (224, 8)}  # pixels a side, images in a batch
HELD, ENOUGH = ("spt", "cvpt"), 1.15


def models(name: str, layers: int | None, prompts: int, images: Tensor) -> dict[str, gm.Adapted]:
    """The adapted models, with the same backbone and head."""
    methods = {
        "lora": LoraConfig(r=16, target_modules=["q", "v"]),
        "vpt": gm.VPT(prompts=prompts),
        "spt": gm.SPT(prompts=prompts),
        "cvpt": gm.CVPT(prompts=prompts),
    }
    made = {kind: gm.adapt(backbone(name, layers), method, num_labels=LABELS) for kind, method in methods.items()}
    harvest(made["spt"], images)
    return made


def benchmark(name: str, prompts: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each method."""
    size, batch = (asked or usual for asked, usual in zip((options.size, options.batch), SETTINGS[name], strict=True))
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, LABELS, (batch,))
    made = models(name, options.layers, prompts, images)
    taken = measure({kind: training_step(m, images, labels) for kind, m in made.items()}, repeats=options.repeats)
    return [
        {
            "model": name,
            "method": kind,
            "prompts": None if kind == "lora" else prompts,
            "seconds": round(taken[kind].seconds, 4),
            "fastest": round(taken[kind].fastest, 4),
            "ratios": {other: round(taken[kind].ratio(m), 3) for other, m in taken.items()},
            "processor_ratios": {other: round(taken[kind].processor_ratio(m), 3) for other, m in taken.items()},
            "mib": round(taken[kind].peak_bytes / 2**20, 1),
            "parameters": sum(p.numel() for p in model.trainable().values()),
            "batch": batch,
            "image_size": size,
            "layers": options.layers,
            "repeats": options.repeats,
        }
        for kind, model in made.items()
    ]


COLUMNS = {
    "model": "{model}",
    "method": "{method}",
    "prompts": "{prompts}",
    "step s": "{seconds:.3f}",
    "x LoRA": "{ratios[lora]:.3f}",
    "on the processor": "{processor_ratios[lora]:.3f}",
    "MiB": "{mib:.0f}",
    "trained": "{parameters:,}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--prompts", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=None, help="images in a step (default: as above)")
    parser.add_argument("--size", type=int, default=None, help="pixels a side (default: as above)")
    parser.add_argument("--layers", type=int, default=None, help="blocks of the backbone; fewer for a trial")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--check", action="store_true", help=f"fail where {' or '.join(HELD)} takes over {ENOUGH} x LoRA"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    over = []
    for name in options.model:
        for prompts in options.prompts:
            torch.manual_seed(SEED)
            found = [{**row, **rows.describe(SEED)} for row in benchmark(name, prompts, options)]
            rows.append(options.out, found)
            print(rows.table(found, COLUMNS), flush=True)
            over += [row for row in found if row["method"] in HELD and row["ratios"]["lora"] > ENOUGH]
    if options.check and over:
        named = ", ".join("{method} with {prompts} prompts on {model}: {ratios[lora]}".format(**row) for row in over)
        raise SystemExit(f"over {ENOUGH} x the step of LoRA: {named}")


if __name__ == "__main__":
    main()
