"""APT in a denoising UNet: every site, the losses of noise prediction, gradients; finished as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffusers
import torch
from torch import Tensor

import gossamer as gm
from gossamer import noising
from gossamer.methods import apt as method

from . import Case, Check
from .apt import LETTERS, fill, gradients

COVERS = ("apt-unet",)


def run(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    named = ("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block", "down_block_types")
    named += ("up_block_types", "cross_attention_dim", "attention_head_dim", "norm_num_groups", "use_linear_projection")
    model = diffusers.UNet2DConditionModel(**{name: c[name] for name in (*named, "transformer_layers_per_block")})
    model.load_state_dict({k.removeprefix("unet."): v for k, v in t.items() if k.startswith("unet.")})
    inputs = {"sample": t["noisy"], "timestep": t["timesteps"].long(), "encoder_hidden_states": t["text"]}
    inputs["encoder_attention_mask"] = t["text_mask"].long()
    yield Check("out_plain", model.eval()(**inputs).sample, t["out_plain"])

    adapted = gm.adapt(model, gm.APT(prompts=c["p"], rank=c["r"])).eval()
    parts = {name: adapted.methods["apt"].get_submodule(key) for name, key in sites(adapted).items()}
    for name, part in parts.items():
        fill(part, {ours: t[f"apt.{name}.{theirs}"] for theirs, ours in LETTERS.items()})
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, args, change, name=name: seen.update({name: (*args, args[1] + change)}))
    out = adapted(**inputs).sample
    yield Check("out", out, t["out"])
    for name in sorted({k[5:].rpartition(".")[0] for k in t if k.startswith("site.")}):
        x, output, changed = seen[name]
        part: Any = parts[name]
        yield Check(f"{name} X", x, t[f"site.{name}.X"])
        yield Check(f"{name} O", output, t[f"site.{name}.O"])
        yield Check(f"{name} w", method.largest(method.scores(x, part.transformed())), t[f"site.{name}.w"])
        yield Check(f"{name} O_apt", changed, t[f"site.{name}.O_apt"])

    yield from losses(t, out)
    noising.loss(out, t["noise"]).backward()
    places = {
        (f"{name}.{letter}", part.get_parameter(ours))
        for name, part in parts.items()
        for letter, ours in LETTERS.items()
    }
    yield from gradients({key: (p.grad, t[f"grad.{key}"]) for key, p in sorted(places, key=lambda place: place[0])})
    finished: Any = adapted.finalize()
    assert type(finished) is diffusers.UNet2DConditionModel
    yield Check("finalized out", finished(**inputs).sample, t["out"])
    assert sum(p.numel() for p in adapted.trainable().values()) == c["parameters_apt"]


def sites(adapted: gm.Adapted) -> dict[str, str]:
    """diffusers' name of every attention -> ours."""
    names = {"attn1": "attention", "attn2": "cross"}
    return {f"{block.name}.{own}": f"{block.key}.{ours}" for block in adapted.anatomy for own, ours in names.items()}


def losses(t: dict[str, Tensor], out: Tensor) -> Iterator[Check]:
    schedule = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.equal(schedule.alphas_cumprod[::37][: len(t["alphas_cumprod"])].double(), t["alphas_cumprod"])
    ab = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)[t["timesteps"].long()]
    yield Check("noisy", noising.noised(t["x0"], t["noise"], ab), t["noisy"])
    yield Check("velocity", noising.target("v_prediction", t["x0"], t["noise"], ab), t["velocity"])
    yield Check("loss", noising.loss(out, t["noise"])[None], t["loss"])
    halves = zip(out.chunk(2), t["noise"].chunk(2), ("loss_instance", "loss_prior"), strict=True)
    for found, expected, name in halves:
        yield Check(name, noising.loss(found, expected)[None], t[name])
    yield Check("loss_dreambooth", noising.with_prior(out, t["noise"])[None], t["loss_dreambooth"])
    weights = noising.min_snr(ab, 5.0)
    yield Check("snr", noising.snr(ab), t["snr"])
    yield Check("weight_min_snr", weights, t["weight_min_snr"])
    yield Check("loss_min_snr", noising.loss(out, t["noise"], weights)[None], t["loss_min_snr"])
