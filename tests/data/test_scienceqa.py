from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gossamer import data
from gossamer.metrics import by_group, exact_match

from .published import image, write


def problem(**change: Any) -> dict[str, Any]:
    return {
        "question": "Which is a solid?", "choices": ["rock", "milk", "air"], "answer": 1, "hint": "", "image": None,
        "task": "closed choice", "grade": "grade4", "subject": "natural science", "topic": "physics", "category": "Materials",
        "skill": "Sort", "lecture": "Long.", "solution": "Short.", "split": "train", **change,
    }  # fmt: skip


PROBLEMS = {
    "1": problem(),
    "4": problem(hint="Look.", image="image.png", subject="social science", grade="grade11", answer=0),
    "9": problem(split="test", subject="language science", hint="Read."),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "problems.json", PROBLEMS)
    write(tmp_path / "pid_splits.json", {"train": ["1", "4"], "test": ["9"], "trainval": ["1", "4"]})
    image(tmp_path / "images/train/4/image.png")
    return tmp_path


def test_questions_are_read_with_and_without_image(folder: Path) -> None:
    train = data.load_image_text("scienceqa", "train", path=folder)
    assert [len(example.images) for example in train.examples] == [0, 1]
    assert (
        train[0]["text"] == "Question: Which is a solid?\nContext: N/A\nOptions: (A) rock (B) milk (C) air\nResponse:"
    )
    assert "\nContext: Look.\n" in train[1]["text"]
    assert [train.classes[example.label or 0] for example in train.examples] == ["B", "A"]
    assert data.load_image_text("scienceqa", "test", path=folder).examples[0].references == ("B",)


def test_the_eight_scores(folder: Path) -> None:
    examples = data.load_image_text("scienceqa", "train", path=folder).examples
    assert [example.groups for example in examples] == [("NAT", "NO", "G1-6"), ("SOC", "TXT", "IMG", "G7-12")]
    scores = [exact_match("B", example.references) for example in examples]
    assert by_group(scores, [example.groups for example in examples]) == {
        "all": 0.5, "G1-6": 1, "G7-12": 0, "IMG": 0, "NAT": 1, "NO": 1, "SOC": 0, "TXT": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"answer": 3}, ValueError, "problem 1 of .*problems.json has answer 3 of 3 choices"),
        ({"subject": "art"}, ValueError, "problem 1 of .* has subject 'art'; known: natural science, social science"),
        ({"choices": "rock"}, ValueError, "problem 1 of .* has 'rock' in field 'choices', which should be list"),
        ({"image": "image.png"}, FileNotFoundError, r"1 of 2 images are not there: .*train/1/image.png \(problem 1 of"),
    ],
)
def test_a_bad_problem_is_named(folder: Path, change: dict[str, Any], error: type, message: str) -> None:
    write(folder / "problems.json", {**PROBLEMS, "1": problem(**change)})
    with pytest.raises(error, match=message):
        data.load_image_text("scienceqa", "train", path=folder)


def test_a_split_that_does_not_fit_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"pid_splits.json has no field 'minival'; it has: train, test, trainval"):
        data.load_image_text("scienceqa", "minival", path=folder)
    write(folder / "pid_splits.json", {"train": ["1", "5"]})
    with pytest.raises(ValueError, match=r"pid_splits.json lists problem 5 in 'train', which .*problems.json has not"):
        data.load_image_text("scienceqa", "train", path=folder)
