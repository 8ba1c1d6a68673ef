"""Training of an image classifier: from one run file to one folder, on the Hugging Face Trainer.

Warm start (the head is solved exactly on fixed features), tuning of methods and head together, scores, pictures. A run that was
killed at any moment continues from its last epoch and ends with the numbers of one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainingArguments

from gossamer import condensed_run, heads, methods, probe, zoo
from gossamer import run as runs
from gossamer.adapted import Adapted, adapt
from gossamer.data import Preprocessing
from gossamer.evaluate import Scores, classify, outputs, score, table
from gossamer.prepared import Augmented, Prepared
from gossamer.progress import Bar, Journal, epochs
from gossamer.run import Run
from gossamer.runfolder import CHECKPOINTS, METRICS, RunFolder
from gossamer.sets import load_sets, preprocessing
from gossamer.trainer import ClassifierTrainer

PREPARED, WARM_START = "prepared.json", "warm_start.json"


def train(run: Run, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Trains as the run says, fills its folder, and returns what is in metrics.json.

    The folder holds run.yaml (every setting), adapter/ (for `gossamer.load`), metrics.json, history.jsonl (one line an epoch),
    curves.png, confusion.png and train.log.

    Args:
        run: the settings.
        resume: continue the run in the folder from its last complete epoch. A finished one is not trained again.
        overwrite: remove a run that is in the folder.

    Raises:
        FileExistsError: the folder holds a run and neither was asked for.
        ValueError: settings, data or model do not fit; the message says which.
        FloatingPointError: the loss is not finite; the message names the step.
    """
    applied = [methods.from_dict(values) for values in run.methods]
    run = dataclasses.replace(run, methods=[methods.to_dict(method) for method in applied])
    folder = RunFolder(run, resume=resume, overwrite=overwrite)
    if folder.finished():
        return folder.read_json(METRICS)
    journal = Journal(folder / "train.log")
    sets = load_sets(run)
    prepare = preprocessing(run)
    journal.say(f"reading images of {run.data.name}: {', '.join(f'{len(s):,} {name}' for name, s in sets.items())}")
    images = {name: Prepared(split, prepare) for name, split in sets.items()}
    torch.manual_seed(run.seed)
    if run.condense is None:
        adapted, started = _adapted(run, applied, sets["train"].classes, prepare), None
    else:
        adapted, started = condensed_run.start(run.condense, images, run, folder, journal)
    arguments = _arguments(run, folder, validate="val" in sets)
    adapted.to(arguments.device)
    folder.begin(run)
    if started is None:
        prepared = _prepare(adapted, applied, images["train"], folder, journal)
        warm = _warm_start(adapted, images["train"], run, folder, journal)
    else:
        folder.write(condensed_run.RECORD, json.dumps(started))
        prepared, warm = 0.0, None
    solved = warm is not None or started is not None
    history = _tune(adapted, images, run, arguments, folder, journal, solved=solved)
    return _conclude(adapted, images, run, folder, journal, warm=warm, history=history, prepared=prepared)


def command(arguments: Sequence[str]) -> None:
    """`gossamer train`: trains and prints the final scores."""
    run, switches = runs.parse(arguments)
    metrics = train(run, **switches)
    for split in ("val", "test"):
        if split in metrics:
            print(f"{split}\n{table(Scores(**metrics[split]))}")
    print(f"everything is in {run.output}")


def _adapted(run: Run, applied: list[methods.Method], classes: tuple[str, ...], prepare: Preprocessing) -> Adapted:
    """The adapted model with a head for the classes, and with what must be known to use it later."""
    task = {"task": "image-classification", "num_labels": len(classes)} if run.model.head == "published" else {}
    model = zoo.load(run.model.name, revision=run.model.revision, **task)
    adapted = adapt(model, applied, num_labels=len(classes))
    if not any(name.startswith("head.") for name in adapted.trainable()):
        raise ValueError(
            f"the head of {run.model.name} would not be trained, so it could not learn the {len(classes)} classes"
        )
    adapted.metadata |= {"task": "image-classification", "labels": list(classes), "preprocessing": prepare.to_dict()}
    return adapted


