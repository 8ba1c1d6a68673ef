"""What is read from a model, what is said about models that cannot be read, and which way the package points."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import transformers as tf
from torch import nn

import gossamer as gm
from gossamer import anatomy as anatomy_module
from gossamer.families import FAMILIES
from gossamer.families.refused import REFUSED
from gossamer.reading import survey

from ..contract.backbones import TEXT, VISION
from ..contract.table import BACKBONES, rows, run
from ..hand import KINDS

EVERY = pytest.mark.parametrize("row", rows())


# Stages are in tests/test_windows.py; composed models are read half by half, and each half has a row of its own.
@pytest.mark.parametrize("row", rows(lambda b: not isinstance(b.kinds, str)))
def test_every_stack_is_found_with_its_sizes(row: str) -> None:
    model = BACKBONES[row].model()
    anatomy = gm.read(model)
    assert {(row, name) for name in anatomy.stacks} == {key for key in KINDS if key[0] == row}
    assert anatomy.main == next(iter(anatomy.stacks))
    for block in anatomy:
        assert model.get_submodule(block.name) is block.module
        names = KINDS[row, block.stack.name]
        q, k, v, out = (block.module.get_submodule(n) for n in names.attention)
        *_, up, down = (block.module.get_submodule(n) for n in names.ffn)
        assert block.part("out") is out
        assert block.part("down") is down
        assert block.sizes.width == out.weight.shape[0] == (18 if BACKBONES[row].map and block.stage else 12)
        assert block.sizes.inner == out.weight.shape[1]
        inner = out.weight.shape[1]
        assert block.sizes.inner_kv == ((q.out_features - inner) // 2 if k is q else k.weight.shape[0])
        matrices = len(names.ffn) + (len(names.ffn) == 2 and up.out_features == 2 * down.in_features)
        assert (block.sizes.ffn, block.sizes.ffn_matrices) == (down.in_features, matrices)
        assert (k is v) == (block.attention.fused is not None)
        for role, norms in (("norm", names.norms), ("closing", names.closing or ())):
            found = [block.module.get_submodule(n) for n in (norms[:1] + norms[-1:])]
            found = [None if isinstance(norm, nn.Identity) else norm for norm in found] or [None, None]
            assert [block.active(f"{role}{i}") for i in (1, 2)] == found


@EVERY
def test_every_linear_and_norm_of_a_block_has_one_role(row: str) -> None:
    """So no part of a block is out of reach, and saved names cannot collide."""
    anatomy = gm.read(BACKBONES[row].model())
    keys = anatomy.keys()
    assert len(set(keys.values())) == len(keys)
    for block in anatomy:
        linears = [n for n, m in block.module.named_modules() if isinstance(m, nn.Linear)]
        if row == "timm-cait":  # from heads to heads, not of the stream
            linears = [n for n in linears if n not in ("attn.proj_l", "attn.proj_w")]
        inside = {
            f"{block.name}.{n}" for n in linears if not n.startswith(f"{block.attention.bias}.")
        }  # Swin v2's distances
        assert inside <= set(block.roles().values())
        assert all(
            key.startswith(f"{block.stack.name}.blocks.{block.index}.") for name, key in keys.items() if name in inside
        )


PREFIX = {
    "vit": 1,
    "deit": 2,
    "dinov2": 1,
    "dinov2-registers": 5,
    "siglip": 0,
    "timm": 1,
    "timm-avg": 3,
    "bert": 1,
    "llama": 0,
}


@pytest.mark.parametrize(("row", "count"), PREFIX.items())
def test_prefix_tokens_are_counted(row: str, count: int) -> None:
    assert {block.prefix for block in gm.read(BACKBONES[row].model())} == {count}


def test_blocks_by_index_run_from_first_to_last() -> None:
    anatomy = gm.read(BACKBONES["bart"].model())
    assert [b.name for b in anatomy.blocks(None, (2, 0))] == ["model.encoder.layers.0", "model.encoder.layers.2"]
    assert [b.index for b in anatomy.blocks("decoder")] == [0, 1]
    assert anatomy.owner("decoder") is anatomy.model.model
    assert sum(1 for _ in anatomy) == 5


@pytest.mark.parametrize(
    ("stack", "indices", "error", "message"),
    [
        (
            "vision",
            None,
            KeyError,
            r"no stack 'vision' in BartForCond.*: it has encoder \(3 blocks\), decoder \(2 blocks\)",
        ),
        (
            "decoder",
            (0, 2),
            KeyError,
            r"no block 2: the decoder stack of this BartFor.* has 2 \(0\.\.1\); asked for by blocks=\(0, 2\)",
        ),
        ("encoder", (-1,), KeyError, r"no block -1: the encoder stack .* has 3 \(0\.\.2\)"),
        ("encoder", (1, 0, 1), ValueError, r"blocks=\(1, 0, 1\) names a block twice"),
        ("encoder", (), ValueError, r"blocks=\(\) names no block: the encoder stack has 3; None means all"),
    ],
)
def test_blocks_that_are_not_there(stack: str, indices: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gm.read(BACKBONES["bart"].model()).blocks(stack, indices)


def test_branches_roles_places_and_verbs_that_do_not_exist() -> None:
    anatomy = gm.read(BACKBONES["vit"].model())
    block, part = anatomy.blocks()[0], nn.Identity()
    with pytest.raises(KeyError, match="no branch 'mlp': there are attention, cross, ffn"):
        anatomy.add(block, "mlp", part)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=r"vit\.layers\.0 \(ViTLayer\) has no cross-attention to add to"):
        anatomy.add(block, "cross", part)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=r"no part 'mlp': a block of the vision stack has attention, q, k, v"):
        block.part("mlp")
    with pytest.raises(KeyError, match=r"vit\.layers\.0 \(ViTLayer\) has no part 'gate'"):
        block.part("gate")
    with pytest.raises(KeyError, match="no place 'beside': there are start, middle, end, attention, ffn"):
        anatomy.middle(block, part, at="beside")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="no verb 'forget': there are add, rewrite"):
        anatomy.obstacle(block, "forget")
    with pytest.raises(KeyError, match=r"has no part 'gate'"):
        anatomy.rewrite(block, "gate", part)
    fused = gm.read(BACKBONES["timm"].model())
    with pytest.raises(
        KeyError, match=r"blocks\.0 \(Block\) has no part 'k'; it is a third of attn\.qkv: call split\(\) first"
    ):
        fused.rewrite(fused.blocks()[0], "k", part)
    assert anatomy.log == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in anatomy.model.modules())


@EVERY
def test_every_verb_works_on_every_block(row: str) -> None:
    anatomy = gm.read(BACKBONES[row].model())
    has = BACKBONES[row]
    left_out = {"insert": not has.grows, "middle": not has.between, "shorten": not has.merges}
    verbs = [verb for verb in anatomy_module.VERBS if not left_out.get(verb)]
    blocks = {
        verb: anatomy.blocks() if verb == "shorten" else list(anatomy) for verb in verbs
    }  # of a text none become one
    assert {anatomy.obstacle(b, verb) for verb in verbs for b in blocks[verb]} == {None}


@pytest.mark.parametrize("row", rows(lambda b: not b.grows and not b.packed))
def test_tokens_are_let_in_nowhere_else(row: str) -> None:
    anatomy = gm.read(BACKBONES[row].model())
    for block in anatomy:
        assert re.search(
            r"(gives each of its tokens a position|are the places of a map).* has none for others|among which none can stand",
            anatomy.obstacle(block, "insert") or "",
        )


@EVERY
def test_bare_for_a_while(row: str) -> None:
    model = BACKBONES[row].model()
    bare = run(model, BACKBONES[row].inputs())
    anatomy = gm.read(model)
    blocks = anatomy.blocks()
    anatomy.split(blocks[0])
    anatomy.add(blocks[0], "ffn", _Doubling())  # type: ignore[arg-type]
    last = blocks[0] if "swin" in row else blocks[1]  # tokens in windows cannot pass what is replaced
    if BACKBONES[row].grows and not BACKBONES[row].tapped:
        anatomy.insert(blocks[0], _Tokens(), last=last)  # type: ignore[arg-type]
    anatomy.replace(blocks[1], nn.Identity())
    changed = run(model, BACKBONES[row].inputs())
    assert not torch.equal(changed, bare)
    with anatomy.bare():
        assert torch.equal(run(model, BACKBONES[row].inputs()), bare)
    assert torch.equal(run(model, BACKBONES[row].inputs()), changed)
    with pytest.raises(ZeroDivisionError), anatomy.bare():
        raise ZeroDivisionError
    assert torch.equal(run(model, BACKBONES[row].inputs()), changed)
    anatomy.undo()
    assert torch.equal(run(model, BACKBONES[row].inputs()), bare)


class _Doubling(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y


class _Tokens(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linspace(-1, 1, 2 * x.shape[2]).view(1, 2, -1).expand(len(x), -1, -1)


# ---- models that cannot be read ----


def test_an_unknown_model_is_told_which_are_known() -> None:
    with pytest.raises(TypeError) as error:
        gm.read(tf.BioGptModel(tf.BioGptConfig(**TEXT)))
    message = str(error.value)
    assert message.startswith("cannot read BioGptModel (biogpt)")
    assert all(owner in message for stack in FAMILIES for owner in stack.owners)
    assert "CONTRIBUTING.md" in message
    with pytest.raises(TypeError, match=r"cannot read Linear \(torch\.Linear\)"):
        gm.read(nn.Linear(3, 4))


@pytest.mark.parametrize(("build", "kind"), [
    (lambda: tf.AlbertModel(tf.AlbertConfig(**TEXT, embedding_size=9)), "albert"),
    (lambda: tf.LongT5EncoderModel(tf.LongT5Config(d_model=12, d_kv=5, d_ff=20, num_layers=1, num_heads=2)), "longt5"),
    (lambda: timm.create_model("convnext_atto", num_classes=3), "timm.ConvNeXt"),
])  # fmt: skip
def test_what_no_family_can_describe_is_told_why(build: Callable[[], nn.Module], kind: str) -> None:
    with pytest.raises(TypeError) as error:
        gm.read(build())
    assert f"({kind}: {REFUSED[kind]})" in str(error.value)
    assert "the other tuners of peft" in str(error.value)


def test_nothing_is_described_and_refused() -> None:
    assert not REFUSED.keys() & {owner for stack in FAMILIES for owner in stack.owners}


def _vit() -> tf.ViTModel:
    return tf.ViTModel(tf.ViTConfig(**VISION), add_pooling_layer=False)


PARTS = ["attention.q_proj", "attention.v_proj", "attention.o_proj", "layernorm_before", "mlp.fc2"]


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(part: str, index: int) -> None:
    model = _vit()
    parent, _, child = part.rpartition(".")
    delattr(model.layers[index].get_submodule(parent), child)
    message = rf"ViTModel looks like a known family, but ViTModel\.layers\.{index} \(ViTLayer\) has no {part.replace('.', r'[.]')}"
    with pytest.raises(TypeError, match=message):
        gm.read(model)


def test_a_missing_list_of_blocks_is_as_good_as_unknown() -> None:
    model = _vit()
    model.layers = nn.ModuleList()
    with pytest.raises(TypeError, match="cannot read ViTModel"):
        gm.read(model)


def test_multihead_attention_is_refused_with_the_reason() -> None:
    model = _vit()
    model.layers[1].attention.inner = nn.MultiheadAttention(12, 2)
    with pytest.raises(
        TypeError, match=r"layers\.1 .*uses nn\.MultiheadAttention, whose output projection is never called"
    ):
        gm.read(model)


def test_of_two_towers_of_one_kind_one_is_read() -> None:
    anatomy = gm.read(nn.ModuleDict({"left": _vit(), "right": _vit()}))
    assert anatomy.owners == {"vision": "left"}
    assert list(anatomy.unread.values()) == ["ViTLayer"]
    assert next(iter(anatomy.unread)).startswith("right.")
    assert not anatomy.whole


def test_a_tower_that_is_not_as_described_is_no_silent_absence() -> None:
    pair = nn.ModuleDict({"words": tf.BertModel(tf.BertConfig(**TEXT)), "image": _vit()})
    del pair["image"].layers[1].mlp.fc2
    with pytest.raises(TypeError, match=r"image\.layers\.1 \(ViTLayer\) has no mlp\.fc2"):
        gm.read(pair)
    found = survey(pair)
    assert list(found.stacks) == ["text"]
    assert found.unread == {"image.layers": "image.layers.1 (ViTLayer) has no mlp.fc2"}


def test_two_towers_of_two_kinds_are_read() -> None:
    pair = nn.ModuleDict({"words": tf.BertModel(tf.BertConfig(**TEXT)), "image": _vit()})
    anatomy = gm.read(pair)
    assert list(anatomy.stacks) == ["vision", "text"]  # the order does not depend on the model's
    assert anatomy.blocks("text")[1].name == "words.encoder.layer.1"


def test_both_towers_of_clip() -> None:
    config = tf.CLIPConfig(
        vision_config={**VISION, "projection_dim": 8},
        text_config={**TEXT, "hidden_size": 14, "bos_token_id": 0, "eos_token_id": 49, "projection_dim": 8},
        projection_dim=8,
    )
    anatomy = gm.read(tf.CLIPModel(config))
    assert {n: (len(b), b[0].sizes.width) for n, b in anatomy.stacks.items()} == {"vision": (3, 12), "text": (3, 14)}


def test_a_model_that_sees_a_part_of_its_input_is_refused() -> None:
    model = tf.ViTMAEModel(tf.ViTMAEConfig(**VISION, mask_ratio=0.75))
    message = (
        r"ViTMAEModel leaves out 75% of its input at random \(config\.mask_ratio=0\.75\).*set config\.mask_ratio to 0"
    )
    with pytest.raises(ValueError, match=message):
        gm.adapt(model, gm.VPT(prompts=2), num_labels=3)
    model.config.mask_ratio = 0.0
    gm.adapt(model, gm.VPT(prompts=2), num_labels=3)


def test_timm_models_that_share_the_class_but_not_the_parts() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=12, depth=2, num_heads=2)
    model.blocks[1].attn = nn.Identity()
    with pytest.raises(TypeError, match=r"VisionTransformer\.blocks\.1 \(Block\) has no attn\.qkv"):
        gm.read(model)


# ---- what importing costs ----


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("torch", "torchvision", "datasets", "matplotlib", "diffusers", "transformers", "timm", "peft", "numpy")
    code = f"""
import sys
before = set(sys.modules)
import gossamer
assert "adapt" in dir(gossamer) and gossamer.__version__
print(*sorted({{n.partition('.')[0] for n in set(sys.modules) - before}} & set({heavy!r})))
"""
    assert _python(code) == ""


@pytest.mark.slow
def test_adapting_imports_only_what_it_uses() -> None:
    """The cheapest start of real work: torch and transformers, what these bring themselves, and nothing else that is heavy."""
    heavy = ("datasets", "matplotlib", "diffusers", "timm", "peft", "sklearn", "pandas")
    code = f"""
import sys
from transformers import GenerationMixin, PreTrainedModel
brought = set(sys.modules)
import gossamer
gossamer.adapt, gossamer.load, gossamer.VPT(prompts=2), gossamer.read
print(*sorted({{n.partition('.')[0] for n in set(sys.modules) - brought}} & set({heavy!r})))
"""
    assert _python(code) == ""


def test_a_name_that_the_package_does_not_have() -> None:
    with pytest.raises(AttributeError, match="module 'gossamer' has no attribute 'adopt'; it offers adapt, Adapted"):
        gm.adopt  # noqa: B018


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
