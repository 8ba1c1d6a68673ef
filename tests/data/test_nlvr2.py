from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gossamer import data

from .published import image, write


def record(id: str, label: str, **more: Any) -> str:
    """One line of the authors' files, which hold more fields than are read."""
    fields = {
        "validation": {"A": label},
        "sentence": f"Two of {id}.",
        "left_url": "",
        "right_url": "",
        "writer": "w",
        "label": label,
    }
    return json.dumps({**fields, "synset": "bus", "query": "bus0", "identifier": id, **more}) + "\n"


@pytest.fixture(params=["images/{}", "{}"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    at = str(request.param)
    write(
        tmp_path / "nlvr2/data/train.json",
        record("train-10171-0-1", "True", directory=63) + record("train-4-2-0", "False", directory=7),
    )
    write(tmp_path / "nlvr2/data/dev.json", record("dev-850-0-0", "True"))
    write(tmp_path / "nlvr2/data/test1.json", record("test1-0-1-0", "False"))
    stems = {"train": ("63/train-10171-0", "7/train-4-2"), "dev": ("dev-850-0",), "test1": ("test1-0-1",)}
    for part, names in stems.items():
        for name in names:
            for side in (0, 1):
                image(tmp_path / at.format(part) / f"{name}-img{side}.png", (side, 0, 0))
    return tmp_path


def test_statements_about_two_images_are_read(folder: Path) -> None:
    train, val, test = (data.load_image_text("nlvr2", split, path=folder) for split in ("train", "val", "test"))
    assert [example.label for example in train.examples] == [1, 0]
    item = train[0]
    assert (item["text"], item["references"], item["id"]) == ("Two of train-10171-0-1.", ("True",), "train-10171-0-1")
    assert [picture.getpixel((0, 0))[0] for picture in item["images"]] == [0, 1]
    assert (val.examples[0].label, test.examples[0].label) == (1, 0)
    assert test.classes == ("False", "True")


def test_a_bad_line_is_named(folder: Path) -> None:
    path = folder / "nlvr2/data/dev.json"
    good = record("dev-850-0-0", "True")
    write(path, good + record("dev-850-0-1", "maybe"))
    with pytest.raises(ValueError, match=r"field 'label' of line 2 of .*dev.json has 'maybe'; known: False, True"):
        data.load_image_text("nlvr2", "val", path=folder)
    write(path, good + record("dev-9-0-0", "True"))
    with pytest.raises(
        FileNotFoundError, match=r"2 of 4 images are not there: .*dev-9-0-img0.png \(line 2 of .*dev.json\)"
    ):
        data.load_image_text("nlvr2", "val", path=folder)
    write(folder / "nlvr2/data/train.json", record("train-4-2-0", "True"))
    with pytest.raises(ValueError, match=r"line 1 of .*train.json has no field 'directory'"):
        data.load_image_text("nlvr2", "train", path=folder)
