"""How good an adapter is, by the scores of its task."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.arguments import positive
from gossamer.data import ImageDataset, ImageTextDataset
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


def load_adapter(folder: str | Path) -> Adapted:
    """The adapter of a run's folder, or of a folder that `save_pretrained` wrote, on the GPU if there is one."""
    from accelerate import PartialState

    from gossamer.adapting import load

    inner = Path(folder) / "adapter"
    if (Path(folder) / "run.yaml").is_file() and not inner.is_dir():
        raise FileNotFoundError(f"the run in {folder} has not finished: continue it with gossamer train ... --resume")
    return load(inner if inner.is_dir() else folder).to(PartialState().device)


def command(arguments: Sequence[str]) -> None:
    """`gossamer evaluate`: prints the scores of a run on one split."""
    from gossamer import tasks

    parser = argparse.ArgumentParser(
        prog="gossamer evaluate", description="Score a trained adapter on labelled images or on texts about images."
    )
    parser.add_argument("run", help="folder of a run, or of an adapter (then with --data)")
    parser.add_argument("--data", help="other data than those of the run: an offline set, folder, file or hub name")
    parser.add_argument("--path", help="folder of the files of --data, where it is a published benchmark")
    parser.add_argument("--split", help="train, val or test (default: test if there is one, else val)")
    parser.add_argument(
        "--batch", type=positive, default=BATCH, help="images or texts at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--results",
        metavar="FILE",
        help="write the answers as the VQA server takes them; then no answers need be published",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    split, items = items_of(asked.run, asked.data, asked.split, asked.path)
    adapted = load_adapter(asked.run)
    if asked.results is not None:
        scores = _write_results(adapted, items, asked.results, asked.batch)
        if scores is None:
            print(f"{items.name}: {len(items):,} answers are in {asked.results}; the right ones are not published")
            return
    else:
        scores = evaluate(adapted, items, batch=asked.batch)
    if asked.json:
        print(json.dumps({"run": asked.run, "data": items.name, "split": split, **scores.to_dict()}, indent=2))
    else:
        print(f"{items.name}\n{tasks.of(adapted).table(scores.to_dict())}")


def _write_results(adapted: Adapted, items: Any, file: str, batch: int) -> Any:
    """Writes an answer for each text; the scores, or None where right answers are not published."""
    from gossamer import tasks
    from gossamer.data.vqav2 import save_results
    from gossamer.tasks.texts import score_answers

    task: Any = tasks.of(adapted)
    if task.unit != "texts":
        raise UserError(f"--results writes answers to texts about images, and this adapter was trained for {task.name}")
    prepared = task.prepare(items)
    answers, loss = task.answers(adapted, prepared, batch=batch)
    save_results(file, items, answers)
    published = all(example.references for example in items.examples)
    return score_answers(answers, prepared.texts, loss) if published else None


def items_of(run: str, data: str | None, split: str | None, path: str | None = None) -> tuple[str, Any]:
    """A split and its images or texts: of a run's own data, or of other data; None for the split: test, else what there is."""
    from gossamer import data as sources
    from gossamer.runs import run_file
    from gossamer.runs.sets import load_sets

    if data in sources.IMAGE_TEXT_SETS:
        split = split or sources.IMAGE_TEXT_SETS[data].test or "val"
        return split, sources.load_image_text(data, split, path=path)
    if data is not None and sources.has_masks(data):
        split = split or [*sources.mask_set_splits(data)][-1]
        return split, sources.load_masks(data, split, path=path)
    if data is not None:
        split = split or ("test" if "test" in sources.splits(data) else "train")
        return split, sources.load(data, split, path=path)
    if not (Path(run) / run_file.RUN_FILE).is_file():
        raise UserError(
            f"{run} is no folder of a run ({run_file.RUN_FILE}), so say on which images: --data SET --split test"
        )
    sets = load_sets(run_file.read(run))
    split = split or ("test" if "test" in sets else "val" if "val" in sets else "train")
    if split not in sets:
        raise UserError(f"the run in {run} has no split {split!r}; it has: {', '.join(sets)}")
    return split, sets[split]
