"""`gossamer predict`: what a trained adapter says about image files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gossamer.arguments import positive
from gossamer.errors import UserError


def command(arguments: Sequence[str]) -> None:
    """`gossamer predict`: prints labels of image files, answers to a text about them, captions, or texts ranked for them.

    Files that cannot be read are named on stderr and left out; the exit code is then 1.
    """
    parser = argparse.ArgumentParser(
        prog="gossamer predict",
        description="Classify images with a trained adapter, answer a text about them, rank texts or write captions for them, "
        "or draw an image of a text.",
    )
    parser.add_argument("run", help="folder of a run or of an adapter, or a file that gossamer export wrote")
    parser.add_argument(
        "images",
        nargs="+",
        help="image files, and folders of images; then the text to answer, or the texts to rank; or texts to draw images of",
    )
    parser.add_argument(
        "--top", type=positive, default=3, help="labels or texts shown for each image (default: %(default)s)"
    )
    parser.add_argument(
        "--words", nargs="+", metavar="WORDS", help="of an adapter that classifies by words, other classes than its own"
    )
    parser.add_argument(
        "--output",
        metavar="PLACE",
        help="write the masks of images, and overlays of them, into this folder; or the image that is drawn of a text to this file",
    )
    parser.add_argument("--seed", type=int, default=0, help="of an image that is drawn (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, with every label or text")
    parser.add_argument(
        "--picture", metavar="FILE", help="draw where a model with DVP or MemVP looked for its answer, as a PNG"
    )
    asked = parser.parse_args(arguments)

    from gossamer import exported, looking, tasks
    from gossamer.data.files import listed
    from gossamer.data.given import image_files, readable
    from gossamer.runs.trained import load_adapter

    file = exported.names(asked.run)
    adapted: Any = None if file else load_adapter(asked.run)
    task: Any
    task, logits = exported.classifier(asked.run) if file else (tasks.of(adapted), None)
    _check(asked, task)
    named, texts = task.named(asked.images)
    files, faults = readable(image_files(named), task.together)
    if faults and not files:
        raise UserError(f"there is nothing to predict for: {listed(faults)}")
    for fault in faults:
        print(f"gossamer predict: left out: {fault}", file=sys.stderr)
    if asked.output is not None:
        found = task.write_to(adapted, files, texts, Path(asked.output), asked.seed)
    elif asked.picture is not None:
        found = looking.answer(adapted, files, texts[0], asked.picture)
    elif logits is not None:
        found = list(task.told(files, logits))
    else:
        found = task.replies(adapted, files, asked.words or texts)
    print(json.dumps(found, indent=2) if asked.json else table(found, asked.top))
    if faults:
        raise SystemExit(1)


def _check(asked: argparse.Namespace, task: Any) -> None:
    """UserError where an option is for adapters of another task."""
    from gossamer import tasks

    if asked.picture is not None and task.unit != "texts":
        raise UserError(
            f"--picture draws where a model looks for an answer to a text; this is an adapter for {task.name}"
        )
    if asked.words and not isinstance(task, tasks.ClassifyingByWords):
        raise UserError(f"--words are for adapters that classify by words; this is one for {task.name}")


def table(found: Sequence[dict[str, Any]], top: int) -> str:
    """One line a record: its images, and the answer or the `top` likeliest."""
    names = [" ".join(record["images"]) if "images" in record else record["file"] for record in found]
    width = max(map(len, names))
    shown = [
        "  ".join(f"{label} {p:.1%}" for label, p in list(record["probabilities"].items())[:top])
        if "probabilities" in record
        else record["answer"]
        for record in found
    ]
    return "\n".join(f"{name:<{width}}  {said}".strip() for name, said in zip(names, shown, strict=True))
