from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer import zoo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "cache"))


def vit(heads: int, width: int = 192, pool: str = "token") -> Any:
    torch.default_generator.manual_seed(4)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, depth=2, embed_dim=width, num_heads=heads, num_classes=0, global_pool=pool,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def pixels() -> Tensor:
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def same(loaded: nn.Module, model: nn.Module) -> None:
    torch.testing.assert_close(loaded(pixels()), model(pixels()), rtol=0, atol=0)


def test_moco_v3_takes_the_base_encoder_without_its_heads(tmp_path: Path) -> None:
    model = vit(12, 384)
    state = {f"module.base_encoder.{k}": v for k, v in model.state_dict().items()}
    state |= {"module.base_encoder.head.0.weight": torch.ones(5, 384), "module.predictor.0.weight": torch.ones(3)}
    state |= {f"module.momentum_encoder.{k}": torch.zeros_like(v) for k, v in model.state_dict().items()}
    torch.save(
        {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "m.pth.tar"
    )
    loaded: Any = zoo.load(f"moco-v3:{tmp_path / 'm.pth.tar'}")
    same(loaded, model)
    assert loaded.blocks[0].attn.num_heads == 12, "MoCo v3's small transformer has 12 heads, not the usual 6"


def test_dino_is_a_plain_dictionary_read_at_the_class_token(tmp_path: Path) -> None:
    model = vit(3)
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    same(zoo.load(f"dino:{tmp_path / 'dino.pth'}"), model)


def test_mae_averages_patches_before_the_norm(tmp_path: Path) -> None:
    model = vit(3, pool="avg")
    state = {k.replace("fc_norm.", "norm."): v for k, v in model.state_dict().items()}
    torch.save(
        {"model": state | {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(2, 2)}},
        tmp_path / "a.pth",
    )
    loaded: Any = zoo.load(f"mae:{tmp_path / 'a.pth'}")
    same(loaded, model)
    states = loaded.forward_features(pixels())
    expected = loaded.fc_norm(states[:, 1:].mean(dim=1))
    torch.testing.assert_close(loaded(pixels()), expected)


def test_an_adapter_of_such_a_backbone_is_loaded_by_its_name(tmp_path: Path) -> None:
    torch.save(vit(3).state_dict(), tmp_path / "dino.pth")
    adapted = gm.adapt(zoo.load(f"dino:{tmp_path / 'dino.pth'}"), gm.VPT(prompts=3), num_labels=4).eval()
    adapted.save_pretrained(tmp_path / "saved")
    again = gm.load(tmp_path / "saved").eval()
    torch.testing.assert_close(again(pixel_values=pixels()).logits, adapted(pixel_values=pixels()).logits)


def test_refusals_say_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        zoo.load("dino:nowhere.pth")
    torch.save({"args": argparse.Namespace(a=1), "teacher": {}}, tmp_path / "full.pth")
    with pytest.raises(ValueError, match=r"holds more than tensors.*save its tensors alone"):
        zoo.load(f"dino:{tmp_path / 'full.pth'}")
    torch.save({"weights": {}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="expected the tensors under 'model', found weights"):
        zoo.load(f"mae:{tmp_path / 'other.pth'}")
    torch.save({"cls_token": torch.ones(1)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="no vision transformer in it"):
        zoo.load(f"dino:{tmp_path / 'resnet.pth'}")
    torch.save(vit(3, 96).state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match="width 96: the heads are known for 192"):
        zoo.load(f"dino:{tmp_path / 'narrow.pth'}")
