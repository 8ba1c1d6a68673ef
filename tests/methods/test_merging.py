"""ToMe and EViT against blocks computed by hand in float64, and what must hold of tokens that become one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

import gossamer as gm
from gossamer.anatomy.shortened import Merge
from gossamer.anatomy.tokens import pad
from gossamer.methods.parts.merging import falling, holders, pairs

from .. import hand
from ..contract.table import BACKBONES, Row, adapt, disturb, run
from ..hand import KINDS, Changes

ROWS = ("vit", "dinov2", "dinov2-registers", "timm", "timm-avg", "clip-vision", "siglip")
Function = Callable[[int, Tensor], Tensor]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * (1 + float(expected.detach().abs().max()))


@dataclass
class Beside:
    """What other methods add, by hand, to block i: beside attention and FFN, in front, or as keys and values."""

    attention: Function | None = None
    ffn: Function | None = None
    prompts: Sequence[Tensor] = ()  # [p, d] of each block, rows of its stream
    exact: Sequence[Tensor] = ()  # the same as keys and values alone
    skipped: dict[int, Callable[[Tensor], Tensor]] | None = None


def keys_of(call: hand.Call, u: Tensor) -> Tensor:
    """Keys [N, heads, d_h] of one image."""
    q, k, *_ = (call.module.get_submodule(n) for n in call.names.attention)
    keys = k(u)[..., u.shape[-1] : 2 * u.shape[-1]] if q is k else k(u)
    return keys.unflatten(-1, (call.names.heads, -1))


def merged_by_hand(keys: Tensor, sizes: Tensor, r: int, protected: int) -> list[list[int]]:
    """Groups of rows, in order, of the r most alike pairs; loops over section 6.1."""
    metric = keys.mean(1)
    metric = metric / metric.norm(dim=-1, keepdim=True)
    n = len(metric)
    best: list[tuple[float, int, int]] = []
    for a in range(0, n, 2):
        scored = [(float(metric[a] @ metric[b]), b) for b in range(1, n, 2) if b >= protected]
        if a >= protected and scored:
            score = max(s for s, _ in scored)
            best.append((score, a, next(b for s, b in scored if s == score)))
    best.sort(key=lambda found: -found[0])
    into = {a: b for _, a, b in best[: min(r, (n - protected) // 2)]}
    return [[i, *(a for a, b in into.items() if b == i)] for i in range(n) if i not in into]


def by_hand(calls: Sequence[hand.Call], method: Any, prefix: int, beside: Beside, at: Sequence[int]) -> Tensor:
    """The states behind the last block, every token in its place, of one image at a time."""
    return torch.stack([_one(calls, method, prefix, beside, at, x[None]) for x in calls[0].x])


def _one(calls: Any, method: Any, prefix: int, beside: Beside, at: Sequence[int], x: Tensor) -> Tensor:
    sizes, tokens = torch.ones(x.shape[1]), [[i] for i in range(x.shape[1])]
    for i, call in enumerate(calls):
        if beside.skipped and i in beside.skipped:
            x = beside.skipped[i](x)
            continue
        p = len(beside.prompts[i]) if beside.prompts else 0
        if p:
            x = torch.cat([x[:, :prefix], beside.prompts[i][None], x[:, prefix:]], 1)
            sizes = torch.cat([sizes[:prefix], torch.ones(p), sizes[prefix:]])
        names, get = call.names, call.module.get_submodule
        scales = [call.module.get_parameter(n) for n in names.layer_scale] if names.layer_scale else [1.0, 1.0]
        u = get(names.norms[0])(x)
        changes, mask = Changes(), None
        if beside.exact:
            inside = get(names.norms[0])(beside.exact[i][None])
            changes = Changes(memory=_keys_values(call, inside))
        if getattr(method, "proportional", False):
            mask = sizes.log().expand(1, 1, 1, -1)
        h = x + scales[0] * hand._attention(replace(call, x=x, mask=mask), changes, u)
        h = h if beside.attention is None else h + beside.attention(i, x)
        if i in at:
            h, sizes, tokens = _shorter(
                call, method, u, h, sizes, tokens, prefix, p, beside.exact[i] if beside.exact else None
            )
        f = scales[1] * hand._ffn(names, call.module, get(names.norms[-1])(h))
        x = h + f if beside.ffn is None else h + f + beside.ffn(i, h)
        x, sizes = torch.cat([x[:, :prefix], x[:, prefix + p :]], 1), torch.cat([sizes[:prefix], sizes[prefix + p :]])
    whole = torch.empty(1, sum(map(len, tokens)), x.shape[-1])
    for row, group in enumerate(tokens):
        whole[:, group] = x[:, row : row + 1]
    return whole[0]


def _keys_values(call: hand.Call, u: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v, _ = (call.module.get_submodule(n) for n in call.names.attention)
    d = u.shape[-1]
    return (k(u)[..., d : 2 * d], v(u)[..., 2 * d :]) if q is k else (k(u), v(u))


def _shorter(
    call: Any, method: Any, u: Tensor, h: Tensor, sizes: Tensor, tokens: Any, prefix: int, p: int, exact: Tensor | None
) -> Any:
    keys, protected = keys_of(call, u[0]), prefix + p
    if isinstance(method, gm.ToMe):
        groups = merged_by_hand(keys, sizes, method.r, protected)
        h = torch.stack([sum(sizes[j] * h[:, j] for j in g) / sum(sizes[j] for j in g) for g in groups], 1)
    else:
        weights = _class_attention(call, u, exact)
        free = list(range(protected, h.shape[1]))
        stay = -int(-method.keep * len(free) // 1)
        order = sorted(free, key=lambda j: -float(weights[j]))
        lost = sorted(order[stay:])
        groups = [[j] for j in range(h.shape[1]) if j not in lost] + [lost]
        h = torch.stack(
            [h[:, g[0]] if len(g) == 1 and g != lost else sum(weights[j] * h[:, j] for j in g) for g in groups], 1
        )
    own = lambda j: j if j < prefix else j - p  # noqa: E731
    held = [[t for j in g for t in tokens[own(j)]] for g in groups if not prefix <= g[0] < protected]
    return h, torch.stack([sizes[g].sum() for g in groups]), held


def _class_attention(call: Any, u: Tensor, exact: Tensor | None) -> Tensor:
    q, k, *_ = (call.module.get_submodule(n) for n in call.names.attention)
    d = u.shape[-1]
    first = (q(u)[..., :d] if q is k else q(u))[0, 0].unflatten(-1, (call.names.heads, -1))
    keys = keys_of(call, u[0])
    p = 0 if exact is None else len(exact)
    if exact is not None:
        keys = torch.cat([keys_of(call, call.module.get_submodule(call.names.norms[0])(exact)), keys])
    logits = torch.einsum("hd,nhd->hn", first, keys) * first.shape[-1] ** -0.5
    return logits.softmax(-1).mean(0)[p:]


def last_states(adapted: gm.Adapted, row: str) -> Tensor:
    """What the last block gives, behind all hooks."""
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = adapted.anatomy.blocks()[-1].module.register_forward_hook(keep)
    with torch.no_grad():
        run(adapted, BACKBONES[row].inputs())
    handle.remove()
    return seen[0]


def opened(row: str, methods: Any) -> tuple[gm.Adapted, list[hand.Call], int]:
    adapted = disturb(adapt(BACKBONES[row], Row(methods)))
    return adapted, hand.record(row, "vision"), adapted.anatomy.blocks()[0].prefix


@torch.no_grad()
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("r", [1, 3, 99])
def test_merging_is_what_the_formulas_say(row: str, r: int) -> None:
    adapted, calls, prefix = opened(row, [gm.ToMe(r=r), gm.Adapter(rank=2, blocks=(0,))])
    adapted.trainable()  # the adapter is there so that something trains: it starts at nothing
    for parameter in adapted.trainable().values():
        parameter.zero_()
    close(last_states(adapted, row), by_hand(calls, gm.ToMe(r=r), prefix, Beside(), range(len(calls))))


@torch.no_grad()
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("row", ["vit", "dinov2-registers", "timm"])
@pytest.mark.parametrize("form", ["exact", "sequence"])
@pytest.mark.parametrize("method", [gm.ToMe(r=2), gm.ToMe(r=3, proportional=False), gm.EViT(keep=0.6, blocks=(0, 1))])
def test_prompts_beside_it(row: str, form: Any, method: Any) -> None:
    adapted, calls, prefix = opened(row, [method, gm.VPT(prompts=3, form=form)])
    rows = [adapted.methods["vpt"].get_parameter(f"vision.blocks.{i}.prompts") for i in range(len(calls))]
    beside = Beside(exact=rows) if form == "exact" else Beside(prompts=rows)
    at = range(len(calls)) if isinstance(method, gm.ToMe) else (0, 1)
    close(last_states(adapted, row), by_hand(calls, method, prefix, beside, at))


@torch.no_grad()
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("row", ["vit", "dinov2", "clip-vision"])
def test_das_beside_it(row: str) -> None:
    """Attention's adapter reads all rows, the FFN's merged ones; the shortcut what is there."""
    method = gm.ToMe(r=2)
    adapted, calls, prefix = opened(row, [method, gm.DAS(skip=(1,), rank=3)])
    tree: Any = adapted.methods["das"]

    def part(i: int, name: str) -> Any:
        return tree.get_submodule(f"vision.blocks.{i}.{name}")

    beside = Beside(
        attention=lambda i, x: part(i, "attention")(x),
        ffn=lambda i, h: part(i, "ffn")(h),
        skipped={1: lambda x: part(1, "shortcut")(x)},
    )
    close(last_states(adapted, row), by_hand(calls, method, prefix, beside, (0, 2)))


@torch.no_grad()
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("row", ["vit", "timm"])
def test_lora_beside_it(row: str) -> None:
    """Keys are those of the adapted projection: the same as merging with LoRA's weights in the backbone's."""
    lora = LoraConfig(r=2, target_modules=["q", "k", "up"])
    adapted, calls, prefix = opened(row, [lora, gm.ToMe(r=3)])
    plain = disturb(adapt(BACKBONES[row], Row(lora))).finalize()
    anatomy = gm.read(plain)
    calls = [replace(c, module=b.module) for c, b in zip(calls, anatomy.blocks("vision"), strict=True)]
    expected = by_hand(calls, gm.ToMe(r=3), prefix, Beside(), range(len(calls)))
    close(last_states(adapted, row), expected)
    with torch.no_grad():
        found, finished = run(adapted, BACKBONES[row].inputs()), run(adapted.finalize(), BACKBONES[row].inputs())
    close(finished, found)


@torch.no_grad()
@pytest.mark.parametrize("method", [gm.ToMe(r=0), gm.EViT(keep=1.0)])
def test_nothing_to_merge_is_the_model_bit_for_bit(method: Any) -> None:
    inputs = BACKBONES["vit"].inputs()
    expected = run(BACKBONES["vit"].model(), inputs)
    adapted = gm.adapt(BACKBONES["vit"].model(), [method, LoraConfig(r=2)]).eval()
    assert torch.equal(run(adapted, inputs), expected)
    assert not [c for c in adapted.anatomy.log if "Short" in type(c).__name__]


def test_merging_is_linear_and_copying_back_is_its_inverse() -> None:
    """The sizes sum up to N, M U = 1, and M of ones is ones."""
    torch.default_generator.manual_seed(0)
    metric, sizes = torch.randn(2, 11, 5), torch.ones(2, 11)
    merge = Merge(holders(*pairs(metric, 3, 2), rows=11), sizes, 8)
    totals = merge.totals()
    assert totals.sum(1).tolist() == [11, 11]
    assert totals[:, :2].tolist() == [[1, 1], [1, 1]]
    y = torch.randn(2, 8, 4)
    close(merge.merge(merge.copy_back(y)), y, 1e-6)
    x, z = torch.randn(2, 11, 4), torch.randn(2, 11, 4)
    close(merge.merge(2 * x + z), 2 * merge.merge(x) + merge.merge(z), 1e-5)
    summed = replace(merge, weights=torch.rand(2, 11) + 0.1, mean=False)
    close(summed.merge(summed.copy_back(y)), y, 1e-6)


def test_equal_pairs_go_in_the_order_of_their_rows() -> None:
    gone, _ = pairs(torch.ones(1, 9, 3), 3, 1)
    assert gone.tolist() == [[2, 4, 6]]


def test_permuted_patches_have_the_same_sizes() -> None:
    """Within even and within odd rows, between which pairs are sought."""
    torch.default_generator.manual_seed(1)
    metric = torch.randn(1, 13, 6)
    order = torch.tensor([0, 3, 2, 1, 6, 7, 4, 11, 10, 5, 8, 9, 12])
    found = []
    for rows in (metric, metric[:, order]):
        totals = Merge(holders(*pairs(rows, 4, 1), rows=13), torch.ones(1, 13), 9).totals()
        found.append(sorted(totals[0].tolist()))
    assert found[0] == found[1]


@torch.no_grad()
@pytest.mark.parametrize("row", ["vit", "timm"])
def test_every_image_is_merged_for_itself(row: str) -> None:
    adapted = disturb(adapt(BACKBONES[row], Row([gm.ToMe(r=3), gm.VPT(prompts=2)])))
    inputs = BACKBONES[row].inputs()
    inputs["pixel_values"][1] = 0.0  # patches that are all alike
    together = run(adapted, inputs)
    for i in range(3):
        close(run(adapted, {"pixel_values": inputs["pixel_values"][i : i + 1]}), together[i : i + 1], 1e-5)


def test_two_passes_before_one_backward_pass_are_kept_apart() -> None:
    """With activation checkpointing blocks are computed again, each with the sizes of its own pass."""
    inputs = BACKBONES["vit"].inputs()
    gradients = []
    for checkpointing in (False, True):
        adapted = disturb(adapt(BACKBONES["vit"], Row([gm.ToMe(r=2), gm.Adapter(rank=2)]))).train()
        if checkpointing:
            adapted.gradient_checkpointing_enable()
        one, two = (run(adapted, {"pixel_values": inputs["pixel_values"][i : i + 1]}) for i in (0, 1))
        (one.square().sum() + two.square().sum()).backward()
        gradients.append([p.grad for p in adapted.trainable().values()])
    for found, expected in zip(*gradients, strict=True):
        assert found is not None
        close(found, expected, 1e-4)


def test_a_model_that_is_cheaper_and_what_a_copy_of_it_gives() -> None:
    torch.default_generator.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=3, intermediate_size=40, image_size=24, patch_size=4
    )
    model = ViTForImageClassification(config).eval()
    adapted = gm.adapt(model, [gm.ToMe(r=8), gm.BitFit()], num_labels=3).eval()
    x = torch.randn(2, 3, 24, 24)
    sheet = adapted.cost()
    assert sheet.finished.closed == sheet.finished.counted < sheet.bare.counted
    with torch.no_grad():
        logits = adapted(pixel_values=x).logits
        assert torch.equal(copy.deepcopy(adapted)(pixel_values=x).logits, logits)
    assert gm.ToMe(r=8).parameters(adapted.anatomy) == 0
    assert pad(torch.ones(1, 2), 1, 1, 1).shape == (1, 3)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("bert", "it reads text, whose tokens have an order"),
        ("llama", "it is causal"),
        ("swin", "it attends in windows"),
    ],
)
def test_where_tokens_cannot_become_one(row: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"cannot shorten at its attention: {says}"):
        gm.adapt(BACKBONES[row].model(), [gm.ToMe(r=2), gm.Adapter(rank=1)])
    assert gm.read(BACKBONES[row].model()).obstacle(gm.read(BACKBONES[row].model()).blocks()[0], "shorten") is not None


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="r must not be negative"):
        gm.ToMe(r=-1)
    with pytest.raises(ValueError, match="2 numbers for 3 blocks"):
        gm.adapt(BACKBONES["vit"].model(), [gm.ToMe(r=(1, 2)), gm.BitFit()])
    with pytest.raises(ValueError, match="keep must be above 0"):
        gm.EViT(keep=0.0)
    with pytest.raises(ValueError, match="what the class token attends to, and SiglipVisionModel has none"):
        gm.adapt(BACKBONES["siglip"].model(), [gm.EViT(), gm.BitFit()])
    assert KINDS


def test_the_order_of_scores_is_stable() -> None:
    scores = torch.tensor([[0.3, 0.5, 0.3, float("-inf"), 0.5], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert falling(scores).tolist() == [[1, 4, 0, 2, 3], [0, 1, 2, 3, 4]]
    torch.default_generator.manual_seed(3)
    drawn = torch.rand(3, 40)
    assert torch.equal(falling(drawn), drawn.sort(dim=-1, descending=True, stable=True).indices)
