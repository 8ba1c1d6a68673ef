"""APT: the properties of the paper, on the functions, on one read-out, and in whole models."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer import recipes
from gossamer.methods import apt

from ..contract.table import BACKBONES, run


def sizes(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def delta(x: Tensor, P: Tensor, P_transformed: Tensor | None = None) -> Tensor:
    """w * A P by the paper's words, token by token."""
    scoring = P if P_transformed is None else P_transformed
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        scores = [max(float(token @ prompt), 0.0) for prompt in scoring]
        rows.append(max(scores) * sum(score * prompt for score, prompt in zip(scores, P, strict=True)))
    return torch.stack(rows).view_as(x)


def part_of(row: str = "vit-bare", **options: Any) -> tuple[gm.Adapted, Any]:
    """A model and the read-out of its block 1, all of its tensors away from their start."""
    backbone = BACKBONES[row]
    adapted = gm.adapt(backbone.model(), gm.APT(**{"prompts": 5, "rank": 3, **options}), num_labels=backbone.num_labels)
    part: Any = adapted.eval().methods["apt"].get_submodule(f"{adapted.anatomy.main}.blocks.1.attention")
    with torch.no_grad():
        for i, tensor in enumerate(part.parameters()):
            tensor.copy_(0.3 * sizes(*tensor.shape, seed=i))
    return adapted, part


def test_the_read_out_is_what_the_paper_says() -> None:
    _, part = part_of()
    x, output = sizes(2, 7, 12, seed=8).float(), sizes(2, 7, 12, seed=9).float()
    scoring = apt.transform(part.prompts, part.down, part.up)
    expected = part.scale.exp() * (output + delta(x, part.prompts.detach(), scoring.detach()))
    torch.testing.assert_close(output + part(x, output), expected, rtol=1e-5, atol=1e-5)


def test_the_exact_split_of_deep_prompts() -> None:
    """o = (1 - lambda) (frozen + 1/Z_X sum exp(q k_P) v_P): what APT approximates, at any mask and number of heads."""
    for heads in (1, 3):
        q, k, v = (sizes(2, heads, 7, 4, seed=i) for i in range(3))
        k_P, v_P = (sizes(1, heads, 5, 4, seed=i).expand(2, -1, -1, -1) for i in (3, 4))
        mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
        mask[1, ..., 4:] = False
        own = (q @ k.transpose(2, 3) / 2).masked_fill(~mask, -torch.inf).exp()
        prompts = (q @ k_P.transpose(2, 3) / 2).exp()
        joined = torch.cat([own, prompts], -1)
        expected = joined / joined.sum(-1, keepdim=True) @ torch.cat([v, v_P], 2)
        Z_X, Z_P = own.sum(-1, keepdim=True), prompts.sum(-1, keepdim=True)
        share = Z_P / (Z_X + Z_P)
        split = (1 - share) * (own / Z_X @ v + prompts @ v_P / Z_X)
        torch.testing.assert_close(split, expected, rtol=1e-12, atol=1e-12)


def test_no_prompts_or_zero_prompts_scale_the_branch_alone() -> None:
    x, output = sizes(2, 7, 12).float(), sizes(2, 7, 12, seed=1).float()
    for options in ({"prompts": 0}, {"prompts": 5}):
        _, part = part_of(**options)
        if part.prompts is not None:
            part.prompts.data.zero_()
        torch.testing.assert_close(output + part(x, output), part.scale.exp() * output)
        part.scale.data.zero_()
        assert torch.equal(output + part(x, output), output)


def test_a_model_with_zero_prompts_is_bit_equal_to_the_frozen_one() -> None:
    for row in ("vilt", "meter", "bert"):
        inputs, bare = BACKBONES[row].inputs(), run(BACKBONES[row].model(), BACKBONES[row].inputs())
        adapted = gm.adapt(BACKBONES[row].model(), gm.APT(prompts=3)).eval()
        assert not torch.equal(run(adapted, inputs), bare)  # not the identity at the start
        for name, parameter in adapted.trainable().items():
            if name.endswith(".prompts"):
                parameter.data.zero_()
        assert torch.equal(run(adapted, inputs), bare)


