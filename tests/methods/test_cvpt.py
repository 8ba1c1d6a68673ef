"""CVPT: what must hold of the branch, of its placements and of its weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaModel,
    ViTConfig,
    ViTForImageClassification,
)

import gossamer as gm
from gossamer import architectures
from gossamer.methods import cvpt

from ..contract.table import BACKBONES, disturb

SIZES: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 28, "image_size": 12,
    "patch_size": 4,
}  # fmt: skip


def vit(attention: str = "sdpa") -> Any:
    torch.default_generator.manual_seed(1)
    model = ViTForImageClassification(ViTConfig(**SIZES, num_labels=3, attn_implementation=attention))
    return noisy(model)


def noisy(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def dinov2() -> Any:
    torch.default_generator.manual_seed(1)
    sizes = {k: v for k, v in SIZES.items() if k != "intermediate_size"}
    return noisy(Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2, layerscale_value=0.3)))


def branch(model: Any, index: int = 1, prompts: int = 5, **options: Any) -> tuple[gm.Adapted, Any]:
    """A model with CVPT, its prompts of size 1, and the branch of one block."""
    options.setdefault("start", "published")
    adapted = gm.adapt(model, gm.CVPT(prompts=prompts, **options), num_labels=3).eval()
    part: Any = adapted.methods["cvpt"].get_submodule(adapted.anatomy.blocks()[index].key)
    with torch.no_grad():
        part.prompts.normal_()
    return adapted, part


def by_hand(attention: Any, x: Tensor, p: Tensor, heads: int = 4) -> Tensor:
    """The spec's equations, head by head, from the weights of a ViTAttention."""
    q, k, v = attention.q_proj(x), attention.k_proj(p), attention.v_proj(p)
    h, answers = q.shape[-1] // heads, []
    for j in range(heads):
        own = slice(j * h, (j + 1) * h)
        weights = (q[..., own] @ k[..., own].T / math.sqrt(h)).softmax(dim=-1)
        answers.append(weights @ v[..., own])
    return attention.o_proj(torch.cat(answers, dim=-1))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * (1 + float(expected.detach().abs().max()))


def states(rows: int = 7) -> Tensor:
    return torch.randn(3, rows, 24, generator=torch.Generator().manual_seed(2))


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("form", ["auto", "folded", "projected"])
def test_the_branch_is_the_papers(form: str) -> None:
    adapted, part = branch(vit(), form=form)
    close(part(states()), by_hand(adapted.backbone.vit.layers[1].attention, states(), part.prompts))


@pytest.mark.usefixtures("in_float64")
def test_forms_agree_in_values_and_gradients() -> None:
    results = []
    for form in ("folded", "projected"):
        _, part = branch(vit(), form=form)
        with torch.no_grad():
            part.prompts.copy_(torch.linspace(-1, 1, 5 * 24).view(5, 24).sin())
        x = states().requires_grad_()
        y = part(x)
        y.square().sum().backward()
        results.append((y, x.grad, part.prompts.grad))
    for folded, projected in zip(*results, strict=True):
        assert float((folded - projected).detach().abs().max()) <= 1e-5 * float(projected.detach().abs().max())


@pytest.mark.parametrize("placement", cvpt.PLACEMENTS)
@pytest.mark.parametrize("model", [vit, dinov2])
@pytest.mark.parametrize("options", [{}, {"layer_scale": False}])
def test_placements(placement: Any, model: Any, options: dict[str, Any]) -> None:
    adapted, part = branch(model(), placement=placement, **options)
    block: Any = adapted.anatomy.blocks()[1].module
    plain: Any = gm.read(model()).blocks()[1].module
    scales = [getattr(plain, f"layer_scale{i}", nn.Identity()) for i in (1, 2)]
    before, after = (plain.norm1, plain.norm2) if model is dinov2 else (plain.layernorm_before, plain.layernorm_after)

    def ca(x: Tensor) -> Tensor:
        y = by_hand(plain.attention, x, part.prompts)
        return y if options else scales[0](y)

    def attended(x: Tensor) -> Tensor:
        return scales[0](plain.attention(before(x))[0])

    def ffn(x: Tensor) -> Tensor:
        return scales[1](plain.mlp(x))

    x = states()
    if placement == 1:
        x = x + ca(x)
    x1 = x + attended(x) + (ca(x) if placement == 2 else 0)
    x1 = x1 + ca(x1) if placement == 3 else x1
    y = x1 + ffn(after(x1) + (ca(x1) if placement == 4 else 0)) + (ca(x1) if placement == "parallel_ffn" else 0)
    y = y + ca(y) if placement == 5 else y
    found = block(states())
    assert found.shape == states().shape
    close(found, y)


