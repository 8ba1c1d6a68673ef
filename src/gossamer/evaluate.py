"""How good an adapter is, by the scores of its task."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.data import ImageDataset, ImageTextDataset
from gossamer.documents import expanded
from gossamer.errors import UserError
from gossamer.runs.prepared import BATCH

if TYPE_CHECKING:
    from gossamer.adapting import Adapted


def evaluate(adapted: Adapted, items: ImageDataset | ImageTextDataset, *, batch: int = BATCH) -> Any:
    """The scores of an adapter on labelled images, texts about images, or images with captions: `Scores`, `AnswerScores`,
    `CaptionScores` or `RecallScores` of their files in `gossamer.tasks`.

    Images and texts are prepared as in its training. Classes are matched by name: those of labelled images must be among the
    adapter's; an answer that it does not know counts as one that it gets wrong.

    Raises:
        ValueError: the adapter does not record labels and preprocessing or is for another task, an image is of a class it does
            not know, or cannot be read, or the answers are not published.
    """
    from gossamer import tasks

    task = tasks.of(adapted)
    return task.score(adapted, task.prepare(items), batch=batch)


def items_of(
    run: str, data: str | None, split: str | None, path: str | None = None, classes: Any = None
) -> tuple[str, Any]:
    """A split and its images or texts: of a run's own data, or of other data; None for the split: test, else what there is.

    `classes`: of a run's own data this half of the classes; None: as the run says.
    """
    from gossamer import data as sources
    from gossamer.runs import run_file
    from gossamer.runs.sets import load_sets

    if data is not None and classes is not None:
        raise UserError("--classes is of a run's own data; leave out --data")
    if data in sources.IMAGE_TEXT_SETS:
        split = split or sources.IMAGE_TEXT_SETS[data].test or "val"
        return split, sources.load_image_text(data, split, path=path)
    if data is not None and sources.has_masks(data):
        split = split or [*sources.mask_set_splits(data)][-1]
        return split, sources.load_masks(data, split, path=path)
    if data is not None and sources.has_captions(data):
        split = split or [*sources.caption_splits(expanded(data))][-1]
        return split, sources.load_captions(data, split)
    if data is not None:
        split = split or ("test" if "test" in sources.splits(data) else "train")
        return split, sources.load(data, split, path=path)
    if not (Path(run) / run_file.RUN_FILE).is_file():
        raise UserError(
            f"{run} is no folder of a run ({run_file.RUN_FILE}), so say on which images: --data SET --split test"
        )
    chosen = run_file.read(run)
    if classes is not None:
        chosen = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, classes=classes, shots=None))
    sets = load_sets(chosen)
    split = split or ("test" if "test" in sets else "val" if "val" in sets else "train")
    if split not in sets:
        raise UserError(f"the run in {run} has no split {split!r}; it has: {', '.join(sets)}")
    return split, sets[split]
