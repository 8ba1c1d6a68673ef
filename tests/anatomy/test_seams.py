"""Every verb on every family, against blocks computed by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm
from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.anatomy.call import SPELLINGS
from gossamer.anatomy.inserted import Inserted

from .. import hand
from ..contract.table import BACKBONES, every, rows, run
from ..hand import KINDS, Call, Changes

STACKS = list(KINDS)
EVERY = every("row stack", STACKS)
NEXT = every("row stack", [s for s in STACKS if not BACKBONES[s[0]].map])  # whose blocks read what the one before gives
GROWING = every("row stack", [s for s in STACKS if BACKBONES[s[0]].grows])
# Blocks that run one after another and read nothing of each other's; METER's columns are computed in models/test_meter.py.
CHAINS = [s for s in STACKS if s not in (("meter", "fusion"), ("meter-bare", "fusion")) and BACKBONES[s[0]].grows]
CHAINED = every("row stack", CHAINS)
IMPLEMENTATIONS = [(r, s, a) for r, s in STACKS for a in (("sdpa", "eager") if BACKBONES[r].eager else ("sdpa",))]
BOTH = every("row stack attention", IMPLEMENTATIONS)


def opened(row: str, stack: str, attention: str = "sdpa") -> tuple[Anatomy, list[Block], list[Call]]:
    """A model of the row, read, and a call of each block of its twin, which no verb touches."""
    model = BACKBONES[row].model(attention)
    model.requires_grad_(False)
    anatomy = gm.read(model)
    return anatomy, anatomy.blocks(stack), hand.record(row, stack, attention)


def again(block: Block, call: Call, **changed: Any) -> Tensor:
    """The real block, called as the model had called it."""
    args, kwargs = call.given
    if block.stack.modality == "latent" and changed.get("mask") is not None:
        changed["mask"] = changed["mask"][:, 0]  # diffusers gives it its heads itself
    if args:
        args = (changed.pop("x", args[0]), *args[1:])
        place = next((i for i, name in enumerate(block.arguments.order) if name in SPELLINGS["mask"]), len(args))
        if place < len(args) and "mask" in changed:
            args = (*args[:place], changed.pop("mask"), *args[place + 1 :])
    if changed.get("mask") is not None or ("mask" in changed and block.arguments.takes("mask")):
        kwargs = {
            **kwargs,
            ("attn_mask" if "timm" in type(block.module).__module__ else "attention_mask"): changed["mask"],
        }
    output = block.module(*args, **kwargs)
    return output[0] if isinstance(output, tuple) else output


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5 * (1 + float(expected.abs().max()))


class Mix(nn.Module):
    """A part that mixes whatever it is given, each by a matrix of its own."""

    def __init__(self, *widths: int):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(w, widths[0]) for w in widths)
        self.requires_grad_(False)

    def forward(self, *xs: Tensor) -> Tensor:
        return sum((f(x) for f, x in zip(self.maps, xs, strict=True)), torch.zeros(()))


class Rows(nn.Module):
    """Keys and values, or tokens, to be placed."""

    def __init__(self, *shape: int):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(shape), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows[: x.shape[0]].expand(x.shape[0], -1, -1)


class Seen(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.states.append(x)
        return 1000 * x

    def output(self, module: nn.Module, args: Any, output: Any) -> None:
        self.states.append(output[0] if isinstance(output, tuple) else output)


class Memory(nn.Module):
    def __init__(self, *shape: int):
        super().__init__()
        self.keys, self.values = torch.randn(shape), torch.randn(shape)

    def forward(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


@BOTH
def test_the_hand_computes_what_the_model_computes(row: str, stack: str, attention: str) -> None:
    _, blocks, calls = opened(row, stack, attention)
    for block, call in zip(blocks, calls, strict=True):
        close(hand.block(call), call.states)
        close(again(block, call), call.states)


@EVERY
def test_add(row: str, stack: str) -> None:
    anatomy, blocks, calls = opened(row, stack)
    branches = ["attention", "ffn"] + ["cross"] * (KINDS[row, stack].cross is not None)
    for chosen in [*([b] for b in branches), branches]:
        for normed, damped in ((True, True), (False, True), (True, False)):
            parts = {branch: Mix(12, 12) for branch in chosen}
            for name, part in parts.items():
                anatomy.add(blocks[1], name, part, normed=normed, damped=damped)  # type: ignore[arg-type]
            expected = hand.block(calls[1], Changes(add=dict(parts), normed=normed, damped=damped))
            assert not torch.equal(expected, calls[1].states)
            close(again(blocks[1], calls[1]), expected)
            close(again(blocks[0], calls[0]), calls[0].states)
            anatomy.undo()


@EVERY
def test_several_additions_to_one_branch_read_the_sum_so_far(row: str, stack: str) -> None:
    anatomy, blocks, calls = opened(row, stack)
    first, second = Mix(12, 12), Mix(12, 12)
    anatomy.add(blocks[0], "ffn", first)
    anatomy.add(blocks[0], "ffn", second)

    def both(x: Tensor, y: Tensor) -> Tensor:
        return first(x, y) + second(x, y + first(x, y))

    close(again(blocks[0], calls[0]), hand.block(calls[0], Changes(add={"ffn": both})))


@EVERY
def test_middle(row: str, stack: str) -> None:
    anatomy, blocks, calls = opened(row, stack)
    part, call = Mix(12), calls[1]
    end = hand.block(call)
    expected = {
        "start": hand.block(replace(call, x=call.x + part(call.x))),
        "middle": hand.block(call, Changes(middle=part)),
        "ffn": hand.block(call, Changes(ffn_reads=part)),
        "end": end + part(end),
    }
    for place, states in expected.items():
        anatomy.middle(blocks[1], part, at=place)  # type: ignore[arg-type]
        assert not torch.equal(states, call.states)
        close(again(blocks[1], call), states)
        anatomy.undo()


@GROWING
def test_the_middle_of_a_block_that_tokens_enter(row: str, stack: str) -> None:
    """The addition reaches the inserted tokens too, whatever the order of the two verbs."""
    for order in ((0, 1), (1, 0)):
        anatomy, blocks, calls = opened(row, stack)
        part, tokens = Mix(12), Rows(3, 2, 12)
        verbs = [partial(anatomy.middle, blocks[1], part), partial(anatomy.insert, blocks[1], tokens)]
        for i in order:
            verbs[i]()
        at, causal = blocks[1].prefix, blocks[1].stack.causal
        wide = hand.block(widened(calls[1], tokens.rows, at, causal), Changes(middle=part))
        close(again(blocks[1], calls[1]), without(wide, at, 2))


MASKS = {
    "none": lambda visible: None,
    "boolean": lambda visible: visible,
    "additive": lambda visible: torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min),
}


def masks(row: str, attention: str, block: Block) -> list[str]:
    """The kinds of mask that an attention takes: eager ones and ViLT's add theirs, some need one to be causal."""
    if BACKBONES[row].masks is not None:
        return list(BACKBONES[row].masks)
    kinds = ["additive"]
    if attention == "sdpa" and row != "vilt":
        kinds.append("boolean")
    if not block.stack.causal or (attention == "sdpa" and row != "clip-text"):
        kinds.append("none")
    return kinds