def test_prompts_at_zero_add_the_biases() -> None:
    adapted, part = branch(vit())
    with torch.no_grad():
        part.prompts.zero_()
    attention = adapted.backbone.vit.layers[1].attention
    constant = attention.o_proj.weight @ attention.v_proj.bias + attention.o_proj.bias
    close(part(states()), constant.expand(3, 7, 24))


def test_prompts_at_zero_add_nothing_to_a_model_without_biases() -> None:
    config = LlamaConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=28,
        vocab_size=9,
    )
    _, part = branch(LlamaModel(config))
    with torch.no_grad():
        part.prompts.zero_()
    assert torch.equal(part(states()), torch.zeros(3, 7, 24))


@pytest.mark.parametrize("form", ["auto", "folded", "projected"])
def test_one_prompt_is_a_bias(form: str) -> None:
    adapted, part = branch(vit(), prompts=1, form=form)
    assert part.form == ("constant" if form == "auto" else form)
    a = adapted.backbone.vit.layers[1].attention
    close(part(states()), a.o_proj(a.v_proj(part.prompts)).expand(3, 7, 24))


def test_order_and_number_of_copies_of_prompts_do_not_matter() -> None:
    _, part = branch(vit())
    expected, prompts = part(states()).detach(), part.prompts.detach().clone()
    for same in (prompts.flip(0), prompts.repeat(2, 1)):
        part.prompts = nn.Parameter(same)
        close(part(states()), expected)


def test_a_vector_added_to_all_keys_does_not_matter() -> None:
    adapted, part = branch(vit())
    expected = part(states()).detach()
    with torch.no_grad():
        adapted.backbone.vit.layers[1].attention.k_proj.bias.add_(torch.randn(24))
    close(part(states()), expected)


def test_tokens_are_on_their_own() -> None:
    _, part = branch(vit())
    changed = states()
    changed[:, 2] += 1
    before, after = part(states()), part(changed)
    assert torch.equal(before[:, [0, 1, 3, 4, 5, 6]], after[:, [0, 1, 3, 4, 5, 6]])
    assert not torch.equal(before[:, 2], after[:, 2])
    close(part(states().flip(1)), before.flip(1))


def test_self_attention_stays_as_it_is() -> None:
    with torch.no_grad():
        bare = vit("eager")(images(), output_attentions=True).attentions
        adapted, _ = branch(vit("eager"))
        found = adapted(pixel_values=images(), output_attentions=True)
    assert torch.equal(found.attentions[0], bare[0])
    assert all(a.shape == (3, 4, 10, 10) for a in found.attentions)
    for attention in found.attentions:
        close(attention.sum(dim=-1), torch.ones(3, 4, 10))
    assert not torch.equal(found.attentions[2], bare[2])


def test_no_prompts_is_the_frozen_model() -> None:
    adapted = gm.adapt(vit(), gm.CVPT(prompts=0)).eval()
    assert torch.equal(adapted(images()).logits, vit()(images()).logits)
    assert gm.CVPT(prompts=0).parameters(adapted.anatomy) == 0
    assert gm.CVPT(prompts=0).macs(adapted.anatomy, {"vision": 10}) == 0


@pytest.mark.parametrize(
    "adapted",
    [
        pytest.param(lambda: gm.adapt(vit(), gm.CVPT(start="identity")), id="vit"),
        pytest.param(lambda: gm.adapt(dinov2(), gm.CVPT(), num_labels=3), id="dinov2"),
    ],
)
def test_identity_start(adapted: Any) -> None:
    model = adapted()
    prompts = [p for n, p in model.trainable().items() if not n.startswith("head")]
    assert [p.shape for p in prompts] == 3 * [(10, 24)]
    after = model.features(pixel_values=images())
    bare = vit().vit(images()) if len(model.anatomy.heads) else dinov2()(images())
    assert torch.equal(after, bare.last_hidden_state[:, 0])
    model.features(pixel_values=images()).square().sum().backward()
    assert all(float(p.grad.abs().min(dim=1).values.max()) > 0 for p in prompts)  # not a start that learns nothing


def test_start_by_default() -> None:
    published = gm.adapt(vit(), gm.CVPT())
    assert not any(n.endswith(".origin") for n in published.state_dict())
    assert not torch.equal(published(images()).logits, vit()(images()).logits)


