"""State dicts through modules around an adapter, and what a plain Trainer of transformers saves of one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import gossamer as gm
from gossamer.errors import UserError

from .contract.table import BACKBONES

pytestmark = pytest.mark.usefixtures("uncounted")

VIT = BACKBONES["vit"]
METHODS: dict[str, Callable[[], Any]] = {
    "vpt": lambda: gm.VPT(prompts=3),
    "spt, which has buffers": lambda: gm.SPT(prompts=2),
    "lora and das, which displace modules": lambda: [LoraConfig(r=2), gm.DAS(skip=(0,), rank=3)],
    "bitfit, which trains what is the backbone's": lambda: gm.BitFit(),
}


class Around(nn.Module):
    """A user's module with an adapter and a part of its own."""

    def __init__(self, method: Any, backbone: nn.Module | None = None):
        super().__init__()
        self.model, self.own = gm.adapt(backbone or VIT.model(), method, num_labels=3), nn.Linear(2, 5)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        return self.model(pixel_values=pixel_values, labels=labels)


def moved(module: Around) -> Around:
    with torch.no_grad():
        for i, parameter in enumerate(module.model.trainable().values()):
            parameter.fill_(0.1 * (i + 1))
    return module


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_module_around_an_adapter_is_saved_and_loaded_by_its_state_dict(name: str) -> None:
    old, new = moved(Around(METHODS[name]())), Around(METHODS[name]())
    frozen = {k: v.clone() for k, v in new.model.backbone.named_parameters() if not v.requires_grad}
    found = new.load_state_dict(old.state_dict())
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert equal(new.state_dict(), old.state_dict())
    named = dict(new.model.backbone.named_parameters())
    assert all(torch.equal(named[k], v) for k, v in frozen.items())


