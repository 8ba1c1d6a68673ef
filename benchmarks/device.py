"""What methods take on this accelerator (or CPU), as ratios within one run: the one command to run on a new machine.

    python benchmarks/device.py             # under 8 minutes on one GPU: what does not fit into them is left out, and named
    python benchmarks/device.py --tiny      # seconds on a CPU: small models, compiled by torch's eager backend

Three groups of rows of JSON go to benchmarks/results/device.jsonl. Within a group everything takes turns in every repetition:

- prompts: deep prompts in the exact and the sequence form with 10, 100 and 200 prompts, peft's LoRA (r = 16, queries and values)
  and the bare backbone with a linear head, on ViT-B/16 and DINOv2-S; inference (finished models) and training step; as they are,
  and with 100 prompts compiled;
- das: finished models with 4 and 8 of 12 blocks skipped against the bare one;
- sight: MemVP, visual tokens and the text alone on a language model of LLaMA's shape with 1 B parameters and a ViT-B/16.

All under autocast in bfloat16. A row has the median time, its ratio to the first of its group, and peak memory of one call beyond
what was there before. Weights are random: neither time nor memory depends on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rows
import torch
from das_latency import backbone
from peft import LoraConfig
from torch import Tensor, nn

import gossamer as gm
from gossamer.cost.measure import measure

RESULTS = Path(__file__).parent / "results" / "device.jsonl"
LABELS, SEED, COMPILED = 100, 0, 100
MODELS = {"vit-b16": 224, "dinov2-small": 224}  # pixels a side
Run = Callable[[], Any]


class Bench:
    """The device, what was asked for, and the time that is left."""

    def __init__(self, options: argparse.Namespace):
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        self.device = accelerator or torch.device("cpu")
        self.tiny, self.end = options.tiny, time.monotonic() + 60 * options.minutes
        self.batch, self.repeats, self.layers = (2, 1, 2) if self.tiny else (options.batch, options.repeats, None)
        self.prompts = (3,) if self.tiny else (10, COMPILED, 200)
        self.backend = "eager" if self.tiny else "inductor"
        self.found: list[dict[str, Any]] = []

    def inference(self, model: nn.Module, inputs: dict[str, Tensor]) -> Run:
        """One forward pass without gradients."""

        def run() -> None:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
                model(**inputs)

        return run

    def step(self, model: Any, inputs: dict[str, Tensor], compiled: bool) -> Run:
        """Forward, backward and AdamW on what is trained; of a model that trains nothing, down to its inputs."""
        model.train()
        rule = torch.optim.AdamW(model.trainable().values(), lr=1e-3, fused=True)
        called = torch.compile(model, backend=self.backend) if compiled else model

        def run() -> None:
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = called(**inputs).loss
            loss.backward()
            rule.step()
            rule.zero_grad(set_to_none=True)

        return run

    def group(self, runs: dict[str, Run], **facts: Any) -> None:
        """Rows of some runs, told against the first of them; none where the time is over."""
        if time.monotonic() > self.end:
            print(f"left out, the minutes are over: {facts}", flush=True)
            return
        for run in runs.values():
            run()  # compiles, and chooses kernels
            run()
        peaks = {name: self.peak(run) for name, run in runs.items()} if self.device.type == "cuda" else {}
        taken = measure(runs, repeats=self.repeats)
        first = taken[next(iter(taken))]
        made = [
            {
                **facts,
                "what": name,
                "seconds": round(of.seconds, 6),
                "against": next(iter(taken)),
                "ratio": round(of.ratio(first), 4),
                "mib": round(peaks.get(name, of.peak_bytes) / 2**20, 1),
            }
            for name, of in taken.items()
        ]
        print(rows.table([{"group": "", "pass": "", "compiled": "", **row} for row in made], COLUMNS), flush=True)
        self.found += made

    def peak(self, run: Run) -> int:
        """Bytes beyond those that were there, as the device's allocator counts them."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


COLUMNS = {
    "group": "{group}", "model": "{model}", "pass": "{pass}", "compiled": "{compiled}", "what": "{what}",
    "s": "{seconds:.5f}", "x": "{ratio:.3f}", "MiB": "{mib:.0f}",
}  # fmt: skip


def adapted(bench: Bench, model: str, method: Any) -> gm.Adapted:
    torch.manual_seed(1)
    return gm.adapt(backbone(model, bench.layers), method, num_labels=LABELS).to(bench.device)