@pytest.mark.parametrize("form", ["auto", "folded", "projected"])
@pytest.mark.parametrize("prompts", [1, 5])
def test_identity_start_counts_values_from_their_start(form: str, prompts: int) -> None:
    adapted, part = branch(vit(), prompts=prompts, start="identity", form=form)
    a = adapted.backbone.vit.layers[1].attention
    q, k = (t.unflatten(-1, (4, 6)).transpose(-3, -2) for t in (a.q_proj(states()), a.k_proj(part.prompts)))
    v = ((part.prompts - part.origin) @ a.v_proj.weight.T).unflatten(-1, (4, 6)).transpose(0, 1)
    read = (q @ k.mT / math.sqrt(6)).softmax(dim=-1) @ v
    close(part(states()), read.transpose(1, 2).flatten(2) @ a.o_proj.weight.T)


def test_prompt_starts() -> None:
    def drawn(**options: Any) -> Tensor:
        torch.default_generator.manual_seed(4)
        adapted = gm.adapt(vit(), gm.CVPT(prompts=40, **options))
        return torch.stack([p for n, p in adapted.trainable().items() if n.endswith(".prompts")]).detach()

    for options, bound in (
        ({}, math.sqrt(6 / ((3 + 40) * 24))),
        ({"blocks": (0, 2)}, math.sqrt(6 / ((2 + 40) * 24))),
        ({"prompt_start": "vpt"}, math.sqrt(6 / (3 * 16 + 24))),
    ):
        prompts = drawn(**options)
        assert 0.98 * bound < float(prompts.abs().max()) <= bound
        assert float(prompts.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not drawn(prompt_start="zero").any()


def test_norms_are_the_hosts_first() -> None:
    adapted, part = branch(vit(), query_norm="host_norm1", prompt_norm="host_norm1")
    layer = adapted.backbone.vit.layers[1]
    norm = layer.layernorm_before
    close(part(states()), by_hand(layer.attention, norm(states()), norm(part.prompts)))
    with pytest.raises(ValueError, match=r"encoder\.layer\.0 has no norm before its attention"):
        gm.adapt(BACKBONES["bert"].model(), gm.CVPT(query_norm="host_norm1"))


def test_gradients_reach_prompts_and_head_only() -> None:
    adapted = gm.adapt(vit(), gm.CVPT(prompts=5)).train()
    before = {k: v.clone() for k, v in adapted.backbone.named_parameters()}
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=0.1)
    for _ in range(3):
        adapted(pixel_values=images(), labels=torch.tensor([0, 2, 1])).loss.backward()
        optimizer.step()
    assert all(p.grad is not None for p in adapted.trainable().values())
    frozen = {k: v for k, v in adapted.backbone.named_parameters() if not k.startswith("classifier")}
    assert all(v.grad is None for v in frozen.values())
    assert all(torch.equal(v, before[k]) for k, v in frozen.items())


def test_sharing_is_live() -> None:
    adapted, part = branch(vit())
    before = part(states()).detach()
    adapted.backbone.load_state_dict({k: v + 0.1 for k, v in adapted.backbone.state_dict().items()})
    after = part(states())
    assert not torch.allclose(before, after)
    close(after, by_hand(adapted.backbone.vit.layers[1].attention, states(), part.prompts))


def test_projections_that_are_not_shared() -> None:
    adapted, part = branch(vit(), learnable=True)
    attention = adapted.backbone.vit.layers[1].attention
    assert torch.equal(part.own.q.weight, attention.q_proj.weight)
    assert part.own.q.weight.data_ptr() != attention.q_proj.weight.data_ptr()
    close(part(states()), by_hand(attention, states(), part.prompts))
    part(states()).square().sum().backward()
    assert all(p.grad is not None for p in part.parameters())
    adapted, part = branch(vit(), projections="random")
    assert not torch.equal(part.own.q.weight, adapted.backbone.vit.layers[1].attention.q_proj.weight)
    assert [n for n, _ in part.named_parameters() if part.get_parameter(n).requires_grad] == ["prompts"]


def test_random_projections_are_saved(tmp_path: Path) -> None:
    adapted, _ = branch(vit(), projections="random")
    adapted.save_pretrained(tmp_path / "a")
    assert torch.equal(gm.load(tmp_path / "a", vit())(images()).logits, adapted(images()).logits)


