"""Adapters saved and loaded: what comes back, and every refusal with what it says."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import transformers as tf
from peft import IA3Config, LoraConfig
from torch import nn

import gossamer as gm
from gossamer import methods, storage
from gossamer.storage import CARD, CONFIG, TENSORS

from .contract.backbones import VISION
from .contract.table import BACKBONES, disturb, run

VIT = BACKBONES["vit"]
CONFIGS: list[Any] = [
    gm.VPT(), gm.VPT(prompts=3, project=7, dropout=0.1, form="sequence", blocks=(0, 2), stack="vision"),
    gm.VPT(prompts=4, deep=False, blocks=(1,)), gm.LinearProbe(), gm.FullFineTuning(), gm.BitFit(), gm.Adapter(),
    gm.Adapter(rank=3, placement="parallel", scale=0.1, activation="gelu", dropout=0.2, norm=True, blocks=(1,)),
]  # fmt: skip


# ---- settings as JSON ----


@pytest.mark.parametrize("method", CONFIGS, ids=repr)
def test_settings_survive_json(method: Any) -> None:
    values = methods.to_dict(method)
    assert values["method"] == method.name
    again = methods.from_dict(json.loads(json.dumps(values)))
    assert again == method
    assert type(again) is type(method)
    assert methods.to_dict(again) == values


def test_every_known_method_has_defaults_that_survive_json() -> None:
    for name, kind in gm.METHODS.items():
        needed: dict[str, dict[str, Any]] = {"classifier_token": {"token": 101}, "unfreeze": {"modules": ("pooler",)}}
        given = needed.get(name, {})  # what has no default, because every model has another
        assert methods.from_dict({"method": name, **given}) == kind(**given)
        assert methods.from_dict(json.loads(json.dumps(methods.to_dict(kind(**given))))) == kind(**given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "vtp"}, r"no method 'vtp'; there are adapter, .*, peft \(did you mean 'vpt'\?\)"),
        ({}, "no method None; there are adapter"),
        ({"method": ["vpt"]}, r"no method \['vpt'\]"),
        (
            {"method": "vpt", "prompt": 3},
            r"vpt has no setting 'prompt'; it has prompts, deep, .* \(did you mean 'prompts'\?\)",
        ),
        ({"method": "bitfit", "rank": 3}, "bitfit has no setting 'rank'; it has none"),
        ({"method": "vpt", "prompts": "3"}, r"vpt.prompts must be int \| tuple\[int, ...\], got '3'"),
        ({"method": "vpt", "prompts": 3.5}, r"vpt.prompts must be int \| tuple\[int, ...\], got 3.5"),
        ({"method": "vpt", "prompts": True}, r"vpt.prompts must be int \| tuple\[int, ...\], got True"),
        ({"method": "vpt", "prompts": None}, r"vpt.prompts must be int \| tuple\[int, ...\], got None"),
        ({"method": "vpt", "deep": 1}, "vpt.deep must be bool, got 1"),
        ({"method": "vpt", "dropout": "0.1"}, "vpt.dropout must be float"),
        ({"method": "vpt", "form": "fast"}, "vpt.form must be .*exact.*, got 'fast'"),
        ({"method": "vpt", "blocks": 3}, r"vpt.blocks must be tuple\[int, ...\] \| None, got 3"),
        ({"method": "vpt", "blocks": [0, 1.0]}, "vpt.blocks must be"),
        ({"method": "vpt", "stack": 0}, r"vpt.stack must be str \| tuple\[str, ...\] \| None, got 0"),
        ({"method": "adapter", "rank": -1}, "rank must be at least 1, got -1"),
        ({"method": "adapter", "placement": ["ffn"]}, "adapter.placement must be"),
    ],
)
def test_settings_that_are_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.from_dict(values)


def test_numbers_without_a_point_are_rates_too() -> None:
    assert methods.from_dict({"method": "adapter", "scale": 4}) == gm.Adapter(scale=4)


# ---- there and back ----


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved adapter: VPT on the table's ViT, trained as far as chance does."""
    torch.default_generator.manual_seed(3)
    adapted = disturb(gm.adapt(VIT.model(), gm.VPT(prompts=5)).eval())
    adapted.metadata |= {"labels": ["cat", "dog", "owl"], "task": "animals", "results": {"accuracy": 0.75}}
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in original.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes adapter_config.json as someone with an editor would."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def put(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Changes the tensors, and the digest with them, as someone with bad intentions would."""
    tensors = safetensors.torch.load_file(folder / TENSORS)
    change(tensors)
    data = safetensors.torch.save(tensors)
    (folder / TENSORS).write_bytes(data)
    record = {"file": TENSORS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(folder, lambda config: config.update(tensors=record))


def refused(folder: Path, message: str, backbone: nn.Module | None = None) -> None:
    """Loading says so, and the backbone is as it was and can be used."""
    model = VIT.model() if backbone is None else backbone
    before, structure = {k: v.clone() for k, v in model.state_dict().items()}, repr(model)
    with pytest.raises(gm.AdapterError, match=message):
        gm.load(folder, model)
    assert repr(model) == structure
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_what_was_saved_comes_back(original: Path) -> None:
    adapted = gm.load(original, VIT.model())
    assert not adapted.training
    assert adapted.applied == (gm.VPT(prompts=5),)
    assert adapted.metadata == {"labels": ["cat", "dog", "owl"], "task": "animals", "results": {"accuracy": 0.75}}
    config, tensors = storage.read(original)
    assert {k: v.shape for k, v in adapted.tensors().items()} == {k: v.shape for k, v in tensors.items()}
    assert all(torch.equal(tensors[k], v) for k, v in adapted.tensors().items())
    assert config["backbone"]["class"] == "ViTForImageClassification"
    assert config["stacks"] == {"vision": {"blocks": 3, "width": 12}}
    assert config["head"] == {"outputs": 3, "built": False, "trained": True, "modules": None}
    assert set(config["versions"]) == {"torch", "transformers", "peft", "timm"}


def test_saving_what_was_loaded_gives_the_same_files(original: Path, tmp_path: Path) -> None:
    gm.load(original, VIT.model()).save_pretrained(tmp_path / "again")
    for name in (CONFIG, TENSORS, CARD):
        assert (tmp_path / "again" / name).read_bytes() == (original / name).read_bytes()


def test_the_card_says_what_it_is(original: Path) -> None:
    card = (original / CARD).read_text()
    for words in (
        "# ViTForImageClassification, adapted by vpt",
        "Task: animals.",
        "Labels: cat, dog, owl.",
        "- prompts: 5",
        "- accuracy: 0.75",
        "## Cost",
    ):
        assert words in card
    assert "base_model" not in card  # nobody knows where the weights came from


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("row", ["vit", "vit-bare", "timm-bare", "deit-distilled", "llama"])
def test_heads_come_back_trained_or_not(row: str, trained: bool, tmp_path: Path) -> None:
    backbone = BACKBONES[row]
    labels = None if backbone.headless else 5
    adapted = disturb(gm.adapt(backbone.model(), gm.VPT(prompts=2), num_labels=labels, train_head=trained).eval())
    adapted.save_pretrained(tmp_path / "adapter")
    again = gm.load(tmp_path / "adapter", backbone.model())
    assert torch.equal(run(again, backbone.inputs()), run(adapted, backbone.inputs()))
    assert list(again.trainable()) == list(adapted.trainable())


def test_a_head_that_was_kept_comes_back_on_a_model_with_another(original: Path) -> None:
    """The head is part of the adapter: loading does not depend on the one that the backbone brings."""
    torch.default_generator.manual_seed(1)
    model = tf.ViTForImageClassification(tf.ViTConfig(**VISION, num_labels=9))
    model.vit.load_state_dict(VIT.model().vit.state_dict())
    expected = gm.load(original, VIT.model())
    assert torch.equal(run(gm.load(original, model), VIT.inputs()), run(expected, VIT.inputs()))


def test_an_adapted_model_may_be_given_for_its_backbone(original: Path) -> None:
    first = gm.load(original, VIT.model())
    second = gm.load(original, first)
    assert second.backbone is first.backbone
    assert second.attached
    assert not first.attached
    expected = run(second, VIT.inputs())
    assert torch.equal(run(first.attach().eval(), VIT.inputs()), expected)


def test_half_precision_adapters_come_back_bit_for_bit(tmp_path: Path) -> None:
    model = VIT.model().to(torch.bfloat16)
    adapted = disturb(gm.adapt(copy.deepcopy(model), [gm.VPT(prompts=2), LoraConfig(r=2)]).eval())
    adapted.save_pretrained(tmp_path / "adapter")
    again = gm.load(tmp_path / "adapter", copy.deepcopy(model))
    inputs = {"pixel_values": VIT.inputs()["pixel_values"].to(torch.bfloat16)}
    assert torch.equal(run(again, inputs), run(adapted, inputs))
    assert [v.dtype for v in again.state_dict().values()] == [v.dtype for v in adapted.state_dict().values()]
    with pytest.raises(gm.AdapterError, match=r"trained on other weights .* in bfloat16"):
        gm.load(tmp_path / "adapter", VIT.model())


# ---- backbones by name ----


def published(folder: Path) -> Path:
    """A model in a folder, as the hub would give it."""
    VIT.model().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bare", [True, False])
def test_the_backbone_is_loaded_by_name(bare: bool, tmp_path: Path) -> None:
    name = published(tmp_path / "model")
    kind: Any = tf.ViTModel if bare else tf.ViTForImageClassification
    model = kind.from_pretrained(name)  # as ViTModel it gets a random pooler, each time another
    adapted = disturb(gm.adapt(model, gm.VPT(prompts=2), num_labels=4).eval())
    adapted.save_pretrained(tmp_path / "adapter")
    again = gm.load(tmp_path / "adapter")
    assert type(again.backbone) is kind
    assert torch.equal(run(again, VIT.inputs()), run(adapted, VIT.inputs()))
    assert "base_model" not in (tmp_path / "adapter" / CARD).read_text()  # a folder is none of the hub's repositories
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(run(gm.load(tmp_path / "again"), VIT.inputs()), run(adapted, VIT.inputs()))
    given = gm.load(tmp_path / "adapter", kind.from_pretrained(name))
    assert torch.equal(run(given, VIT.inputs()), run(adapted, VIT.inputs()))


def test_a_backbone_without_a_name_has_to_be_given(original: Path) -> None:
    with pytest.raises(
        gm.AdapterError, match=r"does not say where its ViTForImageClassification came from .*give backbone=\.\.\."
    ):
        gm.load(original)


def test_a_backbone_that_is_gone(saved: Path, tmp_path: Path) -> None:
    edit(saved, lambda config: config["backbone"].update(name=str(tmp_path / "gone")))
    with pytest.raises(gm.AdapterError, match=r"its backbone '.*gone' could not be loaded: .*give backbone=\.\.\."):
        gm.load(saved)


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    for missing in (tmp_path / "none", str(tmp_path / "none"), "./none/such", "none"):
        with pytest.raises(
            gm.AdapterError, match=r"no adapter at .*: it does not exist; give the folder that was saved to"
        ):
            gm.load(missing)

    def offline(repository: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        gm.AdapterError, match=r"there is no folder someone/solar, and the hub did not give .*: no connection"
    ):
        gm.load("someone/solar")
    monkeypatch.undo()
    with pytest.raises(gm.AdapterError, match="there is no folder my runs/solar, and the hub"):
        gm.load("my runs/solar")  # no name of a repository: the hub is not asked


def test_an_adapter_from_the_hub(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or str(original)
    )
    assert gm.load("someone/solar", VIT.model()).applied == (gm.VPT(prompts=5),)
    assert asked == [("someone/solar", {"allow_patterns": [CONFIG, TENSORS, CARD]})]


# ---- refusals ----


def _vit(**sizes: Any) -> tf.ViTForImageClassification:
    torch.default_generator.manual_seed(1)
    return tf.ViTForImageClassification(tf.ViTConfig(**{**VISION, **sizes}, num_labels=3)).eval()


BACKBONES_REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "another class": (
        lambda: BACKBONES["deit"].model(),
        "is for a ViTForImageClassification and the given backbone is a DeiTForImage",
    ),
    "no head": (lambda: BACKBONES["vit-bare"].model(), "the given backbone is a ViTModel"),
    "another library": (lambda: BACKBONES["timm"].model(), "the given backbone is a VisionTransformer"),
    "deeper": (
        lambda: _vit(num_hidden_layers=4),
        "with 3 vision blocks of width 12; the given one has 4 vision blocks of width 12",
    ),
    "shallower": (lambda: _vit(num_hidden_layers=2), "the given one has 2 vision blocks"),
    "wider": (lambda: _vit(hidden_size=16), "the given one has 3 vision blocks of width 16"),
    "other weights": (
        lambda: _vit(),
        r"trained on other weights than those of this ViTForImageClassification \(fingerprint [0-9a-f]{12}, found [0-9a-f]{12}\)",
    ),
    "other heads of attention": (
        lambda: _vit(num_attention_heads=3),
        "computes something else .*: num_attention_heads was 2 and is 3; load",
    ),
}


