"""VPT: what must hold of prompts, beside the authors' numbers (tests/reference) and the promises of every method."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTModel

import gossamer as gm
from gossamer import architectures
from gossamer.methods.vpt import prompt_range, start_head

from .. import hand
from ..contract.backbones import VISION
from ..contract.table import BACKBONES, disturb, run

FORMS = pytest.mark.parametrize("form", ["exact", "sequence"])
VIT = BACKBONES["vit"]


def vpt(model: Any = None, **options: Any) -> gm.Adapted:
    """A tiny ViT with prompts as after training: of size 1, so that what they do shows."""
    torch.default_generator.manual_seed(3)
    adapted = gm.adapt(VIT.model() if model is None else model, gm.VPT(**{"prompts": 5, **options})).eval()
    with torch.no_grad():
        for name, parameter in adapted.trainable().items():
            if name.endswith("prompts"):
                parameter.normal_()
    return adapted


def prompts_of(adapted: gm.Adapted) -> list[nn.Parameter]:
    return [p for n, p in adapted.trainable().items() if n.endswith("prompts")]


def logits(adapted: Any) -> Tensor:
    return run(adapted, VIT.inputs())


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert float((found - expected).detach().abs().max()) <= tolerance * (1 + float(expected.detach().abs().max()))


def vit_of(blocks: int, **more: Any) -> ViTForImageClassification:
    torch.default_generator.manual_seed(1)
    return ViTForImageClassification(ViTConfig(**{**VISION, "num_hidden_layers": blocks}, num_labels=3, **more)).eval()


# ---- the function ----


@pytest.mark.parametrize("deep", [True, False])
def test_no_prompts_is_the_frozen_model_and_a_head(deep: bool) -> None:
    adapted = gm.adapt(VIT.model(), gm.VPT(prompts=0, deep=deep)).eval()
    assert torch.equal(logits(adapted), logits(VIT.model()))
    assert set(adapted.trainable()) == {"head.weight", "head.bias"}


@FORMS
def test_with_one_block_shallow_is_deep(form: str) -> None:
    deep, shallow = vpt(vit_of(1), form=form), vpt(vit_of(1), deep=False)
    with torch.no_grad():
        prompts_of(shallow)[0].copy_(prompts_of(deep)[0])
    close(logits(deep), logits(shallow))


def test_forms_agree_with_another_number_of_prompts_in_each_block() -> None:
    results = []
    for form in ("exact", "sequence"):
        torch.default_generator.manual_seed(3)
        methods = [gm.VPT(prompts=p, blocks=(i,), form=form) for i, p in ((2, 1), (0, 7))]  # type: ignore[arg-type]
        adapted = disturb(gm.adapt(VIT.model(), methods).eval())
        assert [tuple(p.shape) for p in prompts_of(adapted)] == [(1, 12), (7, 12)]
        answer = logits(adapted)
        answer.square().sum().backward()
        results.append((answer, [p.grad for p in prompts_of(adapted)]))
    close(results[0][0], results[1][0])
    for found, expected in zip(results[0][1], results[1][1], strict=True):
        assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@FORMS
def test_the_order_of_prompts_does_not_matter(form: str) -> None:
    adapted = vpt(form=form)
    before = logits(adapted)
    with torch.no_grad():
        for prompts in prompts_of(adapted):
            prompts.copy_(prompts[torch.randperm(5)])
    close(logits(adapted), before, 1e-6)


def test_copies_of_a_prompt_are_one_prompt_that_weighs_more() -> None:
    """c equal prompts are one whose attention logits get ln c added."""
    adapted = vpt(vit_of(1), prompts=3)
    with torch.no_grad():
        prompts_of(adapted)[0][:] = torch.randn(12)
    call = hand.record("vit", "vision")[0]
    twin = gm.read(vit_of(1)).blocks()[0].module.requires_grad_(False)
    one = prompts_of(adapted)[0][:1].detach().expand(3, -1, -1)
    mask = torch.zeros(1, 1, 18, 18)
    mask[..., 1] = math.log(3)
    expected = hand.block(replace(call, module=twin, x=torch.cat([call.x[:, :1], one, call.x[:, 1:]], 1), mask=mask))
    found = adapted.anatomy.blocks()[0].module(call.x)
    close(found, torch.cat([expected[:, :1], expected[:, 2:]], 1))


@FORMS
def test_deep_prompts_are_read_up_to_shift_and_scale(form: str) -> None:
    """The block sees LN(P) only."""
    adapted = vpt(form=form)
    before = logits(adapted)
    with torch.no_grad():
        for prompts in prompts_of(adapted):
            prompts.mul_(torch.rand(5, 1) + 0.5).add_(torch.randn(5, 1))
    close(logits(adapted), before)


@FORMS
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_gradients_of_deep_prompts_are_orthogonal_to_shift_and_scale(
    form: str, dtype: torch.dtype, bound: float
) -> None:
    torch.default_generator.manual_seed(3)
    adapted = gm.adapt(VIT.model(), gm.VPT(prompts=5, form=form)).eval().to(dtype)  # type: ignore[arg-type]
    run(adapted, {k: v.to(dtype) for k, v in VIT.inputs().items()}).square().sum().backward()
    for prompts in prompts_of(adapted):
        assert prompts.grad is not None
        assert float(prompts.grad.sum(1).abs().max() / prompts.grad.abs().sum(1).max()) < bound
        assert float(torch.cosine_similarity(prompts.grad, prompts.detach(), dim=1).abs().max()) < 1e-3


def test_the_scale_of_shallow_prompts_matters() -> None:
    """They run through the residual stream. (A shift of all coordinates still vanishes in every later norm.)"""
    adapted = vpt(deep=False)
    before = logits(adapted)
    before.square().sum().backward()
    prompts = prompts_of(adapted)[0]
    assert prompts.grad is not None
    assert float(torch.cosine_similarity(prompts.grad, prompts.detach(), dim=1).abs().max()) > 1e-2
    with torch.no_grad():
        prompts.mul_(2)
    assert not torch.allclose(logits(adapted), before, atol=1e-5)


def test_what_a_block_makes_of_deep_prompts_is_thrown_away() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([0 * x[:, :1], torch.randn(len(x), 5, 12), 0 * x[:, 6:]], 1)

    adapted = vpt(form="sequence")
    before = logits(adapted)
    for block in adapted.anatomy.blocks():
        adapted.anatomy.middle(block, Noise())  # type: ignore[arg-type]
    close(logits(adapted), before, 1e-6)


@FORMS
def test_prompts_act_from_their_block_on(form: str) -> None:
    adapted = vpt(form=form)

    def states() -> list[Tensor]:
        seen: list[Tensor] = []
        handles = [b.module.register_forward_hook(lambda m, a, y: seen.append(y)) for b in adapted.anatomy.blocks()]
        run(adapted, VIT.inputs())
        for handle in handles:
            handle.remove()
        return seen

    before = states()
    with torch.no_grad():
        prompts_of(adapted)[1].normal_()
    after = states()
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, False]
    assert {x.shape[1] for x in before} == {17}


def test_prompts_of_some_blocks() -> None:
    adapted = vpt(blocks=(2, 0))
    assert [n for n in adapted.trainable() if n.endswith("prompts")] == [
        f"vpt.vision.blocks.{i}.prompts" for i in (0, 2)
    ]
    shallow = vpt(blocks=(1,), deep=False)
    assert [n for n in shallow.trainable() if n.endswith("prompts")] == ["vpt.vision.blocks.1.prompts"]


def test_prompts_that_stay_are_read_out() -> None:
    """As MAE's mean over prompts and patches."""
    for deep in (True, False):
        model = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
        adapted = gm.adapt(model, gm.VPT(prompts=4, deep=deep, stay=True), num_labels=3)
        assert adapted.backbone(**VIT.inputs()).last_hidden_state.shape == (3, 21, 12)
        assert adapted.backbone(**VIT.inputs(1)).last_hidden_state.shape == (1, 21, 12)


