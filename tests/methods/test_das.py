"""DAS against blocks computed by hand, and what its spec says must hold."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm
from gossamer import architectures
from gossamer.anatomy.block import Site
from gossamer.export import Logits
from gossamer.methods import from_dict, to_dict
from gossamer.methods.parts.shortcuts import mixture
from gossamer.methods.parts.supernet import Switchboard

from .. import hand
from ..contract.table import BACKBONES, Row, adapt, disturb, every, run
from ..hand import KINDS, Changes

pytestmark = pytest.mark.usefixtures("uncounted")

# Of the others no block reads what the one before gives; they are held to their life in the contract.
NEXT = {k: names for k, names in KINDS.items() if not BACKBONES[k[0]].map}
EVERY = every("row stack", list(NEXT))
PRE = [k for k, names in NEXT.items() if not names.post and BACKBONES[k[0]].pre_norm]
# An attention that gives way is computed below for blocks of two norms, or three with cross-attention, and branches that are damped
# by modules; the others are held to their life in the contract.
TWO_NORMS = [
    k for k, names in NEXT.items() if len(names.norms) == 2 + bool(names.cross) and BACKBONES[k[0]].damps_apart
]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * (1 + float(expected.detach().abs().max()))


def adapter(part: Any, x: Tensor) -> Tensor:
    """Section 2.1, from the weights."""
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    z = (part.norm.weight * normed + part.norm.bias) @ part.down.weight.T + part.down.bias
    return z.clamp(min=0) @ part.up.weight.T + part.up.bias


def router(part: Any, u: Tensor, first: Tensor) -> Tensor:
    """Section 2.4 with two groups and temperature 10, from the weights."""
    alpha = ((first @ part.router.weight.T + part.router.bias) / 10).softmax(-1)
    z, (d, half) = u @ part.down.weight.T + part.down.bias, part.up_B.shape
    total = torch.zeros_like(u)
    for a, name in zip(alpha.T, "BD", strict=True):
        weight, bias = getattr(part, f"up_{name}"), getattr(part, f"bias_{name}")
        for channel in range(d):
            group = 2 * channel // d
            unit = z[..., group * half : (group + 1) * half] @ weight[channel] + bias[channel]
            total[..., channel] += a[:, None] * unit
    return total


def opened(row: str, method: gm.DAS, stack: str) -> tuple[gm.Adapted, Any, list[hand.Call], list[Tensor]]:
    """An adapted model with everything moved, its tree, calls of its bare twin, and what each block of it answers."""
    adapted = disturb(adapt(BACKBONES[row], Row(method)))
    calls = hand.record(row, stack)
    found: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    for block in adapted.anatomy.stacks[stack]:
        block.module.register_forward_hook(keep)
    with torch.no_grad():
        run(adapted, BACKBONES[row].inputs())
    return adapted, adapted.methods["das"], calls, found


# METER's two columns, of which each block reads the other, are held to the authors' own numbers in tests/reference.
ONE_COLUMN = [k for k in NEXT if not k[0].startswith("meter")]


@torch.no_grad()
@every("row stack", ONE_COLUMN)
@pytest.mark.parametrize("skipped", [0, 1])
def test_kept_and_skipped_blocks_are_what_the_formulas_say(row: str, stack: str, skipped: int) -> None:
    _, tree, calls, found = opened(row, gm.DAS(skip=(skipped,), rank=4, stacks=(stack,)), stack)
    names, x = KINDS[row, stack], calls[0].x
    for i, call in enumerate(calls):
        at = f"{stack}.blocks.{i}"
        if i == skipped:
            x = x + adapter(tree.get_submodule(f"{at}.shortcut").adapter, x)
        else:
            parts = {
                b: tree.get_submodule(f"{at}.{b}") for b in ("attention", "cross", "ffn") if b != "cross" or names.cross
            }
            outside = parts.pop("ffn") if names.post else None  # behind the last norm: needs what the FFN reads
            add = {b: lambda u, y, part=part: adapter(part, u) for b, part in parts.items()}
            inside = hand.block(replace(call, x=x), Changes(add=add, normed=False, damped=False))
            if outside is not None:
                inside = inside + adapter(outside, _ffn_input(replace(call, x=x), add))
            x = inside
        close(found[i], x)


def _ffn_input(call: hand.Call, add: dict[str, Any]) -> Tensor:
    seen: list[Tensor] = []
    changes = Changes(add={**add, "ffn": lambda u, y: seen.append(u) or 0 * y}, normed=False)
    hand.block(call, changes)
    return seen[0]


@torch.no_grad()
@every("row stack", PRE)
def test_the_router_form_is_what_the_formula_says(row: str, stack: str) -> None:
    method = gm.DAS(skip=(0,), rank=4, shortcut_rank=6, form="router", stacks=(stack,), plus_input=True)
    adapted, tree, calls, found = opened(row, method, stack)
    norm = adapted.anatomy.stacks[stack][0].part("norm1")
    u = norm(calls[0].x)
    x = calls[0].x + u + router(tree.get_submodule(f"{stack}.blocks.0.shortcut").adapter, u, u[:, 0])
    close(found[0], x)
    part = tree.get_submodule(f"{stack}.blocks.1.attention")
    seen = replace(calls[1], x=x)
    norms = list(seen.names.norms)

    class Routed(nn.Module):  # the first norm of the block, and what is added behind it
        def forward(self, states: Tensor) -> Tensor:
            u = inner(states)
            return u + router(part, u, u[:, 0])

    twin = copy.deepcopy(calls[1].module)
    inner = twin.get_submodule(norms[0])
    parent, _, child = norms[0].rpartition(".")
    setattr(twin.get_submodule(parent), child, Routed())
    close(found[1], hand.block(replace(seen, module=twin)))


@torch.no_grad()
@every("row stack", TWO_NORMS)
def test_an_attention_alone_gives_way(row: str, stack: str) -> None:
    _, tree, calls, found = opened(row, gm.DAS(skip=(0,), rank=3, modules="attention", stacks=(stack,)), stack)
    names, call = KINDS[row, stack], calls[0]
    at = f"{stack}.blocks.0"
    h = call.x + adapter(tree.get_submodule(f"{at}.shortcut_attention"), call.x)
    parts = {b: tree.get_submodule(f"{at}.{b}") for b in ("cross", "ffn") if b != "cross" or names.cross}

    def norm(place: int) -> Any:
        return call.module.get_submodule(names.norms[place])

    if names.cross:
        y = hand._cross(call, h if names.post else norm(1)(h)) + adapter(parts["cross"], h)
        h = norm(1)(h + y) if names.post else h + y
    scale = call.module.get_parameter(names.layer_scale[1]) if names.layer_scale else 1.0
    y = hand._ffn(names, call.module, h if names.post else norm(-1)(h))
    y = scale * (call.module.get_submodule(names.closing[1])(y) if names.closing else y)
    close(found[0], (norm(-1)(h + y) if names.post else h + y) + adapter(parts["ffn"], h))


@torch.no_grad()
@EVERY
def test_zero_up_is_the_backbone_with_skipped_blocks_as_identities(row: str, stack: str) -> None:
    options: dict[str, Any] = {"rank": 4, "init": "zero_up", "stacks": (stack,)}
    bare = BACKBONES[row].num_labels is None
    inputs = BACKBONES[row].inputs()
    expected = run(BACKBONES[row].model(), inputs)
    if bare:
        assert torch.equal(run(adapt(BACKBONES[row], Row(gm.DAS(skip=0, **options))), inputs), expected)
    one = adapt(BACKBONES[row], Row(gm.DAS(skip=(1,), **options)))
    twin = adapt(BACKBONES[row], Row(gm.DAS(skip=0, **options)))
    twin.anatomy.undo()
    twin.anatomy.replace(twin.anatomy.stacks[stack][1], nn.Identity())
    if twin.head_built is not None:
        twin.head_built.load_state_dict(one.head_built.state_dict())  # type: ignore[union-attr]
    close(run(one, inputs), run(twin, inputs), 1e-6)


def test_gradients_reach_what_runs_and_nothing_else() -> None:
    adapted = adapt(BACKBONES["vilt"], Row(gm.DAS(skip=(1,), rank=4)))
    adapted.methods["das"].train()
    run(adapted, BACKBONES["vilt"].inputs()).square().sum().backward()
    assert all(p.grad is not None for p in adapted.trainable().values())
    assert all(p.grad is None for p in adapted.backbone.parameters() if not p.requires_grad)
    names = {n for n in adapted.trainable() if n.startswith("das.fusion.blocks.1.")}
    assert {n.split(".")[4] for n in names} == {"shortcut"}


# ---- the super-network ----


def supernet(row: str = "vit", **options: Any) -> tuple[gm.Adapted, Switchboard]:
    method = gm.DAS(rank=4, **options)
    adapted = disturb(adapt(BACKBONES[row], Row(method.supernet())))
    return adapted, adapted.methods["das"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("row", "modules"),
    [
        pytest.param(row, modules, marks=() if (row, modules) in {("bert", "attention")} else pytest.mark.slow)
        for row in ("vit", "bert", "llama", "timm")
        for modules in ("block", "attention")
    ],
)
def test_the_supernet_with_a_subset_is_the_method_with_that_subset(row: str, modules: Any) -> None:
    adapted, board = supernet(row, modules=modules)
    inputs = BACKBONES[row].inputs()
    assert len(board.arms) == 3
    for chosen in [(), (0,), (1, 2), (0, 2), (1,)]:
        board.use(chosen)
        adapted.zero_grad(set_to_none=True)
        output = run(adapted, inputs)
        output.square().sum().backward()
        ran = {n: p for n, p in adapted.trainable().items() if p.grad is not None}
        fixed = adapt(BACKBONES[row], Row(gm.DAS(rank=4, skip=chosen, modules=modules)))
        own = fixed.trainable()
        assert set(own) == set(ran)
        fixed.load_state_dict({n: t for n, t in adapted.state_dict().items() if n in fixed.state_dict()})
        assert torch.equal(run(fixed, inputs), output)


def test_the_supernet_counts_everything_and_comes_off_again() -> None:
    backbone = BACKBONES["vit"]
    adapted, board = supernet()
    trained = sum(p.numel() for n, p in adapted.trainable().items() if n.startswith("das"))
    board.use((0, 2))
    model = adapted.detach()
    assert gm.DAS(rank=4).supernet().parameters(gm.read(model)) == trained
    assert torch.equal(run(model, backbone.inputs()), run(backbone.model(), backbone.inputs()))
    assert not any("forward" in m.__dict__ for m in model.modules())


# ---- counts ----


def test_parameters_of_the_papers() -> None:
    vilt = gm.read(architectures.build("vilt-b32"))
    assert gm.DAS(skip=0).parameters(vilt) == 3_596_544
    assert gm.DAS(skip=1).parameters(vilt) == 3_594_240
    assert gm.DAS(skip=1).supernet().parameters(vilt) == 7_165_440
    llama = gm.read(architectures.build("llama-7b"))
    lavin = {"rank": 8, "shortcut_rank": 32, "form": "router", "dropout": 0.1}
    adapters = [gm.DAS(skip=m, **lavin).parameters(llama) for m in (0, 2, 4, 6)]  # type: ignore[arg-type]
    tower = 24 * (1024 * 8 + 8 + 2 * (1024 * 4 + 1024) + 2 * 1024 + 2)
    assert [a - adapters[0] for a in adapters] == [196_632 * m for m in (0, 2, 4, 6)]
    assert adapters[0] == 32 * 81_930
    assert tower > 0


@pytest.mark.slow
def test_macs_fall_by_the_same_for_every_block_and_as_counted() -> None:
    backbone = BACKBONES["bert"]
    macs = []
    for skip in (0, (0,), (2,), (0, 2), (0, 1)):
        sheet = adapt(backbone, Row(gm.DAS(skip=skip, rank=5))).cost(tokens=9)  # type: ignore[arg-type]
        assert sheet.finished.counted == sheet.finished.closed
        assert sheet.adapted.counted == sheet.adapted.closed
        macs.append(sheet.finished.counted)
    none, one, other, two, same = macs
    assert one == other
    assert none - one == one - two == one - same
    block, d = 9 * (4 * 12 * 12 + 2 * 12 * 20) + 2 * 9 * 9 * 12, 12
    assert none - one == block + 2 * (2 * 9 * d * 5) - 2 * 9 * d * 10
    with_lora = adapt(backbone, Row([gm.DAS(skip=(1,), rank=5), LoraConfig(r=2)])).cost(tokens=9)
    assert with_lora.adapted.counted == with_lora.adapted.closed


# ---- with other methods ----


@pytest.mark.parametrize("modules", ["block", "attention"])
def test_other_methods_leave_skipped_blocks_alone(modules: Any) -> None:
    das = gm.DAS(skip=(1,), rank=4, modules=modules)
    others = [gm.VPT(prompts=2), gm.CVPT(prompts=2), gm.Adapter(rank=2), LoraConfig(r=2), gm.VPT(prompts=2, deep=False)]
    adapted = adapt(BACKBONES["vit"], Row([*others, das]))
    run(adapted, BACKBONES["vit"].inputs()).square().sum().backward()
    for name, tree in adapted.methods.items():
        touched = {n.split(".")[2] for n, _ in tree.named_parameters()}
        assert ("1" in touched) == (name == "das"), name
    assert all(p.grad is not None for p in adapted.trainable().values())
    literal = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    adapted = adapt(BACKBONES["vit"], Row([literal, das]))
    assert not [n for n in adapted.trainable() if n.startswith("peft") and ".1." in n]


@pytest.mark.parametrize("skipped", [0, 2])
def test_shallow_prompts_pass_skipped_blocks(skipped: int) -> None:
    """They enter before the first block, and pass shortcuts as any token does."""
    adapted = disturb(adapt(BACKBONES["vit"], Row([gm.VPT(prompts=2, deep=False), gm.DAS(skip=(skipped,), rank=4)])))
    inputs = BACKBONES["vit"].inputs()
    output = run(adapted, inputs)
    close(run(adapted.finalize(), inputs), output, 1e-6)
    with torch.no_grad():
        adapted.methods["vpt"].get_parameter("vision.blocks.0.prompts").add_(1)
    assert not torch.equal(run(adapted, inputs), output)


def test_full_fine_tuning_trains_only_what_runs() -> None:
    adapted = adapt(BACKBONES["vit"], Row([gm.FullFineTuning(), gm.DAS(skip=(1,), rank=4)]))
    run(adapted, BACKBONES["vit"].inputs()).square().sum().backward()
    assert not [n for n in adapted.trainable() if "layers.1." in n or ("blocks.1." in n and not n.startswith("das"))]
    assert all(p.grad is not None for p in adapted.trainable().values())
    inputs = BACKBONES["vit"].inputs()
    disturb(adapted)
    close(run(adapted.finalize(), inputs), run(adapted, inputs), 1e-6)


def test_adapters_on_a_linear_that_lora_wraps_outlive_the_merge() -> None:
    inputs = BACKBONES["bert"].inputs()
    for row in ("vit", "bert"):
        inputs = BACKBONES[row].inputs()
        adapted = disturb(adapt(BACKBONES[row], Row([gm.Adapter(rank=3, placement="houlsby"), LoraConfig(r=2)])))
        close(run(adapted.finalize(), inputs), run(adapted, inputs), 1e-6)


def test_what_would_never_run_is_refused() -> None:
    anatomy = gm.read(BACKBONES["vit"].model())
    first, second, _ = anatomy.blocks()
    anatomy.replace(first, nn.Identity())
    message = r"vision\.blocks\.0 is replaced, so nothing that is placed in it would ever run"
    for place in (
        lambda: anatomy.add(first, "ffn", nn.Identity()),  # type: ignore[arg-type]
        lambda: anatomy.rewrite(first, "q", nn.Linear(12, 12)),
        lambda: anatomy.middle(first, nn.Identity()),  # type: ignore[arg-type]
        lambda: anatomy.remember(first, nn.Identity()),  # type: ignore[arg-type]
        lambda: (
            anatomy.replace(Site(first, "attention"), nn.Identity()) and anatomy.middle(first, nn.Identity(), at="ffn")
        ),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            place()
    anatomy.add(second, "ffn", nn.Identity())  # type: ignore[arg-type]
    anatomy.replace(Site(second, "attention"), nn.Identity())
    with pytest.raises(ValueError, match=r"blocks\.1\.attention is replaced"):
        anatomy.add(second, "attention", nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"vision\.blocks\.1 cannot be replaced: what a method placed in it \(Added\)"):
        anatomy.replace(second, nn.Identity())
    with pytest.raises(KeyError, match=r"has no cross-attention to replace"):
        anatomy.replace(Site(second, "cross"), nn.Identity())
    with pytest.raises(
        ValueError, match=r"block 1 of the vision stack is replaced by another method.*blocks=\(1,\): leave it out"
    ):
        gm.adapt(BACKBONES["vit"].model(), [gm.VPT(prompts=2, blocks=(1,)), gm.DAS(skip=(1,))])


# ---- finished models ----


@pytest.mark.parametrize("row", ["vit", "t5", "llama", "timm", "bart"])
@pytest.mark.parametrize("form", ["parallel", "router"])
def test_finished_models_hold_no_weight_of_a_deleted_layer(row: str, form: Any, tmp_path: Path) -> None:
    if form == "router" and BACKBONES[row].post_norm:
        return
    adapted = disturb(adapt(BACKBONES[row], Row(gm.DAS(skip=(0,), rank=4, form=form))))
    block = adapted.anatomy.stacks[adapted.anatomy.main][0]
    inputs = BACKBONES[row].inputs()
    finished = adapted.finalize()
    left = [n for n in finished.state_dict() if block.name in n and "gossamer" not in n]
    expected = ["layer.0.SelfAttention.relative_attention_bias.weight"] if row == "t5" else []
    expected += [n for n in block.module.state_dict() if form == "router" and (block.path("norm1") or "") in n]
    assert sorted(n.partition(f"{block.name}.")[2] for n in left) == sorted(expected)
    assert sum(p.numel() for p in finished.parameters()) < sum(p.numel() for p in adapted.backbone.parameters())
    close(run(finished, inputs), run(adapted, inputs), 1e-6)
    adapted.save_pretrained(tmp_path)
    again = gm.load(tmp_path, BACKBONES[row].model())
    assert again.applied == adapted.applied
    assert torch.equal(run(again, inputs), run(adapted, inputs))
    size = {n: t.numel() for n, t in finished.state_dict().items()}
    copied = copy.deepcopy(finished)
    copied.load_state_dict(finished.state_dict())
    assert {n: t.numel() for n, t in copied.state_dict().items()} == size
    assert torch.equal(run(copied, inputs), run(finished, inputs))


def test_hidden_states_are_as_many_as_before() -> None:
    for finished in (False, True):
        model: Any = adapt(BACKBONES["vit"], Row(gm.DAS(skip=(0, 1), rank=4)))
        model = model.finalize() if finished else model
        found = model(**BACKBONES["vit"].inputs(), output_hidden_states=True).hidden_states
        assert len(found) == 4


@pytest.mark.parametrize("row", ["llama", "t5", "bart"])
@pytest.mark.parametrize("options", [{}, {"modules": "attention"}, {"form": "router", "shortcut_rank": 6}], ids=str)
@pytest.mark.parametrize("finished", [False, True])
def test_generation_agrees_with_and_without_cache_when_layer_0_is_skipped(
    row: str, options: Any, finished: bool
) -> None:
    if "form" in options and BACKBONES[row].post_norm:
        return
    adapted: Any = disturb(adapt(BACKBONES[row], Row(gm.DAS(skip=(0,), rank=4, stacks=("decoder",), **options))))
    model = adapted.finalize() if finished else adapted
    inputs = {k: v for k, v in BACKBONES[row].inputs().items() if not k.startswith("decoder")}
    if row == "llama":
        inputs = {k: v.flip(1) for k, v in inputs.items()}  # padding on the left
    settings = {"max_new_tokens": 7, "min_new_tokens": 7, "do_sample": False, "num_beams": 2}
    cached, plain = (model.generate(**inputs, **settings, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)
    alone = model.generate(**{k: v[:1] for k, v in inputs.items()}, **settings)
    assert torch.equal(alone, cached[:1])


def test_the_router_looks_at_the_first_token_that_is_no_padding() -> None:
    adapted = disturb(adapt(BACKBONES["llama"], Row(gm.DAS(skip=(0,), rank=4, form="router"))))
    inputs = BACKBONES["llama"].inputs()
    ids = inputs["input_ids"][1:2, :5]
    padded = {"input_ids": F.pad(ids, (2, 0), value=1), "attention_mask": F.pad(torch.ones_like(ids), (2, 0))}
    close(run(adapted, padded)[:, 2:], run(adapted, {"input_ids": ids}))
    weight, bias, first = torch.randn(2, 12), torch.randn(2), torch.randn(3, 12).to(torch.bfloat16)
    assert mixture(first, weight, bias, 10.0).dtype == torch.float32


@pytest.mark.parametrize("modules", ["block", "attention"])
def test_the_router_looks_at_the_first_patch_of_each_packed_image(modules: Any) -> None:
    """Qwen2-VL's tower runs the patches of all images as rows of one sequence: here 16 and 8 of them."""
    model = BACKBONES["qwen2-vl"].model()
    method = gm.DAS(skip=(1,), rank=4, form="router", stacks=("vision",), before_ffn=True, modules=modules)
    adapted = disturb(gm.adapt(model, method, head=()))
    patches, grids = torch.randn(24, 96), torch.tensor([[1, 4, 4], [1, 2, 4]])
    seen: list[tuple[Tensor, Tensor]] = []
    routers = [m for m in adapted.methods.modules() if type(m).__name__ == "RouterAdapter"]
    tower: Any = model.get_submodule("model.visual")
    with torch.no_grad():
        alone = [tower(rows, grid_thw=grid[None]) for rows, grid in zip(patches.split([16, 8]), grids, strict=True)]
        handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args)) for m in routers]
        both = tower(patches, grid_thw=grids)
    for handle in handles:
        handle.remove()
    for name in ("last_hidden_state", "pooler_output"):
        close(getattr(both, name), torch.cat([getattr(one, name) for one in alone]))
    assert len(seen) == len(routers) > 3
    for u, first in seen:
        close(first, u[:, [0] * 16 + [16] * 8])