@pytest.mark.parametrize(("build", "message"), BACKBONES_REFUSED.values(), ids=list(BACKBONES_REFUSED))
def test_another_backbone(build: Callable[[], Any], message: str, original: Path) -> None:
    refused(original, message, build())


def test_a_single_changed_weight_is_seen_and_a_changed_head_is_not(original: Path) -> None:
    model = VIT.model()
    with torch.no_grad():
        model.classifier.weight.add_(1)
    gm.load(original, model).detach()
    with torch.no_grad():
        model.vit.layers[2].mlp.fc1.weight[3, 4] += 1e-3
    refused(original, "trained on other weights", model)


def test_something_that_is_no_model(original: Path) -> None:
    with pytest.raises(gm.AdapterError, match="the given backbone is a str"):
        gm.load(original, "google/vit")  # type: ignore[arg-type]


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for name in path[:-1]:
            config = config[int(name) if isinstance(config, list) else name]
        config[path[-1]] = value

    return change


def _drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for name in path[:-1]:
            config = config[int(name) if isinstance(config, list) else name]
        del config[path[-1]]

    return change


VPT_FIELDS = methods.to_dict(gm.VPT(prompts=5))
CONFIGS_REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown method": (
        _set("methods", value=[{"method": "vtp"}]),
        r"methods\[0\]: no method 'vtp'; there are adapter.*did you mean 'vpt'",
    ),
    "no methods": (_set("methods", value=[]), "methods: expected a list of methods with their settings"),
    "methods of another kind": (_set("methods", value=["vpt"]), "methods: expected a list of methods"),
    "unknown setting": (
        _set("methods", "0", "promts", value=5),
        r"methods\[0\]: vpt has no setting 'promts'.*did you mean 'prompts'",
    ),
    "missing setting": (_drop("methods", "0", "dropout"), r"methods\[0\]: missing field 'dropout'"),
    "setting of another type": (
        _set("methods", "0", "prompts", value="5"),
        r"methods\[0\]: vpt.prompts must be int \| tuple\[int, ...\], got '5'",
    ),
    "setting out of range": (
        _set("methods", "0", "dropout", value=1.5),
        r"methods\[0\]: vpt: dropout must be in \[0, 1\), got 1.5",
    ),
    "block that is not there": (
        _set("methods", "0", "blocks", value=[7]),
        "its methods do not fit ViTFor.*no block 7: the vision stack",
    ),
    "stack that is not there": (
        _set("methods", "0", "stack", value="text"),
        "its methods do not fit ViTFor.*no stack 'text'",
    ),
    "another number of prompts": (
        _set("methods", "0", "prompts", value=4),
        r"blocks\.0\.prompts' has shape \(5, 12\), expected \(4, 12\)",
    ),
    "another method": (
        _set("methods", value=[methods.to_dict(gm.BitFit())]),
        "missing 'bitfit.vision.blocks.0.down.bias'",
    ),
    "a second method": (_set("methods", value=[VPT_FIELDS, methods.to_dict(gm.BitFit())]), "missing 'bitfit"),
    "peft of no kind": (
        _set("methods", value=[{"method": "peft", "peft_type": "X"}]),
        r"methods\[0\]: peft_type is 'X'; a folder may ask for ADALORA, ",
    ),
    "peft unknown setting": (
        _set("methods", value=[{**methods.to_dict(methods.as_method(LoraConfig())), "rank": 3}]),
        r"methods\[0\]: .*'rank'",
    ),
    "peft absurd setting": (
        _set("methods", value=[{**methods.to_dict(methods.as_method(LoraConfig())), "r": "many"}]),
        "its methods do not fit",
    ),
    "unknown section": (_set("code", value="import os"), "adapter_config.json: unknown field 'code'"),
    "missing section": (_drop("head"), "adapter_config.json: missing field 'head'"),
    "section of another kind": (
        _set("metadata", value=["labels"]),
        r"adapter_config.json: metadata must be dict, found \['labels'\]",
    ),
    "stacks of another kind": (_set("stacks", value=3), "stacks must be dict, found 3"),
    "strange stacks": (
        _set("stacks", value={"vision": 3}),
        "is for a ViTFor.* with .*; the given one has 3 vision blocks",
    ),
    "unknown backbone field": (
        _set("backbone", "path", value="x"),
        "adapter_config.json, backbone: unknown field 'path'",
    ),
    "missing backbone field": (_drop("backbone", "fingerprint"), "backbone: missing field 'fingerprint'"),
    "fingerprint of another kind": (
        _set("backbone", "fingerprint", value=7),
        r"backbone: fingerprint must be str \| None, found 7",
    ),
    "class of another kind": (_set("backbone", "class", value=None), "backbone: class must be str, found None"),
    "another fingerprint": (
        _set("backbone", "fingerprint", value="0" * 64),
        r"trained on other weights .*fingerprint 000000000000",
    ),
    "options of another kind": (_set("backbone", "options", value=[1]), "backbone: options must be dict"),
    "options that run code": (
        _set("backbone", "options", "trust_remote_code", value=True),
        "computes something else .*: trust_remote_code was True and is the default; load",
    ),
    "outputs of another kind": (_set("head", "outputs", value="3"), r"head: outputs must be int \| None, found '3'"),
    "outputs as truth": (_set("head", "outputs", value=True), "head: outputs must be"),
    "no outputs": (_set("head", "outputs", value=0), "its methods do not fit .*num_labels must be at least 1, got 0"),
    "other outputs": (_set("head", "outputs", value=4), r"'head.weight' has shape \(3, 12\), expected \(4, 12\)"),
    "trained of another kind": (_set("head", "trained", value=1), "head: trained must be bool, found 1"),
    "huge prompts": (
        _set("methods", "0", "prompts", value=10**9),
        r"blocks\.0\.prompts' has shape \(5, 12\), expected \(1000000000, 12\)",
    ),
    "more prompts than can be counted": (
        _set("methods", "0", "prompts", value=10**12),
        r"methods\[0\]: vpt.prompts must be at most 2,147,483,647: nothing here counts further",
    ),
    "huge head": (
        _set("head", "outputs", value=10**12),
        "its head is said to have 1,000,000,000,000 outputs, and no tensor of it is longer than 12",
    ),
    "huge rank": (
        _set("methods", value=[methods.to_dict(gm.Adapter(rank=10**9))]),
        r"missing 'adapter\.vision\.blocks\.0\.ffn\.down\.bias', missing",
    ),
    "huge lora": (
        _set("methods", value=[methods.to_dict(methods.as_method(LoraConfig(r=10**12)))]),
        r"peft \(LORA\): r must be a number, a word or a list of them, found 1000000000000",
    ),
    "large lora": (
        _set("methods", value=[methods.to_dict(methods.as_method(LoraConfig(r=2_000_000)))]),
        r"missing 'peft\.vision\.blocks\.0\.q\.lora_A",
    ),
    "not json": (lambda config: config.update(cost={"a": float("nan")}), "JSON has finite numbers only"),
}


