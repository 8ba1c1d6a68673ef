"""How much of the multiply-adds that DAS saves is saved on the clock: bare backbone against finished models, in one run.

    python benchmarks/das_latency.py            # ViT-B/16, 0 to 8 blocks skipped; minutes on two cores
    python benchmarks/das_latency.py --check    # exits with 1 where less than 0.9 of it is
    python benchmarks/das_latency.py --model dinov2-small --size 84 --skip 4 8

One row of JSON for each number of skipped blocks goes to benchmarks/results/das_latency.jsonl: ratios of time, multiply-adds,
parameters and file size of the finished model against the bare backbone with a linear head, taken in turn within every repetition,
on the clock and on the processor; `kept_share` is the time saved over the multiply-adds saved. Weights are random: neither depends
on them. Which blocks are skipped does not matter for either, so the deepest are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rows
import safetensors.torch
import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer import architectures
from gossamer.cost.measure import measure

RESULTS = Path(__file__).parent / "results" / "das_latency.jsonl"
LABELS, SEED, ENOUGH = 100, 0, 0.9


def backbone(model: str, layers: int | None) -> nn.Module:
    """An architecture with random weights, the same at every call; fewer layers for a quick trial."""
    torch.manual_seed(SEED)
    shapes = architectures.build(model, **({} if layers is None else {"num_hidden_layers": layers}))
    made = shapes.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.02, generator=generator)
        for module in made.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1)
    return made.eval()


def inference(model: nn.Module, images: Tensor) -> Callable[[], None]:
    size = {} if hasattr(model, "patch_embed") else {"interpolate_pos_encoding": True}

    def run() -> None:
        with torch.no_grad():
            model(pixel_values=images, **size)

    return run


def size_of(model: nn.Module) -> int:
    """Bytes of the model's weights as a safetensors file."""
    return len(safetensors.torch.save({n: t.contiguous() for n, t in model.state_dict().items()}))


def benchmark(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each number of skipped blocks."""
    images = torch.randn(options.batch, 3, options.size, options.size)
    finished, sheets = {}, {}
    bare = gm.adapt(backbone(options.model, options.layers), gm.LinearProbe(), num_labels=LABELS).finalize()
    for skip in options.skip:
        method = gm.DAS(skip=skip, rank=options.rank)
        adapted = gm.adapt(backbone(options.model, options.layers), method, num_labels=LABELS)
        finished[skip], sheets[skip] = adapted.finalize(), adapted.cost(image_size=options.size)
    runs = {"bare": inference(bare, images)} | {str(s): inference(m, images) for s, m in finished.items()}
    taken = measure(runs, repeats=options.repeats)
    parameters, bytes_ = sum(p.numel() for p in bare.parameters()), size_of(bare)
    found = []
    for skip, model in finished.items():
        time, macs = taken[str(skip)].ratio(taken["bare"]), sheets[skip].ratios["finished"]
        found.append(
            {
                "model": options.model,
                "skipped": skip,
                "seconds": round(taken[str(skip)].seconds, 4),
                "bare_seconds": round(taken["bare"].seconds, 4),
                "time_ratio": round(time, 4),
                "processor_ratio": round(taken[str(skip)].processor_ratio(taken["bare"]), 4),
                "macs_ratio": round(macs, 4),
                "macs_saved": round(1 - macs, 4),
                "kept_share": round((1 - time) / (1 - macs), 3),
                "parameters_ratio": round(sum(p.numel() for p in model.parameters()) / parameters, 4),
                "bytes_ratio": round(size_of(model) / bytes_, 4),
                "rank": options.rank,
                "batch": options.batch,
                "image_size": options.size,
                "layers": options.layers,
                "repeats": options.repeats,
            }
        )
    return found


COLUMNS = {
    "model": "{model}",
    "skipped": "{skipped}",
    "seconds": "{seconds:.4f}",
    "x bare": "{time_ratio:.3f}",
    "on the processor": "{processor_ratio:.3f}",
    "MACs": "{macs_ratio:.3f}",
    "saved time / saved MACs": "{kept_share:.2f}",
    "parameters": "{parameters_ratio:.3f}",
    "file": "{bytes_ratio:.3f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b16", help="an architecture of gossamer.architectures")
    parser.add_argument("--skip", type=int, nargs="+", default=[0, 2, 4, 6, 8], help="blocks skipped")
    parser.add_argument("--rank", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--layers", type=int, default=None, help="blocks of the backbone; fewer for a trial")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--check", action="store_true", help=f"fail where less than {ENOUGH} of the MACs' saving is saved"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    found = [{**row, **rows.describe(SEED)} for row in benchmark(options)]
    rows.append(options.out, found)
    print(rows.table(found, COLUMNS), flush=True)
    short = [row["skipped"] for row in found if row["macs_saved"] > 0 and row["kept_share"] < ENOUGH]
    if options.check and short:
        raise SystemExit(f"with {short} blocks skipped less than {ENOUGH} of what the multiply-adds promise is saved")


if __name__ == "__main__":
    main()