@pytest.mark.parametrize("modules", ["block", "attention"])
def test_the_router_looks_at_the_first_patch_of_each_image_of_a_sequence(modules: Any) -> None:
    """Pixtral's tower runs the patches of all images as one sequence: here 16 and 8 of them."""
    model = BACKBONES["mistral3"].model()
    method = gm.DAS(skip=(1,), rank=4, form="router", stacks=("vision",), before_ffn=True, modules=modules)
    adapted = disturb(gm.adapt(model, method, head=()))
    images, sizes = torch.randn(2, 3, 16, 16), torch.tensor([[16, 16], [16, 8]])
    seen: list[tuple[Tensor, Tensor]] = []
    routers = [m for m in adapted.methods.modules() if type(m).__name__ == "RouterAdapter"]
    tower: Any = model.get_submodule("model.vision_tower")
    with torch.no_grad():
        alone = [tower(image[None], image_sizes=size[None]) for image, size in zip(images, sizes, strict=True)]
        handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args)) for m in routers]
        both = tower(images, image_sizes=sizes)
    for handle in handles:
        handle.remove()
    close(both.last_hidden_state, torch.cat([one.last_hidden_state for one in alone], dim=1))
    assert len(seen) == len(routers) > 3
    for u, first in seen:
        close(first, u[:, [0] * 16 + [16] * 8])