def _arguments(run: Run, folder: RunFolder, *, validate: bool) -> TrainingArguments:
    chosen = run.training
    if chosen.keep == "best" and not validate:
        raise ValueError("training.keep=best needs validation images: set data.validation above 0")
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=chosen.epochs,
        per_device_train_batch_size=chosen.batch,
        per_device_eval_batch_size=2 * chosen.batch,
        max_grad_norm=chosen.clip,
        bf16=chosen.bf16,
        use_cpu=not torch.accelerator.is_available(),
        dataloader_num_workers=chosen.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=run.seed,
        eval_strategy="epoch" if validate else "no",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=chosen.keep == "best",
        metric_for_best_model="accuracy" if chosen.keep == "best" else None,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        log_level="error",
        report_to=chosen.report_to or "none",
    )


def _prepare(
    adapted: Adapted, applied: list[methods.Method], images: Prepared, folder: RunFolder, journal: Journal
) -> float:
    """Lets the methods see the training images, such as SPT, which takes its prompts from them; seconds that it took."""
    learning = [method for method in applied if type(method).prepare is not methods.Method.prepare]
    if not learning:
        return 0.0
    if folder.checkpoint() is not None:
        return folder.read_json(PREPARED)["seconds"]
    start = time.monotonic()
    for method in learning:
        journal.say(f"preparing {method.name} on {len(images):,} images")
        method.prepare(adapted, images)
    seconds = time.monotonic() - start
    folder.write(PREPARED, json.dumps({"seconds": seconds}))
    return seconds


def _warm_start(
    adapted: Adapted, images: Prepared, run: Run, folder: RunFolder, journal: Journal
) -> dict[str, Any] | None:
    """Solves the head on what it reads before tuning; what came of it, as JSON. A run with a checkpoint is past this."""
    if not run.training.warm_start:
        return None
    if len(adapted.head_modules()) > 1:
        journal.say(f"no warm start: {run.model.name} has several heads ({', '.join(adapted.head_modules())})")
        return None
    if folder.checkpoint() is not None:
        return folder.read_json(WARM_START)
    start = time.monotonic()
    journal.say(f"solving the head on features of {len(images):,} images")
    solved = solve_head(adapted, images, images.labels, run)
    found = {"l2": solved.l2, "held_out_accuracy": solved.held_out_accuracy, "seconds": time.monotonic() - start}
    folder.write(WARM_START, json.dumps(found))
    accuracy = solved.held_out_accuracy
    quality = (
        "no image could be held out" if accuracy is None else f"accuracy {accuracy:.2%} on held-out training images"
    )
    journal.say(f"head solved with l2={solved.l2:.3g}: {quality}")
    return found


def solve_head(adapted: Adapted, images: Any, labels: Tensor, run: Run) -> probe.Probe:
    """Gives the head the linear probe of what it reads of these images now, and returns that probe."""
    adapted.eval()
    device = next(adapted.parameters()).device
    features = outputs(adapted.features, images, device=device, workers=run.training.workers)
    solved = probe.fit(features, labels, heads.last_linear(adapted.head).out_features, seed=run.seed)  # type: ignore[arg-type]
    solved.put_into(heads.last_linear(adapted.head))  # type: ignore[arg-type]
    return solved


