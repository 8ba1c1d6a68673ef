"""easy-VQA: questions about drawings of one coloured shape (4,000 + 1,000 images, 38,575 + 9,673 questions)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from gossamer import carriers
from gossamer.data.images import open_image


@dataclass(frozen=True, kw_only=True)
class QuestionDataset(Dataset):
    """Questions about images; item i is {"image": PIL image in RGB, "question": str, "answer": str, "label": int}.

    `answers` are the names of the labels 0, 1, ...; `records` has question, label and image file of every item.
    """

    name: str
    answers: tuple[str, ...]
    records: tuple[tuple[str, int, Path], ...]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        question, label, path = self.records[i]
        return {"image": open_image(path), "question": question, "answer": self.answers[label], "label": label}

    def describe(self, i: int) -> str:
        """Question and file of item i, for messages."""
        question, _, path = self.records[i]
        return f"{question!r} about {path}"


def easy_vqa(split: str = "train") -> QuestionDataset:
    """One split, train or test, as the package easy-vqa carries it: official JSON and PNG, 64 x 64, 13 answers."""
    if split not in ("train", "test"):
        raise ValueError(f"easy-vqa has no split {split!r}; it has: train, test")
    root = carriers.locate("easy-vqa", "easy_vqa/data")
    answers = tuple((root / "answers.txt").read_text(encoding="utf-8").split())
    place = {answer: label for label, answer in enumerate(answers)}
    source = root / split / "questions.json"
    records = []
    for i, (question, answer, image) in enumerate(json.loads(source.read_text(encoding="utf-8"))):
        if answer not in place:
            raise ValueError(f"{source}: record {i} has the answer {answer!r}, which is not in answers.txt")
        records.append((question, place[answer], root / split / "images" / f"{image}.png"))
    return QuestionDataset(name=f"easy-vqa ({split})", answers=answers, records=tuple(records))