def masked(kind: str, block: Block, call: Call) -> tuple[Call, Tensor | None]:
    """The call under a mask, and the mask: every token sees itself and some others, the samples not the same ones."""
    batch, length = call.x.shape[:2]
    visible = (torch.rand(batch, 1, length, length) > 0.4) | torch.eye(length, dtype=torch.bool)
    upto = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    mask = MASKS[kind](visible & upto if block.stack.causal else visible)
    return replace(call, mask=upto if mask is None and block.stack.causal else mask), mask


@BOTH
def test_remember(row: str, stack: str, attention: str) -> None:
    anatomy, blocks, calls = opened(row, stack, attention)
    block = blocks[1]
    for kind in masks(row, attention, block):
        call, mask = masked(kind, block, calls[1])
        close(again(block, call, mask=mask), hand.block(call))
        for batch in (1, 3):
            first, second = Memory(batch, 5, block.sizes.inner_kv), Memory(1, 2, block.sizes.inner_kv)
            anatomy.remember(block, first)
            close(again(block, call, mask=mask), hand.block(call, Changes(memory=first(3))))
            anatomy.remember(block, second)
            both = [
                torch.cat([a.expand(3, -1, -1), b.expand(3, -1, -1)], 1)
                for a, b in zip(first(3), second(3), strict=True)
            ]
            close(again(block, call, mask=mask), hand.block(call, Changes(memory=(both[0], both[1]))))
            anatomy.undo()


