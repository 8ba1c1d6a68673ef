"""`diffusion-small-desk`: a small UNet that draws real garments and handwritten digits by their captions, with one class withheld.

The UNet is diffusers' own, with blocks of two widths on two levels. Images are 16 x 16, grey; squares of 2 x 2 pixels are four
channels, an exact stand-in for a VAE. Captions are read by MiniLM, frozen; every tenth is empty, so that guidance works. Bags are
never seen: they are what a run can teach it.
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
from torch.optim.lr_scheduler import LambdaLR

from gossamer import carriers, noising, zoo
from gossamer.data.offline import digits, fashion_mnist
from gossamer.drawing import FILE, Folded, Reader
from gossamer.quiet import quiet
from gossamer.zoo import cache, denoisers

NAME, RECORD, WEIGHTS = "diffusion-small-desk", "pretraining.json", "diffusion_pytorch_model.safetensors"
SIDE, FOLD, TOKENS = 16, 2, 12
WITHHELD = "bag"
GARMENTS = (
    "t-shirt",
    "pair of trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = (
    *(f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in GARMENTS),
    *(f"a handwritten {name}" for name in NUMBERS),
)
UNET = {
    "sample_size": SIDE // FOLD, "in_channels": FOLD**2, "out_channels": FOLD**2, "block_out_channels": (32, 64),
    "layers_per_block": 1, "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "attention_head_dim": 4, "norm_num_groups": 8, "cross_attention_dim": 384,
}  # fmt: skip
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that the denoiser depends on: the text tower, steps of AdamW, images in one, the largest rate, seed."""

    words: str = "minilm-l6"
    steps: int = 2000
    batch: int = 48
    lr: float = 2e-3
    empty: float = 0.1
    seed: int = 0


def denoise(recipe: Recipe | None = None) -> Path:
    """Folder of the denoiser in the zoo's cache, made first where it is not there, damaged, or made by another recipe."""
    recipe = recipe or Recipe()
    source = {recipe.words: carriers.sha256(zoo.resolve(recipe.words) / "model.safetensors")}
    return cache.entry(NAME, source | {"recipe": json.dumps(asdict(recipe))}, functools.partial(_build, recipe))


def _build(recipe: Recipe, folder: Path) -> None:
    library = denoisers.library(NAME)
    schedule = library.DDPMScheduler(**SCHEDULE)
    said = Reader(zoo.tokenizer(recipe.words), zoo.load(recipe.words), TOKENS, masked=True).states([*CAPTIONS, ""])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = library.UNet2DConditionModel(**UNET)
    train(model, pictures("train"), said, schedule.alphas_cumprod, recipe)
    found = scores(model.eval(), pictures("test"), said, schedule.alphas_cumprod)
    with quiet():
        model.save_pretrained(folder)
        schedule.save_pretrained(folder)
    (folder / FILE).write_text(json.dumps({"text": recipe.words, "tokens": TOKENS, "fold": FOLD}), encoding="utf-8")
    (folder / RECORD).write_text(json.dumps({"recipe": asdict(recipe), "held_out": found}, indent=2), encoding="utf-8")


def pictures(split: str) -> list[Tensor]:
    """Of every caption its images as latents [n, 4, 8, 8] in [-1, 1]: garments averaged, digits enlarged to 16 x 16."""
    found = []
    for images, resize in ((fashion_mnist(split), F.adaptive_avg_pool2d), (digits(split), _enlarged)):
        source: Any = images.source  # one array
        pixels = torch.from_numpy(source.array[list(images.indices)]).float()[:, None] / 127.5 - 1
        latents, _ = Folded(FOLD).encode(resize(pixels, (SIDE, SIDE)).expand(-1, 3, -1, -1))
        labels = torch.tensor(images.labels)
        found += [latents[labels == label] for label in range(len(images.classes))]
    return found


def _enlarged(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels, size, mode="bilinear")


def train(model: Any, images: list[Tensor], said: dict[str, Tensor], alphas: Tensor, recipe: Recipe) -> None:
    """Noise-prediction training on images of all captions but the withheld one, each caption equally often."""
    draw = torch.Generator().manual_seed(recipe.seed)
    known = torch.tensor([i for i in range(len(images)) if CAPTIONS[i] != CAPTIONS[GARMENTS.index(WITHHELD)]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.01)
    rise = max(1, recipe.steps // 20)
    rates = LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / rise) * 0.5 * (1 + math.cos(math.pi * s / recipe.steps)))
    model.train()
    for _ in range(recipe.steps):
        kinds = known[torch.randint(len(known), (recipe.batch,), generator=draw)]
        x0 = torch.stack([images[k][int(torch.randint(len(images[k]), (), generator=draw))] for k in kinds.tolist()])
        noise = torch.randn(x0.shape, generator=draw)
        t = torch.randint(len(alphas), (recipe.batch,), generator=draw)
        texts = kinds.where(torch.rand(recipe.batch, generator=draw) >= recipe.empty, torch.tensor(len(CAPTIONS)))
        told = {name: value[texts] for name, value in said.items()}
        found = model(sample=noising.noised(x0, noise, alphas[t]), timestep=t, **told).sample
        loss = noising.loss(found, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()


@torch.no_grad()
def scores(model: Any, images: list[Tensor], said: dict[str, Tensor], alphas: Tensor) -> dict[str, float]:
    """Share of the noise that is explained, on 20 test images of each caption, the same noise whatever the model."""
    draw, found = torch.Generator().manual_seed(0), dict[str, list[float]](known=[], withheld=[])
    for kind, of in enumerate(images):
        x0, t = of[:20], torch.linspace(20, len(alphas) - 20, min(20, len(of))).long()
        noise = torch.randn(x0.shape, generator=draw)
        told = {name: value[kind].expand(len(x0), *value[kind].shape) for name, value in said.items()}
        answer = model(sample=noising.noised(x0, noise, alphas[t]), timestep=t, **told).sample
        which = "withheld" if GARMENTS.index(WITHHELD) == kind else "known"
        found[which].append(1 - float(noising.loss(answer, noise)))
    return {name: sum(values) / len(values) for name, values in found.items()}
