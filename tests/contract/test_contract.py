"""What every method promises on every backbone."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gossamer as gm
from gossamer import hosts

from .table import Backbone, Row, adapt, disturb, pairs, prepared, refused, run, unfit


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    error = float((found - expected).detach().abs().max() / (1 + expected.detach().abs().max()))
    assert error <= tolerance, f"{error:.1e}"


@refused()
def test_what_does_not_fit_is_refused(backbone: Backbone, row: Row) -> None:
    model = backbone.model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, TypeError), match=unfit(backbone, row)):
        gm.adapt(model, row.method)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    gm.adapt(model, gm.VPT(prompts=2))  # nothing was left behind


@pairs("life")
@pytest.mark.usefixtures("uncounted")
def test_life(backbone: Backbone, row: Row, tmp_path: Path) -> None:
    """Identity at the start, training, saving, loading, copying, finishing, detaching: one life, step by step."""
    inputs, options = backbone.inputs(), {} if backbone.num_labels is None else {"num_labels": backbone.num_labels}
    bare = run(backbone.model(), inputs)
    torch.default_generator.manual_seed(3)
    model = backbone.model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    structure = repr(model)
    adapted = prepared(gm.adapt(model, row.method, **options).eval(), inputs)

    start = run(adapted, inputs)
    if row.identity and backbone.num_labels is None:
        close(start, bare, 1e-6)

    one_step(adapted, inputs)
    frozen = {k: v for k, v in adapted.backbone.named_parameters() if not v.requires_grad}
    assert all(v.grad is None for v in frozen.values())
    originals = {k: before[k.replace(".base_layer", "")] for k in frozen if k.replace(".base_layer", "") in before}
    assert all(torch.equal(frozen[k], v) for k, v in originals.items())

    disturb(adapted)
    trained = run(adapted, inputs)
    assert not torch.equal(trained, start)
    adapted.save_pretrained(tmp_path / "adapter")
    again = gm.load(tmp_path / "adapter", backbone.model())
    assert torch.equal(run(again, inputs), trained)
    assert {k: v.shape for k, v in again.trainable().items()} == {k: v.shape for k, v in adapted.trainable().items()}

    for copied in [copy.deepcopy(adapted)] + [pickle.loads(pickle.dumps(adapted)) for _ in range(backbone.pickles)]:
        assert torch.equal(run(copied, inputs), trained)
        disturb(copied)
        assert not torch.equal(run(copied, inputs), trained)
    assert torch.equal(run(adapted, inputs), trained)

    finished = adapted.finalize()
    assert not isinstance(finished, gm.Adapted)
    close(run(finished, inputs), trained, 1e-6)
    assert not any(p.requires_grad for p in finished.parameters())

    assert adapted.detach() is model
    assert repr(model) == structure
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert torch.equal(run(model, inputs), bare)
    assert torch.equal(run(adapted.attach().eval(), inputs), trained)


def one_step(adapted: gm.Adapted, inputs: dict[str, Tensor]) -> None:
    """One optimizer step; afterwards every trainable that the loss can reach has a gradient."""
    adapted.train()
    trainable = adapted.trainable()
    optimizer = torch.optim.SGD(trainable.values(), lr=0.1)
    run(adapted, inputs).square().mean().backward()
    reached = [n for n, p in trainable.items() if p.grad is not None]
    assert reached
    assert all(torch.isfinite(trainable[n].grad).all() for n in reached)  # type: ignore[arg-type]
    optimizer.step()
    adapted.eval()
    adapted.zero_grad(set_to_none=True)


@pairs("counted")
def test_parameter_count_is_the_closed_form(backbone: Backbone, row: Row) -> None:
    adapted = adapt(backbone, row)
    counted = sum(p.numel() for n, p in adapted.trainable().items() if not n.startswith("head"))
    anatomy = hosts.read(backbone.model())  # that no method has touched
    anatomy.sites = [site for method in adapted.applied for site in method.skipped(anatomy)]
    assert sum(method.parameters(anatomy) for method in adapted.applied) == counted


@pairs("kernels")
def test_sdpa_is_eager(backbone: Backbone, row: Row) -> None:
    sdpa, eager = (disturb(adapt(backbone, row, attention)) for attention in ("sdpa", "eager"))
    close(run(sdpa, backbone.inputs()), run(eager, backbone.inputs()))


@pairs("batch")
def test_a_sample_does_not_depend_on_its_batch(backbone: Backbone, row: Row) -> None:
    adapted = disturb(adapt(backbone, row))
    close(run(adapted, backbone.inputs(1)), run(adapted, backbone.inputs())[:1])


@pairs("forms")
@pytest.mark.usefixtures("in_float64")
def test_exact_is_sequence(backbone: Backbone, row: Row) -> None:
    forms = []
    for form in ("exact", "sequence"):
        values = {"prompts": row.method.prompts, "project": row.method.project, "blocks": row.method.blocks}
        adapted = disturb(adapt(backbone, Row(gm.VPT(**values, form=form))))
        output = run(adapted, backbone.inputs())
        output.square().sum().backward()
        forms.append((output, {n: p.grad for n, p in adapted.trainable().items()}))
    (exact, gradients), (sequence, expected) = forms
    close(exact, sequence)
    for name, gradient in expected.items():
        if gradient is not None:
            largest = float(gradient.abs().max())
            assert float((gradients[name] - gradient).abs().max()) <= 1e-5 * max(largest, 1e-3), name


@pairs("padding")
def test_padding_changes_nothing(backbone: Backbone, row: Row) -> None:
    adapted = disturb(adapt(backbone, row))
    inputs = backbone.inputs()
    short = {k: (v[1:2, :5] if k in ("input_ids", "attention_mask") else v[1:2]) for k, v in inputs.items()}
    alone, together = run(adapted, short), run(adapted, inputs)[1:2]
    if together.dim() == 3 and "decoder_input_ids" not in inputs:
        together = together[:, : alone.shape[1]]
    close(alone, together)


@pairs("checkpointing")
def test_checkpointing_changes_nothing(backbone: Backbone, row: Row) -> None:
    plain, saving = (disturb(adapt(backbone, row)) for _ in range(2))
    saving.gradient_checkpointing_enable()
    results = []
    for adapted in (plain, saving):
        adapted.train()
        for module in adapted.methods.modules():  # dropout draws anew; compare the functions
            if "dropout" in module.__dict__:
                module.dropout = 0.0
        output = run(adapted, backbone.inputs())
        output.square().sum().backward()
        results.append((output, [p.grad for p in adapted.trainable().values()]))
    close(results[1][0], results[0][0])
    for found, expected in zip(results[1][1], results[0][1], strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            close(found, expected)


@pairs("bfloat16")
def test_bfloat16_backbone_runs(backbone: Backbone, row: Row) -> None:
    torch.default_generator.manual_seed(3)
    options = {} if backbone.num_labels is None else {"num_labels": backbone.num_labels}
    adapted = gm.adapt(backbone.model().to(torch.bfloat16), row.method, **options)
    inputs = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in backbone.inputs().items()}
    prepared(adapted, inputs).train()
    output = run(adapted, inputs)
    assert output.dtype == (torch.float32 if backbone.precise else torch.bfloat16)
    output.float().square().mean().backward()
    own = {id(p) for p in adapted.backbone.parameters()}  # the backbone's are trained as they are
    added = {n: p for n, p in adapted.trainable().items() if id(p) not in own}
    assert all(p.dtype == torch.float32 for n, p in added.items() if not n.startswith(("head", "peft")))


@pairs("generation")
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_and_without_cache(backbone: Backbone, row: Row, beams: int) -> None:
    adapted = disturb(adapt(backbone, row))
    inputs = {k: v for k, v in backbone.inputs().items() if not k.startswith("decoder")}
    if (
        "decoder_input_ids" not in backbone.inputs()
    ):  # the next token follows the last one, so padding stands on the left
        inputs = {k: v.flip(1) if v.dim() == 2 else v for k, v in inputs.items()}
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": beams}
    cached, plain = (adapted.generate(**inputs, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)


@pairs("moved")
@pytest.mark.usefixtures("uncounted")
def test_retyped_it_is_the_same_adapter(backbone: Backbone, row: Row, tmp_path: Path) -> None:
    """Given another type after adapting, then run, finished, saved, loaded and detached: nothing is left behind."""
    model, inputs = backbone.model(), backbone.inputs()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.default_generator.manual_seed(3)
    options = {} if backbone.num_labels is None else {"num_labels": backbone.num_labels}
    adapted = disturb(prepared(gm.adapt(model, row.method, **options).eval(), inputs))
    trained = run(adapted, inputs)
    precise = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    moved = run(adapted.double(), precise)
    assert moved.dtype == torch.float64
    close(moved, trained.double())
    close(run(adapted.finalize(), precise), moved, 1e-9)
    adapted.save_pretrained(tmp_path / "adapter")
    again = gm.load(tmp_path / "adapter", backbone.model())
    close(run(again, inputs), trained)
    assert adapted.detach() is model
    assert same(model.state_dict(), {k: v.double() if v.is_floating_point() else v for k, v in before.items()})
    coarse = again.half().detach().state_dict()
    assert same(coarse, {k: v.half() if v.is_floating_point() else v for k, v in before.items()})
    assert not any(t.is_floating_point() and t.dtype != torch.float16 for t in coarse.values())


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[k], v) for k, v in expected.items())