@pytest.mark.parametrize(("change", "message"), CONFIGS_REFUSED.values(), ids=list(CONFIGS_REFUSED))
def test_a_changed_configuration(change: Callable[[dict[str, Any]], Any], message: str, saved: Path) -> None:
    edit(saved, change)
    refused(saved, message)


TENSORS_REFUSED: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop("vpt.vision.blocks.1.prompts"), r"missing 'vpt\.vision\.blocks\.1\.prompts'"),
    "no head": (lambda t: [t.pop("head.weight"), t.pop("head.bias")], "missing 'head.bias', missing 'head.weight'"),
    "left over": (lambda t: t.update(extra=torch.zeros(2)), "not expected 'extra'"),
    "of a deeper model": (
        lambda t: t.update({"vpt.vision.blocks.3.prompts": torch.zeros(5, 12)}),
        r"not expected 'vpt\.vision\.blocks\.3",
    ),
    "of the backbone": (
        lambda t: t.update({"vit.layers.0.mlp.fc1.weight": torch.zeros(20, 12)}),
        "not expected 'vit.layers.0",
    ),
    "another shape": (
        lambda t: t.update({"head.weight": torch.zeros(12, 3)}),
        r"'head.weight' has shape \(12, 3\), expected \(3, 12\)",
    ),
    "another rank": (
        lambda t: t.update({"head.bias": torch.zeros(3, 1)}),
        r"'head.bias' has shape \(3, 1\), expected \(3,\)",
    ),
    "whole numbers": (
        lambda t: t.update({"head.bias": torch.zeros(3, dtype=torch.int64)}),
        "'head.bias' is torch.int64, expected torch.float32",
    ),
    "nan": (
        lambda t: t["head.bias"].fill_(float("nan")),
        "3 of the 3 values of tensor 'head.bias' are NaN or infinite",
    ),
    "infinite": (lambda t: t["vpt.vision.blocks.0.prompts"][2, 3].fill_(float("inf")), "1 of the 60 values of tensor"),
    "nothing": (lambda t: t.clear(), "missing 'head.bias', missing 'head.weight', missing 'vpt"),
}