def prompts(bench: Bench, model: str) -> None:
    """Exact and sequence form, LoRA and the bare model."""
    size = 32 if bench.tiny else MODELS[model]
    images = torch.randn(bench.batch, 3, size, size, device=bench.device)
    inputs = {"pixel_values": images}
    if not model.startswith("dinov2"):
        inputs |= {"interpolate_pos_encoding": True} if bench.tiny else {}  # type: ignore[dict-item]
    labels = torch.randint(0, LABELS, (bench.batch,), device=bench.device)
    for compiled in (False, True):
        for count in bench.prompts if not compiled else [p for p in bench.prompts if bench.tiny or p == COMPILED]:
            forms = {f: gm.VPT(prompts=count, form=f) for f in ("exact", "sequence")}  # type: ignore[arg-type]
            methods = {"bare": gm.LinearProbe(), "lora": LoraConfig(r=16, target_modules=["q", "v"]), **forms}
            made = {name: adapted(bench, model, method) for name, method in methods.items()}
            facts = {"group": "prompts", "model": model, "compiled": compiled, "prompts": count}
            finished = {name: one.finalize() for name, one in made.items()}
            for one in finished.values() if compiled else ():
                one.compile(backend=bench.backend)
            bench.group({n: bench.inference(m, inputs) for n, m in finished.items()}, **facts, **{"pass": "inference"})
            del finished
            given = {**inputs, "labels": labels}
            bench.group({n: bench.step(m, given, compiled) for n, m in made.items()}, **facts, **{"pass": "step"})


def das(bench: Bench, model: str) -> None:
    """Finished models with fewer blocks."""
    size = 32 if bench.tiny else MODELS[model]
    inputs: dict[str, Any] = {"pixel_values": torch.randn(bench.batch, 3, size, size, device=bench.device)}
    if bench.tiny and not model.startswith("dinov2"):
        inputs["interpolate_pos_encoding"] = True
    methods = {"bare": gm.LinearProbe()} | {
        f"skip {n}": gm.DAS(skip=n, rank=8) for n in ((1,) if bench.tiny else (4, 8))
    }
    finished = {name: adapted(bench, model, method).finalize() for name, method in methods.items()}
    runs = {name: bench.inference(one, inputs) for name, one in finished.items()}
    bench.group(runs, group="das", model=model, compiled=False, **{"pass": "inference"})


def composed(bench: Bench) -> gm.VisionLanguage:
    """A tower and a language model with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    seen, width = {"patch_size": 16}, {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    width |= {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64}
    if bench.tiny:
        small = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        seen |= {**small, "hidden_size": 24, "image_size": 32}
        width = {**small, "hidden_size": 16, "vocab_size": 64}
    tower, language = CLIPVisionConfig(**seen), LlamaConfig(**width)  # type: ignore[arg-type]
    with bench.device:
        return gm.VisionLanguage(CLIPVisionModel(tower), LlamaForCausalLM(language))


def sight(bench: Bench) -> None:
    """An image as memory, as tokens, and not at all."""
    length, batch = (7, 2) if bench.tiny else (128, 8)
    ids = torch.randint(0, 64, (batch, length), device=bench.device)
    ways = {
        "text": None,
        "memvp": gm.MemVP(rank=4 if bench.tiny else 128, vision_rank=0),
        "visual tokens": gm.VisualTokens(),
    }
    lora = LoraConfig(r=16, target_modules=["q", "v"])
    inferred, steps, kept = {}, {}, {}
    for name, method in ways.items():
        model = composed(bench)
        states = model.states(torch.randn(batch, 3, *model.image_size, device=bench.device)).detach()
        one = gm.adapt(model, [lora] if method is None else [method, lora]).to(bench.device)
        inputs = {"input_ids": ids} if method is None else {"input_ids": ids, "states": states}
        kept[name] = one
        inferred[name] = bench.inference(one, inputs)
        steps[name] = bench.step(one, {**inputs, "labels": ids}, compiled=False)
    facts = {"group": "sight", "model": "llama-1b", "compiled": False}
    bench.group(steps, **facts, **{"pass": "step"})
    for one in kept.values():
        one.eval()
    bench.group(inferred, **facts, **{"pass": "inference"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small models, to see that it runs")
    parser.add_argument("--minutes", type=float, default=7.0, help="after these nothing new is begun")
    parser.add_argument("--batch", type=int, default=64, help="images in a pass")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    bench = Bench(options)
    for model in MODELS:
        prompts(bench, model)
        das(bench, model)
    sight(bench)
    rows.append(options.out, [{**row, **rows.describe(SEED)} for row in bench.found])


if __name__ == "__main__":
    main()
