"""How many of the backbones that users bring take which method: adapted, one step, saved and loaded equal.

python benchmarks/backbones.py [WORD]     the rows whose names have WORD in them, or all; a table and the counts, and rows of JSON

Each model is tiny and random and gets inputs that reach what is trained. A cell is *works*, *refused* (an error for users, when the
model is adapted), or what went wrong afterwards; the command ends with 1 where anything did.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from brought_seeing import SEEING
from brought_text import TEXT, WORDS
from brought_vision import VISION
from peft import LoraConfig
from rows import append, describe
from torch import Tensor, nn

import gossamer as gm
from gossamer.errors import UserError

METHODS: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: LoraConfig(r=2, target_modules="all-linear"),
    "VPT": lambda: gm.VPT(prompts=3),
    "CVPT": lambda: gm.CVPT(prompts=3),
    "APT": lambda: gm.APT(prompts=3),
    "DAS": lambda: gm.DAS(skip=(1,), rank=2),
}
OF_IMAGES = {"timm volo": 224, "timm tiny_vit": 224, "timm hiera": 224, "timm swinv2": 64}  # sides of other than 32
PLACES = {"llava": 16, "llava_qwen": 16, "paligemma": 16, "idefics3": 4, "smolvlm": 4, "llava_next": 36}
PLACES |= dict.fromkeys(("blip2_opt", "blip2_t5", "instructblip_t5", "instructblip_llama"), 4)
WITH_IMAGES = (
    "blip_vqa", "blip_cap", "clip", "siglip", "siglip2", "vision_text_dual", "git", "flava", "vilt", "vilt_mlm", "bridgetower",
)  # fmt: skip
UNLABELLED = ("bert", "bert_cls", "vilt_nlvr", "visualbert", "lxmert", "vilt")


def of_image(name: str) -> dict[str, Tensor]:
    """What a vision model reads."""
    side = OF_IMAGES.get(name, 32)
    labels = torch.tensor([0, 1])
    if name == "hf SigLIP2 vision":
        return patches() | {"labels": labels}
    if name == "hf VideoMAE":
        return {"pixel_values": torch.randn(2, 4, 3, 32, 32), "labels": labels}
    return {"pixel_values": torch.randn(2, 3, side, side), "labels": labels}


def patches() -> dict[str, Tensor]:
    """Images as rows of patches, of 4 x 4 and 2 x 8."""
    grids = torch.tensor([[4, 4], [2, 8]])
    return {
        "pixel_values": torch.randn(2, 16, 192),
        "pixel_attention_mask": torch.ones(2, 16).long(),
        "spatial_shapes": grids,
    }


def of_text(name: str) -> dict[str, Tensor]:
    """What a language model reads, with images where it takes them."""
    count = PLACES.get(name, 0)
    ids = torch.randint(4, WORDS - 4, (2, count + 8))
    mask = torch.ones_like(ids)
    if count:
        ids[:, 1 : 1 + count] = WORDS - 1
    else:
        ids[1, 6:], mask[1, 6:] = 0, 0
    pixels = torch.randn(2, 3, 32, 32)
    if name in ("vit_gpt2", "trocr_like_bert_decoder"):
        # without a start token in its configuration the first makes no decoder's ids of labels, adapted or not
        return {"pixel_values": pixels, "decoder_input_ids" if name == "vit_gpt2" else "labels": ids}
    found = {"input_ids": ids, "attention_mask": mask}
    if name not in UNLABELLED:
        found["labels"] = ids.clone()
    if name in ("bert_cls", "vilt_nlvr"):
        found["labels"] = torch.tensor([0, 1])
    if count or name in WITH_IMAGES:
        found["pixel_values"] = pixels
    return found | special(name, ids, pixels)


def special(name: str, ids: Tensor, pixels: Tensor) -> dict[str, Tensor]:
    """What a model reads beside, or in another form."""
    if name.startswith("instructblip"):
        asked = torch.randint(4, WORDS - 4, (2, 5))
        return {"qformer_input_ids": asked, "qformer_attention_mask": torch.ones_like(asked)}
    if name in ("idefics3", "smolvlm"):
        return {"pixel_values": pixels[:, None]}
    if name == "vilt_nlvr":
        return {"pixel_values": torch.randn(2, 2, 3, 32, 32)}
    if name == "paligemma":
        return {"token_type_ids": torch.zeros_like(ids)}
    if name == "siglip2":
        return patches()
    if name == "llava_next":
        return {"pixel_values": torch.randn(2, 2, 3, 32, 32), "image_sizes": torch.tensor([[32, 32], [32, 32]])}
    if name == "qwen2_vl":
        ids[:, 1], ids[:, 2:6] = WORDS - 3, WORDS - 1
        grids = torch.tensor([[1, 4, 4], [1, 4, 4]])
        frames = torch.randn(32, 3 * 2 * 64)
        return {"pixel_values": frames, "image_grid_thw": grids, "mm_token_type_ids": (ids == WORDS - 1).int()}
    if name == "visualbert":
        return {"visual_embeds": torch.randn(2, 4, 16), "visual_attention_mask": torch.ones(2, 4)}
    if name == "lxmert":
        return {"visual_feats": torch.randn(2, 4, 16), "visual_pos": torch.rand(2, 4, 4)}
    return {}


def tensors(output: Any) -> list[Tensor]:
    """All tensors that a model gives."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if hasattr(output, "values") else output
    return [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]


