"""`gossamer evaluate`: the scores of a trained adapter."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gossamer.arguments import positive
from gossamer.errors import UserError
from gossamer.runs.run import BATCH

if TYPE_CHECKING:
    from gossamer.adapting import Adapted


def command(arguments: Sequence[str]) -> None:
    """`gossamer evaluate`: prints the scores of a run on one split."""
    parser = argparse.ArgumentParser(
        prog="gossamer evaluate", description="Score a trained adapter on labelled images or on texts about images."
    )
    parser.add_argument("run", help="folder of a run, or of an adapter (then with --data)")
    parser.add_argument("--data", help="other data than those of the run: an offline set, folder, file or hub name")
    parser.add_argument("--path", help="folder of the files of --data, where it is a published benchmark")
    parser.add_argument(
        "--classes",
        choices=("all", "base", "new"),
        help="of a run by words, this half of the classes, whatever it was trained on",
    )
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

    from gossamer import tasks
    from gossamer.evaluate import evaluate, items_of
    from gossamer.runs.trained import load_adapter

    split, items = items_of(asked.run, asked.data, asked.split, asked.path, asked.classes)
    adapted = load_adapter(asked.run)
    if asked.classes is not None:
        _ask(adapted, items, asked.run)
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


def _ask(adapted: Adapted, items: Any, run: str) -> None:
    """Gives an adapter by words those of the classes of some images."""
    from gossamer import tasks
    from gossamer.data.fewshot import in_words
    from gossamer.runs import run_file

    task = tasks.of(adapted)
    if not isinstance(task, tasks.ClassifyingByWords):
        raise UserError(f"--classes is for adapters that classify by words; this is one for {task.name}")
    names = {name: words for name, words in run_file.read(run).data.names.items() if name in items.classes}
    task.with_words(adapted, in_words(items.classes, names), items.classes)


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
