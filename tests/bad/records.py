"""Records of published benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gossamer import data

from ..data.published import image, write
from . import Case

QUESTION = {"question_id": 1, "image_id": 9, "question": "What?"}
ANNOTATION = {
    "question_id": 1,
    "image_id": 9,
    "multiple_choice_answer": "yes",
    "answer_type": "yes/no",
    "answers": [{"answer": "yes"}] * 10,
}


def vqav2(folder: Path, questions: Any, annotations: Any) -> Any:
    for part in ("train2014", "val2014"):
        write(folder / f"v2_OpenEnded_mscoco_{part}_questions.json", questions)
        write(folder / f"v2_mscoco_{part}_annotations.json", annotations)
        image(folder / part / f"COCO_{part}_{9:012d}.jpg")
    return data.load_image_text("vqav2", "train", path=folder)


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


def broken(record: dict[str, Any], wrong: dict[str, list[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Copies of a record, each with a field left out or of another kind."""
    for name, bad in wrong.items():
        yield f"without {name}", without(record, name)
        for value in bad:
            yield f"{name} {value!r:.30}", {**record, name: value}


def questions_and_answers() -> Iterator[Case]:
    texts = {
        "empty": "",
        "no JSON": "{",
        "a list": [],
        "a number": 3,
        "no field": {},
        "null": {"questions": None},
        "words": {"questions": ["a"]},
        "deep": '{"questions": ' + "[" * 9999 + "]" * 9999 + "}",
        "a name twice": '{"questions": [], "questions": []}',
        "no records": {"questions": []},
    }
    for name, content in texts.items():
        yield (
            f"questions, {name}",
            lambda f, c=content: vqav2(f, c, {"annotations": [ANNOTATION]}),
            "questions.json|vqav2",
        )
    for name, record in broken(
        QUESTION, {"question_id": ["1", 1.5, None, True], "image_id": ["x", [], -0.5], "question": [3, None]}
    ):
        yield (
            f"questions, {name}",
            lambda f, r=record: vqav2(f, {"questions": [r]}, {"annotations": [ANNOTATION]}),
            r"questions\[0\] of .*questions.json",
        )
    for name, record in broken(
        ANNOTATION,
        {
            "question_id": ["1", None],
            "multiple_choice_answer": [3, None],
            "answer_type": [3],
            "answers": ["yes", ["yes"], [{}], [{"answer": 3}]],
        },
    ):
        yield (
            f"answers, {name}",
            lambda f, r=record: vqav2(f, {"questions": [QUESTION]}, {"annotations": [r]}),
            r"annotations\[0\] of .*annotations.json",
        )
    both = {"annotations": [ANNOTATION]}
    yield (
        "questions, one twice",
        lambda f: vqav2(f, {"questions": [QUESTION, QUESTION]}, both),
        r"questions\[0\] of .*, questions\[1\]",
    )
    yield (
        "answers, one twice",
        lambda f: vqav2(f, {"questions": [QUESTION]}, {"annotations": [ANNOTATION] * 2}),
        r"annotations\[1\].*question_id 1",
    )
    yield (
        "answers, of none",
        lambda f: vqav2(f, {"questions": [QUESTION]}, {"annotations": []}),
        r"questions\[0\].*question_id 1",
    )
    yield (
        "questions, an image that is not there",
        lambda f: vqav2(f, {"questions": [{**QUESTION, "image_id": 8}]}, both),
        "000008.jpg",
    )
    yield "questions, as they should be", lambda f: vqav2(f, {"questions": [QUESTION]}, both), None


LINE = {"gold_label": "neutral", "Flickr30K_ID": "5", "sentence2": "A dog.", "pairID": "5#1"}
PAIR = {"identifier": "dev-1-0-0", "label": "True", "sentence": "Two dogs."}


def lines(name: str, file: str, pictures: tuple[str, ...]) -> Callable[[Path, Any], Any]:
    """A reader of a file of JSON lines, given as records or bytes, beside some images."""

    def made(folder: Path, content: Any) -> Any:
        text = content if isinstance(content, bytes) else "".join(json.dumps(r) + "\n" for r in content).encode()
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(text)
        for picture in pictures:
            image(folder / picture)
        return data.load_image_text(name, "val", path=folder)

    return made


def statements() -> Iterator[Case]:
    snli = lines("snli-ve", "snli_ve_dev.jsonl", ("flickr30k_images/5.jpg",))
    nlvr2 = lines("nlvr2", "data/dev.json", ("images/dev/dev-1-0-img0.png", "images/dev/dev-1-0-img1.png"))
    for kind, made, record, file in (("snli-ve", snli, LINE, "dev.jsonl"), ("nlvr2", nlvr2, PAIR, "dev.json")):
        for name, content in {"empty": b"", "no JSON": b"{\n", "a list": b"[1]\n", "bytes": b"\xff\n"}.items():
            yield f"{kind}, {name}", lambda f, m=made, t=content: m(f, t), f"{file}|{kind}"
        yield f"{kind}, one twice", lambda f, m=made, r=record: m(f, [r, r]), "line 1 of .*, line 2 of"
        yield f"{kind}, as it should be", lambda f, m=made, r=record: m(f, [r]), None
    wrong = {
        "gold_label": ["-", 3, None],
        "Flickr30K_ID": ["../../etc/passwd", "/etc/passwd", [], True],
        "sentence2": [3, None],
    }
    for name, record in broken(LINE, wrong):
        yield f"snli-ve, {name}", lambda f, r=record: snli(f, [r]), "line 1 of .*dev.jsonl"
    wrong = {"identifier": ["../../x-0", 3, None], "label": ["maybe", 3], "sentence": [3, []]}
    for name, record in broken(PAIR, wrong):
        yield f"nlvr2, {name}", lambda f, r=record: nlvr2(f, [r]), "line 1 of .*dev.json"


