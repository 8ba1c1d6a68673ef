"""DAS: kept and skipped layers of ViLT's, BridgeTower's (METER's) and LLaMA's kind. The bandits' traces are in `bandit.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, ViltConfig, ViltModel
from transformers.models.bridgetower.configuration_bridgetower import BridgeTowerTextConfig
from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer

import gossamer as gm
from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

from . import Case, Check
from .vpt import load

COVERS = ("das-prenorm", "das-postnorm-coattn", "das-llama-router")
ADAPTER = {
    "norm.weight": "gamma", "norm.bias": "beta", "down.weight": "W_dn", "down.bias": "b_dn", "up.weight": "W_up",
    "up.bias": "b_up",
}  # fmt: skip
ROUTER = {
    "down.weight": "W_A", "down.bias": "b_A", "up_B": "W_B", "bias_B": "b_B", "up_D": "W_D", "bias_D": "b_D",
    "router.weight": "W_e", "router.bias": "b_e",
}  # fmt: skip


def run(case: Case) -> Iterator[Check]:
    if "rope_theta" in case.config:
        yield from llama(case)
    elif "depth_per_tower" in case.config:
        yield from towers(case)
    else:
        yield from single(case)


def method(case: Case, **options: Any) -> gm.DAS:
    c = case.config
    ranks = {"rank": c["adapter_bottleneck_r"], "shortcut_rank": c["shortcut_bottleneck_r_S"]}
    return gm.DAS(skip=tuple(case.tensors["skip"].tolist()), scale=c["adapter_scale"], **ranks, **options)


def fill(tree: nn.Module, case: Case, names: dict[str, str], letters: dict[str, str]) -> dict[str, nn.Parameter]:
    """Puts the case's adapters into the tree; `names` maps our place of one to the case's; gives case's name -> parameter."""
    found = {}
    for place, prefix in names.items():
        for leaf, letter in letters.items():
            inner = tree.get_submodule(place)
            inner = getattr(inner, "adapter", inner)
            found[f"{prefix}.{letter}"] = inner.get_parameter(leaf)
    load(found.values(), [case.tensors[name] for name in found])
    return found


def gradients(case: Case, parameters: dict[str, nn.Parameter]) -> Iterator[Check]:
    """Those of the case, and no others."""
    assert {f"grad.{name}" for name in parameters} == {n for n in case.tensors if n.startswith("grad.")}
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        yield Check(f"grad.{name}", parameter.grad, case.tensors[f"grad.{name}"], gradient=True)


