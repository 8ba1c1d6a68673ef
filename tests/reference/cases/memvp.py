"""MemVP: the memory beside one FFN, and the authors' whole LLaMA with CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

import gossamer as gm
from gossamer.methods.memvp import memory_read, visual_memory

from . import Case, Check

COVERS = ("memvp-gated-ffn", "memvp-plain-ffn-gelu", "memvp-plain-ffn-relu", "memvp-llama-clip")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}
LEARNT = ("A", "a", "B", "b", "P_K", "P_V")


def run(case: Case) -> Iterator[Check]:
    yield from (one_ffn if "Z" in case.tensors and "x" in case.tensors else whole_model)(case)


def one_ffn(case: Case) -> Iterator[Check]:
    c, t = case.config, {k: v.clone() for k, v in case.tensors.items()}
    for name in LEARNT:
        t[name].requires_grad_()
    act = ACTIVATIONS[c["activation"]]
    projected = F.linear(F.silu(F.linear(t["Z"], t["A"], t["a"])), t["B"], t["b"])
    memory = visual_memory(projected, c["m"], c["lambda"], t["g"][:, None])
    keys, values = memory + t["P_K"], memory + t["P_V"]
    if "W_gate" in t:
        ffn = F.linear(act(F.linear(t["x"], t["W_gate"])) * F.linear(t["x"], t["W_up"]), t["W_down"])
    else:
        ffn = F.linear(act(F.linear(t["x"], t["W_1"], t.get("b_1"))), t["W_2"], t.get("b_2"))
    read = memory_read(t["x"], keys, values, act)
    y = ffn + c["s"] * read
    y.square().sum().backward()
    yield Check("V", memory, t["V"])
    yield Check("y_ffn", ffn, t["y_ffn"])
    if "y_mem" in t:
        yield Check("y_mem", read, t["y_mem"])
    yield Check("y", y, t["y"])
    for name in LEARNT:
        yield Check(f"grad_{name}", t[name].grad, t[f"grad_{name}"], gradient=True)


def whole_model(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    method = gm.MemVP(
        rank=c["r"], image_tokens=c["n_v"], extra_slots=c["m"] - c["n_v"], scale=c["s"], visual_scale=c["lambda"],
        vision_rank=c["h"], vision_scale=c["s_clip"],
    )  # fmt: skip
    adapted = gm.adapt(gm.VisionLanguage(clip(c, t), llama(c, t)), method).eval()
    own = placed(adapted, c)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(t[name])

    index = torch.where(t["g"] > 0, torch.arange(len(t["g"])), -1)
    labels = torch.where(t["labels"] == 0, -100, t["labels"])
    width = t["logits"].shape[1]
    answer = adapted(input_ids=t["input_ids"], pixel_values=t["image"], image_index=index, labels=labels)
    answer.loss.backward()
    states = adapted.backbone.states(t["image"])
    yield Check("Z", adapted.methods["memvp"].memory.view(states, None)[0], t["Z"])
    yield Check("logits", answer.logits[:, :width], t["logits"])
    yield Check("loss", answer.loss[None], t["loss"])
    for name, parameter in own.items():
        yield Check(f"grad_{name}", parameter.grad, t[f"grad_{name}"], gradient=True)
    yield from generated(adapted, case, index)


def placed(adapted: Any, c: dict[str, Any]) -> dict[str, nn.Parameter]:
    """The case's name of each trained tensor -> ours."""
    memory = adapted.methods["memvp"].memory
    own = {
        "A": memory.down.weight, "a": memory.down.bias, "B": memory.up.weight, "b": memory.up.bias,
        "P_K": memory.keys, "P_V": memory.values,
    }  # fmt: skip
    for i in range(c["clip_layers"] - 1):
        adapter = adapted.methods["memvp"].get_submodule(f"vision.blocks.{i}.ffn")
        own |= {f"clip.{i}.D": adapter.down.weight, f"clip.{i}.U": adapter.up.weight}
    assert {id(p) for p in own.values()} == {id(p) for p in adapted.trainable().values()}
    return own


