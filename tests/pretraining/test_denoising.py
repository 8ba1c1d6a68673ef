"""`diffusion-small-desk`: what is learnt, from which seed, and what is withheld."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizer

from gossamer import zoo
from gossamer.data.images import ImageArray, ImageDataset
from gossamer.drawing import Drawing
from gossamer.pretraining import denoising

WORDS = sorted({word for caption in denoising.CAPTIONS for word in caption.replace("-", " ").split()})
SMALL = {
    **denoising.UNET,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
}


def made(withheld: float = 0.0) -> tuple[Any, list[Tensor], dict[str, Tensor], Tensor]:
    """A small model, three images of each caption (those of bags of one value), states of captions, and a schedule."""
    torch.default_generator.manual_seed(3)
    model = diffusers.UNet2DConditionModel(**SMALL)
    images = [torch.randn(3, 4, 8, 8) for _ in denoising.CAPTIONS]
    images[denoising.GARMENTS.index(denoising.WITHHELD)].fill_(withheld)
    states = torch.randn(len(denoising.CAPTIONS) + 1, 5, 6)
    said = {"encoder_hidden_states": states, "encoder_attention_mask": torch.ones(len(states), 5, dtype=torch.long)}
    return model, images, said, diffusers.DDPMScheduler(**denoising.SCHEDULE).alphas_cumprod


def test_it_learns_the_same_from_its_seed_and_nothing_of_what_is_withheld() -> None:
    recipe, weights = denoising.Recipe(steps=3, batch=5), []
    for withheld in (0.0, float("nan")):
        model, *rest = made(withheld)
        before = denoising.noising.loss(model.conv_in.weight, torch.zeros(()))
        denoising.train(model, *rest, recipe)
        assert not torch.equal(denoising.noising.loss(model.conv_in.weight, torch.zeros(())), before)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)
    other, *rest = made()
    denoising.train(other, *rest, denoising.Recipe(steps=3, batch=5, seed=1))
    assert not torch.equal(torch.cat([p.detach().flatten() for p in other.parameters()]), weights[0])


def test_scores_are_the_share_of_the_noise_that_is_explained() -> None:
    class Silent(torch.nn.Module):
        def forward(self, sample: Tensor, **told: Tensor) -> Any:
            return type("Answer", (), {"sample": torch.zeros_like(sample)})()

    _, images, said, alphas = made()
    found = denoising.scores(Silent(), images, said, alphas)
    assert set(found) == {"known", "withheld"}
    assert found["known"] == pytest.approx(0, abs=0.05)  # nothing, of noise with a mean square of 1


@pytest.mark.slow
def test_it_is_made_once_into_the_cache_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, **{w: i + 5 for i, w in enumerate(WORDS)}}
    config = BertConfig(
        vocab_size=len(words), hidden_size=6, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).save_pretrained(tmp_path / "words")
    BertTokenizer(vocab=words).save_pretrained(tmp_path / "words")

    def drawn(side: int) -> Any:
        def images(split: str = "train") -> ImageDataset:
            pixels = np.random.default_rng(0).integers(0, 256, (20, side, side), dtype=np.uint8)
            labels = tuple(i % 10 for i in range(20))
            source = ImageArray("drawn", pixels)
            return ImageDataset(
                name="drawn", classes=tuple(map(str, range(10))), labels=labels, source=source, indices=tuple(range(20))
            )

        return images

    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(denoising, "UNET", SMALL)
    monkeypatch.setattr(denoising, "fashion_mnist", drawn(28))
    monkeypatch.setattr(denoising, "digits", drawn(8))
    recipe = denoising.Recipe(words=str(tmp_path / "words"), steps=2, batch=3)
    folder = denoising.denoise(recipe)
    assert denoising.denoise(recipe) == folder == zoo.resolve(denoising.NAME)
    assert json.loads((folder / denoising.RECORD).read_text())["recipe"]["steps"] == 2
    model: Any = zoo.load(denoising.NAME)
    assert model.config["_name_or_path"] == denoising.NAME
    drawing = Drawing.read(denoising.NAME)
    assert drawing.size == 16
    assert drawing.draw(model, ["a photo of a coat"], pixels=(16, 16), seed=0, steps=2).shape == (1, 3, 16, 16)
