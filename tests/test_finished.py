"""Finished models as folders of their own: the same function to the bit, or a refusal when they are saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import ViTModel

import gossamer as gm
from gossamer.errors import AdapterError, UserError

from .contract.table import BACKBONES, METHODS, adapt, disturb, run

pytestmark = pytest.mark.usefixtures("uncounted")

PAIRS = [
    ("vit", "vpt"), ("vit", "das-run"), ("vit", "tome+vpt"), ("dinov2", "spt"), ("dinov3", "vpt"), ("t5", "vpt+lora"),
    ("clip-vision", "cvpt-projected"), ("swin", "vpt"), ("llama", "das-router"), ("bert", "apt"), ("vit+t5", "dvp"),
    ("dinov2+llama", "memvp"), ("meter", "das"), ("roberta", "houlsby"), ("vit-bare", "ssf"), ("clip+bert", "vpt"),
    ("gemma3", "lora"), ("beit", "full"), ("siglip", "apt-ffn"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "method"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_finished_model_is_the_same_when_it_is_loaded(name: str, method: str, tmp_path: Path) -> None:
    backbone = BACKBONES[name]
    adapted = disturb(adapt(backbone, METHODS[method]))
    adapted.metadata["labels"] = ["a", "b"]
    finished = adapted.finalize(save=tmp_path / "one")
    expected = run(finished, backbone.inputs())
    again: Any = gm.load_finished(tmp_path / "one")
    assert torch.equal(run(again, backbone.inputs()), expected)
    assert again.metadata == adapted.metadata
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert {t.device.type for t in (*again.parameters(), *again.buffers())} == {"cpu"}


def test_a_model_of_timm_by_its_name(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7)
    adapted = disturb(gm.adapt(model, [gm.VPT(prompts=3), LoraConfig(r=2)], num_labels=4).eval())
    finished = adapted.finalize(save=tmp_path / "one")
    pixels = torch.randn(3, 3, 32, 32)
    assert torch.equal(gm.load_finished(tmp_path / "one")(pixels), finished(pixels))


def test_a_denoiser(tmp_path: Path) -> None:
    backbone = BACKBONES["unet"]
    adapted = disturb(adapt(backbone, METHODS["apt"]))
    finished = adapted.finalize(save=tmp_path / "one")
    assert torch.equal(run(gm.load_finished(tmp_path / "one"), backbone.inputs()), run(finished, backbone.inputs()))


def test_what_ties_stays_tied_and_is_stored_once(tmp_path: Path) -> None:
    adapted = disturb(gm.adapt(BACKBONES["gpt2"].model(), gm.VPT(prompts=2)).eval())
    adapted.finalize(save=tmp_path / "one")
    again: Any = gm.load_finished(tmp_path / "one")
    assert again.lm_head.weight is again.transformer.wte.weight
    inputs = BACKBONES["gpt2"].inputs()
    assert torch.equal(run(again, inputs), run(adapted.finalize(), inputs))


def test_what_cannot_be_made_again_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    class Mine(ViTModel):
        pass

    models: dict[str, nn.Module] = {
        "a class of your own": Mine(BACKBONES["vit-bare"].model().config),  # type: ignore[arg-type]
        "blocks.0": BACKBONES["timm"].model(),  # made with arguments that timm does not record
    }
    for said, model in models.items():
        adapted = gm.adapt(model, gm.VPT(prompts=2), num_labels=3)
        with pytest.raises(UserError, match=f"would not be the same when it is loaded again: .*{said}"):
            adapted.finalize(save=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_hook_of_others_is_not_lost_in_silence(tmp_path: Path) -> None:
    """ViLT of the zoo holds the order of its patches by one."""
    backbone = BACKBONES["vit"].model()
    backbone.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(UserError, match="hooks"):
        gm.adapt(backbone, gm.VPT(prompts=2)).finalize(save=tmp_path / "none")


def test_the_two_kinds_of_folders_are_told_apart(tmp_path: Path) -> None:
    adapted = gm.adapt(BACKBONES["vit"].model(), gm.VPT(prompts=2)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.finalize(save=tmp_path / "finished")
    assert 'gm.load_finished(".")' in (tmp_path / "finished" / "README.md").read_text()
    with pytest.raises(AdapterError, match=r"a finished model, not an adapter: gm\.load_finished"):
        gm.load(tmp_path / "finished")
    with pytest.raises(AdapterError, match=r"an adapter, not a finished model: gm\.load "):
        gm.load_finished(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f["adapter"]["head"].clear(), "nothing can be made"),
        (lambda f: f["architecture"].update({"class": "os"}), "nothing can be made"),
        (lambda f: f["architecture"]["config"].update(hidden_size=24), "has shape"),
        (lambda f: f["adapter"]["methods"][0].update(prompts=9), "has shape"),
        (lambda f: f["shared"].update(a="b"), "nothing can be made"),
        (lambda f: f.pop("architecture"), "finished: missing field 'architecture'"),
        (lambda f: f.update(shared=3), "shared must be dict"),
    ],
)
def test_a_description_that_was_changed_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    gm.adapt(BACKBONES["vit"].model(), gm.VPT(prompts=2)).finalize(save=tmp_path / "one")
    config = tmp_path / "one" / "adapter_config.json"
    told = json.loads(config.read_text())
    change(told["finished"])
    config.write_text(json.dumps(told))
    with pytest.raises(AdapterError, match=said):
        gm.load_finished(tmp_path / "one")
