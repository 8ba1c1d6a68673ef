"""Captions of easy-vqa's drawings, written from what its training records say; no question is ever quoted.

A drawing shows one coloured shape. Its records are read for what is so and what is not; a caption says some of that, and keeps what
it said, so that whether it fits another drawing can be told.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gossamer.errors import UserError

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
KINDS = {"colour": COLOURS, "shape": SHAPES}

TEMPLATES = (
    "a {colour} {shape}",
    "the image contains a {colour} {shape}",
    "there is a {colour} {shape} in the image",
    "the {shape} is {colour}",
    "the color of the {shape} is {colour}",
    "the {colour} shape is a {shape}",
    "a {colour} shape",
    "a {colour} shape is present",
    "the image contains a {colour} shape",
    "the color of the shape is {colour}",
    "a {shape}",
    "a {shape} is present",
    "the image contains a {shape}",
    "the shape in the image is a {shape}",
    "there is no {not_colour} shape in the image",
    "the image does not contain a {not_colour} shape",
    "no {not_shape} is present",
    "the image does not contain a {not_shape}",
    "there is a {colour} shape that is no {not_shape}",
    "there is a {shape} that is not {not_colour}",
)
"""Sentences with holes: a value of the kind, or after "not_" one that the drawing has not."""

Facts = Mapping[str, bool]
"""Colours and shapes of which the records tell -> whether the drawing has them."""


@dataclass(frozen=True)
class Caption:
    """A sentence, and what it says: pairs of a colour or shape and whether the drawing has it."""

    text: str
    says: tuple[tuple[str, bool], ...]

    def true_of(self, facts: Facts) -> bool:
        """Whether all that it says is known to be so."""
        return all(facts.get(value) is has for value, has in self.says)

    def false_of(self, facts: Facts) -> bool:
        """Whether something that it says is known not to be so."""
        return any(facts.get(value, has) is not has for value, has in self.says)


def facts(records: Iterable[tuple[str, str]]) -> dict[str, bool]:
    """What the records (question, answer) of one drawing tell of its colour and shape.

    Raises:
        ValueError: they contradict each other.
    """
    known: dict[str, bool] = {}
    for question, answer in records:
        words = question.rstrip("?").split()
        told = {word: True for word in (*words, answer) if word in COLOURS + SHAPES}
        if answer in ("yes", "no"):
            negated = bool({"not", "no"} & set(words))
            told = dict.fromkeys(told, (answer == "yes") is not negated)
        for value, has in told.items():
            if known.setdefault(value, has) is not has:
                raise UserError(f"{question!r} is answered {answer!r}, which contradicts another record of the image")
    for values in KINDS.values():
        if own := [value for value in values if known.get(value)]:  # one shape a drawing, in one colour
            known |= {value: value == own[0] for value in values}
    return known


def write(known: Facts, draw: random.Random) -> Caption:
    """A true caption of a drawing of which something is known; sentence and values are drawn evenly from those that fit."""
    template = draw.choice([t for t in TEMPLATES if all(_fitting(known, hole) for hole in _holes(t))])
    values = {hole: draw.choice(_fitting(known, hole)) for hole in _holes(template)}
    says = tuple((value, not hole.startswith("not_")) for hole, value in values.items())
    return Caption(template.format(**values), says)


def _holes(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def _fitting(known: Facts, hole: str) -> list[str]:
    wanted = not hole.startswith("not_")
    return [value for value in KINDS[hole.removeprefix("not_")] if known.get(value) is wanted]
