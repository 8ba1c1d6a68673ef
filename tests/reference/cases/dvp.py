"""DVP: the generator, one block, and the authors' whole BERT, T5 and LLaMA, as released and corrected."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, T5Config, T5Model, ViTConfig, ViTModel

import gossamer as gm
from gossamer.anatomy.leading import Leading
from gossamer.anatomy.seams import Withheld
from gossamer.methods.dvp import VisualPrompt, attend

from . import Case, Check, tensors

COVERS = ("dvp-prompt", "dvp-bert_block", "dvp-bert_model", "dvp-llama_model", "dvp-t5_model", "dvp-t5_options")
PROJECTIONS = ("q", "k", "v", "o")


def run(case: Case) -> Iterator[Check]:
    kinds = {"prompt": generator, "bert_block": bert_block, "bert_model": bert, "llama_model": llama, "t5_model": t5}
    kind = next((kinds[k] for k in kinds if case.name.startswith(f"dvp-{k}")), t5_options)
    yield from kind(case)


# ---- the generator ----


def generator(case: Case) -> Iterator[Check]:
    for prefix, heads in (("", case.config["heads"]), ("low.", case.config["low"]["heads"])):
        t = {k.removeprefix(prefix): v for k, v in case.tensors.items() if k.startswith(prefix)}
        learnt = {k: v.clone().requires_grad_() for k, v in t.items() if k.startswith("W.")}
        prompt = prompted(learnt, t["in.q"], t["in.V"], heads)
        prompt.square().sum().backward()
        yield Check(f"{prefix}P", prompt, t["out.P"])
        if not prefix:
            keep = t["in.keep"].bool()
            yield Check("P_masked", prompted(learnt, t["in.q"], t["in.V"], heads, keep), t["out.P_masked"])
            yield Check("P_multi", prompted(learnt, t["in.q_multi"], t["in.V"], heads), t["out.P_multi"])
        yield from gradients(learnt, case.tensors, f"grad.{prefix}")


def prompted(w: dict[str, Tensor], q: Tensor, visual: Tensor, heads: int, keep: Tensor | None = None) -> Tensor:
    read = {x: (w[f"W.W_{x}"], w[f"W.b_{x}"]) for x in PROJECTIONS}
    keys, values = F.linear(visual, *read["k"]), F.linear(visual, *read["v"])
    return F.linear(attend(F.linear(q, *read["q"]), keys, values, heads, keep), *read["o"])


def gradients(learnt: Mapping[str, Tensor], t: dict[str, Tensor], prefix: str = "grad.") -> Iterator[Check]:
    """A key bias has no effect under softmax, so its gradient is rounding: it is compared as a part of the key matrix's."""
    for name, tensor in learnt.items():
        found, expected = tensor.grad, t[prefix + name]
        assert found is not None
        if name.endswith("b_k"):
            scale = t[prefix + name.replace("b_k", "W_k")].abs().max()
            yield Check(prefix + name, found / scale, expected / scale)
        else:
            yield Check(prefix + name, found, expected, gradient=True)


# ---- one block ----


def bert_block(case: Case) -> Iterator[Check]:
    """A BERT of one layer whose embedding gives the states of the case."""
    c, t = case.config, {k.replace("block.", "layer0."): v for k, v in case.tensors.items()}
    for adapters in (False, True):
        model = bert_of({**c, "M": 1}, t)
        model.embeddings = Given(t["in.H"])
        adapted = compose(model, c, t["in.V"], block=0, adapters=adapters)
        learnt = load(adapted, t)
        seen = Watched(adapted.anatomy.blocks("text")[0].module)
        adapted(input_ids=t["in.keep"].long(), attention_mask=t["in.keep"], seen=adapted.keep(t["in.V"]))
        seen.output.square().sum().backward()
        yield Check(
            "out.H_adapter" if adapters else "out.H",
            prompt_first(seen.output),
            t["out.H_adapter" if adapters else "out.H"],
        )
        if not adapters:
            yield Check("out.X", prompt_first(seen.input), t["out.X"])
            yield Check("out.P", seen.input[:, 1:2] - learnt["dvp.E"][1], t["out.P"])
        wanted = {k: p for k, p in learnt.items() if ("adapter" in k) == adapters and f"grad.{k}" in t}
        assert wanted
        yield from gradients(wanted, t)