@pytest.mark.parametrize("masked", ["sdpa", "eager"])
@pytest.mark.parametrize("modules", ["block", "attention"])
def test_texts_that_are_joined_to_one_row_are_routed_as_they_are_alone(modules: Any, masked: str) -> None:
    model = BACKBONES["llama"].model(masked)
    method = gm.DAS(skip=(1,), rank=4, form="router", before_ffn=True, modules=modules)
    adapted = disturb(gm.adapt(model, method)).eval()
    texts = [torch.arange(4, 11)[None], torch.arange(20, 25)[None]]
    places = torch.cat([torch.arange(t.shape[1]) for t in texts])[None]
    with torch.no_grad():
        alone = [adapted(input_ids=text).logits for text in texts]
        joined = adapted(input_ids=torch.cat(texts, dim=1), position_ids=places, use_cache=False).logits
    close(joined, torch.cat(alone, dim=1))


def test_a_router_that_reads_a_mask_is_written_as_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    method = gm.DAS(skip=(1,), rank=4, form="router", before_ffn=True)
    model = disturb(gm.adapt(BACKBONES["llama"].model("eager"), method)).eval()
    ids, mask = torch.randint(4, 40, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[1, :2] = 0
    whole = Logits(model, ["input_ids", "attention_mask"])
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(whole, (ids, mask), dynamo=True)
    assert program is not None
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    given = {i.name: t.numpy() for i, t in zip(session.get_inputs(), (ids, mask), strict=True)}
    with torch.no_grad():
        expected = whole(ids, mask)
    found = torch.from_numpy(session.run(None, given)[0])
    close(found[0], expected[0])
    close(found[1, 2:], expected[1, 2:])


# ---- what is chosen, and mistakes ----


def test_a_number_takes_the_deepest() -> None:
    anatomy = gm.read(BACKBONES["t5"].model())
    keys = [s.key for s in gm.DAS(skip=3, stacks=("encoder", "decoder")).skipped(anatomy)]
    assert keys == ["encoder.blocks.2", "decoder.blocks.0", "decoder.blocks.1"]
    meter = gm.read(BACKBONES["meter"].model())
    depth = len(meter.columns()[0])
    assert [s.block.index for s in gm.DAS(skip=2).skipped(meter)] == [depth - 1, 2 * depth - 1]
    attentions = gm.DAS(skip=(0, 4, 5), stacks=("encoder", "decoder"), modules="attention").skipped(anatomy)
    assert [s.key for s in attentions] == [
        "encoder.blocks.0.attention",
        "decoder.blocks.0.cross",
        "decoder.blocks.1.attention",
    ]
    assert gm.DAS(skip=4).found([3, 1, 2, 0]) == gm.DAS(skip=(0, 1, 2, 3))
    assert from_dict(to_dict(gm.DAS(skip=(1, 2), rank=7))) == gm.DAS(skip=(1, 2), rank=7)
    assert from_dict({"method": "das", "skip": 2}) == gm.DAS(skip=2)
    assert (
        gm.DAS(shortcut_lr=0.2).rate("x.blocks.1.shortcut.adapter.up.weight"),
        gm.DAS().rate("x.ffn.up.weight"),
    ) == (0.2, 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skip": -1}, r"skip must be a number of modules or their indices, each once, got -1"),
        ({"skip": (1, 1)}, r"skip must be .*got \(1, 1\)"),
        ({"skip": True}, r"skip must be .*got True"),
        ({"rank": 0}, "ranks must be at least 1, got rank=0"),
        ({"form": "beside"}, "form must be one of parallel, router, bottleneck, got 'beside'"),
        ({"modules": "head"}, "modules must be one of block, attention, got 'head'"),
        ({"init": "zero"}, "init must be one of published, zero_up, got 'zero'"),
        ({"plus_input": True}, "before_ffn and plus_input belong to the forms router and bottleneck"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"shortcut_lr": 0.0}, "must be positive, got 10.0, 2, 0.0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.DAS(**settings)


@pytest.mark.parametrize("skip", [3, (3,), (0, 1, 2), 7])
def test_what_a_model_cannot_skip(skip: Any) -> None:
    message = r"has 3 candidates \(vision\.blocks\.0, vision\.blocks\.1, \.\.\. numbered 0 to 2\), of which at least one must stay"
    with pytest.raises(ValueError, match=message):
        gm.adapt(BACKBONES["vit"].model(), gm.DAS(skip=skip))
    with pytest.raises(KeyError, match="no stack 'text' in ViTForImageClassification: it has vision"):
        gm.adapt(BACKBONES["vit"].model(), gm.DAS(stacks=("text",)))
    with pytest.raises(
        ValueError, match=r"form='router' reads what a norm gives to attention; bert\.encoder\.layer\.0 is a post-norm"
    ):
        gm.adapt(BACKBONES["bert"].model(), gm.DAS(form="router", skip=0))
    with pytest.raises(ValueError, match=r"groups=5 must divide the rank, 10, and the width, 12"):
        gm.adapt(BACKBONES["vit"].model(), gm.DAS(form="router", rank=10, groups=5))


def test_a_stack_without_any_block_is_worth_a_warning() -> None:
    model = BACKBONES["t5"].model()
    with pytest.warns(UserWarning, match="every block of the decoder stack is skipped"):
        adapted = gm.adapt(model, gm.DAS(skip=(3, 4), stacks=("encoder", "decoder"), rank=3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(adapted, BACKBONES["t5"].inputs())


def test_compiles_and_exports_like_the_others() -> None:
    adapted = disturb(adapt(BACKBONES["vit"], Row(gm.DAS(skip=(1,), rank=4))))
    model: Any = adapted.finalize()
    inputs = BACKBONES["vit"].inputs()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    close(compiled(**inputs).logits, run(model, inputs), 1e-6)
    program = torch.export.export(model, (), inputs)
    close(program.module()(**inputs).logits, run(model, inputs), 1e-6)


def test_the_router_finds_its_first_token_again_when_activations_are_computed_anew() -> None:
    """Two batches, padded on different sides, before one backward pass."""
    gradients = []
    for checkpointing in (False, True):
        adapted = disturb(adapt(BACKBONES["llama"], Row(gm.DAS(skip=(0,), rank=4, form="router", before_ffn=True))))
        if checkpointing:
            adapted.gradient_checkpointing_enable()
        adapted.train()
        inputs = BACKBONES["llama"].inputs()
        flipped = {k: v.flip(1) for k, v in inputs.items()}
        (run(adapted, inputs).square().sum() + run(adapted, flipped).square().sum()).backward()
        gradients.append({n: p.grad for n, p in adapted.trainable().items()})
    for name, expected in gradients[0].items():
        close(gradients[1][name], expected)
