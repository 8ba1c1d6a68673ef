"""What learns beside classes in words: CoOp, CLIP-Adapter, Tip-Adapter, whose equations `apt-clip` of `tests/reference` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

import gossamer as gm
from gossamer.errors import UserError

from ..models.test_zero_shot import clip, dual, images, made, siglip

LABELS = torch.tensor([0, 1, 2, 0, 1])
TINY = ViTConfig(
    hidden_size=6, num_hidden_layers=1, num_attention_heads=2, intermediate_size=9, image_size=8, patch_size=4
)
METHODS = {
    "coop": gm.CoOp(context=4), "clip_adapter": gm.ClipAdapter(), "tip": gm.TipAdapter(shots=2),
    "both": [gm.ClipAdapter(), gm.CoOp(context=3)],
    "with_apt": [gm.APT(prompts=3, rank=2, stack="both"), gm.CoOp(context=3)],
}  # fmt: skip


def adapted(name: str, pair: Any = None) -> Any:
    torch.default_generator.manual_seed(1)
    found = gm.adapt(made(pair), METHODS[name])
    with torch.no_grad():
        for key, p in found.trainable().items():
            if key.endswith("keys"):
                p.copy_(F.normalize(torch.randn_like(p), dim=1))
    if name == "tip":
        found.methods["tip_adapter"].values.copy_(F.one_hot(torch.arange(6) // 2, 3))
    return found


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("make", [clip, dual])
def test_they_train_save_finish_and_leave(name: str, make: Any, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "pair")
    pair = gm.zoo.load(tmp_path / "pair")
    frozen = made(pair)(images()).logits
    model = adapted(name, pair)
    counts = sum(m.parameters(model.anatomy) for m in model.applied)
    assert counts == sum(p.numel() for p in model.trainable().values())
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=0.05)
    before = model.eval()(pixel_values=images()).logits
    for _ in range(2):
        model.train()(pixel_values=images(), labels=LABELS).loss.backward()
        assert all(p.grad is not None for p in model.trainable().values())
        optimizer.step()
    model.eval()
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        logits = model(pixel_values=images()).logits
        assert not torch.allclose(logits, before)
        assert torch.equal(gm.load(tmp_path / "adapter")(pixel_values=images()).logits, logits)
        finished: Any = model.finalize()
        torch.testing.assert_close(finished(pixel_values=images()).logits, logits, rtol=1e-5, atol=1e-5)
        assert torch.equal(model.detach()(images()).logits, frozen)


@torch.no_grad()
def test_context_stands_behind_the_start_before_positions_are_added() -> None:
    model = adapted("coop")
    classifier: Any = model.backbone
    vectors = model.trainable()["coop.vectors"]
    embedded: list[torch.Tensor] = []
    text: Any = classifier.pair.text_model
    text.embeddings.register_forward_hook(lambda module, args, output: embedded.append(output))
    classifier.forget()
    classifier.class_vectors()
    (rows,) = embedded
    table, positions = text.embeddings.token_embedding.inner.weight, text.embeddings.position_embedding.weight
    ids = classifier.words.ids[1][0]
    expected = torch.cat([table[ids[0]][None], vectors, table[list(ids[1:])]])
    torch.testing.assert_close(rows[2, : len(expected)], expected + positions[: len(expected)])


def test_tip_takes_its_keys_from_the_training_images_and_votes() -> None:
    pixels = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(5))
    data = [{"pixel_values": p, "labels": i % 3} for i, p in enumerate(pixels)]
    plain = made()
    frozen = plain(pixels).logits.detach()
    model = gm.adapt(plain, gm.TipAdapter(shots=2, alpha=2.0, beta=3.0))
    with pytest.raises(RuntimeError, match=r"no training images yet: call its prepare"):
        model(pixel_values=pixels)
    with pytest.raises(RuntimeError, match=r"no training images yet: call its prepare"):
        model.finalize()
    assert model.cost().trained_parameters == sum(p.numel() for p in model.trainable().values())
    model.applied[0].prepare(model, data)
    classifier: Any = model.backbone
    with torch.no_grad():
        u = F.normalize(classifier.image_vectors(pixels), dim=1)
        likeness = (-3.0 * (1 - u @ u.T)).exp() @ F.one_hot(torch.arange(6) % 3, 3).float()
        torch.testing.assert_close(model(pixel_values=pixels).logits, frozen + 2.0 * likeness)
    with pytest.raises(UserError, match="room for 2 training images of each class, and there are 1 to 2"):
        model.applied[0].prepare(model, data[:-1])


def test_nothing_is_trained_where_that_is_asked_for() -> None:
    plain = made()
    logits = plain(images()).logits
    model = gm.adapt(plain, gm.Untrained())
    assert not model.trainable()
    assert torch.equal(model(pixel_values=images()).logits, logits)


def test_refusals_are_in_words() -> None:
    for method in (gm.CoOp(), gm.ClipAdapter(), gm.TipAdapter()):
        with pytest.raises(
            UserError, match=rf"{method.name} changes how images are compared .*Dinov2Model compares none"
        ):
            gm.adapt(dual().vision_model, method)
    with pytest.raises(
        UserError, match="untrained trains nothing, and would train the head that num_labels=3 asks for"
    ):
        gm.adapt(dual().vision_model, gm.Untrained(), num_labels=3)
    with pytest.raises(
        UserError, match=r"the head that ViTForImageClassification has \(classifier\): take LinearProbe"
    ):
        gm.adapt(ViTForImageClassification(TINY), gm.Untrained())
    with pytest.raises(UserError, match="more than the 33 that are read"):
        gm.adapt(made(), gm.CoOp(context=16))
    with pytest.raises(UserError, match="begin with a word"):
        gm.adapt(made(siglip()), gm.CoOp(context=2))
    with pytest.raises(UserError, match="context must be 1 or more"):
        gm.CoOp(context=0)
    with pytest.raises(UserError, match="ratio must be 0 to 1"):
        gm.ClipAdapter(ratio=1.5)
    with pytest.raises(UserError, match="shots must be 1 or more"):
        gm.TipAdapter(shots=0)
