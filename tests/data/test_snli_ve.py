from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gossamer import data

from .published import image, write


def record(image: str, label: str) -> dict[str, Any]:
    return {
        "annotator_labels": [label], "captionID": f"{image}.jpg#4", "gold_label": label, "pairID": f"{image}.jpg#4r1{label[0]}",
        "sentence1": "A premise that stays out.", "sentence2": f"{label} of {image}", "Flickr30K_ID": image,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path / "snli_ve_train.jsonl",
        [record("11", "neutral"), record("22", "entailment"), record("11", "contradiction")],
    )
    write(tmp_path / "snli_ve_dev.jsonl", [record("22", "neutral")])
    write(tmp_path / "snli_ve_test.jsonl", [record("33", "neutral")])
    for name in ("11", "22"):
        image(tmp_path / "flickr30k-images" / f"{name}.jpg")
    return tmp_path


def test_hypotheses_are_read(folder: Path) -> None:
    train, val = (data.load_image_text("snli-ve", split, path=folder) for split in ("train", "val"))
    assert train.classes == ("contradiction", "neutral", "entailment")
    assert [example.label for example in train.examples] == [1, 2, 0]
    assert (val[0]["text"], val[0]["id"]) == ("neutral of 22", "22.jpg#4r1n")


def test_a_bad_line_is_named(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"1 of 1 images are not there: .*33.jpg \(line 1 of .*snli_ve_test.jsonl\)"
    ):
        data.load_image_text("snli-ve", "test", path=folder)
    write(folder / "snli_ve_dev.jsonl", [record("11", "neutral"), record("11", "-")])
    with pytest.raises(
        ValueError, match=r"field 'gold_label' of line 2 of .*dev.jsonl has '-'; known: contradiction, neutral"
    ):
        data.load_image_text("snli-ve", "val", path=folder)