def _tune(
    adapted: Adapted,
    images: dict[str, Prepared],
    run: Run,
    arguments: TrainingArguments,
    folder: RunFolder,
    journal: Journal,
    *,
    solved: bool,
) -> list[dict[str, Any]]:
    """Trains methods and head; one record an epoch, none where the head is `solved` and nothing else is to be trained."""
    if solved and (run.training.epochs == 0 or _only_a_linear_head(adapted)):
        journal.say("nothing is left to tune: the head is solved" if run.condense is None else "the cut is not tuned")
        return []
    if run.training.epochs == 0:
        raise ValueError(f"training.epochs=0 trains nothing, because the heads of {run.model.name} could not be solved")

    def keep_history(log: list[dict[str, Any]]) -> None:
        folder.write("history.jsonl", "".join(json.dumps(record) + "\n" for record in epochs(log)))

    checkpoint = folder.checkpoint()
    if checkpoint is not None:
        journal.say(f"continuing from {checkpoint}")
    if run.training.gradient_checkpointing:
        adapted.activation_checkpointing_enable()
    classes = adapted.metadata["labels"]
    trainer = ClassifierTrainer(
        adapted,
        arguments,
        chosen=run.training,
        train_dataset=Augmented(images["train"], run.images.augment) if run.images.augment else images["train"],
        eval_dataset=images.get("val"),
        data_collator=torch.utils.data.default_collate,
        compute_metrics=lambda p: _validation(torch.as_tensor(p.predictions), torch.as_tensor(p.label_ids), classes),
        callbacks=[Bar(journal, keep_history)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.accelerator.unwrap_model(adapted, keep_fp32_wrapper=False)  # or its forward would stay under autocast
    keep_history(trainer.state.log_history)
    return epochs(trainer.state.log_history)


def _validation(logits: Tensor, labels: Tensor, classes: list[str]) -> dict[str, float]:
    scores = score(logits, labels, classes)
    return {"accuracy": scores.accuracy, "balanced_accuracy": scores.balanced_accuracy}


def _only_a_linear_head(adapted: Adapted) -> bool:
    """Whether only a head of one Linear is trained, of which the probe is the optimum."""
    return isinstance(adapted.head, nn.Linear) and all(name.startswith("head.") for name in adapted.trainable())


def _conclude(
    adapted: Adapted,
    images: dict[str, Prepared],
    run: Run,
    folder: RunFolder,
    journal: Journal,
    *,
    warm: dict[str, Any] | None,
    history: list[dict[str, Any]],
    prepared: float,
) -> dict[str, Any]:
    """Scores, saves and draws; the metrics come last, since their presence says that the run has finished."""
    classes = adapted.metadata["labels"]
    scores = {
        name: score(classify(adapted, split, workers=run.training.workers), split.labels, classes)
        for name, split in images.items()
        if name != "train"
    }
    flat = {f"{split}_{n}": getattr(s, n) for split, s in scores.items() for n in ("accuracy", "balanced_accuracy")}
    adapted.metadata["results"] = flat
    adapted.save_pretrained(folder / "adapter")
    sheet = adapted.cost(image_size=adapted.metadata["preprocessing"]["size"], batch=run.training.batch)
    metrics = {
        "seed": run.seed,
        "images": {name: len(split) for name, split in images.items()},
        "trainable_parameters": sheet.trained_parameters,
        "macs": {"bare": sheet.bare.counted, "finished": sheet.finished.counted},
        "training_flops": sheet.training_flops if history else None,  # of one image in one step
        "warm_start": warm,
        "condensed": condensed_run.summary(folder),
        "train_loss": history[-1]["loss"] if history else None,
        "seconds": prepared + (warm["seconds"] if warm else 0) + sum(record["seconds"] for record in history),
        **{name: s.to_dict() for name, s in scores.items()},
    }
    _draw(folder, journal, history, scores)
    folder.finish(metrics)
    return metrics


def _draw(folder: RunFolder, journal: Journal, history: list[dict[str, Any]], scores: dict[str, Scores]) -> None:
    from gossamer import report

    if not report.available():
        journal.say("no pictures: matplotlib is not installed (pip install 'gossamer[report]')")
        return
    if history:
        report.curves(history, folder / "curves.png")
    if scores:
        split, last = list(scores.items())[-1]
        report.confusion(last, folder / "confusion.png", title=f"{split}: {last.accuracy:.1%} of {last.n:,} images")