CAPTIONED = {"split": "train", "filename": "1.jpg", "imgid": 1, "sentences": [{"raw": "A dog."}]}
PROBLEM = {
    "question": "Q?",
    "choices": ["a", "b"],
    "answer": 0,
    "hint": "",
    "image": None,
    "grade": "grade2",
    "subject": "natural science",
    "split": "train",
}


def captions(folder: Path, records: Any) -> Any:
    write(folder / "dataset_flickr30k.json", records if isinstance(records, str) else {"images": records})
    image(folder / "images" / "1.jpg")
    image(folder.parent / "outside.jpg")
    return data.load_image_text("flickr30k", "train", path=folder)


def problems(folder: Path, asked: Any, splits: Any = None) -> Any:
    write(folder / "problems.json", asked)
    write(folder / "pid_splits.json", {"train": ["1"]} if splits is None else splits)
    (folder / "images").mkdir(exist_ok=True)
    return data.load_image_text("scienceqa", "train", path=folder)


def captions_and_problems() -> Iterator[Case]:
    wrong = {
        "split": ["trian", 3],
        "filename": ["../outside.jpg", "/etc/passwd", 3, "..\\..\\x.jpg"],
        "imgid": ["1"],
        "sentences": [[], "A dog.", ["A dog."], [{"raw": 3}]],
    }
    for name, record in broken(CAPTIONED, wrong):
        yield f"captions, {name}", lambda f, r=record: captions(f / "x", [r]), r"images\[0\] of"
    other = {**CAPTIONED, "split": "test", "imgid": 2}
    yield "captions, an image in two splits", lambda f: captions(f / "x", [CAPTIONED, other]), r"1.jpg \(images 0, 1\)"
    yield (
        "captions, an image twice",
        lambda f: captions(f / "x", [CAPTIONED, {**CAPTIONED, "imgid": 2}]),
        r"1.jpg \(images 0, 1\)",
    )
    yield "captions, no JSON", lambda f: captions(f / "x", "{"), "dataset_flickr30k.json"
    yield "captions, as they should be", lambda f: captions(f / "x", [CAPTIONED]), None
    wrong = {
        "question": [3],
        "choices": ["a", 3],
        "answer": ["0", 2, -1, None],
        "hint": [3],
        "grade": [2],
        "subject": ["art", None],
    }
    for name, record in broken(PROBLEM, wrong):
        yield f"problems, {name}", lambda f, r=record: problems(f, {"1": r}), "problem 1 of .*problems.json"
    yield (
        "problems, an image outside",
        lambda f: problems(f, {"1": {**PROBLEM, "image": "../../x.png"}}),
        "problem 1 of",
    )
    yield (
        "problems, in two splits",
        lambda f: problems(f, {"1": PROBLEM}, {"train": ["1"], "test": ["1"]}),
        "pid_splits.json.*: 1",
    )
    yield "problems, listed twice", lambda f: problems(f, {"1": PROBLEM}, {"train": ["1", "1"]}), r"1 \(problem 1 of"
    yield "problems, listed and not there", lambda f: problems(f, {}, {"train": ["1"]}), "problem 1"
    yield "problems, no split", lambda f: problems(f, {"1": PROBLEM}, {}), "'train'"
    yield "problems, as they should be", lambda f: problems(f, {"1": PROBLEM}), None


def vtab(folder: Path, content: str) -> Any:
    (folder / "kitti").mkdir()
    (folder / "kitti" / "train800.txt").write_bytes(content.encode("utf-8", "surrogateescape"))
    image(folder / "kitti" / "a.png")
    image(folder / "b.png")
    return data.load("vtab/kitti", "train", path=folder)


def fgvc(folder: Path, content: Any) -> Any:
    home = folder / "StanfordDogs"
    write(home / "train.json", {f"{i}.jpg": i for i in range(120)})
    write(home / "val.json", content)
    image(home / "Images" / "1.jpg")
    image(folder / "outside.jpg")
    return data.load("fgvc/dogs", "val", path=folder)


def lists() -> Iterator[Case]:
    for content in (
        "",
        "a.png\n",
        "a.png x\n",
        "a.png -1\n",
        "a.png 4\n",
        "a.png 1.0\n",
        "\n",
        "c.png 1\n",
        "../b.png 1\n",
        "/etc/passwd 1\n",
        "a.png 1\na.png 2\n",
        "\udcff 1\n",
    ):
        yield f"list of images, {content!r}", lambda f, c=content: vtab(f, c), "train800.txt|vtab/kitti"
    yield "list of images, as it should be", lambda f: vtab(f, "a.png 1\n"), None
    for content in (
        "",
        "{",
        [],
        3,
        {},
        {"1.jpg": "a"},
        {"1.jpg": True},
        {"1.jpg": None},
        {"1.jpg": 777},
        {"9.jpg": 1},
        {"../../outside.jpg": 1},
        {"/etc/passwd": 1},
        '{"1.jpg": 1, "1.jpg": 2}',
    ):
        yield f"classes of images, {content!r}", lambda f, c=content: fgvc(f, c), "val.json|fgvc/dogs"
    yield "classes of images, as they should be", lambda f: fgvc(f, {"1.jpg": 1}), None