def single(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    config = ViltConfig(
        hidden_size=c["d"], num_attention_heads=c["heads"], num_hidden_layers=c["layers"],
        intermediate_size=c["mlp_ratio"] * c["d"], layer_norm_eps=c["backbone_layernorm_eps"], image_size=8, patch_size=4,
        vocab_size=9,
    )  # fmt: skip
    model = ViltModel(config, add_pooling_layer=False)
    paths = {"attention.attention.query": "q", "attention.attention.key": "k", "attention.attention.value": "v"}
    paths |= {"attention.output.dense": "o", "intermediate.dense": "1", "output.dense": "2"}
    for i, layer in enumerate(model.encoder.layer):
        state = {
            f"{path}.{kind}": t[f"layer.{i}.{x}_{n}"]
            for path, n in paths.items()
            for kind, x in (("weight", "W"), ("bias", "b"))
        }
        for path, n in (("layernorm_before", "1"), ("layernorm_after", "2")):
            state |= {f"{path}.weight": t[f"layer.{i}.gamma_{n}"], f"{path}.bias": t[f"layer.{i}.beta_{n}"]}
        layer.load_state_dict(state)
    adapted = gm.adapt(model, method(case), num_labels=2).eval()
    skipped = set(t["skip"].tolist())
    names = {f"fusion.blocks.{i}.shortcut": f"layer.{i}.S" for i in skipped}
    kept = [i for i in range(c["layers"]) if i not in skipped]
    names |= {
        f"fusion.blocks.{i}.{b}": f"layer.{i}.{x}" for i in kept for b, x in (("attention", "A_a"), ("ffn", "A_f"))
    }
    parameters = fill(adapted.methods["das"], case, names, ADAPTER)
    h = t["x"]
    mask = torch.where(t["mask"][:, None, None] > 0, 0.0, torch.finfo(torch.float32).min)
    for i, layer in enumerate(model.encoder.layer):
        h = layer(h, mask)[0]
        yield Check(f"h.{i}", h, t[f"h.{i}"])
    yield Check("y", h, t["y"])
    h.square().sum().backward()
    yield from gradients(case, parameters)
    finished: Any = adapted.finalize()
    h = t["x"]
    for layer in finished.backbone.encoder.layer:
        h = layer(h, mask)[0]
    yield Check("finalized y", h, t["y"])


class Towers(nn.Module):
    """Two towers of co-attention layers; at every depth both read what the other was before."""

    def __init__(self, config: Any, depth: int):
        super().__init__()
        self.text = nn.ModuleList(BridgeTowerBertCrossLayer(config) for _ in range(depth))
        self.image = nn.ModuleList(BridgeTowerBertCrossLayer(config) for _ in range(depth))

    def forward(self, x: Tensor, v: Tensor, mask_x: Tensor, mask_v: Tensor) -> list[tuple[Tensor, Tensor]]:
        states = []
        for text, image in zip(self.text, self.image, strict=True):
            x, v = text(x, v, mask_x, mask_v)[0], image(v, x, mask_v, mask_x)[0]
            states.append((x, v))
        return states


def _attention(path: str) -> AttentionNames:
    return AttentionNames(
        module=f"{path}.self", q=f"{path}.self.query", k=f"{path}.self.key", v=f"{path}.self.value",
        out=f"{path}.output.dense", after=f"{path}.output.LayerNorm", norm=None, head_width="attention_head_size",
    )  # fmt: skip


def tower(name: Any, blocks: str) -> Stack:
    return Stack(
        name=name, owners=(), blocks=blocks, attention=(_attention("attention"),), cross=_attention("crossattention"),
        ffn=(FfnNames(up="intermediate.dense", down="output.dense", norm=None, after="output.LayerNorm"),),
        patch_convolution=(), final_norm=(), returns_tuple=True,
    )  # fmt: skip


def towers(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    depth = c["depth_per_tower"]
    config = BridgeTowerTextConfig(
        hidden_size=c["d"], num_attention_heads=c["heads"], intermediate_size=c["ffn"], vocab_size=9,
        layer_norm_eps=c["backbone_layernorm_eps"], attn_implementation="eager",
    )  # fmt: skip
    model = Towers(config, depth).eval()
    for layer, prefix in _layers(model, depth):
        layer.load_state_dict(_coattention(t, prefix))
    stacks = {
        name: [
            Block(tower(name, blocks), i, b, f"{blocks}.{i}", model, 0) for i, b in enumerate(getattr(model, blocks))
        ]
        for name, blocks in (("text", "text"), ("vision", "image"))
    }
    anatomy = Anatomy(model, stacks, {"text": "", "vision": ""})
    model.requires_grad_(False)
    tree = method(case, stacks=("text", "vision")).attach(anatomy)
    skipped = set(t["skip"].tolist())
    names = {}
    for index in range(2 * depth):
        side, i = divmod(index, depth)
        ours, theirs = f"{('text', 'vision')[side]}.blocks.{i}", f"layer.{i}.{('txt', 'img')[side]}"
        if index in skipped:
            names[f"{ours}.shortcut"] = f"{theirs}.S"
        else:
            names |= {
                f"{ours}.{b}": f"{theirs}.{x}" for b, x in (("attention", "A_s"), ("cross", "A_c"), ("ffn", "A_f"))
            }
    parameters = fill(tree, case, names, ADAPTER)
    masks = [torch.where(t[m][:, None, None] > 0, 0.0, c["additive_mask"]) for m in ("mask_x", "mask_v")]
    states = model(t["x"], t["v"], *masks)
    for i, (x, v) in enumerate(states):
        yield Check(f"h_x.{i}", x, t[f"h_x.{i}"])
        yield Check(f"h_v.{i}", v, t[f"h_v.{i}"])
    (y_x, y_v) = states[-1]
    yield Check("y_x", y_x, t["y_x"])
    yield Check("y_v", y_v, t["y_v"])
    (y_x.square().sum() + y_v.square().sum()).backward()
    yield from gradients(case, parameters)
    anatomy.prune()
    y_x, y_v = model(t["x"], t["v"], *masks)[-1]
    yield Check("pruned y_x", y_x, t["y_x"])
    yield Check("pruned y_v", y_v, t["y_v"])


def _layers(model: Towers, depth: int) -> Iterator[tuple[nn.Module, str]]:
    for i in range(depth):
        yield model.text[i], f"layer.{i}.txt"
        yield model.image[i], f"layer.{i}.img"


def _coattention(t: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state of a co-attention layer from the spec's letters."""
    names = {}
    for path, branch in (("attention", "sa"), ("crossattention", "ca")):
        names |= {
            f"{path}.self.{long}": f"{branch}.?_{x}" for long, x in (("query", "q"), ("key", "k"), ("value", "v"))
        }
        names[f"{path}.output.dense"] = f"{branch}.?_o"
    names |= {"intermediate.dense": "ff.?_1", "output.dense": "ff.?_2"}
    state = {}
    for path, name in names.items():
        state |= {
            f"{path}.{kind}": t[f"{prefix}.{name.replace('?', x)}"] for kind, x in (("weight", "W"), ("bias", "b"))
        }
    for path, branch in (("attention.output", "sa"), ("crossattention.output", "ca"), ("output", "ff")):
        state |= {
            f"{path}.LayerNorm.weight": t[f"{prefix}.{branch}.gamma"],
            f"{path}.LayerNorm.bias": t[f"{prefix}.{branch}.beta"],
        }
    return state


def llama(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    config = LlamaConfig(
        hidden_size=c["d"], num_attention_heads=c["heads"], num_hidden_layers=c["layers"], intermediate_size=c["ffn"],
        rms_norm_eps=c["rms_eps"], vocab_size=9, rope_parameters={"rope_type": "default", "rope_theta": c["rope_theta"]},
    )  # fmt: skip
    model = LlamaModel(config)
    names = {"self_attn.v_proj": "W_v", "self_attn.o_proj": "W_o", "mlp.gate_proj": "W_gate", "mlp.up_proj": "W_up"}
    names |= {"mlp.down_proj": "W_down", "input_layernorm": "g_1", "post_attention_layernorm": "g_2"}
    for i, layer in enumerate(model.layers):
        state = {f"{path}.weight": t[f"layer.{i}.{letter}"] for path, letter in names.items()}
        for x in "qk":
            state[f"self_attn.{x}_proj.weight"] = halves(t[f"layer.{i}.W_{x}"], c["heads"])
        layer.load_state_dict(state)
    options = {"form": "router", "groups": c["groups"], "temperature": c["router_temperature"]}
    adapted = gm.adapt(model, method(case, **options), num_labels=2).eval()
    skipped = set(t["skip"].tolist())
    places = {f"decoder.blocks.{i}.shortcut": f"layer.{i}.S" for i in skipped}
    places |= {f"decoder.blocks.{i}.attention": f"layer.{i}.A" for i in range(c["layers"]) if i not in skipped}
    parameters = fill(adapted.methods["das"], case, places, ROUTER)
    found = outputs(model, t["x"])
    for i, h in enumerate(found):
        yield Check(f"h.{i}", h, t[f"h.{i}"])
    yield Check("y", found[-1], t["y"])
    found[-1].square().sum().backward()
    yield from gradients(case, parameters)
    finished: Any = adapted.finalize()
    yield Check("finalized y", outputs(finished.backbone, t["x"])[-1], t["y"])


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection for adjacent rotary pairs, in the order in which transformers rotates halves."""
    pairs = weight.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).flatten(0, 2)


def outputs(model: Any, x: Tensor) -> list[Tensor]:
    """What every layer gives for embedded tokens."""
    found: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda module, args, output: found.append(output)) for layer in model.layers]
    model(inputs_embeds=x)
    for handle in handles:
        handle.remove()
    return found
