"""Labels and probabilities for images, answers to texts about images, captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.errors import UserError
from gossamer.runs.prepared import BATCH

if TYPE_CHECKING:
    from gossamer.adapting import Adapted


def predict(adapted: Adapted, files: Sequence[str | Path], *, batch: int = BATCH) -> Iterator[dict[str, Any]]:
    """For every image file {"file", "label", "probability", "probabilities": {label: p}}, likeliest first.

    Images are prepared as in the adapter's training.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read as an image, or the adapter does not record labels and preprocessing.
    """
    from gossamer import tasks

    task = tasks.of(adapted)
    if not isinstance(task, tasks.ClassifyingImages):
        raise UserError(f"this adapter was trained for {task.name}: it gives no labels to images")
    return task.predict(adapted, files, batch=batch)


def answer(adapted: Adapted, files: Sequence[str | Path], text: str) -> list[dict[str, Any]]:
    """Answers to one text about image files: {"images", "text", "answer"}, and probabilities where the answers are classes.

    A model that reads two images with a text (NLVR2) takes the files as pairs; others answer for each file, and a composed model
    also without any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, the files are not pairs, or the adapter does not answer texts.
    """
    from gossamer import tasks

    task: Any = tasks.of(adapted)
    if task.unit != "texts":
        raise UserError(f"this adapter was trained for {task.name}: it takes no text to answer")
    return task.answer(adapted, files, text)


def rank(adapted: Adapted, files: Sequence[str | Path], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Texts ranked for every image file: {"images", "answer", "probability", "probabilities": {text: p}}, best first.

    The probabilities are those of a choice among these texts, and sum to 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, there is no text or no file, or the adapter does not rank texts.
    """
    from gossamer import tasks

    task = tasks.of(adapted)
    if not isinstance(task, tasks.RankingTexts):
        raise UserError(f"this adapter was trained for {task.name}: it ranks no texts")
    return task.rank(adapted, files, texts)


def caption(adapted: Adapted, files: Sequence[str | Path]) -> list[dict[str, Any]]:
    """A caption written for every image file: {"images", "answer"}.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, there is none, or the adapter does not write captions.
    """
    from gossamer import tasks

    task = tasks.of(adapted)
    if not isinstance(task, tasks.WritingCaptions):
        raise UserError(f"this adapter was trained for {task.name}: it writes no captions")
    return task.caption(adapted, files)
