"""The learned classifier token, and parts of the backbone that are trained beside a method."""

from __future__ import annotations

import pytest
import torch

import gossamer as gm

from ..contract.table import BACKBONES, run


def test_the_token_starts_as_what_stood_there_in_vilt() -> None:
    backbone = BACKBONES["vilt"]
    inputs = backbone.inputs()
    inputs["input_ids"][:, 0] = 9
    bare = run(backbone.model(), inputs)
    adapted = gm.adapt(backbone.model(), gm.ClassifierToken(token=9)).eval()
    torch.testing.assert_close(run(adapted, inputs), bare, rtol=1e-6, atol=1e-6)
    inputs["input_ids"][:, 0] = 33  # the first id is read no more
    torch.testing.assert_close(run(adapted, inputs), bare, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        adapted.trainable()["classifier_token.fusion.token"].copy_(torch.randn(1, 1, 12))
    assert not torch.allclose(run(adapted, inputs), bare, atol=1e-3)


def test_the_token_starts_as_an_input_embedding_in_meter() -> None:
    model = BACKBONES["meter"].model()
    words = model.meter.text_model.embeddings(input_ids=torch.tensor([[0]]))
    adapted = gm.adapt(model, gm.ClassifierToken(token=0)).eval()
    assert torch.equal(adapted.trainable()["classifier_token.fusion.token"], words)
    seen = []
    model.meter.text_layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run(adapted, BACKBONES["meter"].inputs())
    expected = words + model.meter.token_type_embeddings.weight[0]
    torch.testing.assert_close(seen[0][:, :1], expected.expand(3, -1, -1))
    assert gm.ClassifierToken(token=0).parameters(adapted.anatomy) == 12


def test_a_token_that_has_no_place_is_refused() -> None:
    with pytest.raises(
        ValueError, match="no text enters the text stack of this BertForSequenceClassification beside images"
    ):
        gm.adapt(BACKBONES["bert"].model(), gm.ClassifierToken(token=0))
    with pytest.raises(ValueError, match="token=50 is no id of this model's vocabulary of 50"):
        gm.adapt(BACKBONES["vilt"].model(), gm.ClassifierToken(token=50))
    with pytest.raises(ValueError, match="token must be an id of the vocabulary, 0 or more, got -1"):
        gm.ClassifierToken(token=-1)
    from ..models.test_meter import build

    with pytest.raises(ValueError, match="the word embeddings of this MeterModel are 10 wide and its fusion stack 18"):
        gm.adapt(build(), gm.ClassifierToken(token=0))


def test_unfreeze_trains_whole_modules_by_name() -> None:
    backbone = BACKBONES["vilt"]
    method = gm.Unfreeze(modules=("pooler", "embeddings.token_type_embeddings"))
    adapted = gm.adapt(backbone.model(), method)
    own = {n for n in adapted.trainable() if not n.startswith("head")}
    assert own == {
        "unfreeze.vilt.pooler.dense.weight", "unfreeze.vilt.pooler.dense.bias",
        "unfreeze.vilt.embeddings.token_type_embeddings.weight",
    }  # fmt: skip
    assert method.parameters(adapted.anatomy) == 12 * 12 + 12 + 2 * 12
    assert not adapted.train().backbone.training  # type: ignore[union-attr]
    with pytest.raises(
        ValueError, match="no module 'poller' in ViltModel; it has embeddings, encoder, layernorm, pooler"
    ):
        gm.adapt(backbone.model(), gm.Unfreeze(modules=("poller",)))
    with pytest.raises(ValueError, match=r"modules=\(\) would train nothing"):
        gm.Unfreeze(modules=())
    assert gm.methods.from_dict(gm.methods.to_dict(method)) == method