def generated(adapted: Any, case: Case, index: Tensor) -> Iterator[Check]:
    c, t = case.config, case.tensors
    longest = max(c["prompt_len"])
    ids, mask = torch.zeros(len(index), longest, dtype=torch.long), torch.zeros(len(index), longest, dtype=torch.long)
    for row, length in enumerate(c["prompt_len"]):
        ids[row, longest - length :] = t["input_ids"][row, :length]
        mask[row, longest - length :] = 1
    for use_cache in (True, False):
        answer = adapted.generate(
            input_ids=ids, attention_mask=mask, pixel_values=t["image"], image_index=index, use_cache=use_cache,
            do_sample=False, max_new_tokens=c["gen_steps"], output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        place = "cached" if use_cache else "uncached"
        yield Check(f"gen_logits, {place}", torch.stack(answer.logits), t["gen_logits"])
        yield Check(f"gen_tokens, {place}", answer.sequences[:, longest:].float(), t["gen_tokens"].float())


def llama(c: dict[str, Any], t: dict[str, Tensor]) -> LlamaForCausalLM:
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=c["d"], num_hidden_layers=c["N"], num_attention_heads=c["heads"], intermediate_size=c["F"],
            vocab_size=c["vocab"], rms_norm_eps=c["rms_eps"], tie_word_embeddings=False, pad_token_id=0,
            bos_token_id=None, eos_token_id=None, rope_parameters={"rope_type": "default", "rope_theta": c["rope_theta"]},
        )
    )  # fmt: skip
    state = {"model.embed_tokens.weight": t["E"], "model.norm.weight": t["norm"], "lm_head.weight": t["W_lm"]}
    names = {
        "W_q": "self_attn.q_proj", "W_k": "self_attn.k_proj", "W_v": "self_attn.v_proj", "W_o": "self_attn.o_proj",
        "W_gate": "mlp.gate_proj", "W_up": "mlp.up_proj", "W_down": "mlp.down_proj", "norm_attn": "input_layernorm",
        "norm_ffn": "post_attention_layernorm",
    }  # fmt: skip
    for i in range(c["N"]):
        state |= {f"model.layers.{i}.{ours}.weight": t[f"lm.{i}.{theirs}"] for theirs, ours in names.items()}
    model.load_state_dict(state)
    return model


def clip(c: dict[str, Any], t: dict[str, Tensor]) -> CLIPVisionModel:
    """The vision tower; its last block is never run, and the case does not hold its weights."""
    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=c["d_v"], num_hidden_layers=c["clip_layers"], num_attention_heads=c["clip_heads"],
            intermediate_size=t["clip.0.W_1"].shape[0], image_size=c["image"], patch_size=c["patch"],
            hidden_act=c["clip_activation"], layer_norm_eps=c["clip_ln_eps"],
        )
    )  # fmt: skip
    state = model.state_dict()
    state |= {
        "embeddings.class_embedding": t["clip.cls"], "embeddings.patch_embedding.weight": t["clip.patch"],
        "embeddings.position_embedding.weight": t["clip.pos"], "pre_layrnorm.weight": t["clip.pre_w"],
        "pre_layrnorm.bias": t["clip.pre_b"], "post_layernorm.weight": t["clip.post_w"],
        "post_layernorm.bias": t["clip.post_b"],
    }  # fmt: skip
    linears = {
        "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.out_proj",
        "1": "mlp.fc1", "2": "mlp.fc2",
    }  # fmt: skip
    for i in range(c["clip_layers"] - 1):
        for theirs, ours in linears.items():
            state[f"encoder.layers.{i}.{ours}.weight"] = t[f"clip.{i}.W_{theirs}"]
            state[f"encoder.layers.{i}.{ours}.bias"] = t[f"clip.{i}.b_{theirs}"]
        for j in (1, 2):
            state[f"encoder.layers.{i}.layer_norm{j}.weight"] = t[f"clip.{i}.ln{j}_w"]
            state[f"encoder.layers.{i}.layer_norm{j}.bias"] = t[f"clip.{i}.ln{j}_b"]
    model.load_state_dict(state)
    return model