# ---- dropout ----


def test_training_mode_turns_on_no_dropout_of_the_backbone() -> None:
    model = vit_of(3, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    for options in ({}, {"form": "sequence"}, {"deep": False}):
        adapted = vpt(model, **options)
        evaluated = logits(adapted)
        assert torch.equal(logits(adapted.train()), evaluated)
        adapted.detach()


def test_dropout_draws_for_every_sample_block_and_coordinate() -> None:
    adapted = vpt(prompts=40, dropout=0.25).train()
    parts = [adapted.methods.get_submodule(f"vpt.vision.blocks.{i}") for i in range(3)]
    with torch.no_grad():
        for part in parts:
            part.prompts.fill_(1.0)  # type: ignore[union-attr]
    drawn = torch.stack([part.tokens(6) for part in parts])  # type: ignore[operator]
    assert drawn.shape == (3, 6, 40, 12)
    assert torch.equal(drawn.unique(), torch.tensor([0.0, 1 / 0.75]))
    masks = (drawn == 0).flatten(2).flatten(0, 1)
    assert len({tuple(m.tolist()) for m in masks}) == 18
    assert abs(float(masks.float().mean()) - 0.25) < 0.02
    assert not (drawn == 0).all(-1).any()  # coordinates are dropped, not whole prompts
    assert torch.equal(adapted.eval().methods.get_submodule("vpt.vision.blocks.0").tokens(6), parts[0].prompts[None])  # type: ignore[operator]


@FORMS
def test_dropout_reaches_the_logits_of_each_sample_apart(form: str) -> None:
    adapted = vpt(dropout=0.5, form=form).train()
    same = VIT.inputs(1)["pixel_values"].expand(3, -1, -1, -1)
    answers = adapted(pixel_values=same).logits
    assert not torch.allclose(answers[0], answers[1], atol=1e-4)
    quiet = adapted.eval()(pixel_values=same).logits
    close(quiet[0], quiet[1], 1e-6)


def test_shallow_prompts_have_dropout_too() -> None:
    adapted, inputs = vpt(deep=False, dropout=0.5).train(), VIT.inputs()
    assert not torch.equal(adapted(**inputs).logits, adapted(**inputs).logits)


# ---- start, counts, settings ----


def test_start_of_prompts_and_head() -> None:
    adapted = gm.adapt(architectures.build("vit-b16"), gm.VPT(prompts=50), num_labels=10)
    assert prompt_range(16 * 16, 768) == 0.0625
    for (patch, width), bound in {(16, 1024): 0.057864, (14, 1280): 0.056674, (4, 128): 0.184637}.items():
        assert abs(prompt_range(patch * patch, width) - bound) < 5e-7
    assert {tuple(p.shape) for p in prompts_of(adapted)} == {(50, 768)}

    tiny = gm.adapt(VIT.model(), gm.VPT(prompts=400))
    bound = math.sqrt(6 / (3 * 4 * 4 + 12))
    for prompts in prompts_of(tiny):
        assert float(prompts.detach().abs().max()) <= bound
        assert abs(float(prompts.detach().var()) / (bound**2 / 3) - 1) < 0.1

    head = nn.Linear(768, 100)
    start_head(head)
    head.requires_grad_(False)
    assert abs(float(head.bias[0]) + 4.59512) < 1e-5
    assert len(head.bias.unique()) == 1
    assert abs(float(head.weight.std()) / math.sqrt(2 / 100) - 1) < 0.02


def test_start_of_projected_prompts() -> None:
    adapted = gm.adapt(VIT.model(), gm.VPT(prompts=300, project=7))
    bound = math.sqrt(6 / (3 * 4 * 4 + 7))
    assert all(float(p.detach().abs().max()) <= bound for p in prompts_of(adapted))
    weight = adapted.trainable()["vpt.projection.weight"].detach()
    assert weight.shape == (12, 7)
    assert 0.6 < float(weight.std()) / math.sqrt(2 / 12) < 1.4


COUNTS: list[tuple[dict[str, Any], int]] = [
    ({"prompts": 50}, 460_800),
    ({"prompts": 50, "deep": False}, 38_400),
    ({"prompts": 50, "form": "sequence"}, 460_800),
    ({"prompts": 100, "blocks": (0, 5, 11)}, 230_400),
    ({"prompts": 50, "project": 64}, 12 * 50 * 64 + 64 * 768 + 768),
    ({"prompts": 0}, 0),
]


@pytest.mark.parametrize(("options", "count"), COUNTS)
def test_counts_on_vit_b16(options: dict[str, Any], count: int) -> None:
    for classes in (6, 10, 397):
        adapted = gm.adapt(architectures.build("vit-b16"), gm.VPT(**options), num_labels=classes)
        assert sum(p.numel() for p in adapted.trainable().values()) == count + 769 * classes
        assert adapted.applied[0].parameters(gm.read(architectures.build("vit-b16"))) == count


@pytest.mark.parametrize(("prompts", "classes", "total"), [(100, 6, 926_214), (100, 10, 929_290), (5, 397, 351_373)])
def test_counts_of_the_authors_notebook(prompts: int, classes: int, total: int) -> None:
    adapted = gm.adapt(architectures.build("vit-b16"), gm.VPT(prompts=prompts), num_labels=classes)
    assert sum(p.numel() for p in adapted.trainable().values()) == total


MACS = {0: 17.56, 1: 17.66, 10: 18.49, 50: 22.22, 100: 26.97, 150: 31.81, 200: 36.74}
EXACT = {0: 17.56, 1: 17.57, 10: 17.60, 50: 17.74, 100: 17.93, 150: 18.11, 200: 18.29}


@pytest.mark.parametrize("prompts", MACS)
def test_multiply_adds_on_vit_b16(prompts: int) -> None:
    anatomy = gm.read(architectures.build("vit-b16"))
    bare = sum(b.sizes.macs(197) for b in anatomy.blocks()) + 196 * 768 * 3 * 16 * 16
    for form, expected in (("sequence", MACS), ("exact", EXACT)):
        added = gm.VPT(prompts=prompts, form=form).macs(anatomy, {"vision": 197})  # type: ignore[arg-type]
        assert abs((bare + added) / 1e9 - expected[prompts]) < 0.006


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": -1}, "prompts must be 0 or more, got -1"),
        ({"project": 0}, "project must be at least 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1\.0"),
        ({"form": "tokens"}, "form must be 'exact' or 'sequence', got 'tokens'"),
        ({"deep": False, "blocks": (0, 1)}, r"shallow prompts enter before one block, got blocks=\(0, 1\)"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.VPT(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"blocks": (0, 3)},
            KeyError,
            r"no block 3: the vision stack of this ViTForImageClassification has 3 \(0\.\.2\)",
        ),
        ({"blocks": ()}, ValueError, r"blocks=\(\) names no block"),
        ({"stack": "text"}, KeyError, r"no stack 'text' in ViTForImageClassification: it has vision \(3 blocks\)"),
        ({"stay": True, "blocks": (0,)}, ValueError, "stay=True keeps the prompts of the last block, 2, which blocks="),
    ],
)
def test_settings_that_do_not_fit_the_model(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = VIT.model()
    with pytest.raises(error, match=message):
        gm.adapt(model, gm.VPT(**options))
    assert torch.equal(logits(model), logits(VIT.model()))


def test_prompts_run_as_tokens_where_the_exact_form_is_not_possible() -> None:
    model = VIT.model()
    for layer in model.vit.layers:  # type: ignore[union-attr]
        layer.attention.register_forward_hook(lambda module, args, output: (output[0] + 0, output[1]))
    attention = model.vit.layers[1].attention  # type: ignore[union-attr]
    attention.forward = _deaf(attention)
    with pytest.warns(UserWarning, match=r"vit\.layers\.1: prompts run as tokens here.*does not read a memory"):
        adapted = gm.adapt(model, gm.VPT(prompts=5)).eval()
    torch.default_generator.manual_seed(3)
    expected = gm.adapt(VIT.model(), gm.VPT(prompts=5, form="sequence")).eval()
    expected.load_state_dict(adapted.state_dict())
    close(logits(adapted), logits(expected))


def _deaf(attention: Any) -> Any:
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        q, k, v = (
            f(hidden_states).unflatten(-1, (2, -1)).transpose(1, 2)
            for f in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return attention.o_proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), None

    return forward


# ---- finishing and saving ----


@FORMS
def test_folding_the_projection_changes_nothing(form: str) -> None:
    adapted = disturb(vpt(project=7, form=form))
    finished = adapted.finalize()
    close(logits(finished), logits(adapted), 1e-6)
    names = set(finished.state_dict()) - set(VIT.model().state_dict())
    leaves = ("keys", "values") if form == "exact" else ("folded",)
    assert names == {f"gossamer.vpt.vision.blocks.{i}.{leaf}" for i in range(3) for leaf in leaves}
    shapes = {tuple(v.shape) for k, v in finished.state_dict().items() if k in names}
    assert shapes == {(1, 5, 12)}


def test_the_state_holds_prompts_projection_and_head_only() -> None:
    names = {f"vpt.vision.blocks.{i}.prompts" for i in range(3)} | {"head.weight", "head.bias"}
    assert set(vpt().tensors()) == set(vpt(form="sequence").tensors()) == names
    projected = vpt(project=7).tensors()
    assert set(projected) == names | {"vpt.projection.weight", "vpt.projection.bias"}
    assert projected["vpt.vision.blocks.0.prompts"].shape == (5, 7)


def test_prompts_stay_in_single_precision_over_a_half_precision_backbone() -> None:
    adapted = gm.adapt(VIT.model().to(torch.bfloat16), gm.VPT(prompts=5, form="sequence"))
    seen: list[torch.dtype] = []
    for block in adapted.anatomy.blocks():
        block.module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    adapted(pixel_values=VIT.inputs()["pixel_values"].to(torch.bfloat16))
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in prompts_of(adapted)} == {torch.float32}


def test_the_schedule_of_the_paper() -> None:
    """Warm-up over a tenth, then a cosine: one step an epoch gives the paper's s(e)."""
    from gossamer.training.trainer import schedule

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rates, scheduler = [], schedule("cosine", optimizer, 100)
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    for epoch, expected in {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 99: 3.0459e-4}.items():
        assert abs(rates[epoch] - expected) < 1e-6