def test_what_is_missing_or_not_expected_is_named_and_the_backbone_is_out_of_reach() -> None:
    old, new = moved(Around(gm.VPT(prompts=3))), Around(gm.VPT(prompts=3))
    state = old.state_dict()
    lacking = {k: v for k, v in state.items() if k != "model.head.bias"}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "model.head.bias"\.'):
        new.load_state_dict(lacking)
    name = next(name for name, _ in new.model.backbone.named_parameters())
    before = new.model.backbone.get_parameter(name).clone()
    foreign = state | {f"model.backbone.{name}": torch.zeros_like(before)}
    with pytest.raises(RuntimeError, match=rf'Unexpected key\(s\) in state_dict: "model.backbone.{name}"'):
        new.load_state_dict(foreign)
    found = new.load_state_dict(foreign, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == ([], [f"model.backbone.{name}"])
    assert torch.equal(new.model.backbone.get_parameter(name), before)


def test_part_of_a_state_dict_loads_what_it_has_where_it_may() -> None:
    old, new = moved(Around(gm.VPT(prompts=3))), Around(gm.VPT(prompts=3))
    part = {k: v for k, v in old.model.state_dict().items() if k.startswith("head.")}
    kept = {k: v.clone() for k, v in new.model.tensors().items() if k not in part}
    with pytest.raises(gm.AdapterError, match=r"missing 'vpt\.vision\.blocks\.0\.prompts'"):
        new.model.load_state_dict(part)
    found = new.model.load_state_dict(part | {"stray": torch.ones(2)}, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (sorted(kept), ["stray"])
    assert equal({k: v for k, v in new.model.tensors().items() if k in kept}, kept)
    assert torch.equal(new.model.tensors()["head.bias"], part["head.bias"])
    under = {f"model.{k}": v for k, v in part.items()}
    assert sorted(new.load_state_dict(under, strict=False).missing_keys) == sorted(
        [f"model.{k}" for k in kept] + ["own.weight", "own.bias"]
    )


@pytest.mark.parametrize("around", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_no_value_that_is_not_finite_and_no_other_shape_is_taken(around: bool, strict: bool) -> None:
    new = Around(gm.VPT(prompts=3))
    before = {k: v.clone() for k, v in new.model.tensors().items()}
    target, prefix = (new, "model.") if around else (new.model, "")
    for value, said in (
        (torch.full((3,), float("nan")), "NaN or infinite"),
        (torch.ones(4), r"shape \(4,\), expected \(3,\)"),
    ):
        state = target.state_dict() | {f"{prefix}head.bias": value}
        with pytest.raises(RuntimeError if around else gm.AdapterError, match=said):
            target.load_state_dict(state, strict=strict)
        assert equal(new.model.tensors(), before)  # all or nothing


def test_what_tensors_were_trained_on_comes_along_and_other_weights_are_told_of(tmp_path: Path) -> None:
    """Lightning's checkpoint over a backbone that was drawn anew: it loads, as strict as it is, and says so."""
    saved = moved(Around(gm.VPT(prompts=3))).state_dict()
    drawn = VIT.model()
    with torch.no_grad():
        drawn.vit.embeddings.position_embeddings.add_(1)
    new = Around(gm.VPT(prompts=3), drawn)
    with pytest.warns(UserWarning, match="trained on other weights than those of this ViTForImageClassification"):
        new.load_state_dict(saved)
    assert equal(new.state_dict(), saved)
    backbone = new.model.detach()
    new.model.attach()
    assert equal(new.state_dict(), saved)
    with pytest.warns(UserWarning, match="has no name"):
        new.model.save_pretrained(tmp_path)
    with pytest.raises(gm.AdapterError, match="trained on other weights"):
        gm.load(tmp_path, backbone)
    with pytest.warns(UserWarning, match="expected bytes of JSON.* nothing says what these tensors were trained on"):
        new.load_state_dict(saved | {"model._extra_state": torch.full((2,), 0.5)})


def test_tensors_are_not_put_in_place_of_those_that_blocks_use() -> None:
    new = Around(gm.VPT(prompts=3))
    with pytest.raises(UserError, match="without assign=True"):
        new.model.load_state_dict(new.model.state_dict(), assign=True)
    with pytest.raises(RuntimeError, match="without assign=True"):
        new.load_state_dict(new.state_dict(), assign=True)


def test_an_average_of_weights_answers_like_the_average_and_is_resumed() -> None:
    one = Around(gm.VPT(prompts=3))
    average = torch.optim.swa_utils.AveragedModel(one)
    average.update_parameters(one)
    start = {k: v.clone() for k, v in one.model.trainable().items()}
    average.update_parameters(moved(one))
    for name, value in average.module.model.trainable().items():
        assert torch.allclose(value, (start[name] + one.model.trainable()[name]) / 2)
    again = torch.optim.swa_utils.AveragedModel(Around(gm.VPT(prompts=3)))
    again.load_state_dict(average.state_dict())
    images = VIT.inputs()["pixel_values"]
    assert torch.equal(again(images).logits, average(images).logits)


def test_a_compiled_adapter_is_resumed() -> None:
    old, new = moved(Around(gm.VPT(prompts=3))).model, Around(gm.VPT(prompts=3)).model
    torch.compile(new, backend="eager").load_state_dict(torch.compile(old, backend="eager").state_dict())
    assert equal(new.state_dict(), old.state_dict())


def trained(model: nn.Module, folder: Path) -> Trainer:
    """Two steps of the plain Trainer."""
    images = VIT.inputs()["pixel_values"]
    data: Any = [{"pixel_values": image, "labels": i % 3} for i, image in enumerate(images)] * 2
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=2, save_steps=2, report_to="none", use_cpu=True,
        remove_unused_columns=False, disable_tqdm=True, learning_rate=0.1,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    trainer.train()
    return trainer


@pytest.mark.parametrize("around", [True, False])
def test_what_the_plain_trainer_saved_is_loaded(tmp_path: Path, around: bool) -> None:
    module = Around([LoraConfig(r=2, lora_alpha=6), gm.VPT(prompts=3)])
    trainer = trained(module if around else module.model, tmp_path)
    trainer.save_model(str(tmp_path / "saved"))
    images = VIT.inputs()["pixel_values"]
    expected = module.model.eval()(pixel_values=images).logits
    for folder in ("saved", "checkpoint-2"):
        again = gm.load(tmp_path / folder, VIT.model())
        assert [m.name for m in again.applied] == ["peft", "vpt"]
        assert torch.equal(again(pixel_values=images).logits, expected)
    again.save_pretrained(tmp_path / "ours")
    assert torch.equal(gm.load(tmp_path / "ours", VIT.model())(pixel_values=images).logits, expected)


def test_a_trainers_folder_that_is_not_of_one_adapter_is_refused(tmp_path: Path) -> None:
    model = Around(gm.VPT(prompts=3)).model
    state = {k: v.clone() for k, v in model.state_dict().items()}
    bad: dict[str, tuple[dict[str, Tensor], str]] = {
        "none": ({k: v for k, v in state.items() if k != "_extra_state"}, "holds no adapters"),
        "two": (
            {f"{side}.{k}": v.clone() for side in "ab" for k, v in state.items()},
            "holds 2 adapters: a._extra_state",
        ),
        "no bytes": (state | {"_extra_state": torch.full((3,), 1.5)}, "expected bytes of JSON"),
        "no json": (state | {"_extra_state": torch.ones(3, dtype=torch.uint8)}, "is not valid JSON"),
        "shape": (state | {"head.bias": torch.ones(5)}, r"shape \(5,\)"),
    }
    for name, (tensors, said) in bad.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        assert load_file(tmp_path / name / "model.safetensors").keys() == tensors.keys()
        with pytest.raises(gm.AdapterError, match=said):
            gm.load(tmp_path / name, copy.deepcopy(VIT.model()))
