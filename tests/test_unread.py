"""No setting passes unread: one that would change nothing is refused, before any data are read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gossamer import tasks
from gossamer.errors import UserError
from gossamer.runs.run import Data, Drawing, Images, Masks, Model, Run, Texts, Training
from gossamer.tasks import reading

from .runs.test_settings_act import DRAWING, MASKS, TRAINING

VQA, LABELLED, PIXELS = {"data": {"name": "gqa"}}, {"data": {"name": "absent"}}, {"data": {"name": "desk/garments"}}
WORDS = {**LABELLED, "model": {"head": "words"}}
SUBJECT = {**LABELLED, "drawing": {"prompt": "a sks dog"}}
OTHERS: dict[str, Any] = {
    "model.name": "other", "model.revision": "v2", "model.head": "plain", "model.vision": "vit-base", "model.vision_revision": "v2",
    "data.name": "other", "data.path": "there", "data.image": "x", "data.label": "y", "data.subset": "z", "data.train": "trainval",
    "data.validation": 0.3, "data.limit": 7, "data.score_limit": 7, "data.test": False, "data.shots": 4, "data.classes": "new",
    "data.names": {"a": "b"}, "data.templates": ["{}"], "images.size": 7, "images.resize": "direct", "images.mean": (0.1,) * 3,
    "images.std": (0.1,) * 3, "images.augment": ["horizontal-flip"], "texts.answers": "classes", "texts.tokens": 7,
    "texts.prompt": "{text}", "texts.answer_tokens": 7, "texts.negatives": 7,
    **{f"masks.{name}": value for name, value in MASKS.items()}, **{f"drawing.{name}": value for name, value in DRAWING.items()},
    **{f"training.{name}": value for name, value in TRAINING.items()}, "training.tf32": True,
    "training.fused": True, "training.torch_compile": "inductor", "training.attention": "plain", "training.workers": 2,
    "training.gradient_checkpointing": True, "training.report_to": ["wandb"], "training.teacher": "runs/whole",
    "training.teacher_weight": 0.25, "training.teacher_temperature": 3.0, "training.teacher_features": 0.5,
    "masks.decoder": "setr-pup",
}  # fmt: skip
DECIDING = ("data.name", "drawing.prompt", "drawing.prior", "model.head", "model.vision")  # which task it is


def run(*told: dict[str, Any]) -> Run:
    found: dict[str, dict[str, Any]] = {"model": {"name": "dinov2-small"}}
    for sections in told:
        for section, values in sections.items():
            found[section] = {**found.get(section, {}), **values}
    kinds: dict[str, Any] = {
        "model": Model,
        "data": Data,
        "images": Images,
        "texts": Texts,
        "masks": Masks,
        "drawing": Drawing,
        "training": Training,
    }
    made = {name: kinds[name](**values) for name, values in found.items()}
    return Run(methods=[{"method": "linear_probe"}], output="unused", **made)


def test_every_setting_is_named_and_read_by_some_task() -> None:
    usual = run(LABELLED)
    fields = {f"{s}.{f.name}" for s in reading.SECTIONS for f in dataclasses.fields(getattr(usual, s))}
    assert fields == OTHERS.keys()
    assert reading.GIVEN.keys() <= fields
    named = {name for task in tasks.TASKS.values() for name in (*reading.EVERY, *task.reads)}
    assert named <= fields | {*reading.SECTIONS}
    assert [name for name in fields if not any(reading.reads(task, name) for task in tasks.TASKS.values())] == []


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_task_does_not_read_is_refused(name: str) -> None:
    section, _, field = name.partition(".")
    other = {section: {field: OTHERS[name]}}
    for base in (LABELLED, WORDS, VQA, PIXELS, SUBJECT):
        kind = tasks.kind(run(base))
        if field in base.get(section, {}) or name in DECIDING:
            continue
        if reading.reads(kind, name) and name not in reading.GIVEN:
            assert tasks.kind(run(base, other)) is kind
        else:
            with pytest.raises(UserError, match=rf"leave out {name}|{field}=?\S* is for"):
                tasks.kind(run(base, other))


@pytest.mark.parametrize(
    ("base", "given"),
    [
        (VQA, {"model": {"vision": "dinov2-small", "vision_revision": "v2"}, "texts": {"answers": "classes"}}),
        (SUBJECT, {"drawing": {"prior": "a dog", "prior_images": 3, "prior_weight": 0.5}}),
        (PIXELS, {"images": {"augment": ["random-crop"]}, "masks": {"scale": (0.8, 1.2), "filled": 0.9}}),
    ],
    ids=["tower", "prior", "crop"],
)
def test_what_is_read_beside_another_setting_is_taken_beside_it(base: dict[str, Any], given: dict[str, Any]) -> None:
    tasks.kind(run(base, given))


def test_the_sentence_names_the_setting_and_who_reads_it() -> None:
    with pytest.raises(UserError) as caught:
        tasks.kind(run(PIXELS, {"data": {"shots": 4}}))
    assert str(caught.value) == (
        "data.shots=4 would change nothing: desk/garments is for semantic-segmentation, and it is read in image-classification, "
        "classification-by-words; leave out data.shots"
    )