@EVERY
def test_keys_and_values_of_tokens(row: str, stack: str) -> None:
    _, blocks, _calls = opened(row, stack)
    block, names, tokens = blocks[1], KINDS[row, stack], torch.randn(2, 5, 12)
    states = tokens if names.post or not names.norms else block.module.get_submodule(names.norms[0])(tokens)
    for found, expected in zip(block.keys_values(tokens), hand.projected(names, block.module, states)[1:], strict=True):
        close(found, expected)


def widened(call: Call, tokens: Tensor, at: int, causal: bool) -> Call:
    """The call with tokens [B, p, d] in place behind `at` prefix tokens, everything else made to fit."""
    x, p = call.x, tokens.shape[1]
    _batch, length = x.shape[:2]
    old = [*range(at), *range(at + p, length + p)]
    new = list(range(at, at + p))
    mask, bias, rotary, side_mask = call.mask, call.bias, call.rotary, call.side_mask
    if mask is not None:
        visible = (mask if mask.dtype == torch.bool else mask == 0).expand(-1, -1, length, -1)
        wide = torch.zeros(len(visible), 1, length + p, length + p, dtype=torch.bool)
        for i, row in enumerate(old):
            wide[:, :, row, old] = visible[:, :, i]
            wide[:, :, row, new] = True
        for i, row in enumerate(new):
            wide[:, :, row, new[: i + 1] if causal else new] = True
            if not causal:
                wide[:, :, row, old] = visible.any(dim=2)
        mask = wide
    if bias is not None:
        wide = torch.zeros(len(bias), bias.shape[1], length + p, length + p)
        wide[:, :, torch.tensor(old)[:, None], torch.tensor(old)] = bias
        bias = wide
    if (
        rotary is not None and rotary[0].shape[-2] == length
    ):  # tables for patches alone end with these, as the sequence does
        cosine, sine = torch.ones(1, length + p, rotary[0].shape[-1]), torch.zeros(1, length + p, rotary[0].shape[-1])
        cosine[:, old], sine[:, old] = rotary
        rotary = cosine, sine
    if side_mask is not None:
        side_mask = torch.cat([side_mask, side_mask[:, :, :1].expand(-1, -1, p, -1)], 2)
    grown = torch.cat([x[:, :at], tokens, x[:, at:]], 1)
    return replace(call, x=grown, mask=mask, bias=bias, rotary=rotary, side_mask=side_mask)


def without(x: Tensor, at: int, count: int) -> Tensor:
    return torch.cat([x[:, :at], x[:, at + count :]], 1)


def leaving(blocks: list[Block]) -> list[Seen]:
    """What leaves each block from now on, as the model sees it."""
    parts = [Seen() for _ in blocks]
    for block, part in zip(blocks, parts, strict=True):
        block.module.register_forward_hook(part.output)
    return parts


def insert_by_hand(blocks: list[Block], calls: list[Call], spans: list[tuple[int, int, Tensor]]) -> list[Tensor]:
    """What leaves each block while tokens run through spans (first, last, tokens), the longest given first."""
    at, causal = blocks[0].prefix, blocks[0].stack.causal
    x, running, left = calls[0].x, [], []  # running: spans now in the sequence, the last to enter in front
    for i in range(len(blocks)):
        running = [s for s in spans if s[0] == i][::-1] + running
        entering = [s[2] for s in spans if s[0] == i][::-1]
        bare = without(x, at, x.shape[1] - calls[i].x.shape[1])
        before = x[:, at : at + x.shape[1] - bare.shape[1]]
        tokens = torch.cat([*entering, before], 1)
        x = hand.block(widened(replace(calls[i], x=bare), tokens, at, causal))
        for span in [s for s in running if s[1] == i]:
            x = without(x, at, span[2].shape[1])
            running.remove(span)
        left.append(x)
    return left


SPANS = {
    "one block": [(1, 1, 5)],
    "several blocks": [(0, 1, 4)],
    "to the end": [(1, None, 3)],
    "same block twice": [(0, 0, 2), (0, 0, 5)],
    "nested": [(0, None, 3), (1, 1, 2)],
    "nested, ending together": [(0, None, 3), (1, None, 2)],
    "one after the other": [(0, 0, 2), (1, 1, 3)],
}


