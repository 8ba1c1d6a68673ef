"""Training of an adapter: from one run file to one folder, on the Hugging Face Trainer. What differs by task is in `tasks`.

Warm start (the head is solved exactly on fixed features), tuning of methods and head together, scores, pictures. A run that was
killed at any moment continues from its last epoch and ends with the numbers of one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations

from gossamer import methods, saving, tasks
from gossamer.adapting import Adapted, adapt
from gossamer.cost import machine
from gossamer.errors import UserError
from gossamer.hosts import heads
from gossamer.runs import processes, recorded
from gossamer.runs.folder import CHECKPOINTS, CONDENSED, START, RunFolder
from gossamer.runs.lock import alone
from gossamer.runs.prepared import PreparedSet
from gossamer.runs.progress import Bar, Journal, epochs, line
from gossamer.runs.run import Run
from gossamer.runs.sets import load_sets, unscored
from gossamer.tasks.base import Scores, Task
from gossamer.training import probe, solving, starting, teaching, without
from gossamer.training.attention import settled
from gossamer.training.trainer import ClassifierTrainer, trainer_arguments
from gossamer.training.watching import Watching

PREPARED = "prepared.json"
CUT = (
    "run",
    "keep",
    "score",
    "ranking",
    "prompts_before",
    "prompts_after",
    "counts",
    "after_cut",
)  # of it, in the metrics

Start = Callable[[Run, Task, dict[str, Any], RunFolder, Journal], tuple[Adapted, dict[str, Any]]]


def train(
    run: Run, *, resume: bool = False, overwrite: bool = False, start: Start | None = None, shared: Path | None = None
) -> dict[str, Any]:
    """Trains as the run says, fills its folder, and returns what is in metrics.json.

    The folder holds run.yaml (every setting), adapter/ (for `gossamer.load`), metrics.json, history.jsonl (one line an epoch),
    curves.png, train.log, and for image classification confusion.png.

    Args:
        run: the settings.
        resume: continue the run in the folder from its last complete epoch. A finished one is not trained again.
        overwrite: remove a run that is in the folder.
        start: gives the adapter that a run with a section `condense` begins with, and the record of what was cut from it;
            `gossamer.condensation.run.train` knows it. None: adapted anew.
        shared: folder of solved heads, that of other runs on the same features is taken from and this one's left in; see
            `solving`. None: the head is solved here.

    Raises:
        FileExistsError: the folder holds a run and neither was asked for.
        BlockingIOError: another process works in the folder; the message names it.
        ValueError: settings, data or model do not fit; the message says which.
        FloatingPointError: the loss is not finite; the message names the step.

    Several processes (accelerate launch) share every batch and end with the numbers of one, but for rounding and for what is drawn
    at random in a step. The first one writes, scores and draws while the others wait.
    """
    if (start is None) != (run.condense is None):
        raise UserError("a run with a section condense begins with a cut: gossamer.condensation.run.train trains it")
    applied = [methods.from_dict(values) for values in run.methods]
    run = dataclasses.replace(run, methods=[methods.to_dict(method) for method in applied])
    processes.begin()
    with alone(Path(run.output)):
        folder = processes.agreed(lambda: RunFolder(run, resume=resume, overwrite=overwrite))
        if processes.agreed(folder.finished):
            return processes.agreed(folder.metrics)
        return _trained(run, applied, folder, start, shared)


def _trained(
    run: Run, applied: list[methods.Method], folder: RunFolder, start: Start | None, shared: Path | None
) -> dict[str, Any]:
    journal = Journal(folder / "train.log")
    kind = tasks.kind(run)
    sets = load_sets(run)
    task = kind.begin(run, sets["train"])
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in sets.items())
    for said in [f"reading {task.unit} of {run.data.name}: {sizes}", *unscored(sets)]:
        journal.say(said)
    items = {name: task.prepare(split) for name, split in sets.items()}
    torch.manual_seed(run.seed)
    adapted, cut = (_adapted(run, applied, task), None) if start is None else start(run, task, items, folder, journal)
    arguments = _arguments(run, folder, validate="val" in sets)
    adapted.to(arguments.device)
    folder.begin(run)
    checkpoint = processes.agreed(folder.checkpoint)
    prepared, warm, eased = 0.0, None, None
    if cut is None:
        prepared = _prepare(adapted, applied, items["train"], folder, journal, checkpoint)
    else:
        folder.write(CONDENSED, json.dumps(cut))
    for split in items.values():
        split.settle(adapted)
    if cut is None:  # the others are given the head where they begin to train together
        warm, eased = processes.agreed(
            lambda: solving.warm_start(adapted, items["train"], run, folder, journal, checkpoint, shared)
        )
    solved = warm is not None or cut is not None
    history = _tune(adapted, task, items, run, arguments, folder, journal, checkpoint, solved=solved, eased=eased)
    done = {"warm": warm, "history": history, "prepared": prepared, "cut": cut}
    return processes.agreed(lambda: _conclude(adapted, task, items, run, folder, journal, **done))


def _adapted(run: Run, applied: list[methods.Method], task: Task) -> Adapted:
    """The adapted model with the head that the task needs, and with what must be known to use it later."""
    if learning := [m.name for m in applied if m.learns_from == "images" != task.unit]:
        raise UserError(f"{learning[0]} starts from labelled images, and {run.data.name} has texts about images")
    adapted = adapt(task.backbone(run), applied, num_labels=task.outputs)
    if task.outputs is not None and not any(name.startswith("head.") for name in adapted.trainable()):
        raise UserError(
            f"the head of {run.model.name} would not be trained, so it could not learn the {task.outputs} classes"
        )
    adapted.metadata |= {"task": task.name, **task.record()}
    return adapted


def _learning(applied: list[methods.Method]) -> list[methods.Method]:
    """The methods that take something from the training data before training."""
    return [method for method in applied if method.learns_from != "nothing"]


def _arguments(run: Run, folder: RunFolder, *, validate: bool) -> TrainingArguments:
    chosen = run.training
    if chosen.keep != "last" and not validate:
        raise UserError(f"training.keep={chosen.keep} needs validation images: set data.validation above 0")
    trackers = get_available_reporting_integrations()
    if absent := [name for name in chosen.report_to if name not in trackers]:
        raise UserError(
            f"training.report_to names {', '.join(absent)}; the trackers installed here are {', '.join(trackers) or 'none'}"
        )
    if chosen.torch_compile is not None:
        known = torch.compiler.list_backends(exclude_tags=())
        if chosen.torch_compile not in known:
            raise UserError(
                f"training.torch_compile={chosen.torch_compile} is no backend of torch.compile; here are {', '.join(known)}"
            )
    return trainer_arguments(
        folder / CHECKPOINTS,
        num_train_epochs=chosen.epochs,
        per_device_train_batch_size=chosen.batch,
        per_device_eval_batch_size=2 * chosen.batch,
        max_grad_norm=chosen.clip,
        bf16=chosen.bfloat16,
        tf32=True if chosen.tf32 and machine.tf32() else None,
        dataloader_num_workers=chosen.readers,
        dataloader_persistent_workers=chosen.readers > 0,
        seed=run.seed,
        eval_strategy="epoch" if validate else "no",
        save_strategy="epoch",
        logging_strategy="epoch",
        load_best_model_at_end=chosen.keep == "best",
        metric_for_best_model="accuracy" if chosen.keep == "best" else None,
        label_names=["labels"],
        report_to=chosen.report_to or "none",
    )


def _prepare(
    adapted: Adapted,
    applied: list[methods.Method],
    images: PreparedSet,
    folder: RunFolder,
    journal: Journal,
    checkpoint: str | None,
) -> float:
    """Lets the methods see the training images, such as SPT, which takes its prompts from them; seconds that it took."""
    learning = _learning(applied)
    if not learning:
        return 0.0
    if checkpoint is not None:
        return processes.agreed(lambda: folder.record(PREPARED))["seconds"]
    start = time.monotonic()
    for method in learning:
        journal.say(f"preparing {method.name} on {len(images):,} images")
        method.prepare(adapted, images, images.collate)
    seconds = time.monotonic() - start
    folder.write(PREPARED, json.dumps({"seconds": seconds}))
    return seconds


def _tune(
    adapted: Adapted,
    task: Task,
    items: dict[str, PreparedSet],
    run: Run,
    arguments: TrainingArguments,
    folder: RunFolder,
    journal: Journal,
    checkpoint: str | None,
    *,
    solved: bool,
    eased: probe.Probe | None,
) -> list[dict[str, Any]]:
    """Trains methods and head; one record an epoch, before them that of a solved head, epoch 0.

    None at all where the head is `solved` and nothing else is to be trained.
    """
    if solved and _is_the_probe(adapted, run):
        journal.say("nothing is left to tune: the head is solved" if run.condense is None else "the cut is not tuned")
        return []
    if not adapted.trainable():
        journal.say("nothing is trained: the model is scored as it is")
        return []
    if run.training.epochs == 0:
        raise UserError(f"training.epochs=0 trains nothing, because the heads of {run.model.name} could not be solved")

    chosen = settled(run.training, adapted.anatomy, task.sizes())
    journal.say(f"{machine.precision(chosen.bfloat16)}; {chosen.attention} attention")
    if checkpoint is not None:
        journal.say(f"continuing from {checkpoint}")
    if run.training.gradient_checkpointing:
        adapted.activation_checkpointing_enable()

    held, workers, keep = items.get("val") if solved else None, run.training.readers, run.training.keep
    start: list[dict[str, Any]] = (
        folder.record(START)
        if checkpoint is not None
        else starting.begin(adapted, task, held, folder, workers=workers, keep=keep != "last")
    )

    if start and checkpoint is None:
        journal.say(line(start[0], run.training.epochs, task.measure))
    if eased is not None:
        assert adapted.head is not None, "it was solved"
        journal.say(f"tuning begins from the probe of l2={eased.l2:.3g}, which knows the training items less by heart")
        eased.put_into(heads.last_linear(adapted.head))

    def keep_history(log: list[dict[str, Any]]) -> None:
        folder.write("history.jsonl", "".join(json.dumps(record) + "\n" for record in [*start, *epochs(log)]))

    data, collate, loss = teaching.taught(run, task, items["train"], task.varied(items["train"], run), arguments.device)
    bar = Bar(journal, keep_history, task.measure)

    def scored() -> dict[str, Any]:
        with bar.away():
            return starting.told(task.score(adapted, items["val"], workers=workers))

    trainer = ClassifierTrainer(
        adapted,
        arguments,
        chosen=chosen,
        loss=loss,
        validate=lambda: processes.agreed(scored),
        train_dataset=data,
        eval_dataset=items.get("val"),
        data_collator=collate,
        callbacks=[Watching(adapted, task, folder.path), bar],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.accelerator.unwrap_model(adapted, keep_fp32_wrapper=False)  # or its forward would stay under autocast
    keep_history(trainer.state.log_history)
    history = [*start, *epochs(trainer.state.log_history)]
    if start and (why := starting.preferred(history, keep, len(items["val"]), task.measure)) is not None:
        journal.say(why)
        starting.restore(adapted, folder)
    return history


def _is_the_probe(adapted: Adapted, run: Run) -> bool:
    """Whether the solved head is the end: no epochs, or only a head of one Linear is trained, of which the probe is the optimum."""
    alone = isinstance(adapted.head, nn.Linear) and all(name.startswith("head.") for name in adapted.trainable())
    return alone or run.training.epochs == 0


def _conclude(
    adapted: Adapted,
    task: Task,
    items: dict[str, PreparedSet],
    run: Run,
    folder: RunFolder,
    journal: Journal,
    *,
    warm: dict[str, Any] | None,
    history: list[dict[str, Any]],
    prepared: float,
    cut: dict[str, Any] | None,
) -> dict[str, Any]:
    """Scores, saves and draws; the metrics come last, since their presence says that the run has finished."""
    tuned = bool(history)
    if tuned and run.training.keep == "better" and warm is not None and warm["changed"]:
        bare = without.preferred(adapted, task, items, run, journal)
        adapted, tuned = (adapted, True) if bare is None else (bare, False)
    scores = {
        name: task.score(adapted, split, workers=run.training.readers)
        for name, split in items.items()
        if name != "train"
    }
    flat = {f"{split}_{n}": value for split, s in scores.items() for n, value in s.headline().items()}
    adapted.metadata |= {"results": flat, "run": recorded.told(run, list(adapted.applied), items, tuned=tuned)}
    start = history[0] if history and history[0]["epoch"] == 0 else None
    if start is not None and "val" in scores:
        now = scores["val"].headline()["accuracy"]
        if (worse := starting.warning(start["val_accuracy"], now, task.measure, run.training.keep)) is not None:
            journal.say(worse)
    sheet = adapted.cost(**task.sizes(), batch=run.training.batch)
    saving.save(adapted, folder / "adapter", sheet)
    metrics = {
        "seed": run.seed,
        task.unit: {name: len(split) for name, split in items.items()},
        "trainable_parameters": sheet.trained_parameters,
        "macs": {"bare": sheet.bare.counted, "finished": sheet.finished.counted},
        "training_flops": sheet.training_flops if tuned else None,  # of one image in one step
        "warm_start": warm,
        "condensed": None if cut is None else {name: cut[name] for name in CUT},
        "start": start,
        "train_loss": history[-1]["loss"] if history else None,
        "seconds": prepared + (warm["seconds"] if warm else 0) + sum(r["seconds"] for r in history if "seconds" in r),
        **{name: s.to_dict() for name, s in scores.items()},
    }
    shown = items[list(scores)[-1] if scores else "train"]
    _draw(folder, journal, task, history, scores)
    _draw_prompts(folder, journal, task, adapted, shown, cut)
    saving.note(folder / "adapter", pictures=sorted(folder.path.glob("*.png")))
    folder.finish(metrics)
    return metrics


def _draw(
    folder: RunFolder, journal: Journal, task: Task, history: list[dict[str, Any]], scores: dict[str, Scores]
) -> None:
    from gossamer import report

    if not report.available():
        journal.say("no pictures: matplotlib is not installed (pip install 'gossamer[report]')")
        return
    if history:
        report.curves(history, folder / "curves.png")
    if scores:
        split, last = list(scores.items())[-1]
        task.draw(last, folder.path, split)


def _draw_prompts(
    folder: RunFolder, journal: Journal, task: Task, adapted: Adapted, images: Any, cut: dict[str, Any] | None
) -> None:
    from gossamer import pictures, report

    if not report.available():
        return
    if cut is not None:
        pictures.kept_prompts(cut["counts"], folder / "prompts.png")
    try:
        if task.unit == "images":
            pictures.attention_of_run(adapted, images, folder / "attention.png")
    except UserError as error:
        journal.say(f"no picture of the prompts' attention: {error}")
