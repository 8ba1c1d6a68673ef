"""Our methods inside peft: the same functions as by `gm.adapt`, through everything that peft's users call."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

import gossamer as gm
import gossamer.peft as door
from gossamer.errors import AdapterError, UserError

pytestmark = pytest.mark.filterwarnings("ignore:Adapter .* was active which is now deleted")

SIZES: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "initializer_range": 0.3}
PICTURES: dict[str, Any] = {**SIZES, "image_size": 12, "patch_size": 4, "num_labels": 5}
WORDS: dict[str, Any] = {**SIZES, "intermediate_size": 20, "vocab_size": 50, "pad_token_id": 0, "num_labels": 5}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: tf.ViTForImageClassification(tf.ViTConfig(**PICTURES, intermediate_size=20)),
    "dinov2": lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**PICTURES, mlp_ratio=2, layerscale_value=0.7)),
    "bert": lambda: tf.BertForSequenceClassification(tf.BertConfig(**WORDS)),
    "llama": lambda: tf.LlamaForCausalLM(
        tf.LlamaConfig(**WORDS, num_key_value_heads=1, bos_token_id=1, eos_token_id=2)
    ),
}
HEADS = {"vit": ["classifier"], "dinov2": ["classifier"], "bert": ["classifier"], "llama": None}
METHODS: dict[str, dict[str, Any]] = {
    "VPT": {"prompts": 3}, "CVPT": {"prompts": 3}, "DAS": {"skip": (1,), "rank": 4}, "APT": {}, "SPT": {"prompts": 3},
    "Adapter": {"rank": 3, "placement": "houlsby"}, "SSF": {},
}  # fmt: skip
ALL = [(kind, name) for kind in MODELS for name in METHODS]
QUICK = [("vit", "VPT"), ("vit", "DAS"), ("dinov2", "SPT"), ("bert", "CVPT"), ("llama", "VPT"), ("bert", "SSF")]


class Batch(Dataset[dict[str, Tensor]]):
    """A data set of the samples of one batch."""

    def __init__(self, inputs: dict[str, Tensor]):
        self.inputs = inputs

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: value[i] for name, value in self.inputs.items()}


def inputs_of(kind: str, samples: int = 3) -> dict[str, Tensor]:
    if kind in ("vit", "dinov2"):
        return {"pixel_values": torch.randn(samples, 3, 12, 12)}
    return {"input_ids": torch.randint(3, 50, (samples, 7))}


def configured(name: str, kind: str, **more: Any) -> door.MethodConfig:
    head = HEADS[kind]
    return door.CONFIGURATIONS[f"{name}Config"](
        **METHODS[name], modules_to_save=None if head is None else list(head), **more
    )


def placed(kind: str, name: str = "VPT", **more: Any) -> tuple[Any, nn.Module, dict[str, Tensor]]:
    """A model of peft's whose adapter is at random values, the bare backbone, and inputs."""
    bare, inputs = MODELS[kind]().eval(), inputs_of(kind)
    model = peft.get_peft_model(copy.deepcopy(bare), configured(name, kind, **more))  # type: ignore[arg-type]
    door.prepare(model, Batch(inputs))  # type: ignore[arg-type]
    return scattered(model), bare, inputs


