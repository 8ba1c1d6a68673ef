"""A composed model: which image belongs to which text, and that nothing else has a say in the answer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

import gossamer as gm
from gossamer.storage import AdapterError

from ..contract.backbones import TEXT, TOWER, VISION
from .seeing import CLASSIFIED, METHODS, SPOKEN, TOWERS, adapted, close, composed, images, texts

pytestmark = pytest.mark.usefixtures("uncounted")

PAIRS = [(t, "bert") for t in TOWERS] + [("clip", language) for language in CLASSIFIED if language != "bert"]


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize(("tower", "language"), PAIRS)
def test_an_answer_depends_on_its_own_image_and_text_alone(tower: str, language: str, method: str) -> None:
    """Images of two sizes, one text without, one image asked about twice; batch mates and padding change nothing."""
    model = adapted(tower, CLASSIFIED[language], METHODS[method], labels=4)
    pixels, given, index = images(16, 20), texts(7, 4, 6, 5), torch.tensor([1, -1, 0, 1])
    together = model(**given, pixel_values=pixels, image_index=index).logits
    stock = model(**given).logits
    for row, image in enumerate(index.tolist()):
        length = int(given["attention_mask"][row].sum())
        alone = model(
            input_ids=given["input_ids"][row : row + 1, :length],
            pixel_values=None if image < 0 else pixels[image][None],
        ).logits
        close(together[row : row + 1], alone)
        difference = float((stock[row] - together[row]).detach().abs().max())
        assert difference < 1e-5 if image < 0 else difference > 1e-4


@pytest.mark.parametrize("language", ["t5", "flan", "bart", "llama"])
@pytest.mark.parametrize("method", list(METHODS))
def test_generation_depends_on_its_own_image_and_text_alone(language: str, method: str) -> None:
    """A batch of three, with beams and several answers each, gives what every text gives by itself, without a cache as with one."""
    model = adapted("vit", SPOKEN[language], METHODS[method])
    pixels, given, index = images(16, 20), texts(6, 3, 5, left=language == "llama"), torch.tensor([1, 0, -1])
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    answers = [
        model.generate(**given, pixel_values=pixels, image_index=index, use_cache=use, **options)
        for use in (True, False)
    ]
    assert torch.equal(*answers)
    for row, image in enumerate(index.tolist()):
        keep = given["attention_mask"][row].bool()
        alone = model.generate(
            input_ids=given["input_ids"][row, keep][None],
            pixel_values=None if image < 0 else pixels[image][None],
            **options,
        )
        assert torch.equal(alone[:, -4:], answers[0][2 * row : 2 * row + 2, -4:])


@pytest.mark.parametrize("language", ["llama", "t5", "flan"])
@pytest.mark.parametrize("method", list(METHODS))
def test_padding_on_the_left_is_padding_on_the_right(language: str, method: str) -> None:
    model = adapted("clip", CLASSIFIED[language], METHODS[method], labels=4)
    pixels = torch.stack(images(16, 16))
    if language != "llama" and isinstance(METHODS[method], gm.VisualTokens):
        with pytest.raises(ValueError, match=r"stand in front of the first place, .* is padded: pad on the right"):
            model(**texts(7, 4, left=True), pixel_values=pixels)
        return
    right, left = (model(**texts(7, 4, left=side), pixel_values=pixels).logits for side in (False, True))
    close(left, right)


@pytest.mark.parametrize("method", list(METHODS))
def test_images_are_seen_once_for_any_number_of_questions(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("dinov2", SPOKEN["llama"], METHODS[method])
    pixels, given = torch.stack(images(16, 16)), texts(5, 5)
    expected = model(**given, pixel_values=pixels).logits
    calls = []
    model.backbone.vision.register_forward_hook(lambda *_: calls.append(1))
    seen = model.see(pixels)
    assert torch.equal(model(**given, seen=seen).logits, expected)
    assert torch.equal(model(**given, seen=seen).logits, expected)
    several = {k: v.repeat(3, 1) for k, v in given.items()}
    answers = model(**several, seen=seen, image_index=torch.tensor([0, 1] * 3)).logits
    close(answers, expected.repeat(3, 1, 1))
    model.generate(**given, seen=seen, max_new_tokens=3, num_beams=2)
    assert calls == [1]
    model.generate(**given, pixel_values=pixels, max_new_tokens=3, num_beams=2)
    assert calls == [1, 1]


def test_nothing_is_connected_without_a_method() -> None:
    model = composed("clip", SPOKEN["llama"])
    given = texts(6, 4)
    plain = model.language(**given).logits
    found = model(**given, pixel_values=torch.stack(images(16, 16))).logits
    keep = given["attention_mask"].bool()
    close(found[keep], plain[keep], 1e-6)  # positions are counted, so padding may answer otherwise


def test_no_image_leaks_into_the_next_call() -> None:
    model = adapted("clip", SPOKEN["llama"], METHODS["memvp"])
    given = texts(5, 4)
    before = model(**given).logits
    seeing = model(**given, pixel_values=torch.stack(images(16, 16))).logits
    assert not torch.equal(seeing, before)
    assert torch.equal(model(**given).logits, before)
    with pytest.raises(RuntimeError, match="the language model was called on its own"):
        model.backbone.language(**given)


def test_the_end_of_the_question_is_where_labels_begin() -> None:
    """The prompt of a decoder-only model must not have read the answer it is to predict."""
    model = adapted("clip", SPOKEN["llama"], gm.DVP(block=1, heads=3))
    prompts: list[Tensor] = []
    prompt = next(m for n, m in model.methods.named_modules() if n.endswith("prompt"))
    prompt.register_forward_hook(lambda module, args, output: prompts.append(output))
    given, pixels = texts(7, 6), torch.stack(images(16, 16))
    labels = given["input_ids"].where(given["attention_mask"].bool(), -100).clone()
    labels[0, :4], labels[1, :3] = -100, -100
    model(**given, pixel_values=pixels, labels=labels)
    for row, end in enumerate((4, 3)):
        model(input_ids=given["input_ids"][row : row + 1, :end], pixel_values=pixels[row : row + 1])
        close(prompts[-1], prompts[0][row : row + 1])
    other = given["input_ids"].clone()
    other[0, 5] = 3
    model(input_ids=other, attention_mask=given["attention_mask"], pixel_values=pixels, labels=labels)
    close(prompts[-1], prompts[0])


def test_two_forward_passes_then_one_backward_pass_under_checkpointing() -> None:
    """What is computed again sees the images of its own pass, not of the last one."""
    gradients = []
    for saving in (False, True):
        model = adapted("clip", SPOKEN["llama"], METHODS["memvp"])
        for module in model.methods.modules():
            if hasattr(module, "config"):
                module.config = gm.MemVP(**{**METHODS["memvp"].__dict__, "dropout": 0.0})
            if "dropout" in module.__dict__:
                module.dropout = 0.0
        if saving:
            model.gradient_checkpointing_enable()
        model.train()
        losses = [model(**texts(5), pixel_values=image[None]).logits.square().mean() for image in images(16, 16)]
        sum(losses).backward()  # type: ignore[union-attr]
        gradients.append([p.grad for p in model.trainable().values()])
    for found, expected in zip(*gradients, strict=True):
        close(found, expected)


@pytest.mark.parametrize("language", ["bert", "llama", "t5"])
def test_training_moves_the_adapter_and_nothing_else(language: str) -> None:
    build = (CLASSIFIED if language == "bert" else SPOKEN)[language]
    for name, method in METHODS.items():
        model = adapted("clip", build, method, labels=4 if language == "bert" else None).train()
        frozen = {n: p.detach().clone() for n, p in model.backbone.named_parameters() if not p.requires_grad}
        assert frozen
        given = texts(6, 5)
        labels = torch.tensor([1, 3]) if language == "bert" else given["input_ids"]
        optimizer = torch.optim.SGD(model.trainable().values(), lr=0.1)
        model(**given, pixel_values=torch.stack(images(16, 16)), labels=labels).loss.backward()
        for parameter, tensor in model.trainable().items():
            assert tensor.grad is not None, f"{name}: {parameter}"
            assert torch.isfinite(tensor.grad).all()
        optimizer.step()
        for key, value in frozen.items():
            assert torch.equal(model.backbone.get_parameter(key), value)


# ---- refusals ----


def test_images_and_texts_must_belong_together() -> None:
    model, given, pixels = composed("clip", CLASSIFIED["bert"]), texts(5, 4), torch.stack(images(16, 16, 16))
    with pytest.raises(ValueError, match=r"3 images and 2 texts: say with image_index \[2\]"):
        model(**given, pixel_values=pixels)
    with pytest.raises(ValueError, match=r"one of 3 images .* it is \[2\] long and reaches from 0 to 3"):
        model(**given, pixel_values=pixels, image_index=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"each of 2 texts .* it is \[3\] long"):
        model(**given, pixel_values=pixels, image_index=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="give one of pixel_values, seen and states"):
        model(**given, pixel_values=pixels, seen=model.see(pixels))
    with pytest.raises(TypeError, match="Silent does not generate"):
        composed("clip", lambda: Silent(CLASSIFIED["bert"]())).generate(**given)


@pytest.mark.parametrize("language", ["bert", "roberta", "bart"])
def test_padding_where_a_class_token_stands_is_refused(language: str) -> None:
    """Their positions are learnt and counted from the first place, padding or not."""
    model = composed("clip", CLASSIFIED[language])
    message = f"{type(model.language).__name__} has its class token at the first place, where .*: pad on the right"
    with pytest.raises(ValueError, match=message):
        model(**texts(5, 4, left=True))
    if language == "bart":
        with pytest.raises(ValueError, match="BartForConditionalGeneration has its class token"):
            composed("clip", SPOKEN["bart"]).generate(**texts(5, 4, left=True), max_new_tokens=2)


class Silent(tf.BertModel):
    """A BERT without transformers' generate, which all of its models inherit."""

    def __init__(self, model: Any):
        super().__init__(model.config)

    def __getattribute__(self, name: str) -> Any:
        if name == "generate":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_halves_must_be_a_tower_and_a_language_model() -> None:
    vision, language = TOWERS["vit"](), CLASSIFIED["bert"]()
    with pytest.raises(TypeError, match="BertModel is no vision tower of transformers: it has text"):
        gm.VisionLanguage(language, language)
    with pytest.raises(TypeError, match="ViTModel is no language model: it has vision"):
        gm.VisionLanguage(vision, vision)
    with pytest.raises(ValueError, match=r"BertForSequenceClassification has a task head \(classifier\)"):
        gm.VisionLanguage(vision, tf.BertForSequenceClassification(tf.BertConfig(**TEXT)))
    with pytest.raises(ValueError, match=r"ViTForImageClassification has a task head"):
        gm.VisionLanguage(tf.ViTForImageClassification(tf.ViTConfig(**TOWER)), language)
    with pytest.raises(TypeError, match="ViTModel does not see: compose a vision tower and a language model"):
        gm.adapt(vision, gm.MemVP())
    with pytest.raises(TypeError, match="cannot read Linear"):
        gm.VisionLanguage(torch.nn.Linear(2, 3), language)
    with pytest.raises(ValueError, match="VisionLanguage is a language model; num_labels=3"):
        gm.adapt(composed("vit", SPOKEN["llama"]), gm.MemVP(rank=2), num_labels=3)


