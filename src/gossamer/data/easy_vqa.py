"""easy-VQA: questions about drawings of one coloured shape (4,000 + 1,000 images, 38,575 + 9,673 questions)."""

from __future__ import annotations

from gossamer import carriers
from gossamer.data.files import number, read_json
from gossamer.data.image_text import Example, ImageTextDataset
from gossamer.errors import UserError


def easy_vqa(split: str = "train") -> ImageTextDataset:
    """One split, train or test, as the package easy-vqa carries it: official JSON and PNG, 64 x 64, 13 answers."""
    if split not in ("train", "test"):
        raise UserError(f"easy-vqa has no split {split!r}; it has: train, test")
    root = carriers.locate("easy-vqa", "easy_vqa/data")
    answers = tuple((root / "answers.txt").read_text(encoding="utf-8").split())
    path = root / split / "questions.json"
    examples = []
    for place, record in enumerate(read_json(path)):
        source = f"record {place} of {path}"
        if not isinstance(record, list) or [type(part) for part in record] != [str, str, int]:
            raise UserError(f"{source} should be a question, an answer and the number of an image")
        question, answer, image = record
        label = number(answer, answers, f"the answer of {source}")
        examples.append(
            Example(
                id=str(place),
                images=(root / split / "images" / f"{image}.png",),
                text=question,
                references=(answer,),
                scores=((label, 1.0),),
                source=source,
            )
        )
    return ImageTextDataset(name=f"easy-vqa ({split})", classes=answers, examples=tuple(examples))
