"""No setting without an effect: with each one changed a run ends elsewhere, or it is said here why it may end where it did.

A setting that a run file takes and nothing reads is the silent kind of mistake: a prior that is drawn and not learnt, images that a
method should have seen. The tables must name every field; a new one that is in none fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from gossamer.condensation import run as condensing
from gossamer.runs.run import Condense, Drawing, Images, Masks, Search, Training
from gossamer.training.train import train

from .. import squares
from ..searching import test_searching as searching
from ..test_drawing import captioned, system  # noqa: F401 fixtures
from ..test_drawing import run as drawing
from ..test_segmenting import pictures
from ..test_segmenting import run as masked

SAME = "the numbers are the same"
IMAGES: dict[str, Any] = {"mean": (0.3, 0.4, 0.5), "std": (0.9, 0.6, 0.7), "augment": ["horizontal-flip"]}
SQUARE = {"size": "tests/data/test_preprocess.py", "resize": "tests/data/test_preprocess.py"}
TRAINING: dict[str, Any] = {
    "epochs": 2, "batch": 5, "lr": 7e-3, "head_lr": 7e-3, "weight_decay": 0.3, "head_weight_decay": 0.3, "optimizer": "sgd",
    "schedule": "linear", "clip": 1e-3, "warm_start": False, "keep": "best", "bf16": True,
}  # fmt: skip
QUIET = {
    "tf32": "nothing changes without an accelerator",
    "fused": SAME,
    "torch_compile": SAME,
    "attention": SAME,
    "gradient_checkpointing": SAME,
    "workers": SAME,
    "report_to": "who is told",
    **dict.fromkeys(
        ("teacher", "teacher_weight", "teacher_temperature", "teacher_features"), "tests/training/test_teaching.py"
    ),
}
MASKS: dict[str, Any] = {
    "decoder": "linear", "taps": [0, 1], "auxiliary": False, "channels": 64, "norm": "group", "dropout": 0.5, "average": "all",
    "zero": "ignore", "scale": (1.0, 1.1), "filled": 0.05, "stride": 16,
}  # fmt: skip
DRAWING: dict[str, Any] = {
    "prompt": "a photo of sks red square", "prior": "a red square", "prior_images": 3, "prior_weight": 0.25, "min_snr": 1.0,
    "offset": 0.5, "empty": 0.9, "repeats": 9, "shown": ["a blue square"], "steps": 3, "guidance": 1.0,
}  # fmt: skip

SEARCH: dict[str, Any] = {
    "epochs": 2, "hold_out": 0.4, "rules": {**searching.RULES, "eta": 1.0}, "reward_data": "train-batch", "reward_batch": 7,
}  # fmt: skip
UNSEARCHED = {
    **dict.fromkeys(("by", "candidates"), "tests/racing/test_race.py"),
    **dict.fromkeys(("budget", "cost", "saving", "dropout"), "tests/searching/test_searching.py"),
    **dict.fromkeys(("checkpoint", "engine", "workers"), SAME),
}
CONDENSE: dict[str, Any] = {
    "keep": 0.5, "score": "norm", "ranking": "local", "min_per_block": 2, "rounds": 3, "per_sample": True,
}  # fmt: skip
ALIKE: dict[str, tuple[str, ...]] = {
    "schedule": ("one-cycle", "cosine", "linear", "constant", "poly"),
    "score": ("taylor", "norm", "grad", "gate", "inner", "magnitude", "random"),
}
"""Settings of many names, each of which ends elsewhere."""


def ended(metrics: dict[str, Any], folder: Path) -> Any:
    """What a run left: its weights, its scores, and what it drew."""
    (file,) = (folder / "adapter").glob("*.safetensors")
    tensors = load_file(file)
    weights = {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
    scores = {name: metrics.get(name) for name in ("train_loss", "val", "test")}
    drawn = {file.name: file.read_bytes() for file in sorted((folder / "samples").glob("*.png"))}
    return weights, json.dumps(scores), drawn


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Images, IMAGES | SQUARE),
        (Training, TRAINING | QUIET),
        (Masks, MASKS),
        (Drawing, DRAWING),
        (Search, SEARCH | UNSEARCHED),
        (Condense, CONDENSE | {"run": "which run"}),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_every_setting_is_named(kind: type, told: dict[str, Any]) -> None:
    assert {field.name for field in fields(kind)} == told.keys()


@cache
def of_images(folder: Path, group: str, name: str | None) -> Any:
    """What a run of labelled images ends with, one of its settings changed."""
    changed: dict[str, Any] = {} if name is None else {name: {"images": IMAGES, "training": TRAINING}[group][name]}
    training = {"epochs": 3, "batch": 8, "lr": 1e-2, **(changed if group == "training" else {})}
    output = folder / f"{group}-{name}"
    chosen = squares.run(output, {"method": "vpt", "prompts": 2}, limit=30, validation=0.3, **training)
    if group == "images":
        chosen = replace(chosen, images=replace(chosen.images, **changed))
    return ended(train(chosen), output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


@pytest.mark.parametrize("name", IMAGES)
def test_of_images(folder: Path, name: str) -> None:
    assert of_images(folder, "images", name) != of_images(folder, "training", None)


@pytest.mark.parametrize("name", TRAINING)
def test_of_training(folder: Path, name: str) -> None:
    assert of_images(folder, "training", name) != of_images(folder, "training", None)


Ending = Callable[[dict[str, Any]], Any]


@cache
def of_search(training: str, name: str | None) -> Any:
    """The preferences that a search ends with, one of its settings or its schedule changed."""
    settings = replace(searching.SETTINGS, **({"epochs": 3} | ({} if name is None else {name: SEARCH[name]})))
    rates = Training(batch=16, lr=3e-3, head_lr=1e-3, schedule=training)  # type: ignore[arg-type]
    return searching.searched(settings=settings, training=rates, data=searching.Items(80)).preferences


@pytest.mark.parametrize("name", SEARCH)
def test_of_search(name: str) -> None:
    assert of_search("one-cycle", name) != of_search("one-cycle", None)


def test_every_schedule_of_a_search_is_another() -> None:
    assert len({of_search(name, None) for name in ALIKE["schedule"]}) == len(ALIKE["schedule"])


def test_every_schedule_of_a_run_is_another(tmp_path: Path) -> None:
    ends = []
    for name in ALIKE["schedule"]:
        few = {"limit": 20, "epochs": 2, "batch": 4, "lr": 1e-2, "schedule": name}
        chosen = squares.run(tmp_path / name, {"method": "vpt", "prompts": 2}, **few)
        ends.append(train(chosen)["train_loss"])
    assert len(set(ends)) == len(ends)


@pytest.fixture(scope="module")
def condensed(tmp_path_factory: pytest.TempPathFactory) -> Ending:
    """The prompts that a condensation keeps, and what they end with, some of its settings changed."""
    root = tmp_path_factory.mktemp("condensed")

    def end(changed: dict[str, Any]) -> Any:
        output = root / ("-".join(map(str, changed.values())) or "usual")
        chosen = condensing.planned(squares.trained(), {"keep": 0.3, **changed}, output, ["training.epochs=1"])
        metrics = condensing.train(chosen)
        return (
            json.loads((output / "condensed.json").read_text())["scores"],
            metrics["condensed"],
            metrics["train_loss"],
        )

    return cache_of(end)


@pytest.mark.parametrize("name", CONDENSE)
def test_of_condensing(condensed: Ending, name: str) -> None:
    assert condensed({name: CONDENSE[name]}) != condensed({})


@pytest.mark.filterwarnings("ignore:the inner product of a deep prompt:UserWarning")
def test_every_score_of_a_prompt_is_another(condensed: Ending) -> None:
    assert len({json.dumps(condensed({"score": name})) for name in ALIKE["score"]}) == len(ALIKE["score"])


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Ending:
    """What a run of masks ends with, some of its settings changed."""
    root = tmp_path_factory.mktemp("masks")
    files = pictures(root / "pictures", count=9)

    def end(changed: dict[str, Any]) -> Any:
        output = root / ("-".join(changed) or "usual")
        images = Images(size=16, mean=(0.5,) * 3, std=(0.5,) * 3, augment=["random-crop"])
        settings = {"decoder": "setr-naive", "channels": 32, "stride": 7, **changed}
        chosen = masked(files, output, masks=Masks(**settings), images=images, training=Training(epochs=1, batch=4))
        return ended(train(chosen), output)

    return cache_of(end)


def cache_of(end: Ending) -> Ending:
    """The same, each run made once."""
    known: dict[str, Any] = {}

    def found(changed: dict[str, Any]) -> Any:
        key = json.dumps(changed)
        if key not in known:
            known[key] = end(changed)
        return known[key]

    return found


@pytest.mark.parametrize("name", MASKS)
def test_of_masks(segmented: Ending, name: str) -> None:
    assert segmented({name: MASKS[name]}) != segmented({})


@pytest.fixture(scope="module")
def taught(system: Path, captioned: Path, tmp_path_factory: pytest.TempPathFactory) -> Ending:  # noqa: F811
    """What a run of a subject with a prior ends with, some of its settings changed."""
    root = tmp_path_factory.mktemp("drawing")

    def end(changed: dict[str, Any]) -> Any:
        output = root / ("-".join(changed) or "usual")
        settings = {"prompt": "a photo of sks square", "prior": "a square", "prior_images": 2, "repeats": 2, "steps": 2}
        told = {"drawing": settings | changed, "data": {"validation": 0.0}, "training": {"epochs": 1}}
        return ended(train(drawing(system, captioned, output, **told)), output)

    return cache_of(end)


@pytest.mark.parametrize("name", DRAWING)
def test_of_drawing(taught: Ending, name: str) -> None:
    assert taught({name: DRAWING[name]}) != taught({})
