"""Image and mask are changed together, and only alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gossamer.data import Preprocessing
from gossamer.data.paired import Paired, recoloured, resized, shorter_side

PLAIN = Preprocessing(size=24, mean=(0, 0, 0), std=(1, 1, 1))
CHANGES: dict[str, Any] = {
    "cut": {}, "scale": {"scale": (0.4, 2.3)}, "flip": {"flip": True}, "fill": {"scale": (0.7, 1.5), "filled": 0.6, "flip": True},
}  # fmt: skip


def painted(height: int, width: int) -> tuple[Image.Image, Any]:
    """A mask of rectangles, and an image whose grey is 20 times the mask's value."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[: height // 3, width // 4 :] = 3
    mask[height // 2 :, : width // 2] = 5
    mask[-4:, -9:] = 255
    grey = (np.where(mask == 255, 9, mask) * 20).astype(np.uint8)
    return Image.fromarray(np.stack([grey] * 3, axis=2)), mask


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("size", [(41, 67), (58, 31), (13, 20)], ids=str)
def test_they_stay_aligned(name: str, size: tuple[int, int]) -> None:
    torch.default_generator.manual_seed(0)
    image, mask = painted(*size)
    change = Paired(preprocessing=PLAIN, **CHANGES[name])
    flipped = set()
    for _ in range(12):
        pixels, labels = change(image, mask)
        assert pixels.shape == (3, 24, 24)
        assert labels.shape == (24, 24)
        assert labels.dtype == torch.uint8
        shown = torch.where(labels == 255, 9, labels.long()) * 20
        grey = pixels[0] * 255
        outside = (labels == 255) & (grey == 0)  # padding
        close = (grey - shown).abs() < 12
        # Between regions the image is blended and the mask is not: a pixel or two on either side of an edge.
        assert float((close | outside).float().mean()) > 0.7
        inner = torch.nn.functional.max_pool2d(shown[None, None].float(), 5, 1, 2) == -torch.nn.functional.max_pool2d(
            -shown[None, None].float(), 5, 1, 2
        )
        inner[..., :2], inner[..., -2:], inner[..., :2, :], inner[..., -2:, :] = (
            False,
            False,
            False,
            False,
        )  # blended from outside
        assert bool((close | outside)[inner[0, 0]].all())
        flipped.add(tuple(labels.flatten().tolist()))
    assert len(flipped) > 1 or name == "cut"


def test_what_is_missing_is_zero_behind_the_mean_and_unlabelled() -> None:
    image, mask = painted(40, 40)
    change = Paired(preprocessing=Preprocessing(size=24), scale=(0.5, 0.5))
    pixels, labels = change(image, mask)
    assert bool((labels[12:] == 255).all())
    assert bool((labels[:, 12:] == 255).all())
    assert not pixels[:, 12:].any()
    assert bool(pixels[:, :12, :12].any(0).all())
    assert int((labels[:12, :12] == 5).sum()) > 20


def test_a_crop_is_drawn_anew_while_one_class_fills_it() -> None:
    mask = np.zeros((24, 96), dtype=np.uint8)
    mask[:, 44:52] = 1
    image = Image.new("RGB", (96, 24))
    torch.default_generator.manual_seed(1)
    shares = [
        float((Paired(preprocessing=PLAIN, filled=1.0)(image, mask)[1] == 1).float().mean() > 0.25) for _ in range(60)
    ]
    torch.default_generator.manual_seed(1)
    tried = [
        float((Paired(preprocessing=PLAIN, filled=0.75)(image, mask)[1] == 1).float().mean() > 0.25) for _ in range(60)
    ]
    assert sum(tried) > 2 * sum(shares) > 0


def test_sizes_keep_the_ratio_up_to_four_to_one() -> None:
    assert shorter_side(Image.new("RGB", (30, 60)), 15) == (15, 30)
    assert shorter_side(Image.new("RGB", (1000, 100)), 50) == (200, 20)
    image, mask = painted(31, 17)
    same, kept = resized(image, mask, (17, 31))
    assert same is image
    assert kept is mask
    small, labels = resized(image, mask, (8, 16))
    assert small.size == (8, 16)
    assert labels is not None
    assert set(np.unique(labels)) <= set(np.unique(mask))


def test_colours_change_within_their_bounds_and_nothing_moves() -> None:
    torch.default_generator.manual_seed(2)
    image, _ = painted(30, 40)
    changed = [np.asarray(recoloured(image)).astype(int) for _ in range(12)]
    assert all(one.shape == (30, 40, 3) for one in changed)
    assert len({one.tobytes() for one in changed}) > 4
    for one in changed:  # equal pixels stay equal
        assert len(np.unique(one.reshape(-1, 3), axis=0)) <= len(np.unique(np.asarray(image).reshape(-1, 3), axis=0))
    grey = PLAIN.of(image).to("cpu")
    torch.testing.assert_close(grey[0], torch.from_numpy(np.asarray(image)[..., 0].copy()).float() / 255)
