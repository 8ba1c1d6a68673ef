"""Teachers: a finished run, such as the unskipped one, whose answers a smaller model learns beside the labels.

    L = (1 - a) L_labels + a T² KL(softmax(teacher / T) || softmax(student / T)) + c mean |z_S / |z_S| - z_T / |z_T||²

(Hinton, Vinyals, Dean, arXiv 1503.02531; z is what the head reads.) Of heads with scores for each answer the divergence is that of
every answer's own probability, summed over answers. Where training images are not changed at random, a teacher answers each once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from gossamer.errors import UserError
from gossamer.hosts import heads
from gossamer.runs.prepared import PreparedSet, outputs
from gossamer.runs.run import Run, Training
from gossamer.runs.trained import load_adapter

if TYPE_CHECKING:
    from gossamer.tasks.base import Task

ANSWER = "teacher"  # in an item and a batch: logits, and behind them what the head read where that is compared

Loss = Callable[[Any, dict[str, Tensor]], Tensor]


def divergence(teacher: Tensor, student: Tensor, temperature: float, *, scores: bool) -> Tensor:
    """T² KL(teacher || student) of logits [B, C], averaged over rows; with `scores` of each answer's own probability."""
    teacher, student = teacher.float() / temperature, student.float() / temperature
    if scores:
        certain = teacher.sigmoid()
        own = F.binary_cross_entropy_with_logits(teacher, certain, reduction="none")
        found = F.binary_cross_entropy_with_logits(student, certain, reduction="none") - own
        return temperature**2 * found.sum(1).mean()
    log_student, log_teacher = student.log_softmax(1), teacher.log_softmax(1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def apart(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean squared distance of what two heads read [B, d], each of length 1."""
    return (F.normalize(student.float(), dim=1) - F.normalize(teacher.float(), dim=1)).square().sum(1).mean()


class Teacher:
    """A finished run that teaches.

    Args:
        run: the run of the student, with `training.teacher` and its settings.
        task: of the student.

    Raises:
        FileNotFoundError: the teacher is not there, or has not finished.
        UserError: it is for another task, other classes or other images, or the task has no head to compare.
    """

    def __init__(self, run: Run, task: Task):
        assert run.training.teacher is not None, "the run names a teacher"
        self.adapted, self.chosen = load_adapter(run.training.teacher), run.training
        self.adapted.eval().requires_grad_(False)
        said, own = self.adapted.metadata, {"task": task.name, **task.record()}
        if task.outputs is None:
            raise UserError("training.teacher teaches the logits of a head, and this task has none")
        differing = [name for name in own if said.get(name) != own[name]]
        if differing:
            name = differing[0]
            raise UserError(
                f"the run in {run.training.teacher} cannot teach this one: its {name} is {said.get(name)!r:.200}, and here it is "
                f"{own[name]!r:.200}"
            )

    @torch.no_grad()
    def answer(self, **inputs: Tensor) -> Tensor:
        """Logits [B, C] and, where they are compared, what the head reads, [B, C + d]."""
        if not self.chosen.teacher_features:
            return self.adapted(**inputs).logits.float()
        heard = Heard(self.adapted, reading=True)
        logits = heard(**inputs).logits
        return torch.cat([logits.float(), heard.read().float()], dim=1)

    def answers(self, items: PreparedSet) -> Tensor:
        """Those to every item [n, ...], on the CPU; the teacher is not needed any more."""
        items.settle(self.adapted)
        device = next(self.adapted.parameters()).device
        return outputs(self.answer, items, device=device, workers=self.chosen.readers)


class Heard:
    """A model that is called as it is, and kept are its last answer and, where asked for, what its head read for it."""

    def __init__(self, adapted: Any, *, reading: bool):
        self.adapted, self.reading = adapted, reading
        self.output: Any = None
        self.seen: tuple[Tensor, ...] = ()

    def __call__(self, **inputs: Any) -> Any:
        """The model's answer."""
        handles = [self._linear().register_forward_pre_hook(self._keep)] if self.reading else []
        try:
            self.output = self.adapted(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        return self.output

    def read(self) -> Tensor:
        """What the head read, [B, d]."""
        return self.seen[0]

    def _linear(self) -> nn.Linear:
        inner: Any = getattr(self.adapted, "module", self.adapted)  # of several processes
        return heads.last_linear(inner.head)

    def _keep(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.seen = args


class Lesson:
    """The loss of a student: that of its task, and how far its answers are from the teacher's.

    Args:
        loss: of the task.
        chosen: weight, temperature and share of features.
        teacher: answers batches that bring no answers. None: all do.
    """

    def __init__(self, loss: Loss, chosen: Training, teacher: Teacher | None = None):
        self.loss, self.chosen, self.teacher = loss, chosen, teacher

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a model on a batch; that of the task where there is nobody to learn from."""
        rest = {name: tensor for name, tensor in batch.items() if name != ANSWER}
        answer = batch.get(ANSWER)
        if answer is None and self.teacher is not None:
            answer = self.teacher.answer(**{k: v for k, v in rest.items() if k != "labels"})
        if answer is None:
            return self.loss(model, rest)
        heard = Heard(model, reading=self.chosen.teacher_features > 0)
        of_labels, student = self.loss(heard, rest), heard.output.logits
        weight, count = self.chosen.teacher_weight, student.shape[1]
        scores = rest["labels"].is_floating_point()
        found = divergence(answer[:, :count], student, self.chosen.teacher_temperature, scores=scores)
        total = (1 - weight) * of_labels + weight * found
        if self.chosen.teacher_features:
            total = total + self.chosen.teacher_features * apart(answer[:, count:], heard.read())
        return total


class Answered(Dataset):
    """Items of a prepared set, each with the teacher's answer."""

    def __init__(self, items: PreparedSet, answers: Tensor):
        self.items, self.answers = items, answers

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {**self.items[i], ANSWER: self.answers[i]}

    def collate(self, items: Any) -> dict[str, Tensor]:
        """The set's batch, and the answers [B, ...]; of items without answers the batch alone."""
        batch = self.items.collate([{k: v for k, v in item.items() if k != ANSWER} for item in items])
        if all(ANSWER in item for item in items):
            batch[ANSWER] = torch.stack([item[ANSWER] for item in items])
        return batch


def taught(run: Run, task: Task, items: PreparedSet, varied: Any, device: torch.device) -> tuple[Any, Any, Loss]:
    """What a run is tuned on: items, what collates them, and the loss; with a teacher's answers where the run names one.

    Args:
        run: the settings.
        task: of the run.
        items: the prepared training set.
        varied: the same with its random changes; `items` where there are none.
        device: where the student is.

    Raises:
        UserError, FileNotFoundError: see `Teacher`.
    """
    if run.training.teacher is None:
        return varied, varied.collate, task.loss
    teacher = Teacher(run, task)
    teacher.adapted.to(device)
    if varied is not items:
        return varied, varied.collate, Lesson(task.loss, run.training, teacher)
    answered = Answered(items, teacher.answers(items))
    return answered, answered.collate, Lesson(task.loss, run.training)
