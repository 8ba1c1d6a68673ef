"""GQA (Hudson and Manning, arXiv 1902.09506): compositional questions about scenes, balanced version, from the official JSON files.

train_balanced_questions.json, val_..., testdev_..., test_... (or below questions1.2 or questions)
images/2354786.jpg ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gossamer.data.files import field, find, inside, mapping, read_json
from gossamer.data.image_text import Example, ImageTextDataset
from gossamer.errors import UserError

PARTS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "testdev": ("testdev",), "test": ("test",)}
"""Every split and the official files it is made of. The answers of test are not published."""


def gqa(folder: Path, split: str, answers: Sequence[str] | None = None) -> ImageTextDataset:
    """Questions of one split. Classes are `answers`, or else every answer of train and val, sorted.

    An answer of train or val that is not among the classes is a ValueError; one of testdev has no score, and no classifier can
    get it right. groups: the question's structure, such as query or verify, and its kind of meaning, such as attr or rel.
    """
    classes = tuple(answers) if answers is not None else _vocabulary(folder)
    place = {answer: label for label, answer in enumerate(classes)}
    examples = []
    for part in PARTS[split]:
        for id, record, source in _records(folder, part):
            answer = None if part == "test" else field(record, "answer", str, source)
            if part in PARTS["trainval"] and answer not in place:
                raise UserError(f"{source} has the answer {answer!r}, which is not among the {len(classes)} classes")
            types = mapping(record.get("types", {}), source)
            examples.append(
                Example(
                    id=id,
                    images=(inside(folder / "images", f"{field(record, 'imageId', str, source)}.jpg", source),),
                    text=field(record, "question", str, source),
                    references=() if answer is None else (answer,),
                    scores=((place[answer], 1.0),) if answer in place else (),
                    groups=tuple(str(types[kind]) for kind in ("structural", "semantic") if kind in types),
                    source=source,
                )
            )
    return ImageTextDataset(name=f"gqa ({split})", classes=classes, examples=tuple(examples))


def _vocabulary(folder: Path) -> tuple[str, ...]:
    found = {
        field(record, "answer", str, source)
        for part in PARTS["trainval"]
        for _, record, source in _records(folder, part)
    }
    return tuple(sorted(found))


def _records(folder: Path, part: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(id, question, place) of every question of one official file."""
    name = f"{part}_balanced_questions.json"
    path = find(folder, name, f"questions1.2/{name}", f"questions/{name}")
    for id, record in mapping(read_json(path), str(path)).items():
        source = f"question {id} of {path}"
        yield id, mapping(record, source), source
