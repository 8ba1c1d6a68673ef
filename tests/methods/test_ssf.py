"""SSF: the paper's equations by hand, what it starts as, what is left of it in a finished model, and the counts of the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm
from gossamer import architectures
from gossamer.anatomy.rewritten import Wrapped
from gossamer.cost import cost
from gossamer.methods.ssf import Rescale, rescaled

from ..contract.table import BACKBONES, disturb, run

LOOSE = 0.3  # so far from 1 and 0 that a scale that is forgotten shows


def adapted_model(row: str, **options: Any) -> gm.Adapted:
    torch.default_generator.manual_seed(3)
    backbone = BACKBONES[row]
    labels = {} if backbone.num_labels is None else {"num_labels": backbone.num_labels}
    return gm.adapt(backbone.model(), gm.SSF(**{"std": LOOSE, **options}), **labels).eval()


def tables(adapted: gm.Adapted) -> dict[str, Tensor]:
    return {n.removeprefix("ssf."): p for n, p in adapted.trainable().items() if n.startswith("ssf.")}


def test_the_formula() -> None:
    y, gamma, beta = torch.randn(2, 3, 5), torch.randn(5), torch.randn(5)
    by_number = [[[gamma[c] * y[b, n, c] + beta[c] for c in range(5)] for n in range(3)] for b in range(2)]
    torch.testing.assert_close(rescaled(y, gamma, beta), torch.tensor(by_number))
    torch.testing.assert_close(rescaled(y, gamma, None), torch.tensor(by_number) - beta)


def vit_by_hand(weights: dict[str, Tensor], learnt: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The logits of the paper's ViT: every operation's output y becomes gamma * y + beta."""

    def behind(place: str, y: Tensor) -> Tensor:
        gamma, beta = (learnt.get(f"vision.{place}.{name}") for name in ("gamma", "beta"))
        return y if gamma is None or beta is None else y * gamma + beta

    def linear(place: str, name: str, x: Tensor) -> Tensor:
        return behind(place, x @ weights[f"{name}.weight"].flatten(1).T + weights[f"{name}.bias"])

    def norm(place: str, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        spread = (centred.square().mean(dim=-1, keepdim=True) + 1e-12).sqrt()
        return behind(place, centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    patches = F.unfold(pixels, kernel_size=4, stride=4).transpose(1, 2)
    tokens = linear("patches", "vit.embeddings.patch_embeddings.projection", patches)
    first = weights["vit.embeddings.cls_token"].expand(len(pixels), -1, -1)
    x = torch.cat([first, tokens], dim=1) + weights["vit.embeddings.position_embeddings"]
    for i in range(3):
        ours, theirs = f"blocks.{i}", f"vit.layers.{i}"
        states = norm(f"{ours}.norm1", f"{theirs}.layernorm_before", x)
        q, k, v = (
            linear(f"{ours}.{role}", f"{theirs}.attention.{role}_proj", states).unflatten(2, (2, 6)).transpose(1, 2)
            for role in "qkv"
        )
        attended = (q @ k.transpose(2, 3) / 6**0.5).softmax(dim=-1) @ v
        x = x + linear(f"{ours}.out", f"{theirs}.attention.o_proj", attended.transpose(1, 2).flatten(2))
        states = norm(f"{ours}.norm2", f"{theirs}.layernorm_after", x)
        states = F.gelu(linear(f"{ours}.up", f"{theirs}.mlp.fc1", states))
        x = x + linear(f"{ours}.down", f"{theirs}.mlp.fc2", states)
    x = norm("norm", "vit.layernorm", x)
    return x[:, 0] @ weights["classifier.weight"].T + weights["classifier.bias"]


@pytest.mark.parametrize("options", [{}, {"embedding": False, "blocks": (0, 2)}], ids=["everywhere", "some"])
@pytest.mark.usefixtures("in_float64")
def test_a_whole_model_by_hand(options: dict[str, Any]) -> None:
    weights, pixels = BACKBONES["vit"].model().state_dict(), BACKBONES["vit"].inputs()["pixel_values"].double()
    adapted = adapted_model("vit", **options)
    learnt = {name: parameter.detach() for name, parameter in tables(adapted).items()}
    blocks = options.get("blocks", (0, 1, 2))
    places = {f"vision.blocks.{i}.{role}" for i in blocks for role in ("q", "k", "v", "out", "up", "down")}
    places |= {f"vision.blocks.{i}.{norm}" for i in blocks for norm in ("norm1", "norm2")}
    places |= {"vision.patches", "vision.norm"} if options == {} else set()
    assert set(learnt) == {f"{place}.{name}" for place in places for name in ("gamma", "beta")}
    expected = vit_by_hand(weights, learnt, pixels)
    torch.testing.assert_close(run(adapted, {"pixel_values": pixels}), expected, rtol=1e-10, atol=1e-10)
    assert float((expected - vit_by_hand(weights, {}, pixels)).abs().max()) > 0.1


@pytest.mark.parametrize("row", ["vit", "timm-avg", "swin", "llama"])
@pytest.mark.usefixtures("in_float64")
def test_nothing_is_left_of_it_in_a_finished_model(row: str) -> None:
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in BACKBONES[row].inputs().items()}
    adapted = disturb(adapted_model(row))
    expected = run(adapted, inputs)
    finished = adapted.finalize()
    torch.testing.assert_close(run(finished, inputs), expected, rtol=1e-10, atol=1e-10)
    assert not any(isinstance(module, Wrapped | Rescale) for module in finished.modules())
    sheet = cost(adapted)
    assert sheet.bare == sheet.adapted == sheet.finished
    assert sheet.per_batch.counted == 0


def test_a_norm_without_a_bias_gets_no_shift() -> None:
    learnt = tables(adapted_model("llama"))
    assert "decoder.blocks.1.norm1.gamma" in learnt
    assert "decoder.norm.gamma" in learnt
    assert not any(name.endswith(("norm1.beta", "norm2.beta", "norm.beta")) for name in learnt)
    assert "decoder.blocks.1.q.beta" in learnt  # a Linear without a bias gets one


def test_it_starts_around_one_and_zero() -> None:
    numbers, std = 20_000, 0.02
    torch.default_generator.manual_seed(7)
    part = Rescale(numbers, True, std, torch.device("cpu"))
    for found, mean in ((part.gamma, 1.0), (part.beta, 0.0)):
        assert isinstance(found, nn.Parameter)
        assert float(found.detach().mean()) == pytest.approx(mean, abs=5 * std / numbers**0.5)
        assert float(found.detach().std()) == pytest.approx(std, rel=5 / (2 * numbers) ** 0.5)
    assert gm.SSF().std == std
    still, inputs = adapted_model("vit", std=0.0), BACKBONES["vit"].inputs()
    assert torch.equal(run(still, inputs), run(BACKBONES["vit"].model(), inputs))


def test_the_counts_of_the_paper() -> None:
    """Its tables have 0.28 million trained parameters on CIFAR-100 and 0.97 million on ImageNet for ViT-B/16, heads included."""
    adapted = gm.adapt(architectures.build("vit-b16"), gm.SSF(), num_labels=100)
    method = sum(p.numel() for p in tables(adapted).values())
    each = 2 * (3 * 768 + 768 + 3072 + 768 + 2 * 768)  # q, k, v, out, up, down, two norms
    assert method == 12 * each + 2 * 2 * 768 == gm.SSF().parameters(gm.read(architectures.build("vit-b16")))
    heads = {classes: 769 * classes for classes in (100, 1000)}
    assert {n: round((method + head) / 1e6, 2) for n, head in heads.items()} == {100: 0.28, 1000: 0.97}


@pytest.mark.parametrize("row", ["vit", "timm"])
@pytest.mark.usefixtures("in_float64")
def test_behind_lora_it_scales_what_lora_makes(row: str) -> None:
    """gamma * ((W + B A) x + b) + beta, in whatever order they are given; merged from the inside."""
    inputs = {k: v.double() for k, v in BACKBONES[row].inputs().items()}
    lora = LoraConfig(r=2, target_modules=["q", "v", "down"])
    adapted = disturb(gm.adapt(BACKBONES[row].model(), [gm.SSF(std=LOOSE), lora]).eval())
    expected = run(adapted, inputs)
    finished = adapted.finalize()
    torch.testing.assert_close(run(finished, inputs), expected, rtol=1e-10, atol=1e-10)
    assert not any(isinstance(module, Wrapped) for module in finished.modules())
    assert {type(m) for m in finished.modules() if hasattr(m, "in_features")} == {nn.Linear}


@pytest.mark.parametrize("row", ["vit", "bert", "swin"])
@pytest.mark.usefixtures("in_float64")
def test_what_others_put_into_a_branch_first_is_scaled_too(row: str) -> None:
    """Their output is no part of a matrix, so the scale behind it stays in the finished model."""
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in BACKBONES[row].inputs().items()}
    adapted = disturb(gm.adapt(BACKBONES[row].model(), [gm.Adapter(rank=3), gm.SSF(std=LOOSE)]).eval())
    expected = run(adapted, inputs)
    finished = adapted.finalize()
    torch.testing.assert_close(run(finished, inputs), expected, rtol=1e-10, atol=1e-10)
    left = {name.rpartition(".")[2] for name, module in finished.named_modules() if isinstance(module, Wrapped)}
    assert left  # the Linears whose output an adapter reads


def test_settings_that_are_wrong() -> None:
    with pytest.raises(ValueError, match="std must be 0 or more, got -1"):
        gm.SSF(std=-1)