# ---- saving ----


def test_both_halves_are_referred_to(tmp_path: Path) -> None:
    model = adapted("clip", CLASSIFIED["bert"], METHODS["dvp"], labels=4)
    given, pixels = texts(6, 4), torch.stack(images(16, 16))
    expected = model(**given, pixel_values=pixels).logits
    model.save_pretrained(tmp_path / "adapter")
    vision, language = (copy.deepcopy(part) for part in model.detach().parts.values())
    again = gm.load(tmp_path / "adapter", gm.VisionLanguage(vision, language))
    assert torch.equal(again(**given, pixel_values=pixels).logits, expected)
    again.detach()

    with torch.no_grad():
        language.encoder.layer[0].output.dense.bias[0] += 1
    with pytest.raises(AdapterError, match="on other weights than those of this BertModel"):
        gm.load(tmp_path / "adapter", gm.VisionLanguage(vision, language))
    with pytest.raises(
        AdapterError, match="this adapter is for a CLIPVisionModel and the given backbone is a ViTModel"
    ):
        gm.load(tmp_path / "adapter", gm.VisionLanguage(TOWERS["vit"](), language))
    with pytest.raises(AdapterError, match="does not say where its CLIPVisionModel came from"):
        gm.load(tmp_path / "adapter")


@pytest.mark.parametrize("language", ["bert", "roberta", "t5", "bart"])
def test_halves_are_loaded_by_name(language: str, tmp_path: Path) -> None:
    """Each half may be a part of what was published: CLIP's tower, a language model without its head."""
    from gossamer import zoo

    text = {**TEXT, "bos_token_id": 0, "eos_token_id": 49, "projection_dim": 8}
    vision = {**VISION, "projection_dim": 8}
    tf.CLIPModel(tf.CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).save_pretrained(
        tmp_path / "clip"
    )
    masked = {"bert": tf.BertForMaskedLM, "roberta": tf.RobertaForMaskedLM}.get(language)
    config: Any = CLASSIFIED[language]().config
    whole: Any = SPOKEN[language]() if masked is None else masked(config)
    whole.save_pretrained(tmp_path / "language")
    tower = zoo.load(tmp_path / "clip", kind="CLIPVisionModel")
    half: Any = zoo.load(tmp_path / "language", kind=None if masked else type(CLASSIFIED[language]()).__name__)
    if masked:
        half = half.base_model
        half.name_or_path = str(tmp_path / "language")
    model = gm.adapt(gm.VisionLanguage(tower, half), METHODS["memvp"], num_labels=3).eval()
    model.save_pretrained(tmp_path / "adapter")
    given, pixels = texts(6, 4), torch.stack(images(16, 16))
    again = gm.load(tmp_path / "adapter")
    assert torch.equal(again(**given, pixel_values=pixels).logits, model(**given, pixel_values=pixels).logits)
    card = (tmp_path / "adapter/README.md").read_text()
    assert "base_model" not in card  # folders are none of the hub's repositories


