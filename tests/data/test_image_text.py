from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gossamer import data
from gossamer.data import Example, ImageTextDataset

from .published import image


@pytest.fixture
def questions(tmp_path: Path) -> ImageTextDataset:
    path = image(tmp_path / "a.png")
    soft = Example(id="1", images=(path,), text="how many?", scores=((2, 0.6), (0, 0.9)), source="record 0")
    none = Example(id="2", images=(), text="why?", source="record 1")
    pair = Example(id="3", images=(path, tmp_path / "b.png"), text="same?", scores=((1, 1.0),), source="record 2")
    return ImageTextDataset(name="tiny", classes=("1", "2", "3"), examples=(soft, none, pair))


def test_items_have_their_images_text_and_label(questions: ImageTextDataset) -> None:
    item = questions[0]
    assert (item["id"], item["text"], item["label"]) == ("1", "how many?", 0)
    assert [image.size for image in item["images"]] == [(7, 5)]
    assert questions[1]["images"] == []
    assert "label" not in questions[1]
    assert questions.subset([2, 1]).describe(0) == "record 2"


def test_targets_are_soft_scores(questions: ImageTextDataset) -> None:
    expected = torch.tensor([[0, 0, 0], [0.9, 0, 0.6], [0, 1, 0]])
    assert torch.equal(questions.targets([1, 0, 2]), expected)


def test_absent_images_are_named_with_their_records(questions: ImageTextDataset) -> None:
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are not there: .*b.png \(record 2\)$"):
        questions.check()
    with pytest.raises(ValueError, match="tiny holds no examples"):
        questions.subset([])


def test_sets_have_names(tmp_path: Path) -> None:
    assert len(data.load_image_text("easy-vqa", "test")) == 9673
    with pytest.raises(ValueError, match="no set of texts about images 'vqa'; there are: easy-vqa, vqav2, gqa, nlvr2"):
        data.load_image_text("vqa")
    with pytest.raises(ValueError, match=r"'desk/count' \(it has labelled images; data.load reads it\); there are"):
        data.load_image_text("desk/count")
    with pytest.raises(ValueError, match=r"vqav2 has texts about images, not images with labels; data.load_image_text"):
        data.load("vqav2")
    with pytest.raises(ValueError, match="nlvr2 has no split 'dev'; it has: train, val, test"):
        data.load_image_text("nlvr2", "dev", path=tmp_path)
    with pytest.raises(ValueError, match=f"easy-vqa needs no files, so data.path={tmp_path} would be ignored"):
        data.load_image_text("easy-vqa", path=tmp_path)
    with pytest.raises(
        ValueError, match=r"data.path is for published benchmarks, and .* is none of them: vtab/cifar, "
    ):
        data.load(tmp_path, path=tmp_path)