def test_saved_are_prompts_and_head(tmp_path: Path) -> None:
    adapted = disturb(gm.adapt(vit(), gm.CVPT(prompts=5)).eval())
    adapted.save_pretrained(tmp_path / "a")
    saved = safetensors.torch.load_file(tmp_path / "a" / "adapter_model.safetensors")
    blocks = [f"cvpt.vision.blocks.{i}.prompts" for i in range(3)]
    assert sorted(saved) == [*blocks, "head.bias", "head.weight"]
    assert torch.equal(gm.load(tmp_path / "a", vit())(images()).logits, adapted(images()).logits)


@pytest.mark.parametrize("form", ["folded", "projected"])
def test_lora_on_the_projections_leaves_the_branch_alone(form: str) -> None:
    lora = LoraConfig(r=2, target_modules=["q", "k", "v", "out"], init_lora_weights=False)
    torch.default_generator.manual_seed(6)
    adapted = disturb(gm.adapt(vit(), [gm.CVPT(prompts=5, form=form), lora]).eval())  # type: ignore[arg-type]
    part: Any = adapted.methods["cvpt"].get_submodule("vision.blocks.1")
    close(part(states()), by_hand(vit().vit.layers[1].attention, states(), part.prompts))
    close(adapted.finalize()(images()).logits, adapted(images()).logits)


@pytest.mark.parametrize("mask", ["sample", "batch"])
@pytest.mark.usefixtures("in_float64")
def test_prompt_dropout(mask: str) -> None:
    _, part = branch(vit(), dropout=0.5, dropout_mask=mask)
    same = states()[:1].expand(3, -1, -1)
    close(part(same)[0], part(same)[2], 1e-12)  # a processor may round the rows of a batch each in its own way
    part.train()
    y = part(same)
    assert torch.allclose(y[0], y[2], rtol=0, atol=1e-12) is (mask == "batch")
    torch.default_generator.manual_seed(7)
    first = part(same)
    torch.default_generator.manual_seed(7)
    assert torch.equal(part(same), first)


def test_training_and_evaluation_agree_without_dropout() -> None:
    adapted = disturb(gm.adapt(vit(), gm.CVPT(prompts=5)))
    assert torch.equal(adapted.train()(images()).logits, adapted.eval()(images()).logits)


def test_what_finalize_keeps() -> None:
    adapted = disturb(gm.adapt(dinov2(), gm.CVPT(prompts=2), num_labels=3).eval())
    small: Any = adapted.finalize()
    kept = {n.rpartition(".")[2] for n in small.gossamer.state_dict()}
    assert kept == {"G", "g", "U", "bias"}
    large: Any = disturb(gm.adapt(vit(), gm.CVPT(prompts=30)).eval()).finalize()
    assert {n.rpartition(".")[2] for n in large.gossamer.state_dict()} == {"keys", "values"}


def vit_b() -> tuple[Any, Any]:
    model = architectures.build("vit-b16")
    return model, gm.read(model)


def test_parameters_of_vit_b() -> None:
    model, anatomy = vit_b()
    assert gm.CVPT(prompts=10).parameters(anatomy) == 92_160
    assert gm.CVPT(prompts=10, learnable=True).parameters(anatomy) == 92_160 + 28_348_416
    before = sum(p.numel() for p in model.parameters())
    adapted = gm.adapt(model, gm.CVPT(prompts=10))
    assert sum(p.numel() for p in adapted.methods.parameters()) == 92_160
    assert sum(p.numel() for p in adapted.backbone.parameters()) == before


def test_costs_of_vit_b() -> None:
    _, anatomy = vit_b()

    def giga(prompts: int, form: str) -> float:
        return round(gm.CVPT(prompts=prompts, form=form).macs(anatomy, {"vision": 197}) / 1e9, 3)  # type: ignore

    published = {1: (2.792, 0.044), 10: (2.825, 0.436), 50: (2.970, 2.179), 200: (3.515, 8.715)}
    for prompts, (projected, folded) in published.items():
        assert giga(prompts, "projected") == projected
        assert giga(prompts, "folded") == folded
    assert giga(1, "auto") == 0
    assert giga(69, "auto") == giga(69, "folded") < giga(69, "projected")
    assert giga(70, "auto") == giga(70, "projected") < giga(70, "folded")


