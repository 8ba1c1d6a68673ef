from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gossamer import data
from gossamer.data.gqa import gqa

from .published import image, write


def question(answer: str | None, image: str = "n17") -> dict[str, Any]:
    types = {"detailed": "existThat", "semantic": "rel", "structural": "verify"}
    record = {"imageId": image, "question": "Is it?", "isBalanced": True, "groups": {}, "entailed": [], "types": types}
    return record if answer is None else {**record, "answer": answer, "fullAnswer": "It is.", "semanticStr": "select"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    questions = tmp_path / "questions1.2"
    write(questions / "train_balanced_questions.json", {"071": question("yes"), "072": question("dog")})
    write(questions / "val_balanced_questions.json", {"081": question("bus")})
    write(questions / "testdev_balanced_questions.json", {"091": question("yes"), "092": question("zebra")})
    write(questions / "test_balanced_questions.json", {"101": question(None)})
    image(tmp_path / "images" / "n17.jpg")
    return tmp_path


def test_questions_are_read(folder: Path) -> None:
    sets = {
        split: data.load_image_text("gqa", split, path=folder)
        for split in ("train", "val", "trainval", "testdev", "test")
    }
    assert all(found.classes == ("bus", "dog", "yes") for found in sets.values())
    assert {split: [e.label for e in found.examples] for split, found in sets.items()} == {
        "train": [2, 1], "val": [0], "trainval": [2, 1, 0], "testdev": [2, None], "test": [None],
    }  # fmt: skip
    assert sets["testdev"][1]["references"] == ("zebra",)
    assert sets["train"].examples[1].groups == ("verify", "rel")
    assert sets["train"][1]["id"] == "072"


def test_a_bad_record_is_named(folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"question 072 of .*train_balanced_questions.json has the answer 'dog', which is not among the 2",
    ):
        gqa(folder, "train", answers=("yes", "bus"))
    write(folder / "questions1.2/val_balanced_questions.json", {"081": question("bus", image="n18")})
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images are not there: .*n18.jpg \(question 081 of"):
        data.load_image_text("gqa", "val", path=folder)
    write(folder / "questions1.2/val_balanced_questions.json", {"081": {"question": "Is it?", "imageId": "n17"}})
    with pytest.raises(ValueError, match=r"question 081 of .* has no field 'answer'; it has: question, imageId"):
        data.load_image_text("gqa", "val", path=folder)
    (folder / "questions1.2/val_balanced_questions.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds no val_balanced_questions.json and no questions1.2/val_balanced"
    ):
        data.load_image_text("gqa", "test", path=folder)