def life(build: Callable[[], nn.Module], inputs: dict[str, Tensor], method: Any, labels: int | None) -> str:
    """Adapts a model, takes a step, saves, loads, compares: what came of it in a word or two."""
    torch.manual_seed(0)
    model = build().eval()
    fresh = copy.deepcopy(model)
    try:
        adapted = gm.adapt(model, method, num_labels=labels)
    except UserError:
        return "refused"
    try:
        output = adapted(**inputs)
        loss = getattr(output, "loss", None)
        loss = sum(t.float().pow(2).mean() for t in tensors(output)) if loss is None else loss
        loss.backward()
        if not any(p.grad is not None for n, p in adapted.trainable().items() if not n.startswith("head")):
            return "not reached"
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            for p in adapted.trainable().values():
                p.add_(0.01)
            adapted.eval().save_pretrained(folder)
            again = gm.load(folder, fresh).eval()
            pairs = zip(tensors(adapted(**inputs)), tensors(again(**inputs)), strict=True)
            return "works" if all(torch.allclose(one, two, atol=1e-5) for one, two in pairs) else "differs"
    except Exception as error:  # of whatever kind: that it is none of ours is what is counted
        return f"broken: {type(error).__name__}"


def main() -> None:
    """Counts, prints, and ends with 1 where something was accepted and broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="of a row's name; all rows where it is left out")
    parser.add_argument("--output", type=Path, help="a file of JSON lines that gets one row a backbone")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    every = [(n, b, of_image, 5) for n, b in VISION.items()] + [
        (n, b, of_text, None) for n, b in {**TEXT, **SEEING}.items()
    ]
    found = []
    for name, build, reads, labels in (row for row in every if asked.word in row[0]):
        torch.manual_seed(1)
        cells = {m: life(build, reads(name), make(), labels) for m, make in METHODS.items()}
        found.append({"backbone": name, **cells})
        print(f"{name:40}{'  '.join(f'{m} {cell}' for m, cell in cells.items())}", flush=True)
    counts = {m: sum(row[m] == "works" for row in found) for m in METHODS}
    wrong = [
        row["backbone"]
        for row in found
        if any(cell not in ("works", "refused") for cell in row.values() if cell != row["backbone"])
    ]
    print(
        f"of {len(found)}: {', '.join(f'{m} {n}' for m, n in counts.items())}; accepted and broken: {', '.join(wrong) or 'none'}"
    )
    if asked.output:
        append(asked.output, [row | describe(seed=0) for row in found])
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
