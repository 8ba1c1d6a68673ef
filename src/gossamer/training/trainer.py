"""The Hugging Face Trainer with what adapters need: learning rates by part, schedules, and no silence about a diverged loss."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments, get_scheduler

from gossamer.adapting import Adapted
from gossamer.errors import Diverged, UserError, out_of_memory
from gossamer.methods import METHODS, Method
from gossamer.runs import processes
from gossamer.runs.run import Training
from gossamer.training import sharing
from gossamer.training.attention import attention

LOOK_EVERY = 20  # steps; on an accelerator a look at the loss waits for all that was asked of it


class WatchedTrainer(Trainer):
    """The Hugging Face Trainer with no silence about a loss of NaN, and the seconds of training in its log.

    Args:
        remedy: what to do about a loss that is not finite, as the error says it.
    """

    def __init__(self, *args: Any, remedy: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)
        self.remedy, self.epoch_began = remedy, time.monotonic()
        self.worst: Tensor | None = None  # number and loss of the first step whose loss is not finite; 0: there is none
        self.look_every = 1 if self.args.device.type == "cpu" else LOOK_EVERY
        self.model_accepts_loss_kwargs = False  # an Adapted hands unknown arguments to its backbone

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One step.

        Raises:
            FloatingPointError: the loss is NaN or infinite, or was at one of the steps before that were not looked at.
        """
        loss, step = super().training_step(*args, **kwargs), self.state.global_step + 1
        now = torch.stack([torch.full_like(loss, step, dtype=torch.float64), loss.detach().double()])
        if self.worst is None:
            self.worst = torch.zeros_like(now)
        self.worst = torch.where(torch.isfinite(now[1]) | (self.worst[0] > 0), self.worst, now)
        if step % self.look_every == 0:
            self.look()
        return loss

    def look(self) -> None:
        """FloatingPointError where a loss was not finite since training began; on an accelerator this waits for it."""
        if self.worst is None:
            return
        step, loss = self.worst.tolist()
        if step:
            raise Diverged(
                f"the loss is {loss} at step {step:.0f} of {self.state.max_steps}: training has diverged; {self.remedy}"
            )

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Also where it is Trainer that writes, a full disk is said of the folder: torch and safetensors name no file.

        Weights are written once all losses that made them were seen to be finite.
        """
        self.look()
        folder = Path(str(self.args.output_dir))
        free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
        where = f"{folder}, where {free:,} bytes were free"
        with _said_of(f"the checkpoint of step {self.state.global_step} could not be written to {where}"):
            super()._save_checkpoint(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        with _said_of(f"the checkpoint {resume_from_checkpoint} is damaged; without it an older one is taken"):
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _said_of(f"the checkpoint {checkpoint} is damaged; without it an older one is taken"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the seconds that an epoch of training took to its record, so that they outlive a kill."""
        now = time.monotonic()
        if "loss" in logs:
            self.look()
            logs["seconds"] = now - self.epoch_began
        self.epoch_began = now
        super().log(logs, start_time)