@every("row stack attention", [i for i in IMPLEMENTATIONS if i[:2] in CHAINS])
def test_insert(row: str, stack: str, attention: str) -> None:
    anatomy, blocks, calls = opened(row, stack, attention)
    final = len(blocks) - 1
    for case in SPANS.values():
        spans = [(a, final if b is None else b, Rows(3, p, 12)) for a, b, p in case]
        expected = insert_by_hand(blocks, calls, [(a, b, part.rows) for a, b, part in spans])
        for first, last, part in spans:
            anatomy.insert(blocks[first], part, last=blocks[last])
        kept = leaving(blocks)
        run(anatomy.model, BACKBONES[row].inputs())
        assert not torch.equal(expected[-1], calls[-1].states)
        for found, states in zip(kept, expected, strict=True):
            close(found.states.pop(), states)
        anatomy.undo()


STAYING = [
    s
    for s in CHAINS
    if (s[1] != "encoder" or BACKBONES[s[0]].reads != "seq2seq")
    and s
    not in (
        ("meter", "text"),
        ("meter-bare", "text"),
        ("clip-text", "text"),
        ("groupvit-text", "text"),
        ("siglip2", "vision"),
    )
]  # their readers bring masks of their own, or read by position: refused


@every("row stack", STAYING)
def test_inserted_tokens_that_stay(row: str, stack: str) -> None:
    anatomy, blocks, calls = opened(row, stack)
    part = Rows(3, 2, 12)
    anatomy.insert(blocks[1], part, stay=True)
    expected = insert_by_hand(blocks, calls, [(1, len(blocks), part.rows)])
    kept = leaving(blocks)
    run(anatomy.model, BACKBONES[row].inputs())
    assert kept[-1].states[0].shape[1] == calls[-1].x.shape[1] + 2
    for found, states in zip(kept, expected, strict=True):
        close(found.states.pop(), states)


@every("row stack attention", [i for i in IMPLEMENTATIONS if BACKBONES[i[0]].grows])
def test_insert_with_masks_of_every_kind(row: str, stack: str, attention: str) -> None:
    anatomy, blocks, calls = opened(row, stack, attention)
    part, at, causal = Rows(3, 4, 12), blocks[1].prefix, blocks[1].stack.causal
    anatomy.insert(blocks[1], part)
    for kind in masks(row, attention, blocks[1]):
        call, mask = masked(kind, blocks[1], calls[1])
        close(again(blocks[1], call, mask=mask), without(hand.block(widened(call, part.rows, at, causal)), at, 4))


@pytest.mark.parametrize("kind", ["boolean", "additive"])
@pytest.mark.parametrize("verb", ["insert", "remember"])
def test_timm_mask_of_two_dimensions(kind: str, verb: str) -> None:
    """timm's own convention: [N, N], one for all samples."""
    anatomy, blocks, calls = opened("timm", "vision")
    length = calls[1].x.shape[1]
    mask = MASKS[kind]((torch.rand(length, length) > 0.4) | torch.eye(length, dtype=torch.bool))
    call = replace(calls[1], mask=mask[None, None])
    if verb == "insert":
        part = Rows(3, 4, 12)
        anatomy.insert(blocks[1], part)
        expected = without(hand.block(widened(call, part.rows, 1, False)), 1, 4)
    else:
        memory = Memory(1, 4, 12)
        anatomy.remember(blocks[1], memory)
        expected = hand.block(call, Changes(memory=memory(3)))
    close(again(blocks[1], call, mask=mask), expected)


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32])
def test_mask_of_two_dimensions_gets_visible_columns(kind: torch.dtype) -> None:
    from gossamer.anatomy.inserted import widen_mask

    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=kind)
    expected = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]], dtype=kind)
    assert torch.equal(widen_mask(mask, 1, 2, causal=False, rows=True), expected)


def test_spans_that_interleave_or_run_backwards_are_refused() -> None:
    anatomy, blocks, _ = opened("vit", "vision")
    with pytest.raises(ValueError, match=r"cannot enter at vit\.layers\.2 and leave at vit\.layers\.0"):
        anatomy.insert(blocks[2], Rows(3, 2, 12), last=blocks[0])
    anatomy.insert(blocks[0], Rows(3, 2, 12), last=blocks[1])
    with pytest.raises(
        ValueError,
        match=r"from vit\.layers\.1 to vit\.layers\.2 would interleave with those from vit\.layers\.0 to vit\.layers\.1",
    ):
        anatomy.insert(blocks[1], Rows(3, 2, 12), last=blocks[2])
    with pytest.raises(ValueError, match="insert the longer span first"):
        anatomy.insert(blocks[0], Rows(3, 2, 12), last=blocks[2])
    with pytest.raises(ValueError, match=r"stay.* run to the last block"):
        anatomy.insert(blocks[2], Rows(3, 2, 12), last=blocks[2]) or anatomy.insert(
            blocks[0], Rows(3, 2, 12), last=blocks[1], stay=True
        )
    assert sum(isinstance(change, Inserted) for change in anatomy.log) == 2


