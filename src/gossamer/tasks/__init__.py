"""What a run teaches: how its data are loaded, prepared and put into batches, what the loss is, what counts as right.

    task = tasks.kind(run).begin(run, sets)     # of a new run
    task = tasks.of(adapted)                    # of a trained adapter, from what was saved with it

One file a task; a new one is known by its line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossamer.errors import UserError
from gossamer.tasks.base import Task
from gossamer.tasks.classifying_answers import ClassifyingAnswers
from gossamer.tasks.classifying_by_words import ClassifyingByWords
from gossamer.tasks.classifying_images import ClassifyingImages
from gossamer.tasks.drawing_images import DrawingImages
from gossamer.tasks.ranking_texts import RankingTexts
from gossamer.tasks.reading import require_read
from gossamer.tasks.segmenting_images import SegmentingImages
from gossamer.tasks.writing_answers import WritingAnswers
from gossamer.tasks.writing_captions import WritingCaptions

if TYPE_CHECKING:
    from gossamer.adapting import Adapted
    from gossamer.runs.run import Run

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        ClassifyingImages,
        ClassifyingByWords,
        ClassifyingAnswers,
        WritingAnswers,
        WritingCaptions,
        RankingTexts,
        SegmentingImages,
        DrawingImages,
    )
}
"""Every task by the name that is saved with an adapter."""


def kind(run: Run) -> type[Task]:
    """The task of a run, from its data and its model.

    Raises:
        UserError: the settings belong to another task, or one of them would change nothing.
    """
    found = _kind(run)
    require_read(run, found, TASKS.values())
    return found


def _kind(run: Run) -> type[Task]:
    from gossamer import data

    if run.drawing.prompt is not None or data.has_captions(run.data.name):
        if run.condense is not None:
            raise UserError(f"condense is for runs on labelled images, and {run.data.name} has images to be drawn")
        return DrawingImages
    if run.data.name not in data.IMAGE_TEXT_SETS:
        masks = data.has_masks(run.data.name)
        if masks and run.condense is not None:
            raise UserError(f"condense is for runs on labelled images, and {run.data.name} has images with masks")
        if run.model.vision is not None:
            raise UserError(
                f"model.vision={run.model.vision} is for texts about images ({', '.join(data.IMAGE_TEXT_SETS)}), and "
                f"{run.data.name} has labelled images: name the tower as model.name"
            )
        by_words = run.model.head == "words"
        if run.condense is not None and by_words:
            raise UserError("condense is for runs with a head that is trained, and model.head=words has none")
        if run.data.classes != "all" and not by_words:
            raise UserError(f"data.classes={run.data.classes} is for model.head=words: a head knows no other classes")
        return SegmentingImages if masks else ClassifyingByWords if by_words else ClassifyingImages
    if run.condense is not None:
        raise UserError(f"condense is for runs on labelled images, and {run.data.name} has texts about images")
    if run.images.augment:
        raise UserError(
            "images.augment is for labelled images: what is said of an image need not hold of a changed one"
        )
    if run.data.name in data.CAPTION_SETS:
        return RankingTexts if run.model.vision is None else WritingCaptions
    return WritingAnswers if WritingAnswers.asked_for(run) else ClassifyingAnswers


def of(adapted: Adapted) -> Task:
    """The task that an adapter was trained for; image classification where it does not say.

    Raises:
        ValueError: it was trained for another, or does not record what the task needs.
    """
    name = adapted.metadata.get("task", ClassifyingImages.name)
    if name not in TASKS:
        raise UserError(f"this adapter was trained for the task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name].of(adapted)
