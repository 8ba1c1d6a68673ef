"""Teachers: what a student learns from a finished run, and how often that is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import gossamer as gm
from gossamer import tasks
from gossamer.batches import on
from gossamer.errors import UserError
from gossamer.runs.run import Training
from gossamer.runs.sets import load_sets
from gossamer.training import teaching
from gossamer.training.teaching import ANSWER, divergence, taught
from gossamer.training.train import train

from .. import squares

pytestmark = pytest.mark.usefixtures("undrawn")

LORA = {"method": "peft", "peft_type": "LORA", "r": 2}


def test_the_divergence_is_that_of_softened_probabilities() -> None:
    torch.default_generator.manual_seed(0)
    teacher, student = 3 * torch.randn(5, 4), 3 * torch.randn(5, 4)
    p, q = (teacher / 2.5).softmax(1), (student / 2.5).softmax(1)
    expected = 2.5**2 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(divergence(teacher, student, 2.5, scores=False), expected, rtol=1e-5)
    assert float(divergence(teacher, teacher + 7, 2.0, scores=False)) == pytest.approx(0, abs=1e-5)


def test_scores_are_probabilities_of_their_own() -> None:
    torch.default_generator.manual_seed(1)
    teacher, student = torch.randn(3, 4), torch.randn(3, 4)
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert torch.allclose(divergence(teacher, student, 2.0, scores=True), 4 * each.sum(1).mean(), rtol=1e-4)


def lesson(folder: Path, **training: Any) -> tuple[Any, Any, Any, gm.Adapted]:
    """Items, collation and loss of a student of the shared run, and that run's adapter."""
    run = squares.run(folder, LORA, limit=40, teacher=str(squares.trained()), **training)
    sets = load_sets(run)
    task = tasks.kind(run).begin(run, sets["train"])
    items = task.prepare(sets["train"])
    return *taught(run, task, items, task.varied(items, run), torch.device("cpu")), gm.load(
        squares.trained() / "adapter"
    )


def moved() -> gm.Adapted:
    """The adapter of the shared run with other weights."""
    adapted = gm.load(squares.trained() / "adapter").eval()
    torch.default_generator.manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return adapted


def test_the_loss_by_hand(tmp_path: Path) -> None:
    """(1 - a) CE + a T² KL + c distance of normed read-outs, from two models' answers."""
    data, collate, loss, teacher = lesson(tmp_path, teacher_weight=0.3, teacher_temperature=1.5, teacher_features=0.7)
    batch = on(torch.device("cpu"), collate([data[i] for i in range(6)]))
    student = moved()
    pixels, labels = batch["pixel_values"], batch["labels"]
    with torch.no_grad():
        found = loss(student, batch)
        s, t = student(pixel_values=pixels).logits, teacher.eval()(pixel_values=pixels).logits
        zs, zt = (F.normalize(m.features(pixel_values=pixels), dim=1) for m in (student, teacher))
        p, q = (t / 1.5).softmax(1), (s / 1.5).softmax(1)
        expected = 0.7 * F.cross_entropy(s, labels) + 0.3 * 1.5**2 * (p * (p / q).log()).sum(1).mean()
        expected = expected + 0.7 * (zs - zt).square().sum(1).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_without_random_changes_the_teacher_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    answer = teaching.Teacher.answer

    def counted(self: teaching.Teacher, **given: Any) -> torch.Tensor:
        asked.append(len(given["pixel_values"]))
        return answer(self, **given)

    monkeypatch.setattr(teaching.Teacher, "answer", counted)
    data, collate, loss, _ = lesson(tmp_path / "once")
    assert sum(asked) == len(data)
    batch = on(torch.device("cpu"), collate([data[i] for i in range(3)]))
    student = moved()
    loss(student, batch).backward()
    assert sum(asked) == len(data)
    plain = {k: v for k, v in batch.items() if k != ANSWER}
    with torch.no_grad():
        expected = F.cross_entropy(student(**plain).logits, plain["labels"])
        assert float(loss(student, plain)) == pytest.approx(float(expected))


def test_a_run_with_a_teacher(tmp_path: Path) -> None:
    """Once with answers computed beforehand, once with images that change at random and are answered step by step."""
    teacher = str(squares.trained())
    once = train(squares.run(tmp_path / "once", LORA, limit=60, epochs=1, teacher=teacher))
    alone = train(squares.run(tmp_path / "alone", LORA, limit=60, epochs=1))
    assert once["train_loss"] != alone["train_loss"]
    unheard = train(squares.run(tmp_path / "unheard", LORA, limit=60, epochs=1, teacher=teacher, teacher_weight=0.0))
    assert unheard["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
    changing = squares.run(tmp_path / "changing", LORA, limit=60, epochs=1, teacher=teacher)
    changing = replace(changing, images=replace(changing.images, augment=["horizontal-flip"]))
    assert train(changing)["train_loss"] > 0


def test_a_teacher_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no adapter at"):
        train(squares.run(tmp_path / "a", LORA, limit=30, teacher=str(tmp_path / "nowhere")))
    run = squares.run(tmp_path / "b", LORA, limit=30, teacher=str(squares.trained()))
    run = replace(run, images=replace(run.images, std=(0.4, 0.5, 0.5)))
    with pytest.raises(UserError, match="cannot teach this one: its preprocessing is"):
        train(run)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"teacher_weight": 1.5}, r"teacher_weight must be in \[0, 1\]"),
        ({"teacher_temperature": 0.0}, "teacher_temperature must be above 0"),
        ({"teacher_features": -1.0}, "teacher_features must not be negative"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Training(**settings)