class ClassifierTrainer(WatchedTrainer):
    """A `WatchedTrainer` with learning rates of their own for methods and head, and the scores of a task.

    Args:
        chosen: optimisation.
        loss: of a model on a batch. None: what the model returns.
        validate: scores after an epoch, accuracy and loss among them. None: as the Trainer does.
    """

    def __init__(
        self,
        *args: Any,
        chosen: Training,
        loss: Callable[[nn.Module, dict[str, Tensor]], Tensor] | None = None,
        validate: Callable[[], dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        remedy = f"lower training.lr or training.head_lr{', or switch training.bf16 off' if chosen.bfloat16 else ''}"
        super().__init__(*args, remedy=remedy, **kwargs)
        self.chosen, self.loss, self.validate = chosen, loss, validate
        self.compiled: Any = None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of the run over the groups of `groups`."""
        if self.optimizer is None:
            self.optimizer = optimizer(self.model, self.chosen)  # type: ignore[arg-type]
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of the run."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            self.lr_scheduler = schedule(self.chosen.schedule, optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_train_dataloader(self) -> Any:
        """The Trainer's batches, of which each of several processes reads its rows."""
        if processes.number() == 1:
            return super().get_train_dataloader()
        return sharing.loader(self.train_dataset, self.data_collator, self.args)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One step, by the run's attention."""
        with attention(self.chosen):
            return super().training_step(*args, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of one batch; of several processes each has its part in the mean over all rows."""
        if self.chosen.torch_compile is not None:
            if self.compiled is None:
                self.compiled = torch.compile(model, backend=self.chosen.torch_compile)
            model = self.compiled
        if self.loss is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        loss = self.loss(model, inputs)
        if processes.number() == 1:
            return loss
        items: Any = self.train_dataset
        step, batch = self.state.global_step, self.args.train_batch_size
        return processes.averaged(loss, sharing.weight(inputs["labels"], step, len(items), batch))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The scores of validation under the Trainer's names, told to all who listen."""
        if self.validate is None:
            return super().evaluate(*args, **kwargs)
        metrics = {f"eval_{name}": value for name, value in self.validate().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


@contextmanager
def _said_of(what: str) -> Iterator[None]:
    """Within the block what torch, safetensors and the system say of a file is said of what was tried."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, EOFError, UnpicklingError, LookupError, UserError) as error:
        if out_of_memory(error):
            raise
        raise UserError(f"{what}: {error}") from error


def trainer_arguments(folder: Path, **options: Any) -> TrainingArguments:
    """Arguments of a run whose checkpoints are in `folder`: quiet, on the accelerator if there is one, every input kept."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        save_total_limit=2,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        log_level="error",
        **options,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # or Trainer would wrap the model in DataParallel, whose replicas have no methods
    return arguments


def optimizer(adapted: Adapted, chosen: Training, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.Optimizer:
    """The optimizer of a run over the groups of `groups`; `betas` are AdamW's."""
    parts = groups(adapted, chosen)
    fused = next(adapted.parameters()).device.type != "cpu" if chosen.fused == "auto" else chosen.fused
    fused = fused or None  # False would also refuse torch's own choice among the others
    if chosen.optimizer == "sgd":
        return torch.optim.SGD(parts, momentum=0.9, fused=fused)
    return torch.optim.AdamW(parts, betas=betas, fused=fused)


def groups(adapted: Adapted, chosen: Training) -> list[dict[str, Any]]:
    """Parameter groups for the optimizer: a rate for the head and for every method, no weight decay on biases and other vectors."""
    by_setting: dict[tuple[float, float], list[nn.Parameter]] = {}
    factors = {name: method.rate for name, method in zip(adapted.methods, adapted.applied, strict=True)}
    for name, parameter in adapted.trainable().items():
        tree, _, tensor = name.partition(".")
        owner = re.sub(r"_\d+$", "", tree)  # the second vpt of a list is vpt_2
        rate, decay = chosen.head_lr, chosen.weight_decay
        if owner != "head":
            own = METHODS.get(owner, Method).learning_rate if chosen.lr is None else chosen.lr
            rate = own * factors[tree](tensor)
        elif chosen.head_weight_decay is not None:
            decay = chosen.head_weight_decay
        if parameter.ndim < 2 or name.endswith("bias"):
            decay = 0.0
        by_setting.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in by_setting.items()]


def schedule(kind: str, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rates over `steps` steps, from those of the optimizer's groups as their largest; see `Training.schedule`."""
    if kind == "one-cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        moves = "betas" in optimizer.param_groups[0]  # torch's cycle of AdamW's first beta; momentum is 0.9 throughout
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, cycle_momentum=moves)
    if kind == "poly":
        falls = [Poly(group["lr"], steps) for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.LambdaLR(optimizer, falls)
    return get_scheduler(kind, optimizer, num_warmup_steps=math.ceil(0.1 * steps), num_training_steps=steps)


class Poly:
    """mmsegmentation's schedule: (lr - floor) (1 - t / T)^0.9 + floor, as a factor of lr; rates below the floor stay."""

    floor, power = 1e-4, 0.9

    def __init__(self, rate: float, steps: int):
        self.floor, self.rate, self.steps = min(self.floor, rate), rate, steps

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        left = max(0.0, 1 - step / self.steps) ** self.power
        return ((self.rate - self.floor) * left + self.floor) / self.rate if self.rate else 1.0
