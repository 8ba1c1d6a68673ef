"""Images that come as rows of patches: padding among them, rows of all images in one sequence, texts with a place for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gossamer as gm

from .table import BACKBONES, disturb, run


@pytest.mark.parametrize(("row", "method", "message"), [
    ("siglip2", gm.VPT(prompts=2, deep=False, stay=True), "cannot stay in the vision stack of Siglip2VisionModel: what reads it"),
    ("paligemma", gm.VPT(prompts=2, form="sequence", stay=True), "cannot stay in the vision stack of PaliGemmaFor"),
    ("qwen2-vl", gm.SPT(prompts=2), r"SPT harvests tokens of samples, and the states of model\.visual\.blocks\.0 are rows of all"),
    ("qwen2-vl", gm.VPT(prompts=2, deep=False), "its states are rows of all images one after another"),
])  # fmt: skip
def test_what_they_do_not_take_is_refused(row: str, method: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.adapt(BACKBONES[row].model(), method, num_labels=BACKBONES[row].num_labels)


@pytest.mark.parametrize("method", [gm.VPT(prompts=3), gm.VPT(prompts=3, form="sequence"), gm.CVPT(prompts=2)])
def test_rows_that_stand_for_no_patch_change_nothing(method: Any) -> None:
    backbone = BACKBONES["siglip2"]
    adapted = disturb(gm.adapt(backbone.model(), method, num_labels=3).eval())
    inputs = backbone.inputs()
    mask = inputs["pixel_attention_mask"].clone()
    mask[1, 9:] = 0
    grids = inputs["spatial_shapes"].clone()
    grids[1] = torch.tensor([3, 3])
    padded = {**inputs, "pixel_attention_mask": mask, "spatial_shapes": grids}
    other = {**padded, "pixel_values": inputs["pixel_values"].clone()}
    other["pixel_values"][1, 9:] = 7.0
    found = run(adapted, padded)
    torch.testing.assert_close(run(adapted, other), found)
    assert not torch.allclose(run(adapted, inputs)[1], found[1])
    torch.testing.assert_close(run(adapted, inputs)[[0, 2]], found[[0, 2]])


def test_each_image_among_all_rows_is_alone() -> None:
    """Prompts of Qwen2-VL's tower reach every image, and no image another."""
    backbone = BACKBONES["qwen2-vl"]
    adapted = disturb(gm.adapt(backbone.model(), gm.VPT(prompts=3)).eval())
    inputs = backbone.inputs()
    torch.testing.assert_close(run(adapted, backbone.inputs(2)), run(adapted, inputs)[:2])
    plain = run(adapted.detach(), inputs)
    assert not torch.allclose(run(adapted.attach().eval(), inputs), plain)