@EVERY
def test_rewrite(row: str, stack: str) -> None:
    """Each Linear in turn gives its place to another; the hand reads a block with those weights."""
    anatomy, blocks, calls = opened(row, stack)
    for role in ("q", "k", "v", "out", "up", "down"):
        anatomy.split(blocks[1])
        old = blocks[1].part(role)
        new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None).requires_grad_(False)
        twin = gm.read(BACKBONES[row].model().requires_grad_(False)).blocks(stack)[1]
        _set_weights(twin, role, new)
        anatomy.rewrite(blocks[1], role, new)
        expected = hand.block(replace(calls[1], module=twin.module))
        assert not torch.equal(expected, calls[1].states)
        close(again(blocks[1], calls[1]), expected)
        assert blocks[1].part(role) is new
        anatomy.undo()


@torch.no_grad()
def _set_weights(block: Block, role: str, new: nn.Linear) -> None:
    fused = block.attention.fused
    if fused is None or role not in ("q", "k", "v"):
        target, rows = block.part(role), slice(None)
    else:
        target = block.module.get_submodule(fused)
        rows = block.fused_rows["qkv".index(role)].of(torch.arange(len(target.weight)))
    target.weight[rows] = new.weight
    if new.bias is not None:
        target.bias[rows] = new.bias


def test_split_keeps_values_and_storage_and_fuse_joins_again() -> None:
    anatomy, blocks, calls = opened("timm", "vision")
    fused = blocks[0].part("qkv")
    anatomy.split(blocks[0])
    anatomy.split(blocks[0])  # already split
    assert len(anatomy.log) == 1
    close(again(blocks[0], calls[0]), calls[0].states)
    thirds = blocks[0].part("qkv")
    assert thirds.k.weight.data_ptr() == fused.weight[12:].data_ptr()  # views, no copies
    with torch.no_grad():
        thirds.v.weight.mul_(2)
    assert not anatomy.finish()
    joined = blocks[0].part("qkv")
    assert type(joined) is nn.Linear
    assert torch.equal(joined.weight, fused.weight)
    assert torch.equal(joined.bias, fused.bias)
    anatomy.undo()
    assert blocks[0].part("qkv") is fused


def test_split_does_nothing_where_nothing_is_fused() -> None:
    anatomy, blocks, _ = opened("vit", "vision")
    anatomy.split(blocks[0])
    assert anatomy.log == []


@EVERY
def test_observe_sees_what_enters_the_block(row: str, stack: str) -> None:
    anatomy, blocks, calls = opened(row, stack)
    bare = run(anatomy.model, BACKBONES[row].inputs())
    parts = [Seen() for _ in blocks]
    for block, part in zip(blocks, parts, strict=True):
        anatomy.observe(block, part)
    assert torch.equal(run(anatomy.model, BACKBONES[row].inputs()), bare)
    for part, call in zip(parts, calls, strict=True):
        assert len(part.states) == 1
        assert torch.equal(part.states[0], call.x)


@CHAINED
@pytest.mark.parametrize("index", [0, 1])
def test_replace_by_nothing_skips_the_block(row: str, stack: str, index: int) -> None:
    anatomy, blocks, calls = opened(row, stack)
    kept = leaving(blocks)
    model, inside = anatomy.model, Seen()
    blocks[index].part("down").register_forward_hook(inside.output)
    anatomy.replace(blocks[index], nn.Identity())
    run(model, BACKBONES[row].inputs())
    assert not inside.states
    x = calls[0].x
    for i, call in enumerate(calls):
        x = x if i == index else hand.block(replace(call, x=x))
        close(kept[i].states.pop(), x)


@NEXT
def test_replace_by_a_module(row: str, stack: str) -> None:
    anatomy, blocks, calls = opened(row, stack)
    part, after = Mix(12), blocks[1]
    anatomy.replace(blocks[0], part)
    kept = leaving([after])[0]
    run(anatomy.model, BACKBONES[row].inputs())
    close(kept.states.pop(), hand.block(replace(calls[1], x=part(calls[0].x))))