class Given(nn.Module):
    """An embedding that gives what it was given."""

    def __init__(self, states: Tensor):
        super().__init__()
        self.states = states

    def forward(self, **inputs: Any) -> Tensor:
        return self.states


class Watched:
    """What enters a module behind all other hooks, and what it returns before any of them."""

    def __init__(self, module: nn.Module):
        module.register_forward_pre_hook(self.before, with_kwargs=True)
        module.register_forward_hook(self.after, prepend=True)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.input: Tensor = args[0] if args else kwargs["hidden_states"]

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.output: Tensor = output[0] if isinstance(output, tuple) else output


def prompt_first(x: Tensor) -> Tensor:
    """The authors put the prompt in front of the class token; attention has no order."""
    return torch.cat([x[:, 1:2], x[:, :1], x[:, 2:]], dim=1)


# ---- whole models ----


def compose(
    model: nn.Module,
    c: dict[str, Any],
    visual: Tensor,
    *,
    block: int,
    adapters: bool,
    labels: int | None = None,
    **options: Any,
) -> Any:
    """The language model with DVP and a tower that is never run, because the case gives its features."""
    width = visual.shape[-1]
    tower = ViTModel(
        ViTConfig(
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=3,
            image_size=4,
            patch_size=4,
        )
    )
    method = gm.DVP(
        block=block, heads=c["dvp_heads"], width=c.get("c"), rank=c["adapter_rank"],
        train="adapters" if adapters else "prompt", **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of block 0
        return gm.adapt(gm.VisionLanguage(tower, model), method, num_labels=labels).eval()


@torch.no_grad()
def load(adapted: Any, t: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    """The case's tensors into what is trained, all of it; the case's names of it."""
    found = {**of_prompt(adapted), **of_blocks(adapted), **of_head(adapted)}
    assert {id(p) for p in found.values()} == {id(p) for p in adapted.trainable().values()}
    for name, parameter in found.items():
        parameter.copy_(t[name])
    return found


def of_prompt(adapted: Any) -> dict[str, nn.Parameter]:
    (prompt,) = (m for n, m in adapted.methods["dvp"].named_modules() if n.endswith(".prompt"))
    found = {} if prompt.modality is None else {"dvp.E": prompt.modality}
    for x in PROJECTIONS:
        linear = prompt.generator.get_submodule(x)
        found |= {f"dvp.W_{x}": linear.weight, f"dvp.b_{x}": linear.bias}
    return found


def of_blocks(adapted: Any) -> dict[str, nn.Parameter]:
    """Adapters and norms, where they are trained."""
    if adapted.applied[0].train != "adapters":
        return {}
    found: dict[str, nn.Parameter] = {}
    two_sided, model = "encoder" in adapted.anatomy.stacks, adapted.backbone.language
    for stack in ("encoder", "text", "decoder"):
        for block in adapted.anatomy.blocks(stack) if stack in adapted.anatomy.stacks else ():
            layer = f"{ {'encoder': 'enc', 'decoder': 'dec'}[stack] if two_sided else 'layer' }{block.index}"
            tree = adapted.methods["dvp"].get_submodule(f"{block.key}.adapters")
            decoder = two_sided and stack == "decoder"
            for branch, adapter in tree.named_children():
                name = {"attention": "self" if decoder else "attn"}.get(branch, branch)
                for side, linear in (("down", adapter.down), ("up", adapter.up)):
                    found |= {
                        f"{layer}.adapter_{name}.{w}_{side}": p for w, p in (("W", linear.weight), ("b", linear.bias))
                    }
            norms = ["norm1", "cross.norm", "norm2"] if decoder else ["norm1", "norm2"]
            for j, role in enumerate(norms, 1):
                found |= norm(f"{layer}.ln{j}", block.part(role))
    if two_sided:
        found |= norm("enc.ln_final", model.encoder.final_layer_norm) | norm(
            "dec.ln_final", model.decoder.final_layer_norm
        )
    elif "decoder" in adapted.anatomy.stacks:
        found |= norm("ln_final", model.norm)
    return found


def of_head(adapted: Any) -> dict[str, nn.Parameter]:
    if adapted.head is None:
        return {}
    first, middle, _, last = adapted.head
    found = {"head.W_a": first.weight, "head.b_a": first.bias, "head.W_b": last.weight, "head.b_b": last.bias}
    return found | norm("head.ln", middle)


def norm(name: str, module: Any) -> dict[str, nn.Parameter]:
    return {f"{name}.gamma": module.weight} | (
        {f"{name}.beta": module.bias} if getattr(module, "bias", None) is not None else {}
    )


def answered(adapted: Any, t: dict[str, Tensor]) -> Tensor:
    """The logits."""
    return adapted(input_ids=t["in.input_ids"], attention_mask=t["in.keep"].long(), seen=adapted.keep(t["in.V"])).logits


def bert(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    k = c["K_zero_based"]
    plain = compose(bert_of(c, t), c, t["in.V"], block=k, adapters=False, labels=c["C"])
    load(plain, t)
    yield Check("out_plain.logits", answered(plain, t), t["out_plain.logits"])
    adapted = compose(bert_of(c, t), c, t["in.V"], block=k, adapters=True, labels=c["C"])
    learnt = load(adapted, t)
    layers, head = [Watched(b.module) for b in adapted.anatomy.blocks("text")], Watched(adapted.head[0])
    logits = answered(adapted, t)
    logits.square().sum().backward()
    yield Check("out.H0", layers[0].input if k else without_prompt(layers[0].input), t["out.H0"])
    for i, layer in enumerate(layers):
        yield Check(f"out.H{i + 1}", prompt_first(layer.output) if i >= k else layer.output, t[f"out.H{i + 1}"])
    yield Check("out.P", layers[k].input[:, 1:2] - learnt["dvp.E"][1], t["out.P"])
    yield Check("out.q", layers[k].input[:, :1] - learnt["dvp.E"][0], t["out.q"])
    yield Check("out.cls", head.input, t["out.cls"])
    yield Check("out.logits", logits, t["out.logits"])
    yield from all_gradients(learnt, t)


def without_prompt(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1], x[:, 2:]], dim=1)


def all_gradients(learnt: dict[str, nn.Parameter], t: dict[str, Tensor]) -> Iterator[Check]:
    assert {f"grad.{name}" for name in learnt} == {name for name in t if name.startswith("grad.")}
    yield from gradients(learnt, t)


def llama(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    adapted = compose(llama_of(c, t), c, t["in.V"], block=c["K_zero_based"], adapters=True, labels=c["C"])
    learnt = load(adapted, t)
    entered = Watched(adapted.anatomy.blocks("decoder")[c["K_zero_based"]].module)
    final, head = Watched(adapted.backbone.language.norm), Watched(adapted.head[0])
    logits = answered(adapted, t)
    logits.square().sum().backward()
    keep = t["in.keep"].bool()
    ends = (t["in.input_ids"] == c["eos_id"]).int().argmax(dim=1)
    rows = torch.arange(len(ends))
    yield Check("out.X", entered.input[:, 1:][keep], t["out.X"][:, 1:][keep])
    yield Check("out.P", entered.input[:, :1], t["out.P"])
    yield Check("out.q", entered.input[rows, 1 + ends][:, None], t["out.q"])
    yield Check("out.final", final.output[keep], t["out.final"][:, 1:][keep])
    yield Check("out.feat", head.input, t["out.feat"])
    yield Check("out.logits", logits, t["out.logits"])
    yield from all_gradients(learnt, t)


def t5(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    options = {"block": c["K_zero_based"], "labels": c["C"], "released_compat": True}
    plain = compose(t5_of(c, t), c, t["in.V"], adapters=False, **options)
    load(plain, t)
    yield Check("out_plain.logits", answered(plain, t), t["out_plain.logits"])
    adapted = compose(t5_of(c, t), c, t["in.V"], adapters=True, **options)
    learnt = load(adapted, t)
    model: Any = adapted.backbone.language
    encoder, head = Watched(model.encoder.final_layer_norm), Watched(adapted.head[0])
    decoder, entered = Watched(model.decoder.final_layer_norm), Watched(model.decoder.block[c["K_zero_based"]])
    logits = answered(adapted, t)
    logits.square().sum().backward()
    yield Check("out.encoder", encoder.output, t["out.encoder"])
    yield Check("out.q", encoder.output.mean(dim=1, keepdim=True), t["out.q"])
    yield Check("out.P", entered.input[:, :1] - learnt["dvp.E"][1], t["out.P"])
    yield Check("out.decoder, start token", decoder.output, t["out.decoder"][:, 1:])
    yield Check("out.feat", head.input, t["out.feat"])
    yield Check("out.logits", logits, t["out.logits"])
    yield from all_gradients(learnt, t)


def t5_options(case: Case) -> Iterator[Check]:
    """The three differences between the released T5 and the pre-trained one, corrected one by one and together."""
    c, expected = case.config, case.tensors
    t = tensors(case.folder / c["weights_from"])
    corrections = {
        "bias_every_block": give_bias, "causal_decoder": make_causal, "masked_pooling": pool_masked, "all_three": None,
    }  # fmt: skip
    for name, correct in corrections.items():
        adapted = compose(
            t5_of(c, t),
            c,
            t["in.V"],
            block=c["K_zero_based"],
            labels=c["C"],
            adapters=True,
            released_compat=correct is not None,
        )
        learnt = load(adapted, t)
        if correct is not None:
            correct(adapted)
        entered = Watched(adapted.backbone.language.decoder.block[c["K_zero_based"]])
        yield Check(f"{name}.logits", answered(adapted, t), expected[f"{name}.logits"])
        yield Check(f"{name}.P", entered.input[:, :1] - learnt["dvp.E"][1], expected[f"{name}.P"])
    bare = compose(t5_of(c, t), c, t["in.V"], block=c["K_zero_based"], adapters=False)
    output = bare(input_ids=t["in.input_ids"], attention_mask=t["in.keep"].long())
    yield Check("no_prompt.encoder", output.encoder_last_hidden_state, expected["no_prompt.encoder"])
    yield Check("no_prompt.decoder", output.last_hidden_state, expected["no_prompt.decoder"])


def give_bias(adapted: Any) -> None:
    for change in adapted.anatomy.log:
        if isinstance(change, Withheld):
            change.revert()


def make_causal(adapted: Any) -> None:
    for change in adapted.anatomy.log:
        if isinstance(change, Leading):
            change.both_ways = False


def pool_masked(adapted: Any) -> None:
    for module in adapted.methods["dvp"].modules():
        if isinstance(module, VisualPrompt):
            module.everywhere = False


# ---- the frozen language models ----


def bert_of(c: dict[str, Any], t: dict[str, Tensor]) -> BertModel:
    positions = len(t["emb.W_pos"]) if "emb.W_pos" in t else c["n"]
    model = BertModel(
        BertConfig(
            hidden_size=c["d"], num_hidden_layers=c["M"], num_attention_heads=c["heads"], intermediate_size=c["d_ff"],
            layer_norm_eps=c["ln_eps"], vocab_size=c.get("vocab", 2), max_position_embeddings=positions, pad_token_id=None,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    state = model.state_dict()
    if "emb.W_word" in t:
        names = {
            "W_word": "word_embeddings.weight",
            "W_pos": "position_embeddings.weight",
            "W_seg": "token_type_embeddings.weight",
        }
        names |= {"ln.gamma": "LayerNorm.weight", "ln.beta": "LayerNorm.bias"}
        state |= {f"embeddings.{ours}": t[f"emb.{theirs}"] for theirs, ours in names.items()}
    linears = {
        "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
        "o": "attention.output.dense", "1": "intermediate.dense", "2": "output.dense",
    }  # fmt: skip
    for i in range(c["M"]):
        for theirs, ours in linears.items():
            state[f"encoder.layer.{i}.{ours}.weight"] = t[f"layer{i}.W_{theirs}"]
            state[f"encoder.layer.{i}.{ours}.bias"] = t[f"layer{i}.b_{theirs}"]
        for j, ours in ((1, "attention.output.LayerNorm"), (2, "output.LayerNorm")):
            state[f"encoder.layer.{i}.{ours}.weight"] = t[f"layer{i}.ln{j}.gamma"]
            state[f"encoder.layer.{i}.{ours}.bias"] = t[f"layer{i}.ln{j}.beta"]
    model.load_state_dict(state)
    return model


def llama_of(c: dict[str, Any], t: dict[str, Tensor]) -> LlamaModel:
    model = LlamaModel(
        LlamaConfig(
            hidden_size=c["d"], num_hidden_layers=c["M"], num_attention_heads=c["heads"], intermediate_size=c["d_ff"],
            vocab_size=c["vocab"], rms_norm_eps=c["rms_eps"], pad_token_id=None, bos_token_id=None, eos_token_id=c["eos_id"],
            rope_parameters={"rope_type": "default", "rope_theta": c["rope_theta"]},
        )
    )  # fmt: skip
    names = {x: f"self_attn.{x}_proj" for x in PROJECTIONS} | {x: f"mlp.{x}_proj" for x in ("gate", "up", "down")}
    state = {"embed_tokens.weight": t["emb.W_word"], "norm.weight": t["ln_final.gamma"]}
    for i in range(c["M"]):
        state |= {f"layers.{i}.{ours}.weight": t[f"layer{i}.W_{theirs}"] for theirs, ours in names.items()}
        state[f"layers.{i}.input_layernorm.weight"] = t[f"layer{i}.ln1.gamma"]
        state[f"layers.{i}.post_attention_layernorm.weight"] = t[f"layer{i}.ln2.gamma"]
    model.load_state_dict(state)
    return model


def t5_of(c: dict[str, Any], t: dict[str, Tensor]) -> T5Model:
    model = T5Model(
        T5Config(
            d_model=c["d"], d_kv=c["d_kv"], d_ff=c["d_ff"], num_layers=c["M_encoder"], num_decoder_layers=c["M_decoder"],
            num_heads=c["heads"], vocab_size=c["vocab"], relative_attention_num_buckets=c["rel_buckets"],
            relative_attention_max_distance=c["rel_max_distance"], layer_norm_epsilon=c["rms_eps"],
            decoder_start_token_id=c["decoder_start_id"], pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    state = model.state_dict()
    state |= {k: t["emb.W_word"] for k in state if k == "shared.weight" or k.endswith("embed_tokens.weight")}
    for side, stack, count in (("enc", "encoder", c["M_encoder"]), ("dec", "decoder", c["M_decoder"])):
        state[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = t[f"{side}.rel_bias"]
        state[f"{stack}.final_layer_norm.weight"] = t[f"{side}.ln_final.gamma"]
        last = 1 if side == "enc" else 2
        for i in range(count):
            block, layer = f"{stack}.block.{i}.layer", f"{side}{i}"
            for x in PROJECTIONS:
                state[f"{block}.0.SelfAttention.{x}.weight"] = t[f"{layer}.{'' if side == 'enc' else 'self.'}W_{x}"]
                if side == "dec":
                    state[f"{block}.1.EncDecAttention.{x}.weight"] = t[f"{layer}.cross.W_{x}"]
            state[f"{block}.{last}.DenseReluDense.wi.weight"] = t[f"{layer}.W_1"]
            state[f"{block}.{last}.DenseReluDense.wo.weight"] = t[f"{layer}.W_2"]
            for j in range(last + 1):
                state[f"{block}.{j}.layer_norm.weight"] = t[f"{layer}.ln{j + 1}.gamma"]
    model.load_state_dict(state)
    return model