def test_as_coded_the_branch_is_dearer_than_vpt_up_to_37_prompts() -> None:
    _, anatomy = vit_b()

    def dearer(prompts: int) -> bool:
        method = gm.CVPT(prompts=prompts, form="projected")
        coded = method.macs(anatomy, {"vision": 197}) + method.overhead(anatomy, {"vision": 197})[1]
        return coded > gm.VPT(prompts=prompts, form="sequence").macs(anatomy, {"vision": 197})

    assert dearer(37)
    assert not dearer(38)


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ("vit", {"prompts": 2}),
        ("vit", {"prompts": 30}),
        ("vit", {"prompts": 1}),
        ("timm-avg", {"prompts": 3}),
        ("llama", {"prompts": 3, "form": "projected"}),
        ("t5", {"prompts": 3, "form": "folded", "stack": "decoder"}),
        ("dinov2", {"prompts": 3, "learnable": True}),
        ("vit", {"prompts": 3, "dropout": 0.2}),
        ("vit", {"prompts": 3, "dropout": 0.2, "dropout_mask": "batch"}),
    ],
)
def test_cost_sheet_counts_the_closed_form(row: str, options: dict[str, Any]) -> None:
    adapted = gm.adapt(BACKBONES[row].model(), gm.CVPT(**options))
    sheet = adapted.cost()
    assert sheet.finished.counted == sheet.finished.closed
    assert sheet.method_parameters == gm.CVPT(**options).parameters(gm.read(adapted.detach()))
    if not options.get("dropout"):  # the sheet counts in evaluation mode, where dropout is off
        assert sheet.adapted.counted == sheet.adapted.closed
        assert sheet.per_batch.counted == sheet.per_batch.closed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": -1}, "prompts must be 0 or more, got -1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"placement": 6}, "placement must be one of 1, 2, 3, 4, 5, 'parallel_ffn', got 6"),
        ({"start": "zero"}, "start must be one of None, 'published', 'identity', got 'zero'"),
        ({"form": "exact"}, "form must be one of 'auto', 'folded', 'projected', got 'exact'"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.CVPT(**options)


def test_what_cannot_be_folded_or_copied_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"blocks\.0 cannot be folded: the queries are normalised after their projection"
    ):
        gm.adapt(BACKBONES["timm-avg"].model(), gm.CVPT(form="folded"))
    model = vit()
    quantised = Quantised(model.vit.layers[0].attention.q_proj)
    model.vit.layers[0].attention.q_proj = quantised
    with pytest.raises(ValueError, match=r"layers\.0 cannot be folded: its projections are no plain Linears"):
        gm.adapt(model, gm.CVPT(form="folded"))
    with pytest.raises(ValueError, match=r"layers\.0: the projection 'q' is a Quantised, of which no trainable copy"):
        gm.adapt(model, gm.CVPT(learnable=True))
    adapted, part = branch(model, index=0)
    assert part.form == "projected"
    close(part(states()), by_hand(vit().vit.layers[0].attention, states(), part.prompts))
    assert adapted.backbone.vit.layers[0].attention.q_proj is quantised


class Quantised(nn.Linear):
    """A Linear whose weight cannot be read as a matrix."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features)
        self.weight, self.bias = linear.weight, linear.bias


@pytest.mark.parametrize("encoded", [False, True], ids=["alone", "encoded"])
def test_behind_a_post_norm_attention_is_behind_the_one_that_runs_last(encoded: bool) -> None:
    """A decoder that runs alone asks its cross-attention nothing, and a branch behind that one would silently never run."""
    sizes = {"d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 20, "vocab_size": 31}
    torch.default_generator.manual_seed(2)
    model = noisy(BartForCausalLM(BartConfig(**sizes, max_position_embeddings=20)))
    layer, behind, read = model.model.decoder.layers[1], [], []
    norm = layer.encoder_attn_layer_norm if encoded else layer.self_attn_layer_norm
    norm.register_forward_pre_hook(lambda module, args: behind.append(args[0]))
    adapted = gm.adapt(model, gm.CVPT(prompts=3)).eval()
    part = adapted.methods["cvpt"].get_submodule(adapted.anatomy.blocks()[1].key)
    part.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    context = torch.randn(2, 5, 24) if encoded else None
    adapted(input_ids=torch.randint(4, 30, (2, 7)), encoder_hidden_states=context).logits.square().mean().backward()
    assert len(read) == 1
    assert torch.equal(read[0], nn.functional.layer_norm(behind[0], (24,), norm.weight, norm.bias, norm.eps))
    assert all(p.grad is not None for p in adapted.trainable().values())
