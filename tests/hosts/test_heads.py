"""Heads that a model declares or its user names, resized and saved together; wrappers, outputs and losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import gossamer as gm
from gossamer import hosts

from ..contract.backbones import LABELS, T5, TEXT, VISION

pytestmark = pytest.mark.usefixtures("uncounted")

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2}
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
CLASSES = torch.tensor([0, 2, 1])
QFORMER = {**TEXT, "encoder_hidden_size": 12}
T5_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def vit(labels: int = LABELS, **options: Any) -> Any:
    return tf.ViTForImageClassification(tf.ViTConfig(**VISION, num_labels=labels, **options)).eval()


def small(name: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    return timm.create_model(name, **{**SMALL, "num_classes": LABELS, **options}).eval()


def blip2(kind: Any, config: Any, text: Any) -> Any:
    values = {"num_query_tokens": 2, "image_token_index": 49}
    return kind(config(vision_config=VISION, qformer_config=QFORMER, text_config=text.to_dict(), **values))


def segmenter(labels: int = LABELS) -> Any:
    sizes = {"hidden_sizes": [8, 12], "depths": [1, 1], "num_attention_heads": [1, 2], "num_encoder_blocks": 2}
    config = tf.SegformerConfig(
        **sizes,
        sr_ratios=[2, 1],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
        num_labels=labels,
        decoder_hidden_size=9,
    )
    return tf.SegformerForSemanticSegmentation(config)


def wrapped_timm() -> Any:
    config = tf.TimmWrapperConfig(architecture="vit_tiny_patch16_224", num_labels=LABELS, model_args=dict(SMALL))
    return tf.TimmWrapperForImageClassification(config).eval()


class Net(nn.Module):
    """A user's: a model of timm and a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = small(num_classes=0)
        self.fc = nn.Linear(12, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.vit(x))


class Deep(nn.Module):
    """A user's: a model of transformers further inside, a norm beside it, and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"vit": tf.ViTModel(tf.ViTConfig(**VISION)), "norm": nn.LayerNorm(12)})
        self.out = nn.Linear(12, LABELS)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.out(self.body["norm"](self.body["vit"](pixel_values).last_hidden_state[:, 0])) * self.scale


class Own(tf.PreTrainedModel):
    """A user's class that says nothing of a base model."""

    config_class = tf.ViTConfig

    def __init__(self, config: Any):
        super().__init__(config)
        self.encoder, self.fc = tf.ViTModel(config), nn.Linear(12, LABELS)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Any:
        logits: Any = self.fc(self.encoder(pixel_values).last_hidden_state[:, 0])
        return tf.modeling_outputs.ImageClassifierOutput(logits=logits)


class Framed(tf.ViTPreTrainedModel):
    """A user's class that says which child is the base model, as transformers asks."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.vit, self.fc = tf.ViTModel(config), nn.Linear(12, LABELS)


class MoreTimm(timm.models.VisionTransformer):
    """A class of timm's with a second head that only the user knows."""

    def __init__(self) -> None:
        super().__init__(img_size=16, patch_size=4, embed_dim=12, depth=3, num_heads=3, num_classes=LABELS)
        self.extra = nn.Linear(12, 2)


