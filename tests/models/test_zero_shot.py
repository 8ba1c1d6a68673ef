"""Classification by words: the equations by hand, what is kept and when it is dropped, saving without a tokenizer, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
)
from transformers import VisionTextDualEncoderModel as Dual

import gossamer as gm
from gossamer.errors import UserError, WrongKind
from gossamer.models.words import Words

END = 39
NAMES = ("red coat", "shoe", "blue bag")
TEMPLATES = ("a {}", "photo of one {} .")


class Tokenizer:
    """Characters as ids, with the end behind them; pads as it is told."""

    def __call__(self, texts: list[str], *, padding: Any, truncation: bool, max_length: int) -> dict[str, Any]:
        assert truncation
        ids = [[*(1 + ord(c) % 30 for c in text[: max_length - 1]), END] for text in texts]
        return {"input_ids": [row + [0] * (max_length - len(row)) if padding else row for row in ids]}


def clip(seed: int = 0) -> Any:
    torch.default_generator.manual_seed(seed)
    ends: Any = {"eos_token_id": END, "bos_token_id": 38, "pad_token_id": 0}
    vision: Any = {
        "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 12,
        "patch_size": 4,
    }  # fmt: skip
    text: Any = {
        "hidden_size": 16, "intermediate_size": 28, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40,
        "max_position_embeddings": 33,
    }  # fmt: skip
    config = CLIPConfig(vision_config=vision, text_config={**text, **ends}, projection_dim=11, **ends)
    return shaken(CLIPModel(config))


def siglip() -> Any:
    sizes: Any = {"hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 2}
    ends: Any = {"eos_token_id": END, "bos_token_id": 38, "pad_token_id": 1}
    vision: Any = {**sizes, "num_hidden_layers": 3, "image_size": 12, "patch_size": 4}
    text: Any = {
        **sizes,
        "num_hidden_layers": 2,
        "vocab_size": 40,
        "max_position_embeddings": 29,
        "projection_size": 16,
        **ends,
    }
    return shaken(SiglipModel(SiglipConfig(vision_config=vision, text_config=text)))


def dual() -> Any:
    tower = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=12, patch_size=4, mlp_ratio=2
    )
    reader = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, vocab_size=40,
        max_position_embeddings=31,
    )  # fmt: skip
    made = Dual(vision_model=Dinov2Model(tower), text_model=BertModel(reader))
    return shaken(made)


def shaken(model: Any) -> Any:
    torch.default_generator.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def made(pair: Any = None, names: tuple[str, ...] = NAMES, templates: tuple[str, ...] = TEMPLATES) -> gm.ZeroShot:
    return gm.ZeroShot.of(clip() if pair is None else pair, names, Tokenizer(), templates)


def images(count: int = 5) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def by_hand(pair: Any, pixels: Tensor, names: tuple[str, ...] = NAMES, length: int | None = None) -> Tensor:
    """Text by text, with the pair's own forward pass; every text alone and unpadded, or of one length."""
    columns = []
    for name in names:
        rows = []
        for template in TEMPLATES:
            ids = Tokenizer()([template.format(name)], padding=length, truncation=True, max_length=length or 33)
            out = pair(input_ids=torch.tensor(ids["input_ids"]), pixel_values=pixels)
            rows.append(out.text_embeds / out.text_embeds.norm())
        mean = torch.cat(rows).mean(0)
        columns.append(mean / mean.norm())
    cosines = (out.image_embeds / out.image_embeds.norm(dim=1, keepdim=True)) @ torch.stack(columns).T
    bias = getattr(pair, "logit_bias", torch.zeros(()))
    return pair.logit_scale.exp() * cosines + bias


