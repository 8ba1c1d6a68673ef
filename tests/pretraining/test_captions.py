"""Captions: what records tell, that captions say it and nothing else, and that no question is among them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from gossamer import carriers
from gossamer.data import open_image
from gossamer.data.easy_vqa import easy_vqa
from gossamer.pretraining.captions import COLOURS, SHAPES, TEMPLATES, Caption, facts, write

installed = pytest.mark.skipif(not carriers.installed("easy-vqa"), reason="the carrier of easy-vqa is not installed")
RGB = {
    "black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128), "green": (0, 255, 0),
    "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("what color is the shape?", "teal", {"teal": True}),
        ("what is the blue shape?", "circle", {"blue": True, "circle": True}),
        ("what is the color of the triangle?", "red", {"triangle": True, "red": True}),
        ("is there a triangle?", "no", {"triangle": False}),
        ("does the image contain a gray shape?", "yes", {"gray": True}),
        ("does the image not contain a gray shape?", "yes", {"gray": False}),
        ("is there not a black shape in the image?", "no", {"black": True}),
        ("is no rectangle present?", "yes", {"rectangle": False}),
    ],
)
def test_a_record_tells_what_is_so_and_what_is_not(question: str, answer: str, told: dict[str, bool]) -> None:
    found = facts([(question, answer)])
    assert {value: found[value] for value in told} == told
    kinds = {kind for kind in (COLOURS, SHAPES) for value, has in told.items() if value in kind and has}
    others = {value for kind in kinds for value in kind} - set(told)
    assert found == told | dict.fromkeys(others, False)  # one shape in one colour


def test_records_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'is there a circle\?' is answered 'yes', which contradicts another record of the image"
    ):
        facts([("is no circle present?", "yes"), ("is there a circle?", "yes")])


def test_a_caption_knows_of_which_drawings_it_is_true_and_of_which_false() -> None:
    caption = Caption("there is a red shape that is no circle", (("red", True), ("circle", False)))
    assert caption.true_of({"red": True, "circle": False})
    assert caption.false_of({"red": True, "circle": True})
    assert caption.false_of({"red": False})
    for unsure in ({"red": True}, {}):
        assert not caption.true_of(unsure)
        assert not caption.false_of(unsure)


@installed
def test_captions_of_all_drawings_are_true_and_none_is_a_question() -> None:
    records = defaultdict(list)
    for example in easy_vqa("train").examples:
        records[example.images[0]].append((example.text, example.references[0]))
    assert len(records) == 4000
    draw, texts = random.Random(3), Counter()
    for of in records.values():
        known = facts(of)
        caption = write(known, draw)
        assert caption.true_of(known)
        assert all(value in caption.text.split() for value, _ in caption.says)
        texts[caption.text] += 1
    questions = {question.rstrip("?") for of in records.values() for question, _ in of}
    assert not questions & set(texts)
    assert len(texts) > 10 * len(TEMPLATES)
    first = {template.split("{")[0] for template in TEMPLATES}
    assert all(any(text.startswith(beginning) for text in texts) for beginning in first)


@installed
def test_the_colours_that_are_told_are_those_of_the_pixels() -> None:
    files: dict[Path, list[tuple[str, str]]] = defaultdict(list)
    for example in easy_vqa("train").subset(range(400)).examples:
        files[example.images[0]].append((example.text, example.references[0]))
    checked = 0
    for file, of in files.items():
        colours = sorted(open_image(file).getcolors(64 * 64))  # (count, rgb); the last is the nearly white ground
        drawn, known = colours[-2][1], facts(of)
        for colour in COLOURS:
            if known.get(colour):
                nearest = min(RGB, key=lambda name: sum((a - b) ** 2 for a, b in zip(RGB[name], drawn, strict=True)))
                assert nearest == colour, file
                checked += 1
    assert checked > 20
