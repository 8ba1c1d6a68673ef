"""Segmentation from a run file to masks in a folder: a tiny ViT on pictures of odd sizes, and models with heads of their own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import gossamer as gm
from gossamer import cli, data, tasks
from gossamer.errors import UserError
from gossamer.evaluate import evaluate
from gossamer.hosts import dense
from gossamer.runs.run import Data, Images, Masks, Model, Run, Training
from gossamer.runs.trained import load_adapter
from gossamer.training.train import train

from . import squares

NAMES = ("ground", "red", "blue")


def pictures(root: Path, *, count: int, seed: int = 0) -> Path:
    """Grey pictures of odd sizes with a red and a blue rectangle, train and test; a strip of each is not labelled."""
    draw = random.Random(seed)
    for split, number in (("train", count), ("test", count // 3)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(number):
            high, wide = draw.randrange(15, 30), draw.randrange(15, 30)
            image, mask = np.full((high, wide, 3), 100, dtype=np.uint8), np.zeros((high, wide), dtype=np.uint8)
            for label, colour in ((1, (220, 40, 40)), (2, (40, 40, 220))):
                top, left = draw.randrange(high - 8), draw.randrange(wide - 8)
                image[top : top + 8, left : left + 8], mask[top : top + 8, left : left + 8] = colour, label
            mask[:, -1] = 255
            Image.fromarray(image).save(root / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{i}.png")
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


def run(folder: Path, output: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "model": Model(name=str(squares.backbone())), "data": Data(name=str(folder), validation=0.2), "output": str(output),
        "methods": [{"method": "cvpt", "prompts": 2}], "images": Images(size=16, mean=(0.5,) * 3, std=(0.5,) * 3),
        "masks": Masks(decoder="setr-naive", channels=16, stride=7),
        "training": Training(epochs=12, batch=8, lr=1e-2, head_lr=5e-2),
    }  # fmt: skip
    return Run(**{**settings, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("segmenting")
    changes = {
        "images": Images(
            size=16, mean=(0.5,) * 3, std=(0.5,) * 3, augment=["random-crop", "horizontal-flip", "colours"]
        )
    }
    metrics = train(run(pictures(root / "pictures", count=30), root / "run", **changes))
    return root, metrics


def test_a_run_learns_and_its_folder_scores_the_same(trained: tuple[Path, dict[str, Any]]) -> None:
    root, metrics = trained
    assert metrics["images"] == {"train": 24, "val": 6, "test": 10}
    assert metrics["test"]["accuracy"] > 0.5  # all ground: 0.29
    assert (root / "run" / "masks.png").is_file()
    adapted = load_adapter(root / "run")
    scores = evaluate(adapted, data.load_masks(root / "pictures", "test"))
    assert scores.to_dict() == metrics["test"]
    table = tasks.of(adapted).table(scores.to_dict())
    assert "mean IoU" in table
    assert "blue" in table
    assert sum(map(sum, scores.confusion)) == sum(
        int((item["mask"] != 255).sum()) for item in data.load_masks(root / "pictures", "test")
    )


def test_scores_are_those_of_a_loop(trained: tuple[Path, dict[str, Any]]) -> None:
    root, metrics = trained
    adapted, test = load_adapter(root / "run"), data.load_masks(root / "pictures", "test")
    task: Any = tasks.of(adapted)
    right = total = 0
    for item in test:
        found = task.logits(adapted, item["image"]).argmax(0)
        assert found.shape == item["mask"].shape
        mask = torch.from_numpy(item["mask"])
        right, total = right + int(((found == mask) & (mask != 255)).sum()), total + int((mask != 255).sum())
    assert metrics["test"]["pixel_accuracy"] == right / total


def test_predict_writes_masks_of_the_size_of_the_image_and_overlays(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = trained
    picture = root / "pictures" / "test" / "images" / "0.png"
    cli.main(["predict", str(root / "run"), str(picture), "--output", str(tmp_path / "out"), "--json"])
    (record,) = json.loads(capsys.readouterr().out)
    assert sum(record["probabilities"].values()) == pytest.approx(1)
    with Image.open(tmp_path / "out" / "0.png") as mask, Image.open(picture) as image:
        assert mask.mode == "P"
        assert mask.size == image.size
        counts = np.bincount(np.asarray(mask).ravel(), minlength=3) / mask.width / mask.height
    assert record["probabilities"] == pytest.approx({n: c for n, c in zip(NAMES, counts, strict=True) if c})
    assert (tmp_path / "out" / "0.overlay.png").is_file()
    assert cli.main(["predict", str(root / "run"), str(picture), "--picture", str(tmp_path / "x.png")]) == 2
    with pytest.raises(UserError, match="two images are called 0"):
        tasks.of(load_adapter(root / "run")).write_to(
            None, [picture, root / "pictures" / "train" / "images" / "0.png"], [], tmp_path, 0
        )  # type: ignore[attr-defined]


def test_what_does_not_fit_is_refused(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, _ = trained
    with pytest.raises(UserError, match=r"augment=vertical-flip is not for images with masks"):
        train(run(root / "pictures", tmp_path / "a", images=Images(size=16, augment=["vertical-flip"])))
    with pytest.raises(UserError, match="has no masks"):
        evaluate(load_adapter(root / "run"), data.load(str(squares.images()), "test"))
    with pytest.raises(UserError, match=r"leave out data\.subset"):
        train(run(root / "pictures", tmp_path / "b", data=Data(name=str(root / "pictures"), subset="x")))
    (root / "pictures" / "classes.txt").write_text("ground\nblue\nred\n")
    try:
        with pytest.raises(UserError, match="has the classes ground, blue, red"):
            evaluate(load_adapter(root / "run"), data.load_masks(root / "pictures", "test"))
    finally:
        (root / "pictures" / "classes.txt").write_text("\n".join(NAMES))


def segformer() -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation(
        SegformerConfig(
            num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 12], patch_sizes=[7, 3], strides=[4, 2],
            num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=10, num_labels=5,
        )
    )  # fmt: skip


def upernet() -> Any:
    from transformers import Dinov2Config, UperNetConfig, UperNetForSemanticSegmentation

    tower = Dinov2Config(
        hidden_size=12, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=32, patch_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = UperNetConfig(
        backbone_config=tower,
        hidden_size=8,
        pool_scales=[1, 2],
        auxiliary_channels=6,
        auxiliary_in_channels=12,
        num_labels=5,
    )
    return UperNetForSemanticSegmentation(config)


def dpt() -> Any:
    from transformers import DPTConfig, DPTForSemanticSegmentation

    config = DPTConfig(
        hidden_size=12, num_hidden_layers=4, num_attention_heads=2, intermediate_size=20, image_size=32, patch_size=4,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 6, 8, 10], fusion_hidden_size=8, is_hybrid=False,
        semantic_classifier_dropout=0.0,
    )  # fmt: skip
    config.num_labels = 5
    return DPTForSemanticSegmentation(config)


@pytest.mark.parametrize("build", [segformer, upernet, pytest.param(dpt, marks=pytest.mark.slow)])
def test_heads_of_transformers_are_resized_saved_with_their_statistics_and_cost_something(
    build: Any, tmp_path: Path
) -> None:
    torch.default_generator.manual_seed(0)
    build().save_pretrained(tmp_path / "model")
    method = gm.BitFit() if build is segformer else gm.CVPT(prompts=2)
    adapted = gm.adapt(gm.zoo.load(tmp_path / "model"), method, num_labels=3)
    layers = [m for m in adapted.backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert {m.out_channels for m in layers} & {3}
    assert not {m.out_channels for m in layers} & {5}
    images = torch.randn(3, 3, 32, 32)
    labels = torch.randint(3, (3, 32, 32))
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=0.01)
    for _ in range(2):
        adapted.train()(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()
    adapted.eval()
    adapted.save_pretrained(tmp_path / "adapter")
    again = gm.load(tmp_path / "adapter")
    assert any("running_mean" in name for name in again.tensors())
    with torch.no_grad():
        logits = adapted(pixel_values=images).logits
        assert torch.equal(again(pixel_values=images).logits, logits)
        finished: Any = adapted.finalize()
        torch.testing.assert_close(finished(pixel_values=images).logits, logits, rtol=1e-5, atol=1e-5)
    folded = [n for n, m in finished.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert not folded
    assert dense.resize(logits, (32, 32)).shape == (3, 3, 32, 32)
