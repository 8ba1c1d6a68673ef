from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer import data
from gossamer.data.vqav2 import answer_vocabulary, save_results, soft_scores, vqav2

from .published import image, write


def annotation(question: int, common: str, answers: list[str], kind: str = "other") -> dict[str, Any]:
    people = [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers, start=1)]
    return {
        "question_type": "what", "multiple_choice_answer": common, "answers": people, "image_id": question // 10,
        "answer_type": kind, "question_id": question,
    }  # fmt: skip


def save(folder: Path, part: str, questions: list[int], annotations: list[dict[str, Any]] | None) -> None:
    asked = [{"image_id": id // 10, "question": f"What is {id}?", "question_id": id} for id in questions]
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": part}
    write(
        folder / f"v2_OpenEnded_mscoco_{part}_questions.json", {**head, "task_type": "Open-Ended", "questions": asked}
    )
    if annotations is not None:
        write(folder / f"v2_mscoco_{part}_annotations.json", {**head, "annotations": annotations})
    images = part.replace("-dev", "")
    for id in questions:
        image(folder / images / f"COCO_{images}_{id // 10:012d}.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven questions of train and two of val; "2" is the common answer of nine, once as "two", and "red" of four."""
    train = [annotation(10 + i, "two" if i == 3 else "2", ["2"] * 10, "number") for i in range(7)]
    train += [annotation(20 + i, "red", ["red"] * 2 + ["Red!"] + ["dark red"] * 7) for i in range(4)]
    save(tmp_path, "train2014", [a["question_id"] for a in train], train)
    val = [annotation(30, "2", ["2"] * 1 + ["3"] * 9, "number"), annotation(31, "2", ["two"] * 10, "number")]
    save(tmp_path, "val2014", [30, 31], val)
    save(tmp_path, "test-dev2015", [40], None)
    save(tmp_path, "test2015", [40, 50], None)
    return tmp_path


def test_the_vocabulary_counts_normalised_common_answers_of_train_and_val(folder: Path) -> None:
    assert answer_vocabulary(folder) == ("2",)
    assert answer_vocabulary(folder, least=4) == ("2", "red")
    assert answer_vocabulary(folder, least=10) == ()


@pytest.mark.parametrize(("people", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_scores_are_soft(people: int, score: float) -> None:
    given = ["a Cat"] * people + ["rare"] * (10 - people)
    assert soft_scores(given, {"dog": 0, "cat": 1}) == ((1, score),)


def test_splits_are_read(folder: Path) -> None:
    train, val, both = (data.load_image_text("vqav2", split, path=folder) for split in ("train", "val", "trainval"))
    assert (len(train), len(val), len(both)) == (11, 2, 13)
    item = train[1]
    assert (item["id"], item["text"], item["label"]) == ("11", "What is 11?", 0)
    assert item["references"] == ("2",) * 10
    assert train.examples[1].groups == ("number",)
    assert torch.allclose(val.targets([0, 1]), torch.tensor([[0.3], [1.0]]))
    red = vqav2(folder, "train", answers=("2", "red", "blue"))
    assert red.examples[7].scores == ((1, 0.9),)
    assert red.examples[7].images == (folder / "train2014" / "COCO_train2014_000000000002.jpg",)
    assert train.examples[7].scores == ()
    assert "label" not in train[7]


def test_the_splits_for_the_server_have_no_answers(folder: Path) -> None:
    dev, test = (data.load_image_text("vqav2", split, path=folder) for split in ("test-dev", "test"))
    assert [e.id for e in test.examples] == ["40", "50"]
    assert dev.examples[0].images == test.examples[0].images == (folder / "test2015/COCO_test2015_000000000004.jpg",)
    assert dev.examples[0].references == ()
    path = folder / "results.json"
    save_results(path, test, ["yes", "2"])
    assert json.loads(path.read_text()) == [{"question_id": 40, "answer": "yes"}, {"question_id": 50, "answer": "2"}]
    with pytest.raises(ValueError, match=r"vqav2 \(test\) has 2 questions, but there are 1 answers"):
        save_results(path, test, ["yes"])


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "questions",
            {"image_id": 77},
            FileNotFoundError,
            r"1 of 2 images are not there: .*077.jpg \(questions\[0\] of",
        ),
        (
            "questions",
            {"question_id": 99},
            ValueError,
            r"questions\[0\] of .* \(question_id 99\) has no annotation in v2",
        ),
        (
            "questions",
            {"question": 3},
            ValueError,
            r"questions\[0\] of .*val2014_questions.json has 3 in field 'question'",
        ),
        (
            "annotations",
            {"answers": "2"},
            ValueError,
            r"annotations\[0\] of .* has '2' in field 'answers', which should",
        ),
    ],
)
def test_a_bad_record_is_named(folder: Path, name: str, change: dict[str, Any], error: type, message: str) -> None:
    kind = "OpenEnded_mscoco" if name == "questions" else "mscoco"
    path = folder / f"v2_{kind}_val2014_{name}.json"
    content = json.loads(path.read_text())
    content[name][0] |= change
    write(path, content)
    with pytest.raises(error, match=message):
        data.load_image_text("vqav2", "val", path=folder)


def test_an_absent_file_is_named(folder: Path) -> None:
    (folder / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no v2_mscoco_val2014_annotations.json"):
        data.load_image_text("vqav2", "val", path=folder)
