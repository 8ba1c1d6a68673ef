"""What others ask of an adapted model: Trainer, accelerate, several adapters over one backbone, heads, copies, the hub."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import accelerate
import pytest
import safetensors.torch
import torch
import transformers as tf
from accelerate.hooks import CpuOffload, add_hook_to_module
from peft import LoraConfig
from torch import Tensor, nn

import gossamer as gm
from gossamer.adapted import occupant

from .contract.backbones import LABELS, TEXT, VISION
from .contract.table import BACKBONES, Backbone, disturb, rows, run

VIT = BACKBONES["vit"]
METHODS: dict[str, Any] = {
    "vpt": gm.VPT(prompts=3),
    "adapter": gm.Adapter(rank=2),
    "lora": LoraConfig(r=2),
    "bitfit": gm.BitFit(),
    "both": [gm.VPT(prompts=2, deep=False), LoraConfig(r=2)],
}


def adapted_model(row: str = "vit", method: str = "vpt", **options: Any) -> gm.Adapted:
    backbone = BACKBONES[row]
    torch.default_generator.manual_seed(3)
    if backbone.num_labels is not None:
        options.setdefault("num_labels", backbone.num_labels)
    return gm.adapt(backbone.model(), METHODS[method], **options)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[k], two[k]) for k in one)


# ---- Trainer ----


def images(count: int = 11) -> list[dict[str, Any]]:
    """Noise in which one colour is stronger: the class."""
    generator, found = torch.Generator().manual_seed(7), []
    for i in range(count):
        pixels = torch.randn(3, 16, 16, generator=generator)
        pixels[i % LABELS] += 2
        found.append({"pixel_values": pixels, "labels": i % LABELS})
    return found


def trainer(adapted: gm.Adapted, folder: Path, **options: Any) -> tf.Trainer:
    settings = {
        "per_device_train_batch_size": 3, "num_train_epochs": 2, "learning_rate": 0.05, "logging_strategy": "no",
        "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "seed": 5, "dataloader_num_workers": 0,
    }  # fmt: skip
    arguments = tf.TrainingArguments(output_dir=str(folder), **{**settings, **options})
    return tf.Trainer(adapted, arguments, train_dataset=images(), eval_dataset=images(5))  # type: ignore[arg-type]


@pytest.mark.parametrize("row", ["vit", "vit-bare", "timm", "timm-bare"])
def test_trainer_trains_what_is_trainable_and_leaves_the_rest(row: str, tmp_path: Path) -> None:
    adapted = adapted_model(row)
    frozen = {n: p.detach().clone() for n, p in adapted.backbone.named_parameters() if not p.requires_grad}
    before = weights(adapted)
    made = trainer(adapted, tmp_path, num_train_epochs=8)
    loss = made.evaluate()["eval_loss"]
    made.train()
    assert made.evaluate()["eval_loss"] < loss
    assert all(not torch.equal(before[n], p) for n, p in adapted.tensors().items())
    assert all(torch.equal(v, adapted.backbone.get_parameter(n)) for n, v in frozen.items())
    in_optimizer = {id(p) for group in made.optimizer.param_groups for p in group["params"]}  # type: ignore[union-attr]
    assert in_optimizer == {id(p) for p in adapted.trainable().values()}


def test_trainer_evaluates_and_predicts(tmp_path: Path) -> None:
    adapted = adapted_model().eval()
    made = trainer(adapted, tmp_path)
    predicted = made.predict(images(5))  # type: ignore[arg-type]
    expected = adapted(
        pixel_values=torch.stack([i["pixel_values"] for i in images(5)]), labels=torch.tensor([0, 1, 2, 0, 1])
    )
    torch.testing.assert_close(torch.tensor(predicted.predictions), expected.logits.detach())
    assert predicted.label_ids.tolist() == [0, 1, 2, 0, 1]  # type: ignore[union-attr]
    assert abs(made.evaluate()["eval_loss"] - float(expected.loss.detach())) < 1e-5


@pytest.mark.parametrize("method", list(METHODS))
def test_a_resumed_run_ends_with_the_same_weights(method: str, tmp_path: Path) -> None:
    """Dropout on, shuffled batches, a warm-up: everything that a checkpoint has to bring back."""

    class Killed(tf.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    def fresh() -> gm.Adapted:
        torch.default_generator.manual_seed(3)
        prompts = gm.VPT(prompts=3, dropout=0.3)
        return gm.adapt(VIT.model(), prompts if method == "vpt" else METHODS[method])

    options = {"save_strategy": "steps", "save_steps": 3, "warmup_steps": 2, "lr_scheduler_type": "cosine"}
    through = fresh()
    trainer(through, tmp_path / "through", **options).train()
    cut = trainer(fresh(), tmp_path / "cut", **options)
    cut.add_callback(Killed())
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    saved = safetensors.torch.load_file(tmp_path / "cut" / "checkpoint-3" / "model.safetensors")
    assert set(saved) == set(through.state_dict())  # nothing of the frozen backbone
    torch.default_generator.manual_seed(99)
    resumed = gm.adapt(VIT.model(), through.applied and [m.config if m.name == "peft" else m for m in through.applied])
    made = trainer(resumed, tmp_path / "cut", **options)
    made.train(resume_from_checkpoint=True)
    assert made.state.global_step == 8
    assert same(weights(through), weights(resumed))


def test_the_best_model_is_brought_back_at_the_end(tmp_path: Path) -> None:
    adapted = adapted_model()
    options: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    made = trainer(
        adapted, tmp_path, num_train_epochs=4, greater_is_better=True, **options
    )  # so the first epoch is best
    made.train()
    losses = [record["eval_loss"] for record in made.state.log_history if "eval_loss" in record]
    assert max(losses) > losses[-1]
    assert abs(made.evaluate()["eval_loss"] - max(losses)) < 1e-5


@pytest.mark.parametrize("row", ["vit", "vit-bare", "timm"])
def test_accumulated_batches_are_one_batch(row: str, tmp_path: Path) -> None:
    """Whoever computes the loss: it is averaged over what was accumulated, once."""
    ends = []
    for batch, steps in ((6, 1), (3, 2)):
        adapted = adapted_model(row)
        made = trainer(
            adapted,
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            max_steps=1,
            optim="sgd",
            max_grad_norm=0.0,
        )
        made.train()
        ends.append(weights(adapted))
    for name, expected in ends[0].items():
        torch.testing.assert_close(ends[1][name], expected, rtol=1e-4, atol=1e-6)


def test_trainer_checkpoints_activations(tmp_path: Path) -> None:
    ends, known = [], {field.name for field in dataclasses.fields(tf.TrainingArguments)}
    before, now = "gradient_checkpointing", "activation_checkpointing"  # of transformers 5.23
    word = now if now in known else before
    for checkpointing in (False, True):
        adapted = adapted_model()
        trainer(adapted, tmp_path, **{word: checkpointing}, max_steps=2).train()
        ends.append(weights(adapted))
    for name, expected in ends[0].items():
        torch.testing.assert_close(ends[1][name], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="use_reentrant=True would lose the gradients of what methods place"):
        adapted.gradient_checkpointing_enable({"use_reentrant": True})


def test_checkpointing_asks_for_no_gradient_of_embeddings() -> None:
    """transformers does, for models of texts: a leaf that GIT may not write to, and a backward pass through all of it."""
    adapted = gm.adapt(tf.BertModel(tf.BertConfig(**TEXT)), gm.VPT(prompts=2), num_labels=3).train()
    adapted.gradient_checkpointing_enable()
    assert not adapted.backbone.get_input_embeddings()(torch.ones(1, 3, dtype=torch.long)).requires_grad


def test_accelerate_prepares_and_trains() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    adapted = adapted_model(method="both")
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=0.05)
    loader = torch.utils.data.DataLoader(images(), batch_size=4)  # type: ignore[arg-type]
    model, optimizer, loader = accelerator.prepare(adapted, optimizer, loader)
    losses = []
    for _ in range(4):
        for batch in loader:
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert isinstance(accelerator.unwrap_model(model), gm.Adapted)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


# ---- being called ----


def test_timm_takes_its_own_arguments_and_those_of_trainer() -> None:
    for row in ("timm", "timm-avg", "timm-bare"):
        adapted = adapted_model(row).eval()
        pixels, labels = VIT.inputs()["pixel_values"], torch.tensor([0, 2, 1])
        named, plain = adapted(pixel_values=pixels), adapted(pixels)
        assert named.loss is None
        assert torch.equal(named.logits, plain if isinstance(plain, Tensor) else plain.logits)
        for answer in (adapted(pixel_values=pixels, labels=labels), adapted(pixels, labels=labels)):
            assert torch.equal(answer.loss, nn.functional.cross_entropy(named.logits, labels))
        blind = torch.eye(adapted.anatomy.blocks()[0].prefix + 16, dtype=torch.bool)
        masked = adapted(pixel_values=pixels, attn_mask=blind).logits
        assert not torch.allclose(masked, named.logits, atol=1e-3)
        with pytest.raises(TypeError, match="pixel_value"):
            adapted(pixel_value=pixels)


def test_losses_of_built_heads() -> None:
    adapted, inputs = adapted_model("vit-bare").eval(), VIT.inputs()
    logits = adapted(**inputs).logits
    scores = torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 0, 1]])
    expected = nn.functional.binary_cross_entropy_with_logits(logits, scores)
    assert torch.equal(adapted(**inputs, labels=scores).loss, expected)
    one = gm.adapt(BACKBONES["vit-bare"].model(), gm.VPT(prompts=2), num_labels=1).eval()
    values = torch.tensor([0.5, -1.0, 2.0])
    expected = nn.functional.mse_loss(one(**inputs).logits[:, 0], values)
    assert torch.equal(one(**inputs, labels=values).loss, expected)
    assert one(**inputs).loss is None


READ = [
    "vit-bare",
    "dinov2-swiglu",
    "clip-text",
    "siglip",
    "vit-mae",
    "t5-gated-encoder",
    "timm-bare",
    "vit",
    "vilt",
    "llama-classifier",
]


@pytest.mark.parametrize("row", READ)
def test_features_are_what_the_last_linear_reads(row: str) -> None:
    adapted, inputs = adapted_model(row).eval(), BACKBONES[row].inputs()
    torch.default_generator.manual_seed(5)
    features = adapted.features(**inputs)
    assert features.ndim == (3 if row == "llama-classifier" else 2)
    last = [m for m in adapted.head.modules() if isinstance(m, nn.Linear)][-1]
    logits = run(adapted, inputs)
    if row == "llama-classifier":  # read at the last token that is no padding
        features = features[torch.arange(3), torch.tensor([6, 4, 6])]
    torch.testing.assert_close(last(features), logits)


def test_features_need_a_head() -> None:
    adapted = gm.adapt(BACKBONES["bart"].model(), gm.VPT(prompts=2))
    with pytest.raises(TypeError, match=r"BartForConditionalGeneration has no head; adapt it with num_labels="):
        adapted.features(**BACKBONES["bart"].inputs())


def test_the_backbone_answers_for_what_the_adapter_does_not_have() -> None:
    adapted = adapted_model()
    assert adapted.config is adapted.backbone.config
    assert adapted.device == torch.device("cpu")
    assert adapted.dtype == torch.float32
    with pytest.raises(AttributeError, match="'ViTForImageClassification' object has no attribute 'nonsense'"):
        adapted.nonsense  # noqa: B018


def test_a_text_model_without_text() -> None:
    adapted = adapted_model("clip-text")
    with pytest.raises(ValueError, match="a text model needs input_ids"):
        adapted(pixel_values=VIT.inputs()["pixel_values"])


# ---- modes, copies ----


def test_training_mode_reaches_methods_and_head_only() -> None:
    torch.default_generator.manual_seed(0)
    model = tf.BertForSequenceClassification(tf.BertConfig(**TEXT, num_labels=3))
    adapted = gm.adapt(model, gm.Adapter(rank=2)).train()
    assert not any(m.training for m in adapted.backbone.bert.modules())
    assert all(m.training for m in adapted.methods.modules())
    assert adapted.head.training
    assert adapted.training
    adapted.eval()
    assert not any(m.training for m in adapted.modules())
    trained = gm.adapt(adapted.detach(), gm.BitFit()).train()
    assert all(m.training for m in trained.modules())


@pytest.mark.parametrize("method", [gm.VPT(prompts=2), gm.LinearProbe(), LoraConfig(r=2)])
def test_an_offloaded_backbone_is_refused(method: Any, tmp_path: Path) -> None:
    """accelerate keeps its weights elsewhere: what is placed would lie there too, without values. Spread out is not offloaded."""
    cpu = torch.device("cpu")
    parts = {name: "cpu" for name, _ in VIT.model().named_children()}
    here = {"offload_dir": tmp_path, "main_device": "cpu"}
    offloaded: dict[str, Any] = {
        "vit.embeddings, ": lambda: accelerate.cpu_offload(VIT.model(), execution_device=cpu),
        "classifier, ": lambda: accelerate.dispatch_model(VIT.model(), parts | {"classifier": "disk"}, **here),
        "ViTForImageClassification, ": lambda: add_hook_to_module(VIT.model(), CpuOffload("meta")),
    }
    for module, make in offloaded.items():
        with pytest.raises(ValueError, match=rf"modules of this ViTForImageClassification are offloaded \({module}"):
            gm.adapt(make(), method)
    spread: Any = accelerate.dispatch_model(VIT.model(), parts, main_device="cpu", force_hooks=True)
    gm.adapt(spread, method)(pixel_values=torch.randn(2, 3, 16, 16))


def test_detaching_restores_modes_and_flags() -> None:
    model = VIT.model()
    model.vit.layers[1].train()
    model.vit.layers[0].attention.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    for method in METHODS.values():
        gm.adapt(model, method).train().detach()
        assert [m.training for m in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == flags


def test_detaching_a_copy_leaves_the_original_alone() -> None:
    for method in METHODS:
        adapted = disturb(adapted_model(method=method).eval())
        expected = run(adapted, VIT.inputs())
        copied = copy.deepcopy(adapted)
        plain = copied.detach()
        assert torch.equal(run(plain, VIT.inputs()), run(VIT.model(), VIT.inputs()))
        assert adapted.attached
        assert not copied.attached
        assert torch.equal(run(adapted, VIT.inputs()), expected)
        adapted.detach()
        assert torch.equal(run(copied.attach().eval(), VIT.inputs()), expected)
        assert not adapted.attached


def test_a_copy_of_the_backbone_alone_is_attached_to_a_copy_of_its_adapter() -> None:
    adapted = disturb(adapted_model(method="both").eval())
    expected, bare = run(adapted, VIT.inputs()), run(VIT.model(), VIT.inputs())
    for copied in (copy.deepcopy(adapted.backbone), pickle.loads(pickle.dumps(adapted.backbone))):
        other = occupant(copied)
        assert other is not adapted
        assert other.backbone is copied
        assert torch.equal(run(other, VIT.inputs()), expected)
        with pytest.raises(ValueError, match="adapted already"):
            gm.adapt(copied, gm.BitFit())
        assert other.detach() is copied
        assert torch.equal(run(copied, VIT.inputs()), bare)
        assert occupant(copied) is None
    assert occupant(adapted.backbone) is adapted


@pytest.mark.parametrize("row", ["vit", "t5", "dinov2+llama"])
def test_modules_of_the_backbone_get_no_attributes(row: str) -> None:
    """What methods need to know is kept by their own objects and in registered modules."""
    methods = [gm.VPT(prompts=2), gm.SSF(), gm.Adapter(rank=2), *([gm.VisualTokens()] if BACKBONES[row].sees else [])]
    model = BACKBONES[row].model()
    before = {module: set(vars(module)) for module in model.modules()}
    adapted = gm.adapt(model, methods, **({"num_labels": 3} if row == "vit" else {}))
    assert all(set(vars(module)) == names for module, names in before.items())
    assert occupant(model) is adapted
    assert list(model.state_dict()) == list(adapted.backbone.state_dict())
    adapted.detach()
    assert set(model.modules()) == set(before)


def test_a_detached_adapter_can_be_pickled_and_put_back() -> None:
    adapted = disturb(adapted_model(method="both").eval())
    expected = run(adapted, VIT.inputs())
    adapted.detach()
    again = pickle.loads(pickle.dumps(adapted)).attach().eval()
    assert torch.equal(run(again, VIT.inputs()), expected)


def test_a_detached_adapter_says_so() -> None:
    adapted = adapted_model()
    adapted.detach()
    assert adapted.detach() is adapted.backbone  # once is enough
    for call in (adapted, adapted.features):
        with pytest.raises(RuntimeError, match=r"detached from its backbone: call attach\(\) first"):
            call(**VIT.inputs())
    for call in (adapted.finalize, adapted.cost):
        with pytest.raises(RuntimeError, match="detached"):
            call()
    with pytest.raises(
        gm.AdapterError, match=r"detached from its backbone, so it cannot be saved: call attach\(\) first"
    ):
        adapted.save_pretrained("nowhere")


# ---- several adapters over one backbone ----


def test_adapters_take_turns_on_one_backbone(tmp_path: Path) -> None:
    """Each with its own method and number of classes; the backbone is the same object, with the same weights."""
    model = VIT.model()
    before, bare = weights(model), run(model, VIT.inputs())
    expected = {}
    for i, name in enumerate(METHODS):
        adapted = disturb(gm.adapt(model, METHODS[name], num_labels=i + 2).eval())
        expected[name] = run(adapted, VIT.inputs())
        assert expected[name].shape == (3, i + 2)
        adapted.save_pretrained(tmp_path / name)
        adapted.detach()
    loaded = {name: gm.load(tmp_path / name, model) for name in METHODS}
    assert [a.attached for a in loaded.values()] == [False] * (len(METHODS) - 1) + [True]
    for name in [*METHODS, *reversed(METHODS)]:
        assert loaded[name].attach() is loaded[name]
        assert torch.equal(run(loaded[name].eval(), VIT.inputs()), expected[name])
        assert model.config.num_labels == expected[name].shape[1]
    loaded["vpt"].attach().detach()
    assert same(weights(model), before)
    assert torch.equal(run(model, VIT.inputs()), bare)
    assert model.config.num_labels == LABELS


def test_what_was_trained_meanwhile_is_kept() -> None:
    model = VIT.model()
    one = gm.adapt(model, gm.VPT(prompts=2), num_labels=5).eval()
    one.detach()
    two = gm.adapt(model, gm.BitFit(), num_labels=4).eval()
    disturb(two)
    trained = run(two, VIT.inputs())
    one.attach()
    disturb(one)
    other = run(one.eval(), VIT.inputs())
    assert torch.equal(run(two.attach().eval(), VIT.inputs()), trained)
    assert torch.equal(run(one.attach().eval(), VIT.inputs()), other)


# ---- heads ----


@pytest.mark.parametrize(
    "row", ["vit", "deit-distilled", "bert", "clip-vision", "vilt", "timm", "llama-classifier", "dinov2"]
)
def test_a_head_that_is_found_is_kept_resized_or_frozen(row: str) -> None:
    backbone = BACKBONES[row]
    model = backbone.model()
    structure, before, bare = repr(model), weights(model), run(model, backbone.inputs())
    kept = gm.adapt(model, gm.LinearProbe()).eval()
    assert torch.equal(run(kept, backbone.inputs()), bare)
    assert all(p.requires_grad for p in kept.head.parameters())
    kept.detach()

    resized = gm.adapt(model, gm.VPT(prompts=2), num_labels=7).eval()
    assert run(resized, backbone.inputs()).shape == (*bare.shape[:-1], 7)
    names = [n for n in resized.trainable() if n.startswith("head")]
    assert len(names) == sum(1 for m in resized.head_modules().values() for _ in m.parameters())
    resized.detach()

    frozen = gm.adapt(model, gm.VPT(prompts=2), train_head=False)
    assert not any(n.startswith("head") for n in frozen.trainable())
    assert any(n.startswith("head") for n in frozen.state_dict())  # saved all the same
    frozen.detach()
    assert repr(model) == structure
    assert same(weights(model), before)
    assert torch.equal(run(model, backbone.inputs()), bare)


def test_only_the_last_linear_of_a_head_is_new() -> None:
    model = BACKBONES["vilt"].model()
    first = model.classifier[0].weight.detach().clone()
    adapted = gm.adapt(model, gm.VPT(prompts=2), num_labels=7)
    assert torch.equal(adapted.head[0].weight, first)
    assert adapted.head[-1].out_features == 7
    assert model.config.num_labels == 7
    adapted.detach()
    assert model.classifier[-1].out_features == LABELS == model.config.num_labels


def test_names_of_labels_come_back() -> None:
    config = tf.ViTConfig(**VISION, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    model = tf.ViTForImageClassification(config)
    adapted = gm.adapt(model, gm.VPT(prompts=2), num_labels=5)
    assert len(model.config.id2label) == 5
    adapted.detach()
    assert model.config.id2label == {0: "cat", 1: "dog"}
    same_count = gm.adapt(model, gm.VPT(prompts=2), num_labels=2)
    assert same_count.config.id2label == {0: "cat", 1: "dog"}


@pytest.mark.parametrize("row", rows(lambda b: bool(b.num_labels)))
def test_a_head_is_built_where_there_is_none(row: str) -> None:
    adapted = gm.adapt(BACKBONES[row].model(), gm.VPT(prompts=2), num_labels=7).eval()
    assert run(adapted, BACKBONES[row].inputs()).shape == (3, 7)
    assert isinstance(adapted.head, nn.Linear)
    widths = {"meter-bare": 2 * 12, "swin-bare": 24}  # text and image side by side; the last stage's
    widths |= {"sam": 10, "sam2": 96}  # the channels of the map that they give
    assert adapted.head.in_features == widths.get(row, 12)
    assert {"head.weight", "head.bias"} <= set(adapted.trainable())
    frozen = gm.adapt(adapted.detach(), gm.VPT(prompts=2), num_labels=7, train_head=False)
    assert not {"head.weight", "head.bias"} & set(frozen.trainable())
    assert {"head.weight", "head.bias"} <= set(frozen.state_dict())


def test_heads_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"LlamaForCausalLM is a language model; num_labels=3 asks for a classifier"):
        gm.adapt(BACKBONES["llama"].model(), gm.VPT(prompts=2), num_labels=3)
    for count in (0, -2):
        with pytest.raises(ValueError, match=f"num_labels must be at least 1, got {count}"):
            gm.adapt(VIT.model(), gm.VPT(prompts=2), num_labels=count)
    clip = tf.CLIPVisionModel(tf.CLIPVisionConfig(**VISION))
    assert gm.adapt(clip, gm.VPT(prompts=2), num_labels=2)(**VIT.inputs()).logits.shape == (3, 2)


# ---- what cannot be adapted ----


@pytest.mark.parametrize("row", ["vit-bare", "llama", "timm-bare"])
def test_nothing_to_train(row: str) -> None:
    model = BACKBONES[row].model()
    with pytest.raises(
        ValueError, match=r"nothing would be trained: linear_probe trains no part of .*; give num_labels="
    ):
        gm.adapt(model, gm.LinearProbe())
    with pytest.raises(ValueError, match="no method given; LinearProbe"):
        gm.adapt(model, [])
    with pytest.raises(TypeError, match="'vpt' is no method: give one or a list of Adapter, APT"):
        gm.adapt(model, ["vpt"])


def test_adapting_twice() -> None:
    model = VIT.model()
    adapted = gm.adapt(model, gm.VPT(prompts=2))
    for again in (model, adapted):
        with pytest.raises(ValueError, match=r"adapted already"):
            gm.adapt(again, gm.BitFit())
    assert adapted.attached
    gm.adapt(adapted.detach(), gm.BitFit())


class Fails(gm.VPT):
    """Places something and then fails."""

    def attach(self, anatomy: Any) -> Any:
        super().attach(anatomy)
        anatomy.middle(anatomy.blocks()[0], nn.Identity())
        raise KeyboardInterrupt


@pytest.mark.parametrize("row", ["vit", "vit-bare", "timm", "bert"])
@pytest.mark.parametrize("first", list(METHODS))
def test_an_exception_while_placing_leaves_the_model_as_it_was(row: str, first: str) -> None:
    backbone = BACKBONES[row]
    model = backbone.model()
    before, structure, bare = weights(model), repr(model), run(model, backbone.inputs())
    flags = [p.requires_grad for p in model.parameters()]
    listed = METHODS[first] if isinstance(METHODS[first], list) else [METHODS[first]]
    with pytest.raises(KeyboardInterrupt):
        gm.adapt(model, [*listed, Fails(prompts=2)], num_labels=5)
    assert repr(model) == structure
    assert same(weights(model), before)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(run(model, backbone.inputs()), bare)
    gm.adapt(model, METHODS[first], num_labels=5)


def test_an_adapter_that_cannot_come_back_keeps_its_values_and_the_other_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = VIT.model()
    one = disturb(gm.adapt(model, gm.VPT(prompts=2)).eval())
    expected = run(one, VIT.inputs())
    one.detach()
    two = disturb(gm.adapt(model, gm.Adapter(rank=2)).eval())
    other = run(two, VIT.inputs())
    with monkeypatch.context() as patch:
        patch.setattr(gm.VPT, "attach", Fails.attach)
        patch.setattr(Fails, "attach", lambda self, anatomy: 1 / 0)
        with pytest.raises((KeyboardInterrupt, ZeroDivisionError, TypeError)):
            one.attach()
    assert two.attached
    assert torch.equal(run(two.eval(), VIT.inputs()), other)
    assert torch.equal(run(one.attach().eval(), VIT.inputs()), expected)


# ---- gradients, states ----


@pytest.mark.parametrize("row", ["vit", "bert", "t5", "llama", "timm"])
@pytest.mark.parametrize("method", ["vpt", "adapter", "lora", "both"])
def test_gradients_reach_what_is_trained_and_nothing_else(row: str, method: str) -> None:
    adapted = disturb(adapted_model(row, method)).train()
    run(adapted, BACKBONES[row].inputs()).square().sum().backward()
    trainable = {id(p) for p in adapted.trainable().values()}
    with_gradient = {id(p) for p in adapted.parameters() if p.grad is not None}
    assert with_gradient <= trainable
    if row in ("vit", "timm", "bert"):
        assert with_gradient == trainable


def test_a_loss_that_nothing_trained_had_a_part_in() -> None:
    backbone = BACKBONES["llava"]
    adapted, inputs = adapted_model("llava"), backbone.inputs()
    seen = adapted(**inputs, labels=inputs["input_ids"]).loss
    seen.backward()  # an image runs the tower, and so the prompts in it
    unseen = {"input_ids": inputs["input_ids"][:, -5:], "labels": inputs["input_ids"][:, -5:]}
    message = r"trained \(vpt\.vision\) had a part in this loss: with the inputs input_ids .* stack= names one of vision, decoder"
    with pytest.raises(gm.errors.UserError, match=message):
        adapted(**unseen)
    with torch.no_grad():
        assert adapted(**unseen).loss > 0
    assert adapted.eval()(**unseen).loss > 0


def test_states_are_strict() -> None:
    adapted = adapted_model()
    state = weights(adapted)
    adapted.load_state_dict({k: v.double() for k, v in state.items()})
    bad: dict[str, dict[str, Tensor]] = {
        "missing 'head.bias'": {k: v for k, v in state.items() if k != "head.bias"},
        "not expected 'extra'": {**state, "extra": torch.zeros(1)},
        r"'head.weight' has shape \(12, 3\), expected \(3, 12\)": {**state, "head.weight": torch.zeros(12, 3)},
    }
    for message, tensors in bad.items():
        with pytest.raises(gm.AdapterError, match=message):
            adapted.load_state_dict(tensors)
    assert same(weights(adapted), state)


def test_the_state_nests_in_a_larger_model() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = adapted_model(), adapted_model(method="adapter")

    pair = Pair()
    assert {n.partition(".")[0] for n in pair.state_dict()} == {"left", "right"}
    assert "left.vpt.vision.blocks.0.prompts" in pair.state_dict()


def test_the_hub_gets_the_three_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    calls: list[tuple[str, Any]] = []

    class Api:
        def __init__(self, token: str | None = None):
            calls.append(("token", token))

        def create_repo(self, repository: str, **options: Any) -> None:
            calls.append((repository, options))

        def upload_folder(self, repo_id: str, folder_path: Path) -> str:
            calls.append((repo_id, sorted(p.name for p in Path(folder_path).iterdir())))
            return f"address of {repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = adapted_model().push_to_hub("someone/solar", private=True, token="secret")
    assert address == "address of someone/solar"
    assert calls == [
        ("token", "secret"),
        ("someone/solar", {"exist_ok": True, "private": True}),
        ("someone/solar", ["README.md", "adapter_config.json", "adapter_model.safetensors"]),
    ]


def test_rows_of_the_table_are_in_evaluation_mode() -> None:
    """What is compared above is compared without dropout."""
    assert isinstance(VIT, Backbone)
    assert not VIT.model().training