def test_it_is_affine_in_the_output() -> None:
    _, part = part_of()
    x, output = sizes(2, 7, 12).float(), sizes(2, 7, 12, seed=1).float().requires_grad_()
    zero = torch.zeros_like(output)
    full = output + part(x, output)
    torch.testing.assert_close(full - part(x, zero), part.scale.exp() * output, rtol=1e-5, atol=1e-6)
    full.sum().backward()
    torch.testing.assert_close(output.grad, part.scale.exp().expand_as(output), rtol=1e-6, atol=1e-7)


def test_degrees_of_growth_and_one_prompt() -> None:
    x, P = sizes(2, 7, 12), sizes(5, 12, seed=1)
    for factor in (0.0, 0.5, 3.0):
        torch.testing.assert_close(delta_of(factor * x, P), factor**2 * delta_of(x, P))
        torch.testing.assert_close(delta_of(x, factor * P), factor**3 * delta_of(x, P))
    one, scoring = P[:1], sizes(1, 12, seed=2)
    A = apt.scores(x, scoring)
    torch.testing.assert_close(apt.largest(A) * (A @ one), (x @ scoring.T).relu().square() * one)


def delta_of(x: Tensor, P: Tensor) -> Tensor:
    A = apt.scores(x, P)
    return apt.largest(A) * (A @ P)


def test_order_padding_and_doubling_of_prompts() -> None:
    x, P = sizes(2, 7, 12), sizes(5, 12, seed=1)
    torch.testing.assert_close(delta_of(x, P[torch.tensor([3, 0, 4, 2, 1])]), delta_of(x, P))
    torch.testing.assert_close(delta_of(x, torch.cat([P, torch.zeros(4, 12, dtype=P.dtype)])), delta_of(x, P))
    torch.testing.assert_close(delta_of(x, torch.cat([P, P])), 2 * delta_of(x, P))


def test_the_map_may_act_on_tokens_or_on_prompts() -> None:
    x, P, W_d, W_u = sizes(2, 7, 12), sizes(5, 12, seed=1), sizes(3, 12, seed=2), sizes(12, 3, seed=3)
    torch.testing.assert_close(x @ apt.transform(P, W_d, W_u).T, (x + x @ W_u @ W_d) @ P.T)
    assert torch.equal(apt.transform(P, W_d, torch.zeros_like(W_u)), P)
    _, part = part_of(rank=0)
    assert part.transformed() is part.prompts
    _, part = part_of(start="declared")
    fresh = gm.adapt(BACKBONES["vit-bare"].model(), gm.APT(prompts=5, rank=3, start="declared"), num_labels=2)
    first: Any = fresh.methods["apt"].get_submodule("vision.blocks.0.attention")
    assert torch.equal(first.transformed(), first.prompts)
    assert first.down.std() > 0.5


def test_tokens_stand_alone_and_silence_is_zero() -> None:
    _, part = part_of()
    x, output = sizes(3, 7, 12).float(), sizes(3, 7, 12, seed=1).float()
    whole = part(x, output)
    torch.testing.assert_close(part(x[1:2, 2:5], output[1:2, 2:5]), whole[1:2, 2:5], rtol=1e-5, atol=1e-6)
    part.down.data.zero_()
    part.prompts.data.abs_()
    silent = -torch.ones(1, 1, 12)  # every score is below 0
    assert torch.equal(part.delta(silent, part.transformed(), part.prompts), torch.zeros(1, 1, 12))


def test_the_largest_score_passes_no_gradient() -> None:
    """Finite differences agree with autograd only where w is held still."""
    x, P = sizes(1, 3, 4), sizes(2, 4, seed=1).requires_grad_()
    w = apt.largest(apt.scores(x, P))
    assert not w.requires_grad
    (w * (apt.scores(x, P) @ P)).square().sum().backward()
    held, step = w.clone(), 1e-6
    for i in range(2):
        for j in range(4):
            moved = [P.detach().clone() for _ in range(2)]
            moved[0][i, j] += step
            moved[1][i, j] -= step
            up, down = ((held * (apt.scores(x, p) @ p)).square().sum() for p in moved)
            assert float((up - down) / (2 * step)) == pytest.approx(float(P.grad[i, j]), rel=1e-5, abs=1e-7)  # type: ignore[index]
    free = P.detach().clone().requires_grad_()
    A = apt.scores(x, free)
    (A.amax(-1, keepdim=True) * (A @ free)).square().sum().backward()
    assert not torch.allclose(free.grad, P.grad, rtol=1e-2)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"gate": "learned"}, {"activation": "softmax"}, {"rank": 0}, {"where": "all"}])
