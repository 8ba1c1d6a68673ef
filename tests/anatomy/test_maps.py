"""Blocks that cut windows out of a map by themselves, by hand: SAM's, with positions as queries see them, Hiera's, SAM 2's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

import gossamer as gm
from gossamer import hosts
from gossamer.errors import UserError, WrongKind
from gossamer.families.sam import decomposed_bias, distances

from ..contract.maps import HIERA, MAPS

PROMPTS = 3


def attended(
    attention: Any, heads: int, seen: Tensor, front: Tensor, bias: Callable[[Tensor, int, int], Tensor] | None = None
) -> Tensor:
    """What an attention makes of tokens [n, d] that see each other and `front` [p, d]; bias(q, i, j) is added between them."""
    both = torch.cat([front, seen])
    q, k, v = attention.qkv(both).unflatten(-1, (3, heads, -1)).unbind(1)  # [p + n, heads, d_h]
    scores = torch.einsum("ihc,jhc->hij", q[len(front) :], k) * q.shape[-1] ** -0.5
    if bias is not None:
        for i in range(len(seen)):
            for j in range(len(seen)):
                scores[:, i, len(front) + j] += bias(q[len(front) + i], i, j)
    return attention.proj(torch.einsum("hij,jhc->ihc", scores.softmax(-1), v).flatten(1))


def windowed(x: Tensor, side: int, attend: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    """attend(tokens [n, d], height, width) of each window of a map [h, w, d], which is padded with zeros; 0: of all of it."""
    height, width, d = x.shape
    if side == 0:
        return attend(x.flatten(0, 1), height, width).view(x.shape)
    rows, columns = -(-height // side) * side, -(-width // side) * side
    padded = x.new_zeros(rows, columns, d)
    padded[:height, :width] = x
    found = torch.empty_like(padded)
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            window = padded[top : top + side, left : left + side]
            found[top : top + side, left : left + side] = attend(window.flatten(0, 1), side, side).view(side, side, d)
    return found[:height, :width]


def close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) <= 1e-5 * (1 + float(expected.abs().max()))


def prompted(row: str) -> tuple[Any, Any, list[Tensor]]:
    """A model of the contract with prompts at its blocks, its anatomy, and these."""
    model = MAPS[row].model()
    adapted = gm.adapt(model, gm.VPT(prompts=PROMPTS), num_labels=MAPS[row].num_labels).eval()
    tables = [p for name, p in adapted.named_parameters() if name.endswith("prompts")]
    with torch.no_grad():
        for table in tables:
            table.copy_(torch.randn(table.shape))
    return adapted, model, tables


@torch.no_grad()
def test_sam() -> None:
    adapted, model, tables = prompted("sam")
    tower, pixels = model.vision_encoder, MAPS["sam"].inputs()["pixel_values"][:2]
    assert len(tables) == len(tower.layers) == 3
    maps = tower.patch_embed(pixels) + tower.pos_embed
    for block, prompts in zip(tower.layers, tables, strict=True):
        attention, front = block.attn, block.layer_norm1(prompts)

        def attend(
            tokens: Tensor, height: int, width: int, attention: Any = attention, front: Tensor = front
        ) -> Tensor:
            def bias(q: Tensor, i: int, j: int) -> Tensor:
                down, across = i // width - j // width, i % width - j % width
                one = attention.rel_pos_h[down + height - 1] + attention.rel_pos_w[across + width - 1]
                return q @ one

            return attended(attention, 2, tokens, front, bias)

        maps = maps + torch.stack([windowed(block.layer_norm1(x), block.window_size, attend) for x in maps])
        maps = maps + block.mlp(block.layer_norm2(maps))
    states = tower.neck(maps)
    close(adapted(pixel_values=pixels).logits, adapted.head(states.mean((2, 3))))


def test_a_bias_in_full_equals_its_two_parts() -> None:
    torch.manual_seed(0)
    q, down, across = torch.randn(2, 3, 4, 5, 6), torch.randn(7, 6), torch.randn(9, 6)
    found = decomposed_bias(q, distances(down, 4), distances(across, 5))
    assert found.shape == (2, 3, 20, 20)
    i, j = 7, 18
    expected = q[1, 2, 1, 2] @ (down[1 - 3 + 3] + across[2 - 3 + 4])
    close(found[1, 2, i, j], expected)
    assert distances(torch.randn(7, 6), 5).shape == (5, 5, 6)  # a table for another side is interpolated


@torch.no_grad()
@pytest.mark.parametrize("row", ["hiera", "timm-hiera"])
def test_hiera(row: str) -> None:
    adapted, model, tables = prompted(row)
    pixels = MAPS[row].inputs()["pixel_values"][:2]
    ours = row == "timm-hiera"
    blocks = list(model.blocks) if ours else [b for stage in model.hiera.encoder.stages for b in stage.layers]
    heads = [2, 2, 4, 4, 4, 8] if ours else [2, 2, 3, 3, 3, 4]
    anatomy = hosts.read(model)
    assert [b.window for b in anatomy] == [(4, 4), (4, 4), (2, 2), (2, 2)]
    assert len(tables) == 4  # the third and the sixth block pool
    left, given = iter(tables), {}
    first = blocks[0].register_forward_pre_hook(lambda m, a: given.update(x=a[0]))
    adapted(pixel_values=pixels)
    first.remove()
    x = given["x"]  # [B, N, d], units interleaved
    assert x.shape == (2, 64, 12)
    for i, (block, count) in enumerate(zip(blocks, heads, strict=True)):
        if i in (2, 5):
            output = block(x)
            x = output[0] if isinstance(output, tuple) else output
            continue
        norm, after = (block.norm1, block.norm2) if ours else (block.layernorm_before, block.layernorm_after)
        front, units = norm(next(left)), 4
        made = torch.empty_like(x)
        for b in range(len(x)):
            for unit in range(units):
                made[b, unit::units] = attended(block.attn, count, norm(x[b, unit::units]), front)
        x = x + (block.ls1(made) if ours else made)
        fed = block.mlp(after(x))
        x = x + (block.ls2(fed) if ours else fed)
    pooled = model.forward_head(x, pre_logits=True) if ours else model.hiera.pooler(x)
    head = adapted.head if adapted.head is not None else (model.head.fc if ours else model.classifier)
    close(adapted(pixel_values=pixels).logits, head(pooled))


@torch.no_grad()
def test_sam2() -> None:
    adapted, model, tables = prompted("sam2")
    pixels = MAPS["sam2"].inputs()["pixel_values"][:2]
    x = model.patch_embed(pixels)
    x = x + model._get_pos_embed(x.shape[1:3])
    left = iter(tables)
    for block in model.blocks:
        if block.dim != block.dim_out:
            x = block(x)
            continue
        front, heads = block.layer_norm1(next(left)), block.attn.num_attention_heads

        def attend(
            tokens: Tensor, height: int, width: int, block: Any = block, front: Tensor = front, h: int = heads
        ) -> Tensor:
            return attended(block.attn, h, tokens, front)

        x = x + torch.stack([windowed(block.layer_norm1(one), block.window_size, attend) for one in x])
        x = x + block.mlp(block.layer_norm2(x))
    assert next(left, None) is None
    close(adapted(pixel_values=pixels).logits, adapted.head(x.mean((1, 2))))


@pytest.mark.parametrize("row", ["sam", "hiera", "sam2"])
def test_what_stands_between_windows_is_refused(row: str) -> None:
    with pytest.raises(UserError, match="cuts windows out of a map of patches alone, among which none can stand"):
        gm.adapt(MAPS[row].model(), gm.VPT(prompts=2, form="sequence"), num_labels=3)
    with pytest.raises(UserError, match="attends in windows"):
        gm.adapt(MAPS[row].model(), gm.ToMe(), num_labels=3)


def test_the_whole_sam_has_its_tower_adapted() -> None:
    torch.manual_seed(0)
    tower = {**tf.SamVisionConfig().to_dict(), "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {
        "mlp_dim": 20,
        "image_size": 32,
        "patch_size": 8,
        "window_size": 3,
        "global_attn_indexes": [1],
        "num_pos_feats": 8,
        "output_channels": 16,
    }
    decoder = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "mlp_dim": 20,
        "num_hidden_layers": 1,
        "iou_head_hidden_dim": 8,
    }
    prompt = {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 4}
    model = tf.SamModel(
        tf.SamConfig(vision_config=tower, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).eval()
    with pytest.raises(WrongKind, match="stack='vision'"):
        gm.adapt(model, gm.VPT(prompts=2))
    with torch.no_grad():
        for parameter in model.parameters():  # as they are drawn, images hardly matter
            parameter.add_(0.2 * torch.randn(parameter.shape))
    given = {"pixel_values": torch.randn(1, 3, 32, 32), "input_points": torch.tensor([[[[3.0, 4.0]]]])}
    bare = model(**given).pred_masks
    adapted = gm.adapt(model, gm.VPT(prompts=2, stack="vision"))
    found = adapted(**given).pred_masks
    assert found.shape == bare.shape
    assert not torch.equal(found, bare)
    assert torch.equal(adapted.detach()(**given).pred_masks, bare)


@torch.no_grad()
def test_blocks_that_widen_alone_do_not_halve() -> None:
    """One pooling for three stages: the tokens that cost sheets count are those that a block sees."""
    model = tf.HieraModel(tf.HieraConfig(**{**HIERA, "num_query_pool": 1, "depths": [2, 3, 2]})).eval()
    anatomy, seen = hosts.read(model), {}
    for block in anatomy:
        block.part("up").register_forward_pre_hook(lambda m, a, key=block.key: seen.update({key: a[0].shape[1]}))
    model(torch.randn(1, 3, 16, 16))
    assert list(seen.values()) == [64, 64, 16, 16, 16]
    assert seen == {block.key: block.tokens({"vision": 64, "vision.rows": 8}) for block in anatomy}
