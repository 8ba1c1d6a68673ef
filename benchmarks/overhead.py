"""What `Adapted` and a finished model take over the same mathematics written by hand, on ViT-B/16.

    python benchmarks/overhead.py                 # minutes on two cores
    python benchmarks/overhead.py --check         # exits with 1 where an adapter is over 3 %, a finished model over 1 % slower
    python benchmarks/overhead.py --layers 2 --batch 1 --repeats 3

By hand are: a linear head on the class token of transformers' own model; deep prompts in the sequence form, in a loop over its
blocks; a bottleneck beside every FFN, in a loop over the parts of its blocks; peft's own LoRA, whose finished model is the bare
one with a head; a Linear in place of the middle half of the blocks; and ToMe without proportional attention, which merges 8 pairs
in each block and gives no token its place back. One row of JSON for each method goes to benchmarks/results/overhead.jsonl: median
ratios of ours against by hand, taken in turn within every repetition, on the clock and on the processor, of a training step
(forward, backward, AdamW), of an inference by the adapter and of one by the finished model. Both must give equal logits to 1e-5.
Weights are random: no time depends on them.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import rows
import torch
from deep_prompts import LABELS, SEED, backbone, inference, training_step
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm
from gossamer.cost.measure import measure

RESULTS = Path(__file__).parent / "results" / "overhead.jsonl"
TOLERANCE, OF_ADAPTER, OF_FINISHED = 1e-5, 1.03, 1.01
PROMPTS, HIDDEN, PAIRS = 10, 64, 8


class ByHand(nn.Module):
    """transformers' ViT with a linear head on the class token, frozen but for the head; subclasses change the blocks."""

    def __init__(self, vit: Any):
        super().__init__()
        self.vit, self.head = vit.requires_grad_(False), nn.Linear(vit.config.hidden_size, LABELS)

    def trainable(self) -> dict[str, nn.Parameter]:
        """As an adapter says it."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def states(self, images: Tensor) -> Tensor:
        """The last states [B, N, d]."""
        return self.vit(pixel_values=images).last_hidden_state

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        """Logits, and the cross-entropy where there are labels."""
        logits = self.head(self.states(pixel_values)[:, 0])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return argparse.Namespace(logits=logits, loss=loss)


class Prompted(ByHand):
    """Deep prompts: tokens behind the class token, others in every block."""

    def __init__(self, vit: Any):
        super().__init__(vit)
        self.prompts = nn.Parameter(torch.zeros(len(vit.layers), PROMPTS, vit.config.hidden_size))

    def states(self, images: Tensor) -> Tensor:
        """The last states [B, N, d]."""
        x = self.vit.embeddings(images)
        for i, block in enumerate(self.vit.layers):
            prompts = self.prompts[i].expand(len(x), -1, -1)
            x = block(torch.cat([x[:, :1], prompts, x[:, 1 if i == 0 else 1 + PROMPTS :]], dim=1))
        return self.vit.layernorm(x)


class Adapters(ByHand):
    """A bottleneck beside every FFN, on what its norm gives."""

    def __init__(self, vit: Any):
        super().__init__(vit)
        width, depth = vit.config.hidden_size, len(vit.layers)
        self.down = nn.ModuleList(nn.Linear(width, HIDDEN) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(HIDDEN, width) for _ in range(depth))

    def states(self, images: Tensor) -> Tensor:
        """The last states [B, N, d]."""
        x = self.vit.embeddings(images)
        for block, down, up in zip(self.vit.layers, self.down, self.up, strict=True):
            attended, _ = block.attention(block.layernorm_before(x))
            x = attended + x
            normed = block.layernorm_after(x)
            x = block.mlp(normed) + up(F.relu(down(normed))) + x
        return self.vit.layernorm(x)


class Bridged(ByHand):
    """x + x A + b in place of the middle half of the blocks."""

    def __init__(self, vit: Any):
        super().__init__(vit)
        width = vit.config.hidden_size
        self.gone, self.bridge = middle(len(vit.layers)), nn.Linear(width, width)

    def states(self, images: Tensor) -> Tensor:
        """The last states [B, N, d]."""
        x = self.vit.embeddings(images)
        for i, block in enumerate(self.vit.layers):
            if i == self.gone[0]:
                x = x + self.bridge(x)
            elif i not in self.gone:
                x = block(x)
        return self.vit.layernorm(x)


class Merging(ByHand):
    """ToMe: in every block the most alike of every second token become one with their like among the others."""

    def states(self, images: Tensor) -> Tensor:
        """The last states [B, n, d], of the tokens that are left."""
        x = self.vit.embeddings(images)
        sizes = x.new_ones(*x.shape[:2], 1)
        for block in self.vit.layers:
            u, attention = block.layernorm_before(x), block.attention
            q, k, v = (
                part(u).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
                for part in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + attention.o_proj(attended)
            with torch.no_grad():
                rows, left = self.places(k.mean(1))
            x, sizes = self.merge(x * sizes, rows, left), self.merge(sizes, rows, left)
            x = x / sizes
            x = x + block.mlp(block.layernorm_after(x))
        return self.vit.layernorm(x)

    @staticmethod
    def places(metric: Tensor) -> tuple[Tensor, int]:
        """For every token [B, N] the row that it has from now on, and how many rows there are; the class token has the first."""
        count = min(PAIRS, (metric.shape[1] - 1) // 2)
        metric = F.normalize(metric, dim=-1)
        alike = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
        alike[:, 0] = -torch.inf
        best, partner = alike.max(-1)
        gone = best.argsort(dim=-1, descending=True)[:, :count]
        leaves = torch.zeros(metric.shape[:2], dtype=torch.long).scatter(1, 2 * gone, 1)
        rows = (1 - leaves).cumsum(1) - 1
        return rows.scatter(1, 2 * gone, rows.gather(1, 2 * partner.gather(1, gone) + 1)), metric.shape[1] - count

    @staticmethod
    def merge(x: Tensor, rows: Tensor, left: int) -> Tensor:
        """Sums [B, left, d] of rows [B, N, d]."""
        return x.new_zeros(len(x), left, x.shape[2]).scatter_add(1, rows[:, :, None].expand_as(x), x)


def middle(layers: int) -> list[int]:
    """Half of the blocks, behind the first."""
    return list(range(1, 1 + layers // 2))


def pairs(options: argparse.Namespace) -> dict[str, tuple[gm.Adapted, Any, Any]]:
    """Name -> our adapter, the same by hand, and by hand what its finished model computes."""

    by_us, by_hand = LoraConfig(r=16, target_modules=["q", "v"]), LoraConfig(r=16, target_modules=["q_proj", "v_proj"])
    made: dict[str, tuple[Any, Any, Any]] = {}
    for name, method, kind in (
        ("probe", gm.LinearProbe(), ByHand),
        ("vpt", gm.VPT(prompts=PROMPTS, form="sequence"), Prompted),
        ("adapter", gm.Adapter(rank=HIDDEN, placement="parallel-normed"), Adapters),
        ("lora", by_us, ByHand),  # both start as nothing
        ("bridge", gm.DAS(skip=tuple(middle(options.layers)), rank=0, bridge="per-run"), Bridged),
        ("tome", gm.ToMe(r=PAIRS, proportional=False), Merging),
    ):
        ours, hand = gm.adapt(_backbone(options), method, num_labels=LABELS), kind(_backbone(options))
        if name != "lora":
            with torch.no_grad():
                for tensor in ours.trainable().values():
                    tensor.normal_(std=0.02)
        copy(ours, hand)
        finished = hand
        if name == "lora":
            finished = ByHand(_backbone(options))
            copy(ours, finished)
            hand.vit = get_peft_model(hand.vit, by_hand)
        made[name] = (ours, hand, finished)
    return made


def _backbone(options: argparse.Namespace) -> nn.Module:
    return backbone(options.size, options.layers)


def copy(ours: gm.Adapted, hand: Any) -> None:
    """Our tensors, by hand."""
    tensors = ours.tensors()
    with torch.no_grad():
        hand.head.weight.copy_(tensors["head.weight"])
        hand.head.bias.copy_(tensors["head.bias"])
        if isinstance(hand, Prompted):
            for i in range(len(hand.prompts)):
                hand.prompts[i].copy_(tensors[f"vpt.vision.blocks.{i}.prompts"])
        if isinstance(hand, Bridged):
            for kind, tensor in hand.bridge.named_parameters():
                tensor.copy_(tensors[f"das.vision.blocks.{hand.gone[0]}.bridge.up.{kind}"])
        if isinstance(hand, Adapters):
            for i, (down, up) in enumerate(zip(hand.down, hand.up, strict=True)):
                for leaf, module in (("down", down), ("up", up)):
                    for kind, tensor in module.named_parameters():
                        tensor.copy_(tensors[f"adapter.vision.blocks.{i}.ffn.{leaf}.{kind}"])


def agreement(name: str, ours: nn.Module, hand: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        apart = float((ours(pixel_values=images).logits - hand(pixel_values=images).logits).abs().max())
    if not apart <= TOLERANCE:
        raise SystemExit(f"{name}: logits differ by {apart:.1e} from those by hand, over {TOLERANCE:.0e}")


def benchmark(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each method."""
    images = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.randint(0, LABELS, (options.batch,))
    found = []
    for name, (ours, hand, bare) in pairs(options).items():
        ours.eval()
        hand.eval()
        finished = ours.finalize()
        agreement(name, ours, hand, images)
        agreement(f"{name}, finished", finished, bare.eval(), images)
        row: dict[str, Any] = {"method": name}
        infer = partial(inference, images=images)
        for what, one, other, run in (
            ("inference", ours, hand, infer),
            ("finished", finished, bare, infer),
            ("step", ours, hand, partial(training_step, images=images, labels=labels)),
        ):
            taken = measure({"ours": run(one), "by hand": run(other)}, repeats=options.repeats)
            row[f"{what}_seconds"] = round(taken["ours"].seconds, 4)
            row[f"{what}_ratio"] = round(taken["ours"].ratio(taken["by hand"]), 4)
            row[f"{what}_processor_ratio"] = round(taken["ours"].processor_ratio(taken["by hand"]), 4)
        facts = {
            "batch": options.batch,
            "image_size": options.size,
            "layers": options.layers,
            "repeats": options.repeats,
        }
        found.append({**row, **facts})
    return found


def _ratio(what: str) -> str:
    return f"{{{what}_ratio:.3f}} ({{{what}_processor_ratio:.3f}})"


COLUMNS = {  # in brackets: the same ratio of processor time
    "method": "{method}",
    "batch": "{batch}",
    "step s": "{step_seconds:.3f}",
    "x by hand": _ratio("step"),
    "inference s": "{inference_seconds:.3f}",
    "x by hand ": _ratio("inference"),
    "finished s": "{finished_seconds:.3f}",
    "x by hand  ": _ratio("finished"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--layers", type=int, default=12, help="blocks of the backbone; fewer for a trial")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="fail where ours is slower than is allowed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    found = [{**row, **rows.describe(SEED)} for row in benchmark(options)]
    rows.append(options.out, found)
    print(rows.table(found, COLUMNS), flush=True)
    limits = (("inference", OF_ADAPTER), ("step", OF_ADAPTER), ("finished", OF_FINISHED))
    over = [f"{r['method']}, {w}: {r[f'{w}_ratio']}" for r in found for w, most in limits if r[f"{w}_ratio"] > most]
    if options.check and over:
        raise SystemExit(f"slower than by hand beyond what is allowed: {'; '.join(over)}")


if __name__ == "__main__":
    main()
