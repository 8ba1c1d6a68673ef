from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gossamer import data

from .published import image, write


def entry(number: int, split: str, **more: Any) -> dict[str, Any]:
    sentences = [
        {"tokens": ["a", "dog"], "raw": f" A dog {number}, {i}. ", "imgid": number, "sentid": 5 * number + i}
        for i in range(5 if number else 6)
    ]
    return {
        "sentids": [s["sentid"] for s in sentences],
        "imgid": number,
        "sentences": sentences,
        "split": split,
        **more,
    }


def coco(number: int, split: str, part: str) -> dict[str, Any]:
    return entry(number, split, filepath=part, filename=f"COCO_{part}_{number:012d}.jpg", cocoid=100 + number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = [
        coco(0, "test", "val2014"),
        coco(1, "restval", "val2014"),
        coco(2, "val", "val2014"),
        coco(3, "train", "train2014"),
    ]
    write(tmp_path / "coco/karpathy/dataset_coco.json", {"images": images, "dataset": "coco"})
    for record in images:
        image(tmp_path / "coco" / record["filepath"] / record["filename"])
    images = [entry(i, split, filename=f"{i}.jpg") for i, split in enumerate(("train", "val", "test"))]
    write(tmp_path / "flickr30k/dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    for record in images:
        image(tmp_path / "flickr30k/flickr30k-images" / record["filename"])
    return tmp_path


def test_captions_of_both_sets_are_read(folder: Path) -> None:
    train, val, test = (data.load_image_text("coco", split, path=folder / "coco") for split in ("train", "val", "test"))
    assert [example.id for example in train.examples] == ["101", "103"]  # restval belongs to train
    assert (len(val), len(test)) == (1, 1)
    assert test[0]["references"] == tuple(f"A dog 0, {i}." for i in range(6))
    assert (test[0]["text"], test.classes) == ("", ())
    flickr = data.load_image_text("flickr30k", "test", path=folder / "flickr30k")
    assert flickr.examples[0].images == (folder / "flickr30k/flickr30k-images/2.jpg",)
    assert flickr.examples[0].id == "2"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"split": "dev"},
            ValueError,
            r"field 'split' of images\[0\] of .* has 'dev'; known: train, restval, val, test",
        ),
        ({"sentences": []}, ValueError, r"images\[0\] of .*dataset_flickr30k.json has no sentences"),
        ({"sentences": [{"tokens": []}]}, ValueError, r"images\[0\] of .* has no field 'raw'"),
        ({"filename": "9.jpg"}, FileNotFoundError, r"1 of 1 images are not there: .*9.jpg \(images\[0\] of .*\)"),
    ],
)
def test_a_bad_record_is_named(folder: Path, change: dict[str, Any], error: type, message: str) -> None:
    write(folder / "flickr30k/dataset_flickr30k.json", {"images": [entry(0, "train", filename="0.jpg") | change]})
    with pytest.raises(error, match=message):
        data.load_image_text("flickr30k", "train", path=folder / "flickr30k")