def scattered(model: Any) -> Any:
    """The same, with whatever is trained at random values."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def tree(model: Any, name: str = "default") -> nn.Module:
    return model.base_model.layer.trees[name]


@torch.no_grad()
def answer(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs).logits


@pytest.mark.parametrize(
    ("kind", "name"), [row if row in QUICK else pytest.param(*row, marks=pytest.mark.slow) for row in ALL]
)
def test_is_the_same_function_as_by_adapt_and_comes_back_from_a_folder(kind: str, name: str, tmp_path: Path) -> None:
    model, bare, inputs = placed(kind, name)
    adapted = gm.adapt(copy.deepcopy(bare), getattr(gm, name)(**METHODS[name]), head=HEADS[kind] or ())
    adapted.methods.load_state_dict(tree(model).state_dict())
    if HEADS[kind]:
        trained = model.base_model.model.classifier.modules_to_save["default"]
        adapted.backbone.get_submodule("classifier").load_state_dict(trained.state_dict())
    expected, plain = answer(adapted.eval(), inputs), answer(bare, inputs)
    assert torch.allclose(answer(model, inputs), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(expected, plain, atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(answer(model, inputs), plain)
    assert torch.equal(answer(model, inputs), answer(model, inputs))
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(bare), tmp_path)
    assert torch.equal(answer(again, inputs), answer(model, inputs))
    finished = again.merge_and_unload()
    assert type(finished) is type(bare)
    assert torch.allclose(answer(finished, inputs), expected, atol=1e-5)


def test_adapters_by_name_each_with_its_head_and_no_parameter_made_anew(tmp_path: Path) -> None:
    model, _, inputs = placed("vit")
    first, own = answer(model, inputs), {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    model.save_pretrained(tmp_path)
    model.add_adapter("other", configured("VPT", "vit"))
    assert torch.equal(answer(model, inputs), first)
    assert {name: id(p) for name, p in model.named_parameters() if p.requires_grad} == own
    model.set_adapter("other")
    second = answer(scattered(model), inputs)
    model.load_adapter(tmp_path, "again")
    assert torch.equal(answer(model, inputs), second)
    model.set_adapter("again")
    assert torch.equal(answer(model, inputs), first)
    assert not torch.allclose(first, second, atol=1e-3)
    status = model.get_model_status()
    assert (status.available_adapters, status.active_adapters) == (["again", "default", "other"], ["again"])
    assert status.requires_grad == {"again": True, "default": False, "other": False}
    model.delete_adapter("again")
    assert torch.equal(answer(model, inputs), first)
    assert {name: id(p) for name, p in model.named_parameters() if p.requires_grad} == own
    twin = copy.deepcopy(model)
    scattered(twin)
    assert torch.equal(answer(model, inputs), first)
    assert not torch.equal(answer(twin, inputs), first)
    assert torch.equal(answer(model.merge_and_unload(adapter_names=["other"]), inputs), second)


def test_unload_gives_the_backbone_back() -> None:
    model, bare, _ = placed("dinov2", "DAS")
    model.add_adapter("other", configured("DAS", "dinov2"))
    plain = model.unload()
    assert {n: t.shape for n, t in plain.state_dict().items()} == {n: t.shape for n, t in bare.state_dict().items()}
    gm.adapt(plain, gm.VPT(prompts=2))


@pytest.mark.slow
def test_a_trainer_trains_saves_and_continues(tmp_path: Path) -> None:
    model, bare, inputs = placed("vit", "CVPT")
    start = {name: t.clone() for name, t in model.state_dict().items()}
    data = Batch({**inputs, "labels": torch.tensor([0, 4, 2])})
    told: dict[str, Any] = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 2, "save_steps": 2, "report_to": "none", "use_cpu": True,
        "learning_rate": 0.1, "disable_tqdm": True,
    }  # fmt: skip
    tf.Trainer(model, tf.TrainingArguments(**told, max_steps=2), train_dataset=data).train()
    moved = {name for name, t in model.state_dict().items() if not torch.equal(t, start[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved == trained
    again = peft.PeftModel.from_pretrained(copy.deepcopy(bare), tmp_path / "checkpoint-2", is_trainable=True)
    assert torch.equal(answer(again.eval(), inputs), answer(model.eval(), inputs))
    trainer = tf.Trainer(again, tf.TrainingArguments(**told, max_steps=3), train_dataset=data)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 3


def test_generation_is_that_of_adapt() -> None:
    """With its key/value cache, in peft's class for the task."""
    model, bare, inputs = placed("llama", task_type="CAUSAL_LM")
    assert isinstance(model, peft.PeftModelForCausalLM)
    adapted = gm.adapt(copy.deepcopy(bare), gm.VPT(**METHODS["VPT"]), head=())
    adapted.methods.load_state_dict(tree(model).state_dict())
    told: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "min_new_tokens": 5, "pad_token_id": 0}
    found, expected, plain = (one.eval().generate(**inputs, **told) for one in (model, adapted, bare))
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_checkpointing_keeps_gradients() -> None:
    model, _, inputs = placed("dinov2")
    found = []
    for times in range(2):
        if times:
            model.gradient_checkpointing_enable()
        model.train()
        model.zero_grad()
        model(**inputs, labels=torch.tensor([0, 4, 2])).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.allclose(found[0][name], gradient, atol=1e-6) for name, gradient in found[1].items())
    with pytest.raises(UserError, match="use_reentrant"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_a_task_type_and_a_model_of_timm(tmp_path: Path) -> None:
    bare, inputs = MODELS["bert"]().eval(), inputs_of("bert")
    model: Any = peft.get_peft_model(copy.deepcopy(bare), door.VPTConfig(prompts=2, task_type="SEQ_CLS"))
    scattered(model).save_pretrained(tmp_path / "words")
    again = peft.PeftModel.from_pretrained(bare, tmp_path / "words")
    assert torch.equal(answer(again, inputs), answer(model, inputs))
    bare = timm.create_model(
        "vit_tiny_patch16_224", img_size=12, patch_size=4, embed_dim=12, depth=2, num_heads=2, num_classes=3
    )
    model = peft.get_peft_model(copy.deepcopy(bare), door.AdapterConfig(rank=2, modules_to_save=["head"]))
    images = torch.randn(3, 3, 12, 12)
    scattered(model).save_pretrained(tmp_path / "pictures")
    again = peft.PeftModel.from_pretrained(bare, tmp_path / "pictures")
    assert torch.equal(again(images), model(images))


def test_half_precision_and_empty_adapters(tmp_path: Path) -> None:
    model, bare, inputs = placed("vit")
    model.save_pretrained(tmp_path)
    empty = peft.PeftModel.from_pretrained(copy.deepcopy(bare), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(answer(empty, inputs), answer(model, inputs))
    low = {name: value.bfloat16() for name, value in inputs.items()}
    half = peft.PeftModel.from_pretrained(copy.deepcopy(bare).bfloat16(), tmp_path)
    assert torch.allclose(answer(half, low).float(), answer(model, inputs), atol=0.1)


def test_a_configuration_is_plain_json_and_is_checked(tmp_path: Path) -> None:
    config = door.DASConfig(skip=(0, 2), rank=3, form="bottleneck", modules_to_save=["classifier"])
    config.save_pretrained(str(tmp_path))
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (told["peft_type"], told["skip"], told["form"]) == ("GOSSAMER_DAS", [0, 2], "bottleneck")
    again = peft.PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(again, door.DASConfig)
    assert again.method() == gm.DAS(skip=(0, 2), rank=3, form="bottleneck")
    with pytest.raises(UserError, match=r"vpt.prompts must be int .*, got 'many'"):
        door.VPTConfig(prompts="many")
    with pytest.raises(TypeError, match="promts"):
        door.VPTConfig(promts=3)


def test_what_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    model, bare, inputs = placed("vit")
    model.add_adapter("other", configured("VPT", "vit"))
    with pytest.raises(UserError, match="one adapter of ours stands in a backbone at a time, and default, other"):
        model.base_model.set_adapter(["default", "other"])
    with pytest.raises(UserError, match=r"merge_and_unload\(\) gives the model"):
        model.merge_adapter()
    with pytest.raises(UserError, match="peft has put layers into this model"):
        gm.adapt(model.base_model.model, gm.VPT())
    with pytest.raises(UserError, match="what methods of ours compute is not linear in their tensors"):
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "both")  # type: ignore[operator]
    with pytest.raises(UserError, match=r"so all rows are answered by it; gossamer\.Mixed answers each row"):
        model(**inputs, adapter_names=["default", "other"])
    with pytest.raises(UserError, match=r"adapted by gossamer\.adapt already: detach\(\) that"):
        peft.get_peft_model(gm.adapt(copy.deepcopy(bare), gm.VPT(prompts=2)), configured("VPT", "vit"))
    left = copy.deepcopy(bare)
    with pytest.raises(UserError, match=r"modules_to_save names clasifier, and no module .* its head is classifier"):
        peft.get_peft_model(left, door.VPTConfig(prompts=2, modules_to_save=["clasifier"]))
    assert [n for n, _ in left.named_modules()] == [n for n, _ in bare.named_modules()]
    with pytest.raises(ValueError, match="one adapter can be folded into a backbone, not 2"):
        model.merge_and_unload(adapter_names=["default", "other"])
    with pytest.raises(ValueError, match="not compatible with the `PeftMixedModel`"):
        peft.get_peft_model(copy.deepcopy(bare), configured("VPT", "vit"), mixed=True)
    with pytest.raises(ValueError, match="Please use `get_peft_model`"):
        peft.inject_adapter_in_model(configured("VPT", "vit"), copy.deepcopy(bare))
    with pytest.raises(UserError, match="no adapter of ours in place"):
        door.prepare(
            peft.get_peft_model(copy.deepcopy(bare), peft.LoraConfig(target_modules=["q_proj"])), Batch(inputs)
        )  # type: ignore[arg-type]


def test_own_weights_of_a_backbone_are_refused_and_stay() -> None:
    seeing = gm.VisionLanguage(tf.ViTModel(tf.ViTConfig(**PICTURES, intermediate_size=20)), MODELS["llama"]())
    before = {name: t.clone() for name, t in seeing.state_dict().items()}
    with pytest.raises(UserError, match="dvp trains weights of the backbone's own"):
        peft.get_peft_model(seeing, door.DVPConfig(block=1, heads=3, train="language"))
    assert all(torch.equal(t, before[name]) for name, t in seeing.state_dict().items())


@pytest.mark.parametrize(
    ("change", "says"), [("missing", "missing"), ("shape", "has shape"), ("nan", "not finite|NaN")]
)
def test_tensors_that_do_not_fit_are_refused(change: str, says: str, tmp_path: Path) -> None:
    model, bare, _ = placed("vit")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(n for n in tensors if n.endswith("blocks.1.prompts"))
    if change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = tensors[name][1:]
    else:
        tensors[name][0, 0] = torch.nan
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=says):
        peft.PeftModel.from_pretrained(bare, tmp_path)


@pytest.mark.slow
def test_only_importing_the_door_opens_it() -> None:
    says = (
        "import sys, gossamer; gossamer.VPT; import peft; "
        "print('GOSSAMER_VPT' in peft.PEFT_TYPE_TO_CONFIG_MAPPING, 'gossamer.peft' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_method_has_a_configuration_or_is_left_out_by_its_name() -> None:
    assert gm.methods.base.METHODS.keys() >= door.LEFT_OUT
    assert len(door.CONFIGURATIONS) == len(gm.methods.base.METHODS) - len(door.LEFT_OUT)
