"""BitFit, full fine-tuning and the linear probe: what is trained, counted, and left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

import gossamer as gm
from gossamer import architectures

from ..contract.backbones import TEXT, VISION
from ..contract.table import BACKBONES, run


def one_step(adapted: gm.Adapted, inputs: Any) -> None:
    adapted.train()
    optimizer = torch.optim.SGD(adapted.trainable().values(), lr=0.1)
    run(adapted, inputs).square().sum().backward()
    optimizer.step()


COUNTS = [
    ("vit-b16", gm.BitFit(), 102_912),
    ("vilt-b32", gm.BitFit(), 104_448),
    ("vit-b16", gm.FullFineTuning(), 85_798_656),
    ("vit-b16", gm.LinearProbe(), 0),
]


@pytest.mark.parametrize(("model", "method", "count"), COUNTS)
def test_counts(model: str, method: gm.BitFit, count: int) -> None:
    adapted = gm.adapt(architectures.build(model), method, num_labels=100)
    assert sum(p.numel() for n, p in adapted.trainable().items() if not n.startswith("head")) == count
    assert sum(p.numel() for n, p in adapted.trainable().items() if n.startswith("head")) == 100 * 769
    assert method.parameters(gm.adapt(architectures.build(model), gm.VPT(), num_labels=100).anatomy) == count


@pytest.mark.parametrize("row", ["vit", "bert", "timm", "bart"])
def test_bitfit_moves_every_bias_and_nothing_else(row: str) -> None:
    backbone = BACKBONES[row]
    model = backbone.model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    adapted = gm.adapt(model, gm.BitFit())
    heads = {id(p) for head in adapted.head_modules().values() for p in head.parameters()}
    named = {n: p for n, p in model.named_parameters() if id(p) not in heads}
    biases = {n for n in named if n.endswith("bias")}
    assert {id(p) for n, p in adapted.trainable().items() if not n.startswith("head")} == {id(named[n]) for n in biases}
    one_step(adapted, backbone.inputs())
    for name, parameter in named.items():
        if not (
            name in biases and (".k_proj." in name or ".key." in name)
        ):  # a softmax does not see what all keys share
            assert torch.equal(before[name], parameter) == (name not in biases), name


def test_bitfit_saves_biases_under_names_of_our_own() -> None:
    state = gm.adapt(BACKBONES["timm"].model(), gm.BitFit()).state_dict()
    assert state["bitfit.vision.blocks.1.qkv.bias"].shape == (36,)
    assert state["bitfit.vision.blocks.2.norm2.bias"].shape == (12,)
    assert not any(name.endswith("weight") for name in state if not name.startswith("head"))


@pytest.mark.parametrize("row", ["t5", "llama", "llama-classifier"])
def test_bitfit_says_where_there_are_no_biases(row: str) -> None:
    with pytest.raises(ValueError, match="has no bias vectors, so BitFit would train nothing but the head"):
        gm.adapt(BACKBONES[row].model(), gm.BitFit())


def test_full_fine_tuning_moves_everything_and_detaching_brings_it_back() -> None:
    backbone = BACKBONES["vit"]
    model = backbone.model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    adapted = gm.adapt(model, gm.FullFineTuning())
    assert sum(p.numel() for p in adapted.trainable().values()) == sum(p.numel() for p in before.values())
    one_step(adapted, backbone.inputs())
    still = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert all("k_proj.bias" in n for n in still)
    adapted.detach()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_tied_weights_are_one_parameter() -> None:
    adapted = gm.adapt(BACKBONES["t5"].model(), gm.FullFineTuning())
    distinct = {id(p): p.numel() for p in adapted.trainable().values()}
    assert sum(distinct.values()) == adapted.applied[0].parameters(adapted.anatomy)


def test_linear_probe_trains_the_head_alone_and_reads_fixed_features() -> None:
    backbone = BACKBONES["dinov2"]
    adapted = gm.adapt(backbone.model(), gm.LinearProbe()).train()
    assert set(adapted.trainable()) == {"head.weight", "head.bias"}
    before = adapted.features(**backbone.inputs())
    assert not before.requires_grad
    one_step(adapted, backbone.inputs())
    assert torch.equal(adapted.features(**backbone.inputs()), before)


TRAINED = {"full": gm.FullFineTuning(), "bitfit": gm.BitFit()}


@pytest.mark.parametrize("method", [*TRAINED.values(), gm.LinearProbe(), gm.VPT(prompts=2)], ids=lambda m: m.name)
def test_dropout_of_the_backbone_is_on_only_where_the_backbone_is_trained(method: Any) -> None:
    torch.default_generator.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**TEXT, hidden_dropout_prob=0.4, classifier_dropout=0.0))
    adapted, inputs = gm.adapt(model, method).train(), BACKBONES["bert"].inputs()
    same = torch.equal(adapted(**inputs).logits, adapted(**inputs).logits)
    assert same == (method not in TRAINED.values())
    assert torch.equal(adapted.eval()(**inputs).logits, adapted(**inputs).logits)


def test_dropout_in_front_of_the_head_belongs_to_the_head() -> None:
    torch.default_generator.manual_seed(0)
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 3))
    model = ViTForImageClassification(ViTConfig(**VISION, num_labels=3))
    model.classifier = head
    adapted, inputs = gm.adapt(model, gm.LinearProbe()).train(), BACKBONES["vit"].inputs()
    assert not torch.equal(adapted(**inputs).logits, adapted(**inputs).logits)
    frozen = gm.adapt(adapted.detach(), gm.VPT(prompts=2), train_head=False).train()
    assert torch.equal(frozen(**inputs).logits, frozen(**inputs).logits)


@pytest.mark.parametrize("pair", [("full", "bitfit"), ("bitfit", "full")])
def test_two_methods_never_own_one_parameter(pair: tuple[str, str]) -> None:
    model = BACKBONES["vit"].model()
    with pytest.raises(ValueError, match=f"{pair[0]} and {pair[1]} would both train the same parameters"):
        gm.adapt(model, [TRAINED[name] for name in pair])
    gm.adapt(model, TRAINED["full"])  # nothing was left behind
