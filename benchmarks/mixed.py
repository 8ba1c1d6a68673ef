"""A batch for many adapters in one pass, against one adapter, switching, peft's mixed batch and a model for each task.

    python benchmarks/mixed.py                           # all: 1, 4, 16 and 64 adapters on DINOv2-S and ViT-B, an hour on two cores
    python benchmarks/mixed.py --models dinov2-s --adapters 16
    python benchmarks/mixed.py --tiny                    # seconds: does it run?

The samples of a batch go to the adapters in turn. Ways to answer it, each once in every repetition:

- mixed: `gm.Mixed`, one pass;
- one: a batch as large for one adapter alone, which is what mixing is held to;
- switched: the same adapters over one backbone, group by group;
- peft (LoRA): peft's own mixed batch, `adapter_names=`, on the backbone without heads;
- models: an adapted model for each task with weights of its own, group by group; timed up to `--separate` models, and its memory
  counted for all.

One row of JSON for each goes to benchmarks/results/mixed.jsonl: the median time of a batch, images per second, throughput against
"one" as the median of ratios within a repetition, peak bytes of tensors of a pass, and bytes of weights that are held. Weights are
random: no time depends on them. Every sample's logits must be those of its adapter alone to 1e-4.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rows
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

import gossamer as gm
from gossamer.cost.measure import measure

RESULTS = Path(__file__).parent / "results" / "mixed.jsonl"
LABELS, SEED, TOLERANCE, RANK, PROMPTS = 100, 0, 1e-4, 8, 10
MODELS = ("dinov2-s", "vit-b16")


def backbone(name: str, *, tiny: bool) -> nn.Module:
    """A bare backbone with random weights, the same at every call."""
    torch.manual_seed(SEED)
    small: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3} if tiny else {}
    small |= {"image_size": 28, "patch_size": 14} if tiny else {}
    if name == "dinov2-s":
        sizes = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 224, **small}
        return Dinov2Model(Dinov2Config(**sizes)).eval()
    sizes = {**small, "intermediate_size": 40} if tiny else {}
    return ViTModel(ViTConfig(**sizes), add_pooling_layer=False).eval()


def adapter(model: nn.Module, method: Any, number: int) -> gm.Adapted:
    """An adapter with values of its own."""
    found = gm.adapt(model, method, num_labels=LABELS).eval()
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in found.trainable().values():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return found


def by_groups(models: dict[str, Any], images: Tensor, who: Sequence[str]) -> list[Tensor]:
    """Logits, adapter by adapter."""
    return [models[n](pixel_values=images[[i for i, w in enumerate(who) if w == n]]).logits for n in dict.fromkeys(who)]


def peft_mixed(name: str, count: int, *, tiny: bool) -> Any:
    """peft's model with as many LoRA adapters at the queries and values."""
    plain = backbone(name, tiny=tiny)
    ends = {n.rpartition(".")[2] for n, m in plain.named_modules() if isinstance(m, nn.Linear)}
    target = ["q_proj", "v_proj"] if "q_proj" in ends else ["query", "value"]
    config = LoraConfig(r=RANK, target_modules=target, init_lora_weights=False)
    with warnings.catch_warnings():  # peft asks transformers under a name that goes
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        found: Any = get_peft_model(plain, config, adapter_name="task0")
    for number in range(1, count):
        found.add_adapter(f"task{number}", config)
    return found.eval()


def compare(name: str, label: str, method: Any, count: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way to answer one batch."""
    plain: Any = backbone(name, tiny=options.tiny)
    mixed, ground = gm.Mixed(plain), backbone(name, tiny=options.tiny)
    for number in range(count):
        one = adapter(ground, method, number)
        mixed.add(f"task{number}", one)
        own = sum(t.nbytes for t in one.tensors().values())
        one.detach()
    images = torch.randn(options.batch, 3, plain.config.image_size, plain.config.image_size)
    who = [f"task{i % count}" for i in range(options.batch)]
    _check(mixed, images, who)
    ways: dict[str, Callable[[], Any]] = {
        "mixed": partial(mixed, pixel_values=images, adapter=who),
        "one": partial(mixed, pixel_values=images, adapter="task0"),
        "switched": partial(by_groups, mixed.adapters, images, who),
    }
    if label == "lora":
        ways["peft"] = partial(peft_mixed(name, count, tiny=options.tiny), pixel_values=images, adapter_names=who)
    if count <= options.separate:
        separate = {f"task{i}": adapter(backbone(name, tiny=options.tiny), method, i) for i in range(count)}
        ways["models"] = partial(by_groups, separate, images, who)
    with torch.no_grad():
        measured = measure(ways, repeats=options.repeats)
    bare = sum(t.nbytes for t in (*plain.parameters(), *plain.buffers()))
    weights = {"one": bare + own, "models": count * (bare + own)} | dict.fromkeys(
        ("switched", "peft"), bare + count * own
    )
    weights["mixed"] = mixed.weight_bytes
    return [
        {
            "model": name, "method": label, "adapters": count, "batch": options.batch, "way": way,
            "seconds": m.seconds, "images_per_second": options.batch / m.seconds,
            "throughput_against_one": 1 / m.ratio(measured["one"]), "peak_bytes": m.peak_bytes,
            "weight_bytes": weights[way], "threads": torch.get_num_threads(),
        }
        for way, m in measured.items()
    ]  # fmt: skip


@torch.no_grad()
def _check(mixed: gm.Mixed, images: Tensor, who: Sequence[str]) -> None:
    answers = mixed(pixel_values=images, adapter=who).logits
    alone = dict(zip(dict.fromkeys(who), by_groups(mixed.adapters, images, who), strict=True))
    for name, logits in alone.items():
        found = answers[[i for i, w in enumerate(who) if w == name]]
        apart = float((found - logits).abs().max() / (1 + logits.abs().max()))
        if not apart <= TOLERANCE:
            raise SystemExit(
                f"logits of {name} in a mixed batch differ from its own by {apart:.1e}, over {TOLERANCE:.0e}"
            )


def main() -> None:
    """Compares, prints a table and appends rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--adapters", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--separate", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    how, found = rows.describe(SEED), list[dict[str, Any]]()
    methods = {"vpt": gm.VPT(prompts=PROMPTS), "lora": LoraConfig(r=RANK, target_modules=["q", "v"])}
    for name in options.models:
        for label, method in methods.items():
            for count in options.adapters:
                measured = compare(name, label, method, count, options)
                rows.append(options.results, [row | how for row in measured])
                found += measured
    columns = {
        "model": "{model}", "method": "{method}", "adapters": "{adapters}", "way": "{way}", "s": "{seconds:.4f}",
        "images/s": "{images_per_second:.1f}", "against one": "{throughput_against_one:.2f}",
        "peak": "{peak_bytes:,}", "weights": "{weight_bytes:,}",
    }  # fmt: skip
    print(rows.table(found, columns))


if __name__ == "__main__":
    main()
