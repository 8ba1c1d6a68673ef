import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gossamer.data import IMAGENET_MEAN, IMAGENET_STD, Collate, Preprocessing


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("width", "height"), [(61, 37), (37, 62), (20, 20), (9, 31)])
def test_equals_torchvision(width, height, interpolation):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    image, mode = picture(width, height), InterpolationMode(interpolation)
    end = [ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    cropped = Compose([Resize(32, mode), CenterCrop(28), *end])(image)
    stretched = Compose([Resize((28, 28), mode), *end])(image)
    own = Preprocessing(size=28, crop=28 / 32, interpolation=interpolation)
    torch.testing.assert_close(own(image), cropped, rtol=0, atol=1e-6)
    own = Preprocessing(size=28, resize="direct", interpolation=interpolation)
    torch.testing.assert_close(own(image), stretched, rtol=0, atol=1e-6)


def test_channels_have_their_own_statistics():
    white = Image.new("RGB", (5, 4), (255, 255, 255))
    got = Preprocessing(size=3, mean=(0.1, 0.2, 0.3), std=(1, 2, 4))(white)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[:, 0, 0], torch.tensor([0.9, 0.4, 0.175]))
    assert got.shape == (3, 3, 3)


def test_grey_and_16_bit_images_are_prepared_too():
    grey = Preprocessing(size=4, mean=(0, 0, 0), std=(1, 1, 1))
    deep = Image.fromarray(np.full((7, 6), 65535, dtype=np.uint16))
    assert torch.equal(grey(deep), torch.ones(3, 4, 4))


def test_the_record_survives_json():
    settings = Preprocessing(size=84, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), crop=0.9, interpolation="bilinear")
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert eval(repr(settings)) == settings


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"size": 0}, "size must be a whole number of pixels, 1 to 8192, got 0"),
        ({"size": 10**9}, "1 to 8192, got 1000000000"),
        ({"size": 2.5}, "size must be a whole number"),
        ({"size": True}, "size must be a whole number"),
        ({"size": 8, "mean": [0, 0]}, r"mean must be three numbers \(red, green, blue\), got \[0, 0\]"),
        ({"size": 8, "mean": "red"}, "mean must be three numbers"),
        ({"size": 8, "std": [1, 0, 1]}, "std must be above 0"),
        ({"size": 8, "std": [1, float("nan"), 1]}, "std must be three numbers"),
        ({"size": 8, "resize": "zoom"}, "resize must be one of shorter-side, direct, got 'zoom'"),
        ({"size": 8, "interpolation": "magic"}, "interpolation must be one of bicubic, bilinear, got 'magic'"),
        ({"size": 8, "crop": 1.5}, "crop must be above 0 and at most 1, got 1.5"),
        ({"size": 8, "crop": 0.5, "resize": "direct"}, "crop=0.5 needs resize='shorter-side'"),
        ({"size": 8, "colour": 1}, r"unknown fields \['colour'\]; known: size, mean, std, resize, crop, interpolation"),
        ({}, "the preprocessing has no size"),
        ([8], "must be a record of named fields"),
    ],
)
def test_bad_records_are_refused(record, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(record)


def test_settings_of_image_processors():
    dinov2 = {
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "size": {"shortest_edge": 256},
        "resample": 3,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
    assert Preprocessing.from_processor(dinov2) == Preprocessing(size=224, crop=0.875)
    assert Preprocessing.from_processor(dinov2, size=84) == Preprocessing(size=84, crop=0.875)
    vit = {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    half = Preprocessing(size=224, mean=(0.5,) * 3, std=(0.5,) * 3, resize="direct", interpolation="bilinear")
    assert Preprocessing.from_processor(vit) == half
    clip = {"size": 224, "do_center_crop": True, "crop_size": 224}
    assert Preprocessing.from_processor(clip) == Preprocessing(size=224)
    with pytest.raises(ValueError, match=r"names no single size: size=\{'height': 384, 'width': 512\}"):
        Preprocessing.from_processor({"size": {"height": 384, "width": 512}})


def test_settings_of_timm():
    config = {
        "input_size": [3, 30, 30],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    expected = Preprocessing(size=30, crop=0.9, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert Preprocessing.from_timm(config) == expected
    assert Preprocessing.from_timm(config, size=44) == replace(expected, size=44)
    with pytest.raises(ValueError, match="only square images are prepared here, and this model reads 30 x 40"):
        Preprocessing.from_timm({"input_size": [3, 30, 40]})


def test_collation():
    collate = Collate(Preprocessing(size=6))
    items = [{"image": picture(9, 7, seed), "label": label} for seed, label in ((1, 4), (2, 0), (3, 1))]
    batch = collate(items)
    assert batch["pixel_values"].shape == (3, 3, 6, 6)
    assert torch.equal(batch["pixel_values"][1], Preprocessing(size=6)(items[1]["image"]))
    assert batch["labels"].tolist() == [4, 0, 1]
    assert batch["labels"].dtype == torch.long
    assert set(collate([{"image": picture(9, 7)}])) == {"pixel_values"}