@GROWING
@pytest.mark.parametrize("index", [0, 1])
def test_tokens_pass_through_a_replaced_block(row: str, stack: str, index: int) -> None:
    """They enter and leave even where the block itself is gone, whatever the order of the two verbs."""
    anatomy, blocks, calls = opened(row, stack)
    inputs, bare = BACKBONES[row].inputs(), run(anatomy.model, BACKBONES[row].inputs())
    at, causal, tokens = blocks[0].prefix, blocks[0].stack.causal, Rows(3, 2, 12)
    wide = hand.block(widened(replace(calls[1 - index], x=calls[0].x), tokens.rows, at, causal))
    verbs = [
        partial(anatomy.insert, blocks[0], tokens, last=blocks[1]),
        partial(anatomy.replace, blocks[index], nn.Identity()),
    ]
    for order in ((0, 1), (1, 0)):
        before, after = Seen(), Seen()
        anatomy.observe(blocks[index], before)
        for i in order:
            verbs[i]()
        handle = anatomy.model.get_submodule(blocks[1].name).register_forward_hook(after.output)
        run(anatomy.model, inputs)
        close(after.states[0], without(wide, at, 2))
        assert len(before.states) == 1
        handle.remove()
        anatomy.undo()
        assert torch.equal(run(anatomy.model, inputs), bare)


@pytest.mark.parametrize("row", rows(lambda b: b.generates and b.grows and not isinstance(b.kinds, str)))
@pytest.mark.parametrize("index", [0, 1])
def test_generation_with_a_replaced_block(row: str, index: int) -> None:
    """A block that is gone must not shift the positions that a cache counts."""
    anatomy, *_ = opened(row, "decoder")
    anatomy.replace(anatomy.blocks("decoder")[index], Mix(12))
    inputs = {k: v for k, v in BACKBONES[row].inputs().items() if not k.startswith("decoder")}
    if row == "llama":
        inputs = {k: v.flip(1) for k, v in inputs.items()}
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 2}
    cached, plain = (anatomy.model.generate(**inputs, **options, use_cache=use) for use in (True, False))  # type: ignore[operator]
    assert torch.equal(cached, plain)


VERBS: dict[str, Callable[[Anatomy, Block], None]] = {
    "add": lambda a, b: a.add(b, "attention", Mix(b.sizes.width, b.sizes.width)),
    "add unnormed": lambda a, b: a.add(b, "ffn", Mix(b.sizes.width, b.sizes.width), normed=False),
    "split": lambda a, b: a.split(b),
    "rewrite": lambda a, b: a.rewrite(b, "out", nn.Linear(b.sizes.inner, b.sizes.width)),
    "middle": lambda a, b: a.middle(b, Mix(b.sizes.width)),
    "remember": lambda a, b: a.remember(b, Memory(1, 2, b.sizes.inner_kv)),
    "insert": lambda a, b: a.insert(b, Rows(3, 2, 12)),
    "observe": lambda a, b: a.observe(b, nn.Identity()),
    "replace": lambda a, b: a.replace(b, nn.Identity()),
}


@EVERY
@pytest.mark.parametrize("seed", [0, 1])
def test_undo_in_any_combination(row: str, stack: str, seed: int) -> None:
    model = BACKBONES[row].model()
    anatomy = gm.read(model)
    inputs = BACKBONES[row].inputs()
    bare, structure, training = run(model, inputs), repr(model), [m.training for m in model.modules()]
    before = {k: (v.data_ptr(), v.clone()) for k, v in model.state_dict().items()}
    attributes = {n: set(m.__dict__) for n, m in model.named_modules()}
    generator = torch.Generator().manual_seed(seed)
    for block in anatomy.blocks(stack):
        order = [list(VERBS)[i] for i in torch.randperm(len(VERBS) - 1, generator=generator)]
        if block.index == 1:  # what else is placed in a block that is replaced is refused
            order = ["replace", *(verb for verb in order if verb in ("insert", "observe"))]
        for verb in order:
            if verb != "insert" or BACKBONES[row].grows:
                VERBS[verb](anatomy, block)
    assert not torch.equal(run(model, inputs)[:, :2], bare[:, :2])
    anatomy.undo()
    assert anatomy.log == []
    assert repr(model) == structure
    assert [m.training for m in model.modules()] == training
    assert {n: set(m.__dict__) for n, m in model.named_modules()} == attributes
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(v.data_ptr() == before[k][0] and torch.equal(v, before[k][1]) for k, v in after.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._forward_hooks_with_kwargs for m in model.modules())
    assert torch.equal(run(model, inputs), bare)


