"""ScienceQA (Lu et al., arXiv 2209.09513): multiple-choice questions of school science, half of them with an image.

problems.json, pid_splits.json (or below data/scienceqa, as in a clone of the authors' repository)
images/{train,val,test}/PID/image.png (or train/PID/image.png ...)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gossamer.data.files import field, find, inside, listed, mapping, read_json, twice
from gossamer.data.image_text import Example, ImageTextDataset
from gossamer.errors import UserError

SPLITS = ("train", "val", "trainval", "test", "minival", "minitest")
APART = ("train", "val", "test")  # no problem is in two of these; the others are made of them
LETTERS = tuple("ABCDE")  # no question has more choices
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
EARLY = tuple(f"grade{n}" for n in range(1, 7))


def scienceqa(folder: Path, split: str) -> ImageTextDataset:
    """Questions of one split; classes are the letters of the choices, text is the `prompt`, images are none or one.

    groups: those of the benchmark's eight scores: subject (NAT, SOC, LAN), context (TXT if there is a hint, IMG if there is an
    image, NO if neither) and grade (G1-6, G7-12).
    """
    places = ("problems.json", "data/scienceqa/problems.json")
    path = find(folder, *places)
    problems = mapping(read_json(path), str(path))
    splits_path = find(path.parent, "pid_splits.json")
    splits = mapping(read_json(splits_path), str(splits_path))
    parts = [split, *(part for part in APART if part in splits and part != split)]
    ids = {part: list(map(str, field(splits, part, list, str(splits_path)))) for part in parts}
    if both := twice(id for part in APART for id in set(ids.get(part, ()))):
        raise UserError(f"{splits_path} lists {len(both):,} problems in two of {', '.join(APART)}: {listed(both)}")
    examples = []
    for id in ids[split]:
        if id not in problems:
            raise UserError(f"{splits_path} lists problem {id} in {split!r}, which {path} has not")
        source = f"problem {id} of {path}"
        examples.append(_example(folder, id, mapping(problems[id], source), source))
    return ImageTextDataset(name=f"scienceqa ({split})", classes=LETTERS, examples=tuple(examples))


def prompt(question: str, hint: str, choices: list[str]) -> str:
    """The question as language models are asked it in the answer-only form of LaVIN and MemVP; the target is "The answer is A."."""
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"Question: {question}\nContext: {hint or 'N/A'}\nOptions: {options}\nResponse:"


def _example(folder: Path, id: str, problem: dict[str, Any], source: str) -> Example:
    choices = [str(choice) for choice in field(problem, "choices", list, source)]
    answer = field(problem, "answer", int, source)
    if not 0 <= answer < len(choices) <= len(LETTERS):
        raise UserError(
            f"{source} has answer {answer} of {len(choices)} choices; both count from 0, to at most {len(LETTERS)}"
        )
    question, hint = (field(problem, name, str, source) for name in ("question", "hint"))
    return Example(
        id=id,
        images=_images(folder, id, problem, source),
        text=prompt(question, hint, choices),
        references=(LETTERS[answer],),
        scores=((answer, 1.0),),
        groups=_groups(problem, hint, source),
        source=source,
    )


def _images(folder: Path, id: str, problem: dict[str, Any], source: str) -> tuple[Path, ...]:
    name = field(problem, "image", (str, type(None)), source)
    if not name:
        return ()
    part = field(problem, "split", str, source)
    return (inside(find(folder, "images", ""), f"{part}/{id}/{name}", source),)


def _groups(problem: dict[str, Any], hint: str, source: str) -> tuple[str, ...]:
    subject = field(problem, "subject", str, source)
    if subject not in SUBJECTS:
        raise UserError(f"{source} has subject {subject!r}; known: {', '.join(SUBJECTS)}")
    contexts = [name for name, present in (("TXT", hint), ("IMG", problem["image"])) if present]
    grade = "G1-6" if field(problem, "grade", str, source) in EARLY else "G7-12"
    return (SUBJECTS[subject], *(contexts or ["NO"]), grade)
