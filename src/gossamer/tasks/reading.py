"""No setting passes unread: one that would change nothing in a run is refused, before any data are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gossamer.errors import UserError
from gossamer.runs.run import Run

if TYPE_CHECKING:
    from gossamer.tasks.base import Task

EVERY = (
    "training", "model.name", "data.name", "data.validation", "data.limit", "data.score_limit", "data.test", "images.size",
)  # fmt: skip
"""Of the sections below, what every task reads, a whole section by its name; `Task.reads` are the others."""
SECTIONS = ("model", "data", "images", "texts", "masks", "drawing", "training")

Condition = tuple[Callable[[Run], bool], str]
GIVEN: dict[str, Condition] = {
    "model.vision_revision": (lambda run: run.model.vision is not None, "model.vision names a tower"),
    **dict.fromkeys(
        ("drawing.prior_images", "drawing.prior_weight"),
        (lambda run: run.drawing.prior is not None, "drawing.prior says what the subject is"),
    ),
    **dict.fromkeys(
        ("masks.scale", "masks.filled"),
        (lambda run: "random-crop" in run.images.augment, "images.augment has random-crop"),
    ),
    **dict.fromkeys(
        ("training.teacher_weight", "training.teacher_temperature", "training.teacher_features"),
        (lambda run: run.training.teacher is not None, "training.teacher is a run"),
    ),
}
"""What is read where something else is given, and what that is in words. Settings of one choice of several, such as those of SETR's
decoders, may stand beside another choice."""


def require_read(run: Run, kind: type[Task], known: Iterable[type[Task]]) -> None:
    """Every setting that is not its default is read by a task of this kind; `known` are those that there are.

    Raises:
        UserError: one is not.
    """
    for section in SECTIONS:
        settings = getattr(run, section)
        for field in dataclasses.fields(settings):
            name, value = f"{section}.{field.name}", getattr(settings, field.name)
            if value == _default(field):
                continue
            asked = f"{name}={value!r} would change nothing"
            if not reads(kind, name):
                others = [task.name for task in known if reads(task, name)]
                raise UserError(
                    f"{asked}: {run.data.name} is for {kind.name}, and it is read in {', '.join(others)}; leave out {name}"
                )
            condition, words = GIVEN.get(name, (None, ""))
            if condition is not None and not condition(run):
                raise UserError(f"{asked}: it is read where {words}; see to that, or leave out {name}")


def reads(kind: type[Task], name: str) -> bool:
    """Whether a task reads a setting, named by its path."""
    return not {name, name.partition(".")[0]}.isdisjoint((*EVERY, *kind.reads))


def _default(field: dataclasses.Field[object]) -> object:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()