@pytest.mark.parametrize(("change", "message"), TENSORS_REFUSED.values(), ids=list(TENSORS_REFUSED))
def test_changed_tensors(change: Callable[[dict[str, torch.Tensor]], Any], message: str, saved: Path) -> None:
    put(saved, change)
    refused(saved, message)


def test_every_message_names_the_folder(saved: Path) -> None:
    put(saved, lambda t: t.update(extra=torch.zeros(2)))
    refused(saved, f"^{saved}: the adapter's tensors")
    edit(saved, _set("methods", "0", "stack", value="text"))
    refused(saved, f"^{saved}: its methods do not fit")


def test_a_failed_load_leaves_the_adapter_that_was_there(original: Path, saved: Path) -> None:
    put(saved, lambda t: t.update(extra=torch.zeros(2)))
    first = disturb(gm.load(original, VIT.model()))
    expected = run(first, VIT.inputs())
    for change in (None, _set("methods", "0", "stack", value="text"), _set("stacks", value={})):
        if change is not None:
            edit(saved, change)
        with pytest.raises(gm.AdapterError):
            gm.load(saved, first.backbone)
        assert first.attached
        assert torch.equal(run(first.eval(), VIT.inputs()), expected)


def test_full_fine_tuning_over_another_adapter(tmp_path: Path) -> None:
    """What the other adapter placed is not counted as the backbone's."""
    model = VIT.model()
    disturb(gm.adapt(model, gm.FullFineTuning())).save_pretrained(tmp_path / "full")
    model = VIT.model()
    gm.adapt(model, [LoraConfig(r=4), gm.VPT(prompts=9)])
    gm.load(tmp_path / "full", model)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    adapted = gm.adapt(VIT.model(), IA3Config())
    adapted.metadata["scores"] = torch.zeros(2)
    with pytest.raises(gm.AdapterError, match=r"cannot save: the configuration, 'metadata', 'scores' is a Tensor"):
        adapted.save_pretrained(tmp_path / "adapter")
    adapted.metadata.clear()
    with torch.no_grad():
        adapted.head.bias[1] = float("nan")
    with pytest.raises(
        gm.AdapterError, match=r"1 of the 3 values of tensor 'head.bias' are NaN or infinite; has training diverged"
    ):
        adapted.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_timm_models_of_another_size_are_built_again(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3).eval()
    adapted = gm.adapt(model, gm.VPT(prompts=2))
    with pytest.warns(UserWarning, match="looks as if it had never been trained"):
        adapted.save_pretrained(tmp_path / "adapter")
    config, _ = storage.read(tmp_path / "adapter")
    assert config["backbone"]["options"] == {
        "img_size": [32, 32], "global_pool": "token", "fc_norm": False, "dynamic_img_size": False,
    }  # fmt: skip
    assert config["backbone"]["name"] is None or "/" in config["backbone"]["name"]
