"""Deep prompts on ViT-B/16: the exact form against the sequence form, peft's LoRA and the bare backbone.

    python benchmarks/deep_prompts.py                              # all lengths, some 20 minutes on two cores
    python benchmarks/deep_prompts.py --prompts 100 --repeats 5    # one length

One row of JSON for each form and number of prompts goes to benchmarks/results/deep_prompts.jsonl: median times of an inference
(the finished model, no gradients) and of a training step (forward, backward, AdamW), their ratios against every other form,
taken within each repetition, on the clock and on the processor, and peak memory of their tensors. "bare" is the backbone with a
linear head, which is all that its training step trains. Weights are random: neither time nor memory depends on them. The exact
and the sequence form must agree to 1e-5.

Where weights lie in memory moves the time of equal models by some 5 % (pages of another size), which stays for as long as they lie
there. So every form is built `copies` times, and each repetition times the next copy.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rows
import torch
from peft import LoraConfig
from torch import Tensor, nn

import gossamer as gm
from gossamer.cost.measure import Measured, measure

RESULTS = Path(__file__).parent / "results" / "deep_prompts.jsonl"
LABELS, SEED, TOLERANCE = 100, 0, 1e-5


def backbone(size: int, layers: int) -> nn.Module:
    """ViT-B/16 with random weights, the same at every call; fewer layers for a quick trial."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(image_size=size, num_hidden_layers=layers)
    return ViTModel(config, add_pooling_layer=False).eval()


def forms(prompts: int, size: int, layers: int) -> dict[str, gm.Adapted]:
    """The four models, with the same backbone and head; the two prompt forms have the same prompts."""
    lora = LoraConfig(r=16, target_modules=["q", "v"])
    methods = {"bare": gm.LinearProbe(), "lora": lora}
    methods |= {form: gm.VPT(prompts=prompts, form=form) for form in ("exact", "sequence")}  # type: ignore[arg-type]
    models = {}
    for name, method in methods.items():
        model = backbone(size, layers)
        torch.manual_seed(1)
        models[name] = gm.adapt(model, method, num_labels=LABELS)
    models["sequence"].load_state_dict(models["exact"].state_dict())
    return models


def agreement(exact: gm.Adapted, sequence: gm.Adapted, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Largest difference between the two forms: of logits relative to 1 + the largest, of gradients relative to the largest."""
    logits, gradients = [], []
    for model in (exact, sequence):
        output = model(pixel_values=images, labels=labels)
        output.loss.backward()
        logits.append(output.logits.detach())
        gradients.append({name: p.grad for name, p in model.trainable().items()})
        model.zero_grad(set_to_none=True)
    largest = max(float(g.abs().max()) for g in gradients[1].values())
    apart = max(float((gradients[0][n] - g).abs().max()) for n, g in gradients[1].items())
    found = {
        "values": float((logits[0] - logits[1]).abs().max() / (1 + logits[1].abs().max())),
        "gradients": apart / largest,
    }
    for name, difference in found.items():
        if not difference <= TOLERANCE:
            raise SystemExit(
                f"{name} of the exact and the sequence form differ by {difference:.1e}, over {TOLERANCE:.0e}"
            )
    return found


def inference(model: nn.Module, images: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            model(pixel_values=images)

    return run


def training_step(model: gm.Adapted, images: Tensor, labels: Tensor) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-3)

    def run() -> None:
        model(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def turns(calls: list[Callable[[], None]]) -> Callable[[], None]:
    """One call after the other, each time the next."""
    again = itertools.cycle(calls)
    return lambda: next(again)()


def benchmark(prompts: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one number of prompts, one for each form."""
    copies = [forms(prompts, options.size, options.layers) for _ in range(options.copies)]
    models = copies[0]
    images = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.randint(0, LABELS, (options.batch,))
    same = agreement(models["exact"], models["sequence"], images, labels)
    finished = {name: turns([inference(some[name].finalize(), images) for some in copies]) for name in models}
    inferred = measure(finished, repeats=options.repeats)
    del finished
    steps = {name: turns([training_step(some[name], images, labels) for some in copies]) for name in models}
    trained = measure(steps, repeats=options.repeats)
    facts = {"batch": options.batch, "image_size": options.size, "layers": options.layers, "repeats": options.repeats}
    facts["copies"] = options.copies
    found = []
    for name in models:
        difference = same if name in ("exact", "sequence") else None
        measured = {**_named("inference", name, inferred), **_named("step", name, trained)}
        found.append({"form": name, "prompts": prompts, **measured, "difference": difference, **facts})
    return found


def _named(kind: str, name: str, measured: dict[str, Measured]) -> dict[str, Any]:
    this = measured[name]
    return {
        f"{kind}_seconds": round(this.seconds, 4),
        f"{kind}_fastest": round(this.fastest, 4),
        f"{kind}_ratios": {other: round(this.ratio(m), 3) for other, m in measured.items()},
        f"{kind}_processor_ratios": {other: round(this.processor_ratio(m), 3) for other, m in measured.items()},
        f"{kind}_mib": round(this.peak_bytes / 2**20, 1),
    }


def _ratio(kind: str, other: str) -> str:
    return f"{{{kind}_ratios[{other}]:.3f}} ({{{kind}_processor_ratios[{other}]:.3f}})"


COLUMNS = {  # in brackets: the same ratio of processor time
    "prompts": "{prompts}",
    "form": "{form}",
    "inference s": "{inference_seconds:.3f}",
    "x bare": _ratio("inference", "bare"),
    "MiB": "{inference_mib:.0f}",
    "step s": "{step_seconds:.3f}",
    "x probe": _ratio("step", "bare"),
    "x LoRA": _ratio("step", "lora"),
    "x sequence": _ratio("step", "sequence"),
    "step MiB": "{step_mib:.0f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[0, 10, 50, 100, 200])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--copies", type=int, default=3, help="of every model, to be timed in turns")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--layers", type=int, default=12, help="blocks of the backbone; fewer for a trial")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for prompts in options.prompts:
        torch.manual_seed(SEED)
        found = [{**row, **rows.describe(SEED)} for row in benchmark(prompts, options)]
        rows.append(options.out, found)
        print(rows.table(found, COLUMNS), flush=True)


if __name__ == "__main__":
    main()