def test_finished_is_folded(options: dict[str, Any]) -> None:
    for row in ("vilt", "meter", "timm"):
        adapted = gm.adapt(BACKBONES[row].model(), gm.APT(**{"prompts": 4, "rank": 2, **options})).eval()
        with torch.no_grad():
            for i, parameter in enumerate(adapted.trainable().values()):
                parameter.add_(0.2 * sizes(*parameter.shape, seed=i).float())
        trained, finished = run(adapted, BACKBONES[row].inputs()), adapted.finalize()
        torch.testing.assert_close(run(finished, BACKBONES[row].inputs()), trained, rtol=1e-5, atol=2e-6)
        leaves = {name.rpartition(".")[2] for name, _ in finished.named_buffers() if name.startswith("gossamer.apt")}
        assert leaves == {"scoring", "values"}  # e^s is in the frozen weights
        assert not any(name.startswith("gossamer.apt") for name, _ in finished.named_parameters())


def test_finished_beside_other_methods_keeps_its_factor() -> None:
    adapted = gm.adapt(BACKBONES["bert"].model(), [gm.APT(prompts=3), gm.Adapter(rank=2, placement="houlsby")]).eval()
    with torch.no_grad():
        for i, parameter in enumerate(adapted.trainable().values()):
            parameter.add_(0.2 * sizes(*parameter.shape, seed=i).float())
    inputs = BACKBONES["bert"].inputs()
    finished = adapted.finalize()
    torch.testing.assert_close(run(finished, inputs), run(adapted, inputs), rtol=1e-5, atol=2e-6)
    assert sum(name.endswith("growth") for name, _ in finished.named_buffers()) == 3


def test_where_it_stands() -> None:
    meter, vilt = BACKBONES["meter"].model, BACKBONES["vilt"].model
    counts = {"attention": 8, "self": 4, "cross": 4, "ffn": 4, "all": 12}
    for where, count in counts.items():
        tree = gm.adapt(meter(), gm.APT(prompts=2, rank=1, where=where)).methods["apt"]  # type: ignore[arg-type]
        parts = [name for name, m in tree.named_modules() if isinstance(m, apt.ReadOut)]
        assert len(parts) == count
        assert all(name.startswith("fusion.") for name in parts)  # none in the encoders
    assert gm.APT(prompts=2, rank=1).parameters(gm.read(vilt())) == 3 * (2 * 12 + 2 * 12 + 1)
    chosen = gm.adapt(meter(), gm.APT(prompts=2, blocks=(0, 3), where="cross")).methods["apt"]
    keys = {name.rpartition(".")[0] for name in chosen.state_dict()}
    assert keys == {"fusion.blocks.0.cross", "fusion.blocks.3.cross"}
    with pytest.raises(
        ValueError, match="where='cross', but blocks of the fusion stack have no cross-attention; use 'attention'"
    ):
        gm.adapt(vilt(), gm.APT(where="cross"))


def test_the_cross_attention_reads_its_own_stream() -> None:
    """If the other stream changes while O is held, the change of the branch does not."""
    adapted = gm.adapt(BACKBONES["meter"].model(), gm.APT(prompts=4, where="cross")).eval()
    block = adapted.anatomy.blocks()[0]
    part: Any = adapted.methods["apt"].get_submodule("fusion.blocks.0.cross")
    seen: list[tuple[Tensor, Tensor]] = []
    part.register_forward_hook(lambda module, args, output: seen.append(args))
    x = sizes(2, 7, 12).float()
    for seed in (1, 2):
        block.module(x, None, sizes(2, 17, 12, seed=seed).float(), None)
    (own, one), (again, two) = seen
    assert torch.equal(own, again)
    assert own.shape == (2, 7, 12)
    assert not torch.equal(one, two)


