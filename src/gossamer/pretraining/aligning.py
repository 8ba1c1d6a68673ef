"""`clip-small-desk`: DINOv2-S and MiniLM with projections into one space, aligned on captions of tinted garments.

Both towers stay as they are; two projections and tau are trained (98,305 parameters) on features that are computed once. Images of
a batch that share a caption share its target: T_ij = 1[same caption] / count, in both directions. Made on thirty captions in three
templates: it knows combinations of words that it saw apart, and no other word.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import VisionTextDualEncoderConfig

from gossamer import carriers, zoo
from gossamer.data import Preprocessing
from gossamer.data.tints import SEEN, SIDE, UNSEEN, tints
from gossamer.documents import read_json
from gossamer.models.pair import MeanTextDualEncoder
from gossamer.models.zero_shot import ZeroShot
from gossamer.quiet import quiet
from gossamer.runs.prepared import BATCH, Prepared, outputs
from gossamer.zoo import cache

NAME, RECORD = "clip-small-desk", "pretraining.json"
TEMPLATES = ("a photo of a {}.", "a {}.", "a picture of one {}.")
LARGEST = math.log(100)  # of tau


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that the pair depends on: towers, e, steps of AdamW on batches of images, their rate and decay, the seed."""

    vision: str = "dinov2-small"
    words: str = "minilm-l6"
    projection: int = 128
    steps: int = 400
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.1
    seed: int = 0


def align(recipe: Recipe | None = None) -> Path:
    """Folder of the pair in the zoo's cache, made first where it is not there, damaged, or made by another recipe."""
    recipe = recipe or Recipe()
    parts = {part: zoo.resolve(part) / "model.safetensors" for part in (recipe.vision, recipe.words)}
    source = {part: carriers.sha256(file) for part, file in parts.items()} | {"recipe": json.dumps(asdict(recipe))}
    return cache.entry(NAME, source, functools.partial(_build, recipe))


def _build(recipe: Recipe, folder: Path) -> None:
    pair, tokenizer = towers(recipe), zoo.tokenizer(recipe.words)
    processor = _processor(recipe)
    train, test = (Prepared(tints(split), Preprocessing.from_processor(processor)) for split in ("train", "test"))
    _train(pair, tokenizer, train, recipe)
    found = scores(pair, tokenizer, test)
    with quiet():
        pair.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2), encoding="utf-8")
    (folder / RECORD).write_text(json.dumps({"recipe": asdict(recipe), "held_out": found}, indent=2), encoding="utf-8")


def towers(recipe: Recipe) -> Any:
    """The pair before it is aligned; its projections start from the recipe's seed."""
    vision: Any = zoo.load(recipe.vision)
    words: Any = zoo.load(recipe.words)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, words.config, projection_dim=recipe.projection, logit_scale_init_value=math.log(1 / 0.07)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return MeanTextDualEncoder(config, vision_model=vision, text_model=words).eval()


def _processor(recipe: Recipe) -> dict[str, Any]:
    published = read_json(zoo.resolve(recipe.vision) / "preprocessor_config.json")
    size = {"height": SIDE, "width": SIDE}
    return {**published, "size": size, "crop_size": size, "do_center_crop": False}


def _train(pair: Any, tokenizer: Any, images: Prepared, recipe: Recipe) -> None:
    """Trains projections and tau on the seen combinations."""
    names = images.images.classes
    kept = torch.tensor([names[label] in SEEN for label in images.images.labels])
    with torch.no_grad():
        seen = outputs(
            lambda pixel_values: pair.vision_model(pixel_values).pooler_output,
            images,
            device=torch.device("cpu"),
            batch=BATCH,
        )
        said = torch.stack(
            [_means(pair, tokenizer, [t.format(name) for name in names]) for t in TEMPLATES]
        )  # [J, C, d]
    seen, labels = seen[kept], images.labels[kept]
    trained = [pair.visual_projection.weight, pair.text_projection.weight, pair.logit_scale]
    optimizer = torch.optim.AdamW(trained[:2], lr=recipe.lr, weight_decay=recipe.weight_decay)
    optimizer.add_param_group({"params": trained[2:], "weight_decay": 0.0})
    draw = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.steps):
        rows = torch.randint(len(seen), (recipe.batch,), generator=draw)
        templates = torch.randint(len(TEMPLATES), (recipe.batch,), generator=draw)
        loss = alignment(pair, seen[rows], said[templates, labels[rows]], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            pair.logit_scale.clamp_(max=LARGEST)


def alignment(pair: Any, seen: Tensor, said: Tensor, captions: Tensor) -> Tensor:
    """The symmetric loss of images and texts [B, d] whose captions have these numbers [B]."""
    u, t = (F.normalize(x, dim=1) for x in (pair.visual_projection(seen), pair.text_projection(said)))
    logits = pair.logit_scale.exp() * u @ t.T
    same = (captions[:, None] == captions[None]).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _means(pair: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Means of MiniLM's tokens [n, d]."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    states = pair.text_model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    real = batch["attention_mask"][:, :, None].to(states.dtype)
    return (states * real).sum(1) / real.sum(1)


@torch.no_grad()
def scores(pair: Any, tokenizer: Any, images: Prepared) -> dict[str, float]:
    """Shares of test images whose name among all 42 is found, of combinations that were seen and that were not; chance 2.4 %."""
    names = images.images.classes
    model = ZeroShot.of(pair, names, tokenizer, TEMPLATES)
    right = outputs(lambda **x: model(**x).logits, images, device=torch.device("cpu")).argmax(1) == images.labels
    of = {"seen": SEEN, "unseen": UNSEEN}
    which = {
        kind: torch.tensor([names[label] in known for label in images.images.labels]) for kind, known in of.items()
    }
    return {kind: float(right[rows].float().mean()) for kind, rows in which.items()}
