"""Denoisers of diffusers as hosts: pipelines, folders, finished ones, fused projections, what is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

import gossamer as gm
from gossamer import zoo
from gossamer.cost import cost
from gossamer.errors import UserError

from ..contract.table import BACKBONES, disturb, run

FUSED = "projections of this UNet2DConditionModel are fused"
METHODS = {
    "apt": gm.APT(prompts=3, rank=2),
    "apt-cross": gm.APT(prompts=3, rank=2, where="cross"),
    "cvpt": gm.CVPT(prompts=2),
    "adapter": gm.Adapter(rank=2),
    "bitfit": gm.BitFit(),
    "lora": LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]),
    "vpt": gm.VPT(prompts=3),
}


def unet(**changed: Any) -> Any:
    """One of the shape of Stable Diffusion 1: three levels with attention, one without."""
    torch.default_generator.manual_seed(1)
    down, up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    return diffusers.UNet2DConditionModel(**{
        "sample_size": 8, "block_out_channels": (8, 12, 16, 16), "layers_per_block": 2, "attention_head_dim": 2,
        "down_block_types": (down, down, down, "DownBlock2D"), "up_block_types": ("UpBlock2D", up, up, up), "norm_num_groups": 4,
        "cross_attention_dim": 20, **changed,
    }).eval()  # fmt: skip


def pipeline(model: Any) -> Any:
    torch.default_generator.manual_seed(2)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4, sample_size=16, latent_channels=4, layers_per_block=1,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=20, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=30)
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=None, unet=model, feature_extractor=None, safety_checker=None,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False), requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, height: int = 16, width: int = 24) -> Tensor:
    """Two images at a size that is not square, with guidance."""
    text, empty = torch.randn(2, 2, 7, 20, generator=torch.Generator().manual_seed(3))
    return pipe(
        prompt_embeds=text, negative_prompt_embeds=empty, num_inference_steps=2, guidance_scale=3.0, output_type="pt",
        height=height, width=width, generator=torch.Generator().manual_seed(4),
    ).images  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apt", "lora"])
def test_a_pipeline_draws_with_an_adapted_denoiser(name: str, tmp_path: Path) -> None:
    model = unet()
    bare = drawn(pipeline(model))
    adapted = disturb(gm.adapt(model, METHODS[name])).eval()
    images = drawn(pipeline(adapted))
    assert images.shape == (2, 3, 16, 24)
    assert not torch.allclose(images, bare)
    with pytest.warns(UserWarning, match="no name"):
        adapted.save_pretrained(tmp_path)
    again = gm.load(tmp_path, unet())
    assert torch.equal(drawn(pipeline(again)), images)
    finished = adapted.finalize()
    assert type(finished) is diffusers.UNet2DConditionModel
    assert torch.allclose(drawn(pipeline(finished)), images, atol=1e-5)
    assert torch.equal(drawn(pipeline(adapted.detach())), bare)


@pytest.mark.slow
def test_it_is_found_again_by_the_folder_of_its_weights(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path / "unet")
    model = zoo.load(tmp_path / "unet")
    adapted = disturb(gm.adapt(model, METHODS["apt"])).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    inputs = {
        "sample": torch.randn(2, 4, 6, 10),
        "timestep": torch.tensor([7, 800]),
        "encoder_hidden_states": torch.randn(2, 3, 20),
    }
    again = gm.load(tmp_path / "adapter")
    assert torch.equal(again(**inputs).sample, adapted(**inputs).sample)
    with pytest.raises(gm.AdapterError, match="other weights"):
        gm.load(tmp_path / "adapter", disturbed(unet()))
    with pytest.raises(gm.AdapterError, match="attention_head_dim was 2 and is 4"):
        gm.load(tmp_path / "adapter", unet(attention_head_dim=4))


def disturbed(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    return model


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = unet()
    del model.conv_out
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"missing keys: conv_out\.(bias|weight)"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("name", METHODS)
def test_fused_projections_are_refused_before_and_after(name: str) -> None:
    model = unet()
    model.fuse_qkv_projections()
    with pytest.raises(UserError, match=FUSED):
        gm.adapt(model, METHODS[name])
    model.unfuse_qkv_projections()
    adapted, inputs = gm.adapt(model, METHODS[name]).eval(), (torch.randn(1, 4, 8, 8), 5, torch.randn(1, 3, 20))
    before = disturb(adapted)(*inputs).sample
    model.fuse_qkv_projections()
    with pytest.raises(UserError, match=FUSED):
        adapted(*inputs)
    model.unfuse_qkv_projections()
    assert torch.equal(adapted(*inputs).sample, before)


def test_fused_projections_are_refused_inside_of_a_module_too() -> None:
    holder: Any = nn.Module()
    holder.unet = unet()
    adapted = gm.adapt(holder, METHODS["apt"], head=())
    holder.unet.fuse_qkv_projections()
    with pytest.raises(UserError, match=FUSED):
        adapted(torch.randn(1, 4, 8, 8))


def test_a_finished_denoiser_that_is_fused_says_that_its_read_outs_are_passed_by() -> None:
    finished: Any = disturb(gm.adapt(unet(), METHODS["apt"])).eval().finalize()
    finished.fuse_qkv_projections()
    with pytest.raises(UserError, match=r"ReadOut stands .* ran without the first"):
        finished(torch.randn(1, 4, 8, 8), 5, torch.randn(1, 3, 20))


@pytest.mark.slow
def test_a_finished_denoiser_is_saved_where_diffusers_gives_it_again(tmp_path: Path) -> None:
    inputs = torch.randn(1, 4, 8, 8), 5, torch.randn(1, 3, 20)
    merged: Any = disturb(gm.adapt(unet(), METHODS["lora"])).eval().finalize()
    merged.save_pretrained(tmp_path / "merged")
    again = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(again(*inputs).sample, merged(*inputs).sample)
    beside: Any = gm.adapt(unet(), METHODS["apt"]).eval().finalize()
    with pytest.raises(UserError, match="would not give this finished model again"):
        beside.save_pretrained(tmp_path / "beside")
    assert not (tmp_path / "beside").exists()


def test_labels_are_what_it_is_to_predict() -> None:
    backbone = BACKBONES["unet"]
    adapted, inputs = gm.adapt(backbone.model(), METHODS["apt"]), backbone.inputs()
    target = torch.randn(inputs["sample"].shape)
    answer = adapted(**inputs, labels=target)
    assert torch.allclose(answer.loss, (run(adapted, inputs) - target).square().mean())
    loss, sample = adapted(**inputs, labels=target, return_dict=False)
    assert torch.equal(loss, answer.loss)
    assert torch.equal(sample, answer.sample)


def test_what_changes_only_the_text_changes_no_self_attention_of_the_first_block() -> None:
    backbone, seen = BACKBONES["unet"], []
    adapted = gm.adapt(backbone.model(), METHODS["apt"]).eval()
    part = adapted.methods["apt"].get_submodule("denoiser.blocks.0.attention")
    part.register_forward_hook(lambda _, args, change: seen.append(change))
    inputs = backbone.inputs()
    other = {**inputs, "encoder_hidden_states": inputs["encoder_hidden_states"] + 1}
    assert not torch.equal(run(adapted, inputs), run(adapted, other))
    assert torch.equal(seen[0], seen[1])


def test_nothing_prompted_leaves_every_image_as_it_was() -> None:
    model = unet()
    bare = drawn(pipeline(model), 24, 16)
    assert torch.equal(drawn(pipeline(gm.adapt(model, gm.APT(prompts=0)).eval()), 24, 16), bare)


@pytest.mark.parametrize("method", [gm.VPT(prompts=2, deep=False), gm.VPT(prompts=2, form="sequence"), gm.ToMe(r=1)])
def test_what_has_no_room_on_a_map_is_refused_in_words(method: Any) -> None:
    with pytest.raises(UserError, match="places of a map"):
        gm.adapt(unet(), method)


def test_no_head_is_built_on_it() -> None:
    with pytest.raises(
        TypeError, match="a map of predicted noise for each sample, which no head reads: leave num_labels out"
    ):
        gm.adapt(unet(), METHODS["apt"], num_labels=3)


# ---- transformers ----

TRANSFORMERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dit": (diffusers.DiTTransformer2DModel, {"num_embeds_ada_norm": 7}),
    "pixart": (
        diffusers.PixArtTransformer2DModel,
        {"cross_attention_dim": 12, "caption_channels": 10, "out_channels": 8},
    ),
}


def transformer(name: str) -> tuple[Any, dict[str, Any]]:
    """A tiny one whose gates are not zero, and what it reads."""
    torch.default_generator.manual_seed(1)
    kind, settings = TRANSFORMERS[name]
    model = kind(
        num_attention_heads=3,
        attention_head_dim=4,
        num_layers=2,
        sample_size=6,
        patch_size=2,
        in_channels=4,
        **settings,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    inputs: dict[str, Any] = {"hidden_states": torch.randn(3, 4, 6, 6), "timestep": torch.tensor([3, 510, 999])}
    if name == "dit":
        return model.eval(), {**inputs, "class_labels": torch.tensor([0, 4, 6])}
    return model.eval(), {
        **inputs,
        "encoder_hidden_states": torch.randn(3, 5, 10),
        "encoder_attention_mask": torch.ones(3, 5),
    }


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_denoisers_are_read_out_beside_what_their_queries_read(name: str, tmp_path: Path) -> None:
    """X is the modulated input of `to_q`, of PixArt's cross-attention the stream itself; O what `to_out.0` gives, unscaled."""
    model, inputs = transformer(name)
    bare = model(**inputs).sample
    adapted = disturb(gm.adapt(model, gm.APT(prompts=3, rank=2))).eval()
    sites = {"attention": "attn1", **({"cross": "attn2"} if name == "pixart" else {})}
    leaves = ("prompts", "down", "up", "scale")
    names = [f"apt.denoiser.blocks.{i}.{branch}.{leaf}" for i in range(2) for branch in sites for leaf in leaves]
    assert sorted(adapted.trainable()) == sorted(names)
    for branch, own in sites.items():
        check_site(adapted, inputs, branch, model.transformer_blocks[1].get_submodule(own))
    changed = adapted(**inputs).sample
    assert not torch.allclose(changed, bare)
    adapted.save_pretrained(tmp_path)
    assert torch.equal(gm.load(tmp_path, transformer(name)[0])(**inputs).sample, changed)
    assert torch.allclose(adapted.finalize()(**inputs).sample, changed, atol=1e-5)
    high, wide = (4, 4) if name == "dit" else (4, 6)  # DiT reads squares alone
    sheet = cost(adapted, image_size=(high, wide))
    assert sheet.finished.counted - sheet.bare.counted == 2 * len(sites) * 2 * (high // 2 * (wide // 2)) * 3 * 12
    assert torch.equal(adapted.detach()(**inputs).sample, bare)


@torch.no_grad()
def check_site(adapted: gm.Adapted, inputs: dict[str, Any], branch: str, attention: Any) -> None:
    """What leaves `to_out.0` is e^s (O + w A P), O from its own weights, A from what `to_q` reads."""
    part: Any = adapted.methods["apt"].get_submodule(f"denoiser.blocks.1.{branch}")
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    modules = {"q": attention.to_q, "out": attention.to_out[0]}
    hooks = [m.register_forward_hook(lambda _, a, y, n=n: seen.update({n: (a[0], y)})) for n, m in modules.items()]
    adapted(**inputs)
    for hook in hooks:
        hook.remove()
    (x, _), (before, found) = seen["q"], seen["out"]
    scored = (x @ part.transformed().T).clamp(min=0)
    own = torch.nn.functional.linear(before, modules["out"].weight, modules["out"].bias)
    expected = part.scale.exp() * (own + scored.amax(-1, keepdim=True) * (scored @ part.prompts))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.filterwarnings("ignore:.*prompts run as tokens")
@pytest.mark.parametrize("method", [gm.CVPT(prompts=2), gm.VPT(prompts=2), gm.DAS(skip=(0,)), gm.ToMe(r=1)])
def test_what_would_stand_between_modulated_parts_is_refused(name: str, method: Any) -> None:
    with pytest.raises(UserError, match="the timestep of each sample scales"):
        gm.adapt(transformer(name)[0], method)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("method", [gm.BitFit(), LoraConfig(r=2), gm.Adapter(rank=2, placement="parallel")])
def test_other_methods_on_transformer_denoisers(name: str, method: Any) -> None:
    model, inputs = transformer(name)
    bare = model(**inputs).sample
    adapted = gm.adapt(model, method).train()
    adapted(**inputs).sample.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in adapted.trainable().values())
    assert not torch.allclose(disturb(adapted).eval()(**inputs).sample, bare)
    assert torch.equal(adapted.detach()(**inputs).sample, bare)