def test_float16_autocast_stays_in_range() -> None:
    _, part = part_of()
    part.prompts.data.mul_(100)
    x, output = 30 * torch.ones(1, 3, 12), torch.zeros(1, 3, 12)
    exact = part(x, output)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(part(x, output), exact)
    assert float(exact.detach().abs().max()) > torch.finfo(torch.float16).max  # would be infinite there


def test_only_what_is_named_learns(tmp_path: Any) -> None:
    backbone = BACKBONES["vilt"]
    recipe = [gm.APT(prompts=3), gm.ClassifierToken(token=7), gm.Unfreeze(modules=recipes.VILT)]
    adapted, inputs = gm.adapt(backbone.model(), recipe), backbone.inputs()
    before = {k: v.clone() for k, v in adapted.backbone.state_dict().items()}
    optimizer = torch.optim.SGD(adapted.train().trainable().values(), lr=0.1)
    run(adapted, inputs).square().sum().backward()
    assert all(p.grad is not None for n, p in adapted.trainable().items() if n.startswith(("apt", "classifier_token")))
    optimizer.step()
    moved = {k for k, v in adapted.backbone.state_dict().items() if not torch.equal(before[k], v)}
    allowed = ("classifier.", "vilt.pooler", "vilt.embeddings.token_type", "vilt.embeddings.text_embeddings.token_type")
    assert moved
    assert all(name.startswith(allowed) for name in moved)
    trained = run(adapted.eval(), inputs)
    adapted.save_pretrained(tmp_path / "apt")
    assert torch.equal(run(gm.load(tmp_path / "apt", backbone.model()), inputs), trained)
    assert torch.equal(run(adapted.detach(), inputs), run(backbone.model(), inputs))


def test_the_recipes() -> None:
    adapted = gm.adapt(BACKBONES["meter"].model(), recipes.meter(gm.APT(prompts=3, rank=2)))
    names = set(adapted.trainable())
    assert "classifier_token.fusion.token" in names
    assert not any(n.endswith(".scale") for n in names)  # frozen at 0 there
    assert sum(n.endswith(".scale") for n in adapted.state_dict()) == 8
    assert {n.split(".")[2] for n in names if n.startswith("unfreeze.meter")} == {
        "text_pooler", "image_pooler", "token_type_embeddings"
    }  # fmt: skip
    assert [m.name for m in recipes.vilt()] == ["linear_probe", "classifier_token", "unfreeze"]
    assert dataclasses.replace(gm.APT(), learn_scale=False) == recipes.meter(gm.APT())[0]


def test_errors() -> None:
    for options, message in (
        ({"prompts": -1}, "prompts must be 0 or more, got -1"),
        ({"rank": -2}, "rank must be 0 or more, got -2"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"where": "head"}, "where must be one of attention, self, cross, ffn, all, got 'head'"),
        ({"activation": "gelu"}, "activation must be one of relu, softmax, got 'gelu'"),
        ({"gate": "none"}, "gate must be one of max, learned, got 'none'"),
        ({"start": "zero"}, "start must be one of run, declared, got 'zero'"),
    ):
        with pytest.raises(ValueError, match=message):
            gm.APT(**options)  # type: ignore[arg-type]


def test_sizes_of_the_paper_on_shapes_alone() -> None:
    from gossamer import architectures

    for name, expected in (("vilt-b32", 1_916_940), ("meter-b16", 3_833_880)):
        assert gm.APT().parameters(gm.read(architectures.build(name))) == expected
    frozen = gm.APT(learn_scale=False)
    assert frozen.parameters(gm.read(architectures.build("meter-b16"))) == 3_833_856


def test_dropout_of_scores_comes_before_the_maximum() -> None:
    _, part = part_of(dropout=0.5)
    part.train()
    x, output = sizes(4, 7, 12).float(), torch.zeros(4, 7, 12)
    torch.default_generator.manual_seed(1)
    dropped = part(x, output)
    torch.default_generator.manual_seed(1)
    A = nn.functional.dropout(apt.scores(x, part.transformed()), 0.5)
    expected = part.scale.exp() * A.amax(-1, keepdim=True) * (A @ part.prompts)
    torch.testing.assert_close(dropped, expected, rtol=1e-5, atol=1e-6)