def test_a_class_of_transformers_is_chosen_by_name_alone(tmp_path: Path) -> None:
    from gossamer import zoo

    tf.BertModel(tf.BertConfig(**TEXT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="kind='BertConfig' is no model class of transformers"):
        zoo.load(tmp_path, kind="BertConfig")
    with pytest.raises(ValueError, match="it goes with neither a task nor a model of timm"):
        zoo.load(tmp_path, kind="BertModel", task="text-classification", num_labels=2)


# ---- cost ----


@pytest.mark.parametrize(
    ("tower", "language", "method"),
    [
        ("siglip", "flan", "dvp"),
        ("clip", "bert", "dvp-all"),
        ("dinov2", "llama", "memvp"),
        ("registers", "flan", "patches"),
        pytest.param("vit", "llama", "dvp", marks=pytest.mark.slow),
        pytest.param("clip", "flan", "dvp-all", marks=pytest.mark.slow),
        pytest.param("siglip", "bart", "memvp", marks=pytest.mark.slow),
        pytest.param("clip", "bert", "tokens", marks=pytest.mark.slow),
    ],
)
def test_counted_multiplications_are_the_closed_form(tower: str, language: str, method: str) -> None:
    model = adapted(tower, CLASSIFIED[language], METHODS[method], labels=4)
    two = language in ("flan", "bart")
    sheet = model.cost(image_size=20, tokens={"encoder": 6, "decoder": 3} if two else 6, batch=2)
    for macs in (sheet.bare, sheet.adapted, sheet.finished):
        assert macs.counted == macs.closed
    assert sheet.per_batch.counted == 0
    assert sheet.finished.counted != sheet.bare.counted
