"""Heads on tokens: grids, what is cut out of the stream, sizes, saving with statistics, finishing, closed forms, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

import gossamer as gm
from gossamer import metrics
from gossamer.errors import UserError, WrongKind
from gossamer.hosts import dense

pytestmark = pytest.mark.usefixtures("uncounted")

SIZES: Any = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 20, "patch_size": 4}


def dinov2() -> Any:
    return Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2))


def registers() -> Any:
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=3))


def vit() -> Any:
    return ViTModel(ViTConfig(**SIZES, intermediate_size=20), add_pooling_layer=False)


def clip() -> Any:
    return CLIPVisionModel(CLIPVisionConfig(**SIZES, intermediate_size=20))


def timm_vit() -> Any:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=20, patch_size=4, embed_dim=12, depth=3, num_heads=2, num_classes=0,
        dynamic_img_size=True,
    )  # fmt: skip


BACKBONES = {"dinov2": dinov2, "registers": registers, "vit": vit, "clip": clip, "timm": timm_vit}
LINEAR, NAIVE = gm.Decoder(outputs=5), gm.Decoder(outputs=5, kind="setr-naive", channels=6)


def made(build: Any = dinov2, decoder: gm.Decoder = LINEAR) -> Any:
    torch.default_generator.manual_seed(0)
    model = gm.Segmenter(build(), decoder)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def images(height: int = 20, width: int = 20, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def labels(count: int = 2) -> Tensor:
    found = torch.randint(5, (count, 20, 20), generator=torch.Generator().manual_seed(2))
    found[:, :7] = 255
    return found


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_a_map_is_row_by_row_what_a_block_gives_without_what_is_no_patch(name: str) -> None:
    model = made(BACKBONES[name], gm.Decoder(outputs=5, kind="setr-naive", channels=6, taps=(0, 2)))
    prefix = {"registers": 4}.get(name, 1)
    x = images(12, 28)  # 3 x 7 patches
    seen: list[Tensor] = []
    for i in (0, 2):
        block = model.backbone.get_submodule(gm.read(model.backbone).blocks("vision")[i].name)
        block.register_forward_hook(lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out))
    maps = model.maps(x)
    for map, tokens in zip(maps, seen, strict=True):
        assert map.shape == (2, 12, 3, 7)
        torch.testing.assert_close(map.flatten(2).transpose(1, 2), tokens[:, prefix:])
    assert model(x).logits.shape == (2, 5, 12, 28)


METHODS = {
    "shallow": gm.VPT(prompts=3, deep=False), "stay": gm.VPT(prompts=3, deep=False, stay=True),
    "tokens": gm.VPT(prompts=3, form="sequence"), "deep": gm.VPT(prompts=3), "cvpt": gm.CVPT(prompts=2), "das": gm.DAS(skip=(1,)),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_stand_in_the_backbone_and_their_tokens_in_no_map(name: str) -> None:
    model = made(registers, gm.Decoder(outputs=5, kind="setr-naive", channels=6, taps=(0, 2)))
    adapted = gm.adapt(model, METHODS[name])
    assert all(m.shape == (2, 12, 5, 5) for m in model.maps(images()))
    adapted(pixel_values=images(), labels=labels()).loss.backward()
    trained = {n: p for n, p in adapted.trainable().items() if not n.startswith("head.")}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained.values())
    adapted.eval()
    with torch.no_grad():
        logits = adapted(pixel_values=images(20, 28)).logits
        finished: Any = adapted.finalize()
        torch.testing.assert_close(finished(pixel_values=images(20, 28)).logits, logits, rtol=1e-5, atol=1e-5)


def test_without_prompts_the_maps_are_the_frozen_ones() -> None:
    model = made(vit, NAIVE)
    frozen = model.maps(images())
    gm.adapt(model, gm.CVPT(prompts=0))
    assert all(torch.equal(a, b) for a, b in zip(model.maps(images()), frozen, strict=True))


@torch.no_grad()
def test_sides_that_are_no_multiple_of_a_patch_are_padded_and_cut() -> None:
    model = made(decoder=NAIVE)
    x = images(18, 27)
    padded = nn.functional.pad(x, (0, 1, 0, 2))
    logits = dense.resize(model.decode_head(model.maps(padded)[-1]), (20, 28))
    torch.testing.assert_close(model(x).logits, logits[..., :18, :27])


@torch.no_grad()
def test_a_constant_map_stays_constant_and_a_ramp_a_ramp() -> None:
    head = dense.Setr(6, 3, channels=4).eval()
    assert head(torch.randn(1, 6, 1, 1).expand(1, 6, 3, 5)).shape == (1, 3, 48, 80)
    ones = nn.Sequential(dense.DenseLinear(6, 3).eval())(torch.randn(1, 6, 1, 1).expand(1, 6, 3, 5))
    torch.testing.assert_close(ones, ones[..., :1, :1].expand_as(ones))
    ramp = dense.Upsample(3)(torch.arange(7.0).expand(1, 1, 4, 7))
    steps = ramp[..., 1:] - ramp[..., :-1]
    torch.testing.assert_close(steps[..., 1:-1], torch.full_like(steps[..., 1:-1], 1 / 3))
    assert torch.equal(ramp[..., 0], torch.zeros_like(ramp[..., 0]))  # clamped


def test_the_paper_s_heads_have_its_numbers_of_parameters_and_its_multiply_adds() -> None:
    with torch.device("meta"):
        main, other = dense.Setr(1024, 150), dense.Setr(1024, 150, convs=2, up=4)
        assert [sum(p.numel() for p in head.parameters()) for head in (main, other)] == [4_171_414, 2_990_742]
        for head, expected in ((main, 63.217), (other, 22.146)):
            assert head.macs(32, 32) / 1e9 == pytest.approx(expected, abs=5e-4)
            with FlopCounterMode(display=False) as counter:
                head.eval()(torch.empty(1, 1024, 32, 32))
            assert counter.get_total_flops() / 2e9 == pytest.approx(expected, abs=5e-4)


def test_loss_is_over_labelled_pixels_and_nothing_labelled_gives_zero_with_gradients() -> None:
    logits = torch.randn(2, 5, 5, 5, requires_grad=True)
    seen = labels()
    by_hand = nn.functional.cross_entropy(dense.resize(logits, (20, 20)), seen, ignore_index=255)
    torch.testing.assert_close(dense.loss(logits, seen), by_hand)
    share = float((seen != 255).float().mean())
    torch.testing.assert_close(dense.loss(logits, seen.byte(), average="all"), by_hand * share)
    nothing = dense.loss(logits, torch.full_like(seen, 255))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_auxiliary_heads_work_in_training_alone() -> None:
    adapted = gm.adapt(made(decoder=NAIVE), gm.CVPT(prompts=2)).eval()
    model: Any = adapted.backbone
    with torch.no_grad():
        before = adapted(pixel_values=images(), labels=labels())
        for p in model.auxiliary_head.parameters():
            p.add_(1)
        after = adapted(pixel_values=images(), labels=labels())
        assert torch.equal(after.logits, before.logits)
        assert torch.equal(after.loss, before.loss)
        adapted.train()
        parts = [
            dense.loss(h(m), labels()) for h, m in zip([*model.auxiliary_head], model.maps(images()), strict=False)
        ]
        main = dense.loss(model.decode_head(model.maps(images())[-1]), labels())
        torch.testing.assert_close(adapted(pixel_values=images(), labels=labels()).loss, main + 0.4 * sum(parts))


def test_only_prompts_and_heads_change_and_a_folder_gives_logits_and_statistics_back(tmp_path: Path) -> None:
    dinov2().save_pretrained(tmp_path / "dino")
    adapted = gm.adapt(gm.Segmenter(gm.zoo.load(tmp_path / "dino"), NAIVE), gm.CVPT(prompts=2))
    frozen = {n: p.detach().clone() for n, p in adapted.backbone.backbone.named_parameters()}  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=0.05)
    for _ in range(2):
        adapted.train()(pixel_values=images(), labels=labels()).loss.backward()
        optimizer.step()
    assert all(torch.equal(p, frozen[n]) for n, p in adapted.backbone.backbone.named_parameters())  # type: ignore[union-attr]
    adapted.eval()
    adapted.save_pretrained(tmp_path / "adapter")
    again = gm.load(tmp_path / "adapter")
    statistics = [k for k in again.tensors() if k.endswith("running_var")]
    assert len(statistics) == 4 + 2 * 1  # NAIVE main 2, one auxiliary 2 of each tap
    with torch.no_grad():
        assert torch.equal(again(pixel_values=images()).logits, adapted(pixel_values=images()).logits)


def test_num_labels_resizes_every_head_and_a_folder_knows(tmp_path: Path) -> None:
    dinov2().save_pretrained(tmp_path / "dino")
    adapted = gm.adapt(gm.Segmenter(gm.zoo.load(tmp_path / "dino"), NAIVE), gm.CVPT(prompts=2), num_labels=7).eval()
    model: Any = adapted.backbone
    assert [h.conv_seg.out_channels for h in (model.decode_head, *model.auxiliary_head)] == [7] * (
        1 + len(model.auxiliary_head)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        logits = gm.load(tmp_path / "adapter")(pixel_values=images()).logits
        assert torch.equal(logits, adapted(pixel_values=images()).logits)
    adapted.detach()
    assert model.num_labels == 5
    assert model.decode_head.conv_seg.out_channels == 5


def test_windows_tile_cover_and_do_not_depend_on_their_order() -> None:
    assert dense.windows((8, 12), 4, 4) == [(i, i + 4, j, j + 4) for i in (0, 4) for j in (0, 4, 8)]
    assert dense.windows((3, 9), 5, 3) == [(0, 3, 0, 5), (0, 3, 3, 8), (0, 3, 4, 9)]
    assert len(dense.windows((512, 2048), 512, 341)) == 6
    model = made(decoder=NAIVE)
    with torch.no_grad():
        one = dense.slide(lambda x: model(x).logits, images(), 20, 13)
        torch.testing.assert_close(one, model(images()).logits)
        pattern = images(37, 26)
        torch.testing.assert_close(dense.slide(lambda x: x, pattern, 10, 7), pattern)


def test_scores_of_pixels() -> None:
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(4, (3, 9, 7), generator=generator)
    guess = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth, truth.roll(1, 2))
    counts = metrics.counted(guess, truth, 5, 255)
    assert metrics.overlap(metrics.counted(truth, truth, 5, 255)).miou == 1
    found = metrics.overlap(counts)
    assert found.iou[4] is None
    assert found.accuracy[4] is None
    swap = torch.tensor([1, 0, 2, 3, 4])
    swapped = metrics.overlap(metrics.counted(swap[guess], swap[truth], 5, 255))
    assert swapped.iou == [found.iou[i] for i in swap]
    unlabelled = torch.cat([truth, torch.full_like(truth, 255)]), torch.cat([guess, guess])
    assert torch.equal(metrics.counted(unlabelled[1], unlabelled[0], 5, 255), counts)
    assert torch.equal(sum(metrics.counted(g, t, 5, 255) for g, t in zip(guess, truth, strict=True)), counts)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no pixel is labelled"):
        metrics.overlap(torch.zeros(2, 2, dtype=torch.long))


@pytest.mark.parametrize("decoder", [LINEAR, NAIVE], ids=["linear", "naive"])
@pytest.mark.parametrize("size", [(20, 20), (12, 32)], ids=str)
def test_cost_is_of_what_is_deployed(decoder: gm.Decoder, size: tuple[int, int]) -> None:
    adapted = gm.adapt(made(decoder=decoder), gm.CVPT(prompts=2))
    sheet = adapted.cost(image_size=size)
    assert sheet.finished.closed == sheet.finished.counted
    assert sheet.bare.closed == sheet.bare.counted
    head: Any = adapted.backbone.decode_head  # type: ignore[union-attr]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        head(torch.randn(1, 12, size[0] // 4, size[1] // 4))
    assert head.macs(size[0] // 4, size[1] // 4) == counter.get_total_flops() // 2


def test_refusals_are_in_words() -> None:
    with pytest.raises(WrongKind, match="attends in windows"):
        gm.Segmenter(
            SwinModel(SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)), LINEAR
        )
    with pytest.raises(UserError, match=r"has a task head \(classifier\)"):
        gm.Segmenter(ViTForImageClassification(ViTConfig(**SIZES, intermediate_size=20)), LINEAR)
    with pytest.raises(UserError, match="blocks 0 to 2"):
        made(decoder=gm.Decoder(outputs=2, taps=(3,)))
    with pytest.raises(UserError, match="each once and in order"):
        gm.Decoder(outputs=2, taps=(2, 1))
    with pytest.raises(UserError, match="kind"):
        gm.Decoder(outputs=2, kind="mla")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="do not divide"):
        made(decoder=gm.Decoder(outputs=2, kind="setr-pup", channels=48, norm="group"))


def test_another_decoder_is_refused_and_a_broken_one_is_named(tmp_path: Path) -> None:
    adapted = gm.adapt(made(decoder=NAIVE), gm.CVPT(prompts=2))
    adapted.save_pretrained(tmp_path / "a")
    pup = gm.Decoder(outputs=5, kind="setr-pup", channels=6)
    with pytest.raises(gm.AdapterError, match=r"decoder\.kind was setr-naive and is setr-pup"):
        gm.load(tmp_path / "a", backbone=made(decoder=pup))
    with pytest.raises(UserError, match="decoder has no outputs"):
        gm.Decoder.from_dict({"kind": "linear"})
    with pytest.raises(UserError, match="has no setting 'depth'"):
        gm.Decoder.from_dict({"outputs": 3, "depth": 2})


@pytest.mark.parametrize("name", ["vit", "timm"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    grads = []
    for checkpointed in (False, True):
        adapted = gm.adapt(made(BACKBONES[name], NAIVE), gm.VPT(prompts=2))
        torch.default_generator.manual_seed(4)
        with torch.no_grad():
            for p in adapted.trainable().values():
                p.add_(0.1 * torch.randn_like(p))
        if checkpointed:
            adapted.activation_checkpointing_enable()
        adapted.train()(pixel_values=images(), labels=labels()).loss.backward()
        grads.append({n: p.grad for n, p in adapted.trainable().items()})
        adapted.activation_checkpointing_disable()
    for n, grad in grads[0].items():
        torch.testing.assert_close(grads[1][n], grad)


def test_heads_read_what_a_block_gives_behind_all_that_methods_do_there() -> None:
    """This CVPT changes the stream behind each block, by hooks that come later than the model's own."""
    adapted = gm.adapt(made(dinov2, NAIVE), gm.CVPT(prompts=2, placement=5))
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model: Any = adapted.eval().backbone
    last: list[Tensor] = []
    handles = [
        model.backbone.get_submodule(name).register_forward_hook(lambda module, args, output: last.append(output))
        for name in model.taps
    ]
    found = model.maps(images())
    for handle in handles:
        handle.remove()
    assert len(found) == len(last) > 1
    for one, behind in zip(found, last, strict=True):
        assert torch.equal(one.flatten(2).transpose(1, 2), behind[:, 1:])
