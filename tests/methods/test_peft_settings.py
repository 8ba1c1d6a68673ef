"""What of peft's settings a folder may hold: plain ones; patterns become names; whatever would touch the backbone is refused."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import IA3Config, LoraConfig
from peft.utils.peft_types import PeftType

import gossamer as gm
from gossamer import methods, storage
from gossamer.errors import UserError
from gossamer.methods.parts import peft_settings as settings

from ..contract.table import BACKBONES, disturb, run

pytestmark = pytest.mark.usefixtures("uncounted")

VIT = BACKBONES["vit"]
BOMB = "(([a-z_0-9.])+)+!"
NEEDED: dict[str, dict[str, Any]] = {  # what a tuner needs at these sizes
    "ADALORA": {"total_step": 9},
    "C3A": {"block_size": 2},
    "FOURIERFT": {"n_frequency": 5},
    "LN_TUNING": {"target_modules": ["layernorm_before"]},
    "MISS": {"r": 2},
    "OFT": {"r": 0, "oft_block_size": 2},
    "ROAD": {"group_size": 2},
    "TRAINABLE_TOKENS": {"token_indices": [3, 7]},
    "VBLORA": {"r": 2, "num_vectors": 5, "vector_length": 2, "topk": 2},
    "WAVEFT": {"n_frequency": 5},
}


def edited(folder: Path, **changes: Any) -> None:
    """Changes the settings of the peft method in a folder."""
    config = json.loads((folder / storage.CONFIG).read_text())
    next(m for m in config["methods"] if m["method"] == "peft").update(changes)
    (folder / storage.CONFIG).write_text(json.dumps(config))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings") / "adapter"
    disturb(gm.adapt(VIT.model(), [gm.CVPT(prompts=3), LoraConfig(r=2)]).eval()).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(written: Path, tmp_path: Path) -> Path:
    """A folder to spoil."""
    return shutil.copytree(written, tmp_path / "adapter")


QUICK = (
    "ADALORA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LORA",
    "OFT",
    "TRAINABLE_TOKENS",
    "VBLORA",
)  # one of each way to be placed


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in sorted(settings.TUNERS)]
)
@pytest.mark.filterwarnings("ignore:Unsupported layer type")
def test_every_tuner_comes_back_and_leaves_the_backbone_as_it_was(kind: str, tmp_path: Path) -> None:
    row = BACKBONES["bert" if kind == "TRAINABLE_TOKENS" else "vit"]
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](**NEEDED.get(kind, {}))
    model, fresh = row.model(), row.model()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    adapted = disturb(gm.adapt(model, config).eval())
    adapted.save_pretrained(tmp_path / "adapter")
    again = gm.load(tmp_path / "adapter", fresh)
    assert torch.equal(run(again, row.inputs()), run(adapted, row.inputs()))
    for one in (adapted, again):
        found = one.detach().state_dict()
        assert found.keys() == before.keys()
        assert all(torch.equal(found[n], t) for n, t in before.items())


@pytest.mark.parametrize("kind", ["BOFT", "OSF", "XLORA", "FROD", "SHIRA"])
@pytest.mark.filterwarnings("ignore:No value was provided for")
def test_tuners_that_no_folder_can_hold_are_refused_by_adapt_and_by_load(kind: str, saved: Path) -> None:
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]()
    with pytest.raises(UserError, match=f"peft's {kind} changes the backbone's own weights, or makes tensors"):
        gm.adapt(VIT.model(), config)
    edited(saved, peft_type=kind)
    with pytest.raises(gm.AdapterError, match=f"peft_type is '{kind}'; a folder may ask for ADALORA"):
        gm.load(saved, VIT.model())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"megatron_config": {"a": 1}, "megatron_core": "planted"},
            "has no setting 'megatron_config' that a folder may hold",
        ),
        ({"kasa_config": {}}, "has no setting 'kasa_config'"),
        ({"use_bdlora": {"a": 1}}, "has no setting 'use_bdlora'"),
        ({"auto_mapping": {"parent_library": "os"}}, "has no setting 'auto_mapping'"),
        ({"target_parameters": ["cls_token"]}, "has no setting 'target_parameters'"),
        ({"layer_replication": [[0, 2]]}, "has no setting 'layer_replication'"),
        ({"init_lora_weights": "pissa"}, "subtracts LoRA's start"),
        ({"target_modules": BOMB}, "target_modules must be a list of names of modules or roles, no pattern"),
        ({"target_modules": ".*"}, "target_modules must be a list of names"),
        ({"target_modules": [BOMB]}, "target_modules must be a list of names"),
        ({"exclude_modules": BOMB}, "exclude_modules must be a list of names"),
        ({"modules_to_save": [BOMB]}, "modules_to_save must be a list of names"),
        ({"layers_to_transform": [0], "layers_pattern": [BOMB]}, "layers_pattern must be a list of names"),
        ({"rank_pattern": {BOMB: 3}}, "rank_pattern must go by names of modules, no patterns"),
        ({"alpha_pattern": {BOMB: 3}}, "alpha_pattern must go by names of modules, no patterns"),
        ({"trainable_token_indices": {BOMB: [3]}}, "trainable_token_indices must go by names"),
        ({"lora_alpha": {"a": {"b": 1}}}, "lora_alpha must be a number, a word or a list of them"),
        (
            {"target_modules": [f"m{i}" for i in range(5000)]},
            "target_modules of this LoraConfig has 5,000 entries, and the model",
        ),
        ({"rank_pattern": {f"m{i}": 1 for i in range(5000)}}, "rank_pattern of this LoraConfig has 5,000 entries"),
        ({"r": 2_000_000}, r"lora_A.weight' has shape \(2, 12\), expected \(2000000, 12\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_a_folder_may_not_hold(changes: dict[str, Any], message: str, saved: Path) -> None:
    edited(saved, **changes)
    model = VIT.model()
    before, began = {n: t.clone() for n, t in model.state_dict().items()}, time.process_time()
    with pytest.raises(gm.AdapterError, match=message):
        gm.load(saved, model)
    assert time.process_time() - began < 2
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("setting", ["kasa_config", "use_bdlora", "megatron_config"])
def test_settings_that_cannot_be_kept_are_refused_when_adapting(setting: str) -> None:
    config = LoraConfig(r=2)
    setattr(config, setting, {"a": 1})
    with pytest.raises(UserError, match=f"LoraConfig with {setting} cannot be kept in an adapter's folder"):
        gm.adapt(VIT.model(), config)


PATTERNS: list[tuple[str, Any, set[str]]] = [
    (
        "vit",
        LoraConfig(r=2, target_modules=r".*layers\.[12]\..*q_proj"),
        {f"vit.layers.{i}.attention.q_proj" for i in (1, 2)},
    ),
    (
        "vit",
        LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[0, 2], layers_pattern="layers"),
        {f"vit.layers.{i}.attention.q_proj" for i in (0, 2)},
    ),
    (
        "vit",
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"], exclude_modules=r".*layers\.0\..*|.*v_proj"),
        {f"vit.layers.{i}.attention.q_proj" for i in (1, 2)},
    ),
    ("timm", LoraConfig(r=2, target_modules="all-linear"), set()),
    (
        "vit",
        IA3Config(target_modules=r".*layers\.0\.mlp\.fc\d", feedforward_modules=r".*fc2"),
        {f"vit.layers.0.mlp.fc{i}" for i in (1, 2)},
    ),
]


@pytest.mark.parametrize(("row", "config", "names"), PATTERNS, ids=range(len(PATTERNS)))
def test_patterns_are_written_out_and_mean_the_same_again(
    row: str, config: Any, names: set[str], tmp_path: Path
) -> None:
    backbone = BACKBONES[row]
    adapted = disturb(gm.adapt(backbone.model(), config).eval())
    adapted.save_pretrained(tmp_path / "adapter")
    [told] = json.loads((tmp_path / "adapter" / storage.CONFIG).read_text())["methods"]
    assert isinstance(told["target_modules"], list)
    assert set(told["target_modules"]) == names or not names
    assert not told.get("layers_pattern")
    assert not told.get("exclude_modules")
    again = gm.load(tmp_path / "adapter", backbone.model())
    assert torch.equal(run(again, backbone.inputs()), run(adapted, backbone.inputs()))
    assert again.applied == adapted.applied


def test_ranks_by_a_pattern_are_written_out_by_name(tmp_path: Path) -> None:
    config = LoraConfig(
        r=2,
        target_modules=["q_proj", "v_proj"],
        rank_pattern={r"layers\.[01]\..*q_proj": 5},
        alpha_pattern={"v_proj": 7},
    )
    adapted = disturb(gm.adapt(VIT.model(), config).eval())
    ranks = {n.split(".lora_A")[0]: t.shape[0] for n, t in adapted.state_dict().items() if "lora_A" in n}
    assert ranks == {
        f"peft.vision.blocks.{i}.{role}": 5 if role == "q" and i < 2 else 2 for i in range(3) for role in "qv"
    }
    adapted.save_pretrained(tmp_path / "adapter")
    [told] = json.loads((tmp_path / "adapter" / storage.CONFIG).read_text())["methods"]
    assert told["rank_pattern"] == {f"vit.layers.{i}.attention.q_proj": 5 for i in (0, 1)}
    assert told["alpha_pattern"] == {"v_proj": 7}
    assert torch.equal(run(gm.load(tmp_path / "adapter", VIT.model()), VIT.inputs()), run(adapted, VIT.inputs()))


def test_a_run_file_may_use_patterns_which_are_the_user_s_own() -> None:
    method = methods.from_dict({"method": "peft", "peft_type": "LORA", "r": 2, "target_modules": r".*\.q_proj"})
    assert isinstance(gm.adapt(VIT.model(), method).applied[0].config.target_modules, set)  # type: ignore[attr-defined]
