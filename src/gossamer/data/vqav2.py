"""VQAv2 (Goyal et al., arXiv 1612.00837): questions about COCO images, ten people's answers each, from the official JSON files.

v2_OpenEnded_mscoco_{train2014,val2014,test-dev2015,test2015}_questions.json
v2_mscoco_{train2014,val2014}_annotations.json
{train2014,val2014,test2015}/COCO_train2014_000000000009.jpg ...
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gossamer.data.files import field, find, mapping, read_json
from gossamer.data.image_text import Example, ImageTextDataset
from gossamer.errors import UserError
from gossamer.metrics import normalize_answer

PARTS = {
    "train": ("train2014",),
    "val": ("val2014",),
    "trainval": ("train2014", "val2014"),
    "test-dev": ("test-dev2015",),
    "test": ("test2015",),
}
"""Every split and the official parts it is made of. Those of test are published without answers."""
LEAST = 9  # an answer is a class if it is the most common one of this many questions of train and val: 3,129 are


def vqav2(folder: Path, split: str, answers: Sequence[str] | None = None) -> ImageTextDataset:
    """Questions of one split. Classes are `answers`, or else those of `answer_vocabulary`; scores are soft (`soft_scores`).

    groups: the answer's kind, yes/no, number or other.
    """
    classes = tuple(answers) if answers is not None else answer_vocabulary(folder)
    place = {answer: label for label, answer in enumerate(classes)}
    examples = [example for part in PARTS[split] for example in _examples(folder, part, place)]
    return ImageTextDataset(name=f"vqav2 ({split})", classes=classes, examples=tuple(examples))


def answer_vocabulary(folder: Path, least: int = LEAST) -> tuple[str, ...]:
    """The answers that are the most common one of `least` or more questions of train and val, in order of first appearance.

    Answers are normalised (`gossamer.metrics.normalize_answer`) and counted by the field multiple_choice_answer.
    """
    count: Counter[str] = Counter()
    for part in PARTS["trainval"]:
        for annotation, source in _records(folder / f"v2_mscoco_{part}_annotations.json", "annotations"):
            count[normalize_answer(field(annotation, "multiple_choice_answer", str, source))] += 1
    return tuple(answer for answer, times in count.items() if times >= least)


def soft_scores(answers: Iterable[str], place: dict[str, int]) -> tuple[tuple[int, float], ...]:
    """(label, score) of every answer in `place`: 0.3, 0.6, 0.9 or 1 where one, two, three or more than three gave it."""
    count = Counter(normalize_answer(answer) for answer in answers)
    return tuple((place[answer], min(1.0, round(0.3 * n, 1))) for answer, n in count.items() if answer in place)


def save_results(path: str | Path, questions: ImageTextDataset, answers: Sequence[str]) -> None:
    """Writes one answer for each question as the VQA server takes them: [{"question_id": 1, "answer": "yes"}, ...].

    ValueError where the numbers of questions and answers differ.
    """
    if len(answers) != len(questions):
        raise UserError(f"{questions.name} has {len(questions)} questions, but there are {len(answers)} answers")
    if others := [example for example in questions.examples if not example.id.isdecimal()]:
        raise UserError(f"the VQA server knows questions by number, and {others[0].source} has the id {others[0].id!r}")
    results = [
        {"question_id": int(example.id), "answer": answer}
        for example, answer in zip(questions.examples, answers, strict=True)
    ]
    Path(path).write_text(json.dumps(results), encoding="utf-8")


def _examples(folder: Path, part: str, place: dict[str, int]) -> Iterator[Example]:
    """The questions of one official part, with their answers if it has any."""
    annotations = _annotations(folder, part) if part in PARTS["trainval"] else None
    images = part.replace("-dev", "")  # test-dev is a part of test
    for question, source in _records(folder / f"v2_OpenEnded_mscoco_{part}_questions.json", "questions"):
        id, image = (field(question, name, int, source) for name in ("question_id", "image_id"))
        given, groups = (), ()
        if annotations is not None:
            if id not in annotations:
                raise UserError(f"{source} (question_id {id}) has no annotation in v2_mscoco_{part}_annotations.json")
            given, groups = annotations[id]
        yield Example(
            id=str(id),
            images=(folder / images / f"COCO_{images}_{image:012d}.jpg",),
            text=field(question, "question", str, source),
            references=given,
            scores=soft_scores(given, place),
            groups=groups,
            source=source,
        )


def _annotations(folder: Path, part: str) -> dict[int, tuple[tuple[str, ...], tuple[str, ...]]]:
    """question_id -> (answers, groups)."""
    found = {}
    for annotation, source in _records(folder / f"v2_mscoco_{part}_annotations.json", "annotations"):
        given = tuple(
            field(mapping(answer, source), "answer", str, source)
            for answer in field(annotation, "answers", list, source)
        )
        kind = field(annotation, "answer_type", str, source)
        id = field(annotation, "question_id", int, source)
        if id in found:
            raise UserError(
                f"{source} answers question_id {id}, which an annotation before it does; leave one of them out"
            )
        found[id] = (given, (kind,))
    return found


def _records(path: Path, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The records of the list `name` of an official file, each with its place."""
    content = mapping(read_json(find(path.parent, path.name)), str(path))
    for number, record in enumerate(field(content, name, list, str(path))):
        source = f"{name}[{number}] of {path}"
        yield mapping(record, source), source
