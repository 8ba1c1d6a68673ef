"""How good an adapter is: a classifier of images by accuracy, recalls and confusion; other tasks by their own."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from gossamer.data import ImageDataset, ImageTextDataset, Preprocessing
from gossamer.training.prepared import Prepared, PreparedSet

if TYPE_CHECKING:
    from gossamer.adapted import Adapted

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a classifier gets right on n images.

    `accuracy` is the share of all images, `recall` that of each class (None for a class without images), `balanced_accuracy` the
    mean of the recalls, `loss` the mean cross-entropy, `confusion` [true][predicted] the number of images.
    """

    n: int
    accuracy: float
    balanced_accuracy: float
    loss: float
    recall: dict[str, float | None]
    confusion: list[list[int]]

    def headline(self) -> dict[str, float]:
        """Accuracy and balanced accuracy."""
        return {"accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy}

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON."""
        return dataclasses.asdict(self)


def score(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Scores:
    """The scores of logits [n, C] for true labels [n]; C names in `classes`."""
    count = len(classes)
    confusion = torch.bincount(labels * count + logits.argmax(1), minlength=count * count).view(count, count)
    of_class, right = confusion.sum(1), confusion.diagonal()
    recalls = [r / n if n else None for r, n in zip(right.tolist(), of_class.tolist(), strict=True)]
    present = [r for r in recalls if r is not None]
    return Scores(
        n=len(labels),
        accuracy=int(right.sum()) / len(labels),
        balanced_accuracy=sum(present) / len(present),
        loss=float(F.cross_entropy(logits.double(), labels)),
        recall=dict(zip(classes, recalls, strict=True)),
        confusion=confusion.tolist(),
    )


@torch.no_grad()
def outputs(
    of: Callable[..., Tensor], items: PreparedSet, *, device: torch.device, batch: int = BATCH, workers: int = 0
) -> Tensor:
    """What `of(pixel_values=..., ...)` gives for every item, [n, ...] on the CPU in float32."""
    loader: Any = DataLoader(items, batch_size=batch, num_workers=workers, collate_fn=items.collate)  # type: ignore[arg-type]
    inputs = ({name: tensor.to(device) for name, tensor in b.items() if name != "labels"} for b in loader)
    return torch.cat([of(**given).float().cpu() for given in inputs])


def classify(adapted: Adapted, images: Prepared, *, batch: int = BATCH, workers: int = 0) -> Tensor:
    """Logits [n, C] of every image, in evaluation mode."""
    adapted.eval()
    device = next(adapted.parameters()).device
    return outputs(lambda **x: adapted(**x).logits, images, device=device, batch=batch, workers=workers)


def evaluate(adapted: Adapted, items: ImageDataset | ImageTextDataset, *, batch: int = BATCH) -> Any:
    """The scores of an adapter on labelled images (`Scores`), texts about images (`gossamer.tasks.texts.AnswerScores`), or
    images with captions (`gossamer.tasks.ranking_texts.RecallScores`).

    Images and texts are prepared as in its training. Classes are matched by name: those of labelled images must be among the
    adapter's; an answer that it does not know counts as one that it gets wrong.

    Raises:
        ValueError: the adapter does not record labels and preprocessing or is for another task, an image is of a class it does
            not know, or cannot be read, or the answers are not published.
    """
    from gossamer import tasks

    task = tasks.of(adapted)
    return task.score(adapted, task.prepare(items), batch=batch)


def labels_of(adapted: Adapted) -> list[str]:
    """Names of the classes that an adapter was trained on."""
    return recorded(adapted, "labels")


def preprocessing_of(adapted: Adapted) -> Preprocessing:
    """How images were prepared when an adapter was trained."""
    return Preprocessing.from_dict(recorded(adapted, "preprocessing"))


def load_adapter(folder: str | Path) -> Adapted:
    """The adapter of a run's folder, or of a folder that `save_pretrained` wrote, on the GPU if there is one."""
    from accelerate import PartialState

    from gossamer import saving

    inner = Path(folder) / "adapter"
    if (Path(folder) / "run.yaml").is_file() and not inner.is_dir():
        raise FileNotFoundError(f"the run in {folder} has not finished: continue it with gossamer train ... --resume")
    return saving.load(inner if inner.is_dir() else folder).to(PartialState().device)


def table(scores: Scores) -> str:
    """Scores as lines for people."""
    lines = [f"{'images':<20}{scores.n:>9,}"]
    lines += [f"{name:<20}{value:>9.2%}" for name, value in _shares(scores)]
    lines += [f"{'loss':<20}{scores.loss:>9.4f}", "recall"]
    lines += [f"  {name:<18}{'-' if r is None else f'{r:.2%}':>9}" for name, r in scores.recall.items()]
    return "\n".join(lines)


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
    parser.add_argument("--batch", type=int, default=BATCH, help="images or texts at a time (default: %(default)s)")
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
        raise ValueError(
            f"--results writes answers to texts about images, and this adapter was trained for {task.name}"
        )
    prepared = task.prepare(items)
    answers, loss = task.answers(adapted, prepared, batch=batch)
    save_results(file, items, answers)
    published = all(example.references for example in items.examples)
    return score_answers(answers, prepared.texts, loss) if published else None


def items_of(run: str, data: str | None, split: str | None, path: str | None = None) -> tuple[str, Any]:
    """A split and its images or texts: of a run's own data, or of other data; None for the split: test, else what there is."""
    from gossamer import data as sources
    from gossamer.training import run as runs
    from gossamer.training.sets import load_sets

    if data in sources.IMAGE_TEXT_SETS:
        split = split or sources.IMAGE_TEXT_SETS[data].test or "val"
        return split, sources.load_image_text(data, split, path=path)
    if data is not None:
        split = split or ("test" if "test" in sources.splits(data) else "train")
        return split, sources.load(data, split, path=path)
    if not (Path(run) / runs.RUN_FILE).is_file():
        raise ValueError(
            f"{run} is no folder of a run ({runs.RUN_FILE}), so say on which images: --data SET --split test"
        )
    sets = load_sets(runs.read(run))
    split = split or ("test" if "test" in sets else "val" if "val" in sets else "train")
    if split not in sets:
        raise ValueError(f"the run in {run} has no split {split!r}; it has: {', '.join(sets)}")
    return split, sets[split]


def _shares(scores: Scores) -> Iterator[tuple[str, float]]:
    yield "accuracy", scores.accuracy
    yield "balanced accuracy", scores.balanced_accuracy


def recorded(adapted: Adapted, section: str) -> Any:
    """What an adapter's metadata say of one thing; ValueError where they say nothing."""
    if section not in adapted.metadata:
        raise ValueError(
            f"this adapter does not record its {section}; adapters made by gossamer train do, others can set "
            f"adapted.metadata[{section!r}] before saving"
        )
    return adapted.metadata[section]