@pytest.mark.parametrize(("make", "length"), [(clip, None), (siglip, 29), (dual, None)], ids=["clip", "siglip", "dual"])
@torch.no_grad()
def test_logits_are_those_of_a_loop_over_texts(make: Any, length: int | None) -> None:
    pair = make()
    torch.testing.assert_close(
        made(pair)(images()).logits, by_hand(pair, images(), length=length), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_what_changes_nothing_and_what_only_moves() -> None:
    pair = clip()
    plain = made(pair)(images()).logits
    moved = made(pair, tuple(NAMES[i] for i in (2, 0, 1)))(images()).logits
    torch.testing.assert_close(moved, plain[:, [2, 0, 1]])
    torch.testing.assert_close(made(pair, templates=TEMPLATES[::-1])(images()).logits, plain)
    one, twice = (made(pair, templates=TEMPLATES[:1] * n)(images()).logits for n in (1, 2))
    torch.testing.assert_close(one, twice)
    model = made(pair)
    model.ids, model.mask = F.pad(model.ids, (0, 4)), F.pad(model.mask, (0, 4))
    torch.testing.assert_close(model(images()).logits, plain)  # padding behind the end
    model.ids[:, -2:] = 7
    torch.testing.assert_close(model(images()).logits, plain)  # nor what it holds
    pair.visual_projection.weight.mul_(3)
    torch.testing.assert_close(model(images()).logits, plain)
    assert not torch.allclose(one, plain)


@torch.no_grad()
def test_the_scale_is_of_the_pair_and_templates_are_averaged_as_unit_vectors() -> None:
    pair = clip()
    model = made(pair)
    plain = model(images()).logits
    pair.logit_scale.add_(1.0)
    torch.testing.assert_close(model(images()).logits, plain * torch.e)


METHODS = {
    "apt": gm.APT(prompts=5, rank=2, stack="both"), "vpt": gm.VPT(prompts=3, stack=("vision", "text")),
    "tokens": gm.VPT(prompts=3, stack="both", form="sequence"), "cvpt": gm.CVPT(prompts=3, stack="both"),
    "adapter": gm.Adapter(stack="both"), "ssf": gm.SSF(stack="both"),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_one_method_in_both_towers_has_one_name_and_trains_in_both(name: str) -> None:
    model = made(dual() if name == "ssf" else None)
    adapted = gm.adapt(model, METHODS[name])
    assert len(adapted.methods) == 1
    stacks = {k.split(".")[1] for k in adapted.trainable()}
    assert stacks == {"vision", "text"}
    assert adapted.applied[0].parameters(adapted.anatomy) == sum(p.numel() for p in adapted.trainable().values())
    adapted(pixel_values=images(), labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    reached = {k.split(".")[1] for k, p in adapted.trainable().items() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == stacks
    adapted.eval()
    with torch.no_grad():
        logits = adapted(pixel_values=images()).logits
        torch.testing.assert_close(adapted.finalize()(pixel_values=images()).logits, logits, rtol=1e-5, atol=1e-4)  # type: ignore[operator]


def test_blocks_are_those_of_each_stack() -> None:
    anatomy = gm.read(clip())
    assert [b.key for b in anatomy.blocks("both", (1,))] == ["vision.blocks.1", "text.blocks.1"]
    assert len(anatomy.blocks(("text", "vision"))) == 5
    with pytest.raises(KeyError, match="no block 2: the text stack"):
        anatomy.blocks("both", (2,))
    with pytest.raises(ValueError, match="names a stack twice"):
        anatomy.blocks(("text", "text"))
    with pytest.raises(ValueError, match="names no stack"):
        anatomy.blocks(())
    with pytest.raises(KeyError, match="no stack 'text' in Dinov2Model"):
        gm.read(dual().vision_model).blocks("both")


class Counting:
    """How often the text tower runs."""

    def __init__(self, model: gm.ZeroShot):
        self.times = 0
        model.pair.text_model.register_forward_hook(self.count)  # type: ignore[union-attr]

    def count(self, module: nn.Module, args: Any, output: Any) -> None:
        self.times += 1


def step(adapted: gm.Adapted) -> None:
    adapted.train()
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=0.1)
    adapted(pixel_values=images(), labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    optimizer.step()
    adapted.eval()


def test_class_vectors_are_computed_once_where_only_the_image_side_is_trained() -> None:
    model = made()
    frozen = model.class_vectors()
    adapted = gm.adapt(model, gm.APT(prompts=5, rank=2))
    runs = Counting(model)
    for _ in range(3):
        step(adapted)
        with torch.no_grad():
            adapted(pixel_values=images())
    assert runs.times == 1
    assert torch.equal(model.class_vectors(), frozen)


def test_class_vectors_follow_whatever_changes_the_text_side() -> None:
    model = made()
    runs = Counting(model)
    frozen = model.class_vectors()
    adapted = gm.adapt(model, gm.APT(prompts=5, rank=2, stack="text"))
    pictures = model.image_vectors(images()).detach()
    with torch.no_grad():
        start = model.class_vectors()
        assert not torch.allclose(start, frozen)
        times = runs.times
        assert model.class_vectors() is start
        assert runs.times == times
    step(adapted)
    with torch.no_grad():
        stepped = model.class_vectors()
        assert not torch.allclose(stepped, start)
        adapted.load_state_dict({k: torch.full_like(v, 0.3) for k, v in adapted.tensors().items()})
        assert not torch.allclose(model.class_vectors(), stepped)
        assert torch.equal(model.image_vectors(images()), pictures)
        adapted.detach()
        torch.testing.assert_close(model.class_vectors(), frozen, rtol=0, atol=0)


def test_a_step_after_an_evaluation_in_inference_mode_is_seen_as_is_one_of_a_copy() -> None:
    adapted = gm.adapt(made(), gm.APT(prompts=5, rank=2, stack="text"))
    with torch.inference_mode():
        before = adapted(pixel_values=images()).logits
    twin = copy.deepcopy(adapted)
    for one in (adapted, twin):
        step(one)
        with torch.inference_mode():
            assert not torch.allclose(one(pixel_values=images()).logits, before)


def test_prompts_of_zeros_leave_the_frozen_logits() -> None:
    model = made()
    plain = model(images()).logits
    adapted = gm.adapt(model, gm.APT(prompts=5, rank=2, stack="both"))
    with torch.no_grad():
        for name, p in adapted.trainable().items():
            if name.endswith("prompts"):
                p.zero_()
    model.forget()
    assert torch.equal(adapted(pixel_values=images()).logits, plain)


@pytest.mark.parametrize("stack", ["vision", "both"])
def test_a_folder_has_the_words_and_needs_no_tokenizer(tmp_path: Path, stack: str) -> None:
    pair = clip()
    pair.save_pretrained(tmp_path / "pair")
    again = gm.zoo.load(tmp_path / "pair")
    adapted = gm.adapt(made(again), gm.APT(prompts=5, rank=2, stack=stack)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    loaded: Any = gm.load(tmp_path / "adapter")
    assert loaded.backbone.words == adapted.backbone.words
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=images()).logits, adapted(pixel_values=images()).logits)
    with pytest.raises(gm.AdapterError, match="other weights"):
        gm.load(tmp_path / "adapter", backbone=made(shaken(clip(5))))


def test_a_finished_classifier_has_no_text_tower() -> None:
    adapted = gm.adapt(made(), gm.APT(prompts=5, rank=2, stack="both")).eval()
    finished: Any = adapted.finalize()
    assert finished.pair.text_model is None
    with torch.no_grad():
        torch.testing.assert_close(
            finished(pixel_values=images()).logits, adapted(pixel_values=images()).logits, rtol=1e-5, atol=1e-5
        )
    with pytest.raises(UserError, match="finished"):
        finished.tell(finished.words)


def test_refusals_are_in_words() -> None:
    with pytest.raises(WrongKind, match=r"no pair .* has no get_image_features"):
        gm.ZeroShot.of(dual().vision_model, NAMES, Tokenizer())
    with pytest.raises(UserError, match=r"two classes are called 'shoe'"):
        made(names=("shoe", "bag", "shoe"))
    with pytest.raises(UserError, match=r"must have one \{\}"):
        made(templates=("a photo",))
    with pytest.raises(UserError, match="lists of texts"):
        made(names="shoe")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="up to 33 tokens out of 40"):
        gm.ZeroShot(clip(), Words(names=("a",), templates=("{}",), ids=(((1, 40),),)))
    with pytest.raises(UserError, match="words for 3 classes"):
        gm.adapt(made(), gm.APT(prompts=2), num_labels=4)
    with pytest.raises(TypeError, match=r"by words, gossamer.ZeroShot"):
        gm.adapt(clip(), gm.APT(prompts=2), num_labels=4)
    assert gm.adapt(made(), gm.APT(prompts=2), num_labels=3).head is None


@pytest.mark.parametrize(
    "broken", [{"names": []}, {"ids": [[[1]]]}, {"ids": [[[1], []]] * 3}, {"ids": [[[1], [True]]] * 3}, {"more": 1}]
)
def test_words_of_a_file_are_checked(broken: dict[str, Any]) -> None:
    good = made().words.to_dict()
    assert Words.from_dict(good) == made().words
    with pytest.raises(UserError, match="words"):
        Words.from_dict({**good, **broken})


@pytest.mark.parametrize("make", [clip, siglip, dual], ids=["clip", "siglip", "dual"])
@pytest.mark.parametrize("stack", ["vision", "text"])
def test_a_cost_sheet_is_of_an_image(make: Any, stack: str) -> None:
    pair = make()
    adapted = gm.adapt(made(pair), gm.APT(prompts=5, rank=2, stack=stack))
    sheet = adapted.cost()
    assert sheet.tokens == {}
    assert sheet.bare.counted == sheet.bare.closed or make is siglip  # its pooling by attention
    more = sum(2 * (9 if make is siglip else 10) * 5 * b.sizes.width for b in adapted.anatomy.blocks("vision"))
    assert sheet.finished.counted - sheet.bare.counted == (more if stack == "vision" else 0)


def test_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointed in (False, True):
        torch.default_generator.manual_seed(4)
        adapted = gm.adapt(made(), gm.APT(prompts=3, rank=2, stack="both"))
        if checkpointed:
            adapted.activation_checkpointing_enable()
        adapted.train()(pixel_values=images(), labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
        grads.append({n: p.grad for n, p in adapted.trainable().items()})
        adapted.activation_checkpointing_disable()
    for n, grad in grads[0].items():
        torch.testing.assert_close(grads[1][n], grad)