@GROWING
def test_an_error_in_a_forward_pass_leaves_nothing_behind(row: str, stack: str) -> None:
    """Parts keep activations from one hook to the next; a pass that fails between them must not reach the next pass."""

    class Fails(nn.Module):
        fail = True

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise RuntimeError("out of luck")
            return 0 * x

    anatomy, blocks, _ = opened(row, stack)
    part, fails = Mix(12, 12), Fails()
    anatomy.add(blocks[1], "ffn", part)
    anatomy.middle(blocks[1], Mix(12))
    anatomy.insert(blocks[0], Rows(3, 2, 12), last=blocks[1])
    clean = copy.deepcopy(anatomy.model)
    anatomy.middle(blocks[1], fails)
    with pytest.raises(RuntimeError, match="out of luck"):
        run(anatomy.model, BACKBONES[row].inputs())
    copy.deepcopy(anatomy.model)  # whatever was caught half way is no obstacle
    fails.fail = False
    inputs = BACKBONES[row].inputs()
    close(run(anatomy.model, inputs), run(clean, inputs))
    fewer = BACKBONES[row].inputs(2)
    close(run(anatomy.model, fewer), run(clean, fewer))


def test_attention_that_ignores_memories_is_found_out() -> None:
    """The probe says so before anything is placed."""
    anatomy, blocks, _calls = opened("vit", "vision")
    attention = blocks[1].part("attention")
    attention.config._attn_implementation = "flash_attention_2"
    with pytest.raises(
        TypeError, match=r"vit\.layers\.1 cannot remember.*'flash_attention_2'; load the model with 'sdpa' or 'eager'"
    ):
        anatomy.remember(blocks[1], Memory(1, 2, 12))
    attention.config._attn_implementation = "sdpa"
    bound = type(attention).forward

    class Deaf(type(attention)):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            q, k, v = (_heads(f(hidden_states)) for f in (self.q_proj, self.k_proj, self.v_proj))
            return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), None

    assert bound is not Deaf.forward
    attention.__class__ = Deaf
    with pytest.raises(TypeError, match="Deaf does not read a memory"):
        anatomy.remember(blocks[1], Memory(1, 2, 12))
    assert anatomy.log == []
    assert anatomy.obstacle(blocks[0], "remember") is None


def test_own_attention_that_differs_is_found_out() -> None:
    anatomy, blocks, _ = opened("timm", "vision")
    called: list[nn.Module] = []
    for module in (blocks[0].part("attention"), blocks[1].part("attention").proj):  # hooks are part of an attention
        module.register_forward_hook(lambda module, args, output: called.append(module) or output + 1)
    for block in blocks[:2]:
        anatomy.remember(block, Memory(1, 2, 12))
    called.clear()
    run(anatomy.model, BACKBONES["timm"].inputs())
    assert called == [blocks[0].part("attention"), blocks[1].part("attention").proj]
    changed = blocks[2].part("attention")
    changed.forward = lambda *args, **kwargs: type(changed).forward(changed, *args, **kwargs) + 1
    with pytest.raises(TypeError, match=r"our attention differs from Attention's own by .* in a probe"):
        anatomy.remember(blocks[2], Memory(1, 2, 12))


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


def test_what_others_keep_of_a_block_is_what_it_gives_now() -> None:
    """Transformers taps towers by hooks that it installs in the first pass: before ours, if a model has run."""
    model, kept = BACKBONES["vit"].model().requires_grad_(False), []
    inputs = BACKBONES["vit"].inputs()
    bare = model(**inputs, output_hidden_states=True).hidden_states
    anatomy = gm.read(model)
    part, block = Mix(12), anatomy.blocks()[1]
    block.module.register_forward_hook(lambda module, args, output: kept.append(output))
    anatomy.middle(block, part, at="end")
    for _ in range(2):
        found = model(**inputs, output_hidden_states=True).hidden_states[2]
        close(found, bare[2] + part(bare[2]))
        close(kept.pop(), found)
        with anatomy.bare():
            close(model(**inputs, output_hidden_states=True).hidden_states[2], bare[2])
        kept.pop()
