from typing import Any

import torch
from torch.utils.data import DataLoader

from gossamer.batches import Pixels, on

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EVERY = torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 256)  # of each channel every value


def test_pixels_become_to_the_bit_what_each_alone_would() -> None:
    found = on(torch.device("cpu"), {"pixel_values": Pixels(EVERY, MEAN, STD), "path": "a.png"})
    one = [
        (EVERY[0, c, 0].float().div(255) - torch.tensor(m)) / torch.tensor(s)
        for c, (m, s) in enumerate(zip(MEAN, STD, strict=True))
    ]
    assert torch.equal(found["pixel_values"], torch.stack(one)[None, :, None].expand(2, 3, 1, 256))
    assert found["pixel_values"].dtype == torch.float32
    assert found["path"] == "a.png"


def test_loaders_carry_pixels_in_8_bits() -> None:
    items: Any = [{"pixel_values": Pixels(EVERY[0] // k, MEAN, STD), "labels": k} for k in (1, 2, 3)]
    alone, (batch, last) = next(iter(DataLoader(items, 2))), list(DataLoader(items, 2, num_workers=1))
    pixels = batch["pixel_values"]
    assert pixels.values.dtype == torch.uint8
    assert (pixels.mean, pixels.std) == (MEAN, STD)
    assert torch.equal(pixels.values, alone["pixel_values"].values)
    assert torch.equal(pixels[1].values, items[1]["pixel_values"].values)
    assert torch.equal(last["pixel_values"].to("cpu")[0], items[2]["pixel_values"].to("cpu"))