class MoreForImageClassification(tf.ViTForImageClassification):
    """A user's class with more than the one that it inherits from."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.extra = nn.Linear(LABELS, LABELS)


BERT = tf.BertConfig(**TEXT)
DECLARED: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "vit": (vit, {"classifier"}),
    "timm": (small, {"head"}),
    "timm-bare": (lambda: small(num_classes=0), set()),
    "timm-distilled": (lambda: small("deit_tiny_distilled_patch16_224"), {"head", "head_dist"}),
    "timm-swin": (lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=3), {"head.fc"}),
    "timm-volo": (lambda: timm.create_model("volo_d1_224", num_classes=3), {"head", "aux_head"}),
    "timm-levit": (lambda: timm.create_model("levit_128s", num_classes=3), {"head", "head_dist"}),
    "timm-in-transformers": (wrapped_timm, {"timm_model.head"}),
    "teacher": (
        lambda: tf.DeiTForImageClassificationWithTeacher(tf.DeiTConfig(**VISION, num_labels=LABELS)),
        {"cls_classifier", "distillation_classifier"},
    ),
    "siglip": (
        lambda: tf.SiglipForImageClassification(
            tf.SiglipConfig(vision_config=VISION, text_config=TEXT, num_labels=LABELS)  # type: ignore[arg-type]
        ),
        {"classifier"},
    ),
    "dinov3-bare": (lambda: tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**VISION)), set()),
    "bert-classifier": (lambda: tf.BertForSequenceClassification(BERT), {"classifier"}),
    "bert-words": (lambda: tf.BertForMaskedLM(BERT), set()),
    "roberta-words": (
        lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**TEXT, max_position_embeddings=40)),
        set(),
    ),
    "vilt-words": (lambda: tf.ViltForMaskedLM(tf.ViltConfig(**{**VISION, "vocab_size": 50})), set()),
    "blip2": (
        lambda: blip2(tf.Blip2ForConditionalGeneration, tf.Blip2Config, tf.T5Config(**T5, **T5_IDS)),
        set(),
    ),
    "instructblip": (
        lambda: blip2(tf.InstructBlipForConditionalGeneration, tf.InstructBlipConfig, tf.LlamaConfig(**TEXT)),
        set(),
    ),
    "segmenter": (segmenter, {"decode_head"}),
    "framed": (lambda: Framed(tf.ViTConfig(**VISION)), {"fc"}),
}


@pytest.mark.parametrize("row", DECLARED)
def test_heads_are_what_a_model_declares(row: str) -> None:
    build, names = DECLARED[row]
    assert set(hosts.read(build()).heads) == names


@pytest.mark.parametrize("row", ["bert-words", "roberta-words", "vilt-words", "blip2", "instructblip"])
def test_nothing_pre_trained_is_trained_as_a_head(row: str) -> None:
    """Word embeddings tied to an output layer, vision towers, Q-Formers."""
    model = DECLARED[row][0]()
    adapted = gm.adapt(model, LoraConfig(r=2, target_modules="all-linear"))
    assert not any(name.startswith("head") for name in adapted.trainable())
    assert not model.get_input_embeddings().weight.requires_grad
    trained = [name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad]
    assert set(trained) == {"lora_A", "lora_B"}


# ---- several heads, convolutions, statistics ----

SHARED: dict[str, tuple[Callable[[], Any], Tensor, Tensor]] = {
    "timm-distilled": (DECLARED["timm-distilled"][0], PIXELS, CLASSES),
    "timm-in-transformers": (wrapped_timm, PIXELS, CLASSES),
    "teacher": (DECLARED["teacher"][0], PIXELS, CLASSES),
    "siglip": (DECLARED["siglip"][0], PIXELS, CLASSES),
    "segmenter": (segmenter, torch.randn(2, 3, 32, 32), torch.randint(0, 5, (2, 32, 32))),
    "timm-levit": (DECLARED["timm-levit"][0], torch.randn(2, 3, 224, 224), CLASSES[:2]),
}


@pytest.mark.filterwarnings("ignore:this .* looks as if it had never been trained:UserWarning")
@pytest.mark.parametrize("row", SHARED)
def test_heads_are_resized_trained_and_saved_together(row: str, tmp_path: Path) -> None:
    build, pixels, labels = SHARED[row]
    model = build()
    fresh, before = copy.deepcopy(model), {k: v.clone() for k, v in model.state_dict().items()}
    adapted = gm.adapt(model, LoraConfig(r=2, target_modules="all-linear"), num_labels=5)
    for head in adapted.head_modules().values():
        assert hosts.heads.outputs(head, 5) == 5
        assert all(p.requires_grad for p in head.parameters())
    adapted.train()(pixel_values=pixels, labels=labels).loss.backward()
    assert all(p.grad is not None for n, p in adapted.trainable().items() if n.startswith("head"))
    torch.optim.SGD(list(adapted.trainable().values()), lr=0.1).step()
    logits = adapted.eval()(pixel_values=pixels).logits
    assert logits.shape[:2] == (len(pixels), 5)
    adapted.save_pretrained(tmp_path / "adapter")
    assert torch.equal(gm.load(tmp_path / "adapter", fresh)(pixel_values=pixels).logits, logits)
    adapted.detach()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_of_several_heads_those_that_give_labels_are_resized() -> None:
    model = small("deit_tiny_distilled_patch16_224")
    model.head_dist = nn.Linear(12, 6)
    adapted = gm.adapt(model, gm.LinearProbe(), num_labels=5)
    assert [head.out_features for head in adapted.head_modules().values()] == [5, 6]
    adapted.detach()
    model.num_classes = 4
    with pytest.raises(ValueError, match=r"give 3 \(head\), 6 \(head_dist\) values and it says that it has 4 labels"):
        gm.adapt(model, gm.LinearProbe(), num_labels=5)


@pytest.mark.filterwarnings("ignore:this .* looks as if it had never been trained:UserWarning")
@pytest.mark.parametrize("method", [gm.FullFineTuning(), gm.BitFit()], ids=["full", "bitfit"])
def test_what_batch_normalisation_counts_is_saved_and_given_back(method: Any, tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=LABELS)
    fresh, before = copy.deepcopy(model), {k: v.clone() for k, v in model.state_dict().items()}
    pixels = torch.randn(3, 3, 32, 32)
    adapted = gm.adapt(model, method)
    adapted.train()(pixel_values=pixels, labels=CLASSES).loss.backward()
    found = adapted.eval()(pixels)
    assert not torch.equal(model.bn1.running_mean, before["bn1.running_mean"])
    adapted.save_pretrained(tmp_path / "adapter")
    assert torch.equal(gm.load(tmp_path / "adapter", fresh)(pixels), found)
    adapted.detach()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# ---- heads that only the user knows ----

UNCLAIMED: dict[str, tuple[Callable[[], nn.Module], str, Any]] = {
    "own-module": (Net, "fc", "fc"),
    "sequential": (lambda: nn.Sequential(small(num_classes=0), nn.Linear(12, LABELS)), "1", ("1",)),
    "deep": (Deep, "out, scale, body.norm", ["body.norm", "out"]),
    "own-class": (lambda: Own(tf.ViTConfig(**VISION)), "fc", "fc"),
    "subclass": (
        lambda: MoreForImageClassification(tf.ViTConfig(**VISION, num_labels=LABELS)),
        "extra",
        ("classifier",),
    ),
    "timm-subclass": (MoreTimm, "extra", ("head",)),
}


@pytest.mark.filterwarnings("ignore:this .* looks as if it had never been trained:UserWarning")
@pytest.mark.parametrize("row", UNCLAIMED)
def test_what_nobody_knows_is_refused_or_named(row: str, tmp_path: Path) -> None:
    build, names, head = UNCLAIMED[row]
    model = build().eval()
    with pytest.raises(ValueError, match=rf"would be frozen: {names}\. Name those that are its head"):
        gm.adapt(model, gm.VPT(prompts=2))
    fresh = copy.deepcopy(model)
    bare = model(PIXELS)
    adapted = gm.adapt(model, gm.VPT(prompts=2), head=head, num_labels=5)
    assert any(n.startswith("head") for n in adapted.trainable())
    adapted.train()(pixel_values=PIXELS, labels=CLASSES).loss.backward()
    torch.optim.SGD(list(adapted.trainable().values()), lr=0.1).step()
    found = logits(adapted.eval()(pixel_values=PIXELS))
    assert found.shape == (3, 5)
    adapted.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(gm.load(tmp_path / "adapter", fresh)(pixel_values=PIXELS)), found)
    finished = adapted.finalize()
    assert torch.allclose(logits(finished(PIXELS)), found, atol=1e-6)
    assert torch.equal(logits(adapted.detach()(PIXELS)), logits(bare))


def logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def test_no_head_can_be_said() -> None:
    adapted = gm.adapt(Deep(), gm.VPT(prompts=2), head=())
    assert all(n.startswith("vpt") for n in adapted.trainable())
    with pytest.raises(ValueError, match="of which nobody knows where one would read"):
        gm.adapt(Deep(), gm.VPT(prompts=2), head=(), num_labels=4)


def test_a_head_may_be_the_module_itself() -> None:
    net = Net()
    assert set(gm.adapt(net, gm.VPT(prompts=2), head=net.fc).head_modules()) == {"fc"}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("fcc", "head='fcc': no such module in Net; it has vit, fc"),
        (nn.Linear(2, 2), "head=Linear: no such module in Net"),
        (("vit", "vit.blocks"), r"vit\.blocks lies in another one"),
        ("vit.pos_drop", "has no parameters to train"),
    ],
)
def test_names_of_heads_that_mean_nothing(head: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.adapt(Net(), gm.VPT(prompts=2), head=head)


def test_a_head_that_shares_weights_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"shares bert\.embeddings\.word_embeddings\.weight with the pre-trained model"
    ):
        gm.adapt(tf.BertForMaskedLM(BERT), gm.BitFit(), head="cls")
    adapted = gm.adapt(tf.BertForMaskedLM(BERT), LoraConfig(r=2), head="cls.predictions.transform")
    assert "head.dense.weight" in adapted.trainable()


# ---- wrappers ----


def compiled_in_place() -> nn.Module:
    model = vit()
    model.compile(backend="eager")
    return model


WRAPPED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "compiled": (
        lambda: torch.compile(vit(), backend="eager"),
        r"OptimizedModule: adapt the model inside \(model\._orig_mod\)",
    ),  # type: ignore[dict-item,return-value]
    "compiled-inside": (lambda: nn.Sequential(torch.compile(vit(), backend="eager")), r"0 of this Sequential is a"),  # type: ignore[arg-type]
    "compiled-in-place": (compiled_in_place, r"compiled in place"),
    "parallel": (
        lambda: nn.DataParallel(vit()),
        r"DataParallel: adapt the model inside \(model\.module\).*accelerate launch",
    ),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(vit()), r"AveragedModel\(gm\.adapt"),
    "peft": (
        lambda: get_peft_model(vit(), LoraConfig(r=2, target_modules=["q_proj"])),
        r"PeftModel: take the plain model out",
    ),
    "peft-inside": (
        lambda: get_peft_model(vit(), LoraConfig(r=2, target_modules=["q_proj"])).base_model.model,
        r"peft has put layers into this model",
    ),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("row", WRAPPED)
def test_wrappers_are_refused_with_the_way_out(row: str) -> None:
    build, message = WRAPPED[row]
    with pytest.raises(ValueError, match=message):
        gm.adapt(build(), gm.VPT(prompts=2))


# ---- outputs ----

UNREADABLE: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "projection": (
        lambda: tf.CLIPVisionModelWithProjection(tf.CLIPVisionConfig(**VISION)),
        3,
        "and no pooler_output that a head",
    ),
    "two-towers": (
        lambda: tf.CLIPModel(tf.CLIPConfig(vision_config=VISION, text_config=TEXT)),
        3,
        "that a head could read",
    ),  # type: ignore[arg-type]
    "feature-maps": (lambda: small(features_only=True, num_classes=None), None, "features_only=True"),
    "tokens": (lambda: small(num_classes=0, global_pool=""), 3, "global_pool=''"),
    "logits-of-tokens": (lambda: small(global_pool=""), None, "global_pool=''"),
    "map-of-places": (lambda: timm.create_model("resnet10t", num_classes=0, global_pool=""), 3, "global_pool=''"),
}


@pytest.mark.parametrize("row", UNREADABLE)
def test_outputs_that_no_head_reads_are_refused_at_once(row: str) -> None:
    build, labels, message = UNREADABLE[row]
    with pytest.raises(TypeError, match=message):
        gm.adapt(build(), LoraConfig(r=2, target_modules="all-linear"), num_labels=labels)


@pytest.mark.parametrize("asked", ["call", "configuration"])
def test_a_built_head_answers_with_a_tuple_where_one_is_asked_for(asked: str) -> None:
    options = {} if asked == "call" else {"return_dict": False}
    model = tf.ViTModel(tf.ViTConfig(**VISION, **options))
    adapted = gm.adapt(model, gm.VPT(prompts=2), num_labels=LABELS).eval()
    more = {"return_dict": False} if asked == "call" else {}
    loss, found = adapted(pixel_values=PIXELS, labels=CLASSES, **more)
    named = adapted(pixel_values=PIXELS, labels=CLASSES, return_dict=True)
    assert torch.equal(found, named.logits)
    assert torch.equal(loss, named.loss)
    assert isinstance(adapted.finalize()(pixel_values=PIXELS, **more), tuple)
    timms = gm.adapt(small(), gm.VPT(prompts=2)).eval()
    assert isinstance(timms(pixel_values=PIXELS, return_dict=False), tuple)


# ---- losses ----


def test_a_loss_belongs_to_its_adapter() -> None:
    """A regression, a classification and scores take turns on one backbone; each has its own loss."""
    model, config = vit(), vit().config.to_dict()
    wanted = {
        1: (torch.tensor([0.2, 1.0, 2.0]), nn.functional.mse_loss),
        3: (CLASSES, nn.functional.cross_entropy),
        4: (torch.rand(3, 4), nn.functional.binary_cross_entropy_with_logits),
    }
    adapters = {}
    for count in (1, 3, 4, 1, 4, 3):
        adapted = adapters.get(count)
        if adapted is None:
            adapted = adapters[count] = gm.adapt(model, gm.VPT(prompts=2), num_labels=count).eval()
        adapted.attach()
        labels, loss = wanted[count]
        output = adapted(pixel_values=PIXELS, labels=labels)
        torch.testing.assert_close(
            output.loss, loss(output.logits.squeeze(-1) if count == 1 else output.logits, labels)
        )
        adapted.detach()
        assert model.config.to_dict() == config


@pytest.mark.parametrize(("stuck", "count"), [("single_label_classification", 1), ("regression", 4)])
def test_a_loss_that_was_decided_before_is_not_that_of_another_head(stuck: str, count: int) -> None:
    model = vit(problem_type=stuck)
    adapted = gm.adapt(model, gm.VPT(prompts=2), num_labels=count).eval()
    labels = torch.tensor([0.2, 1.0, 2.0]) if count == 1 else CLASSES
    output = adapted(pixel_values=PIXELS, labels=labels)
    loss = (
        nn.functional.mse_loss(output.logits[:, 0], labels)
        if count == 1
        else nn.functional.cross_entropy(output.logits, labels)
    )
    torch.testing.assert_close(output.loss, loss)
    adapted.detach()
    assert model.config.problem_type == stuck
    assert model.config.num_labels == model.num_labels == LABELS


def test_a_loss_that_the_user_says_stays_said() -> None:
    model = vit(problem_type="regression")
    adapted = gm.adapt(model, gm.VPT(prompts=2), num_labels=LABELS).eval()
    labels = torch.rand(3, LABELS)
    output = adapted(pixel_values=PIXELS, labels=labels)
    torch.testing.assert_close(output.loss, nn.functional.mse_loss(output.logits, labels))
