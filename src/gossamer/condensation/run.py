"""Prompt condensation as a stage of its own: how a run starts from the prompts of a finished one, and the controls beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer import methods
from gossamer.condensation import condense, cut, number
from gossamer.documents import write_whole
from gossamer.errors import UserError
from gossamer.runs import run_file
from gossamer.runs.folder import CONDENSED, RunFolder, read_metrics
from gossamer.runs.progress import Journal
from gossamer.runs.run import Condense, Run
from gossamer.runs.trained import load_adapter
from gossamer.training import train as training

if TYPE_CHECKING:
    from gossamer.adapting import Adapted
    from gossamer.tasks import Task

CONTROLS = "controls.json"


def train(run: Run, *, resume: bool = False, overwrite: bool = False, shared: Path | None = None) -> dict[str, Any]:
    """`gossamer.training.train.train` for any run: one with a section `condense` starts from the finished run that it names."""
    begin = None if run.condense is None else start
    return training.train(run, resume=resume, overwrite=overwrite, start=begin, shared=shared)


def start(
    run: Run, task: Task, items: dict[str, Any], folder: RunFolder, journal: Journal
) -> tuple[Adapted, dict[str, Any]]:
    """The adapter of the finished run with its prompts cut, and the record of the cut.

    A run that is taken up again is cut as its record says. Prompts are scored on the training set as it is read for testing.

    Raises:
        FileNotFoundError: the run is not there, or has not finished.
        ValueError: it was trained on other classes, or cannot be condensed as asked.
    """
    assert run.condense is not None
    chosen, classes = run.condense, task.record().get("labels")
    adapted = load_adapter(chosen.run)
    if adapted.metadata.get("labels") != classes:
        raise UserError(
            f"the run in {chosen.run} was trained on the classes {adapted.metadata.get('labels')}, and the data has {classes}"
        )
    record = None if folder.overwrite else folder.read_json(CONDENSED)
    if record is not None:
        cut(adapted, record["kept"])
        return adapted, record
    settings = {k: v for k, v in dataclasses.asdict(chosen).items() if k != "run"}
    how: Any = {"collate": items["train"].collate, "loss": task.loss, "batch_size": run.training.batch}
    done = condense(adapted, items["train"], **settings, **how, seed=run.seed)
    journal.say(f"{done.after:,} of {done.before:,} prompts stay: {done.counts}")
    record = {**dataclasses.asdict(chosen), **dataclasses.asdict(done), "prompts_before": done.before}
    record |= {"prompts_after": done.after, "after_cut": None}
    if "val" in items:
        found = task.score(adapted, items["val"], workers=run.training.readers)
        record["after_cut"] = {f"val_{name}": value for name, value in found.headline().items()}
        journal.say(f"right after the cut: validation accuracy {found.accuracy:.2%}")
    return adapted, record


def planned(source: str | Path, settings: dict[str, Any], output: str | Path, overrides: list[str]) -> Run:
    """The run that condenses a finished one: its settings, `training.*` ones overridden as on the command line of train.

    Raises:
        ValueError: something else than training is overridden, or a value does not fit.
    """
    for name in overrides:
        if not name.removeprefix("--").startswith("training."):
            raise UserError(
                f"{name!r}: model, data and methods are those of the run in {source}; only training.NAME=VALUE can differ"
            )
    run_file.read(source)  # says that there is no run
    run, _ = run_file.parse([str(Path(source) / run_file.RUN_FILE), *overrides])
    return dataclasses.replace(run, condense=Condense(run=str(source), **settings), output=str(output))


def controls(run: Run) -> dict[str, Run]:
    """What a condensed run must be held against, each with as many epochs in all.

    full: nothing cut; random: as many prompts, drawn; scratch: r p prompts in each block from the start.
    """
    assert run.condense is not None
    source, folder = run_file.read(run.condense.run), Path(run.output) / "controls"
    fewer = [_fewer(values, run.condense.keep) for values in run.methods]
    longer = dataclasses.replace(run.training, epochs=source.training.epochs + run.training.epochs)
    planned = {
        "full": dataclasses.replace(run, condense=dataclasses.replace(run.condense, keep=1.0, min_per_block=0)),
        "random": dataclasses.replace(run, condense=dataclasses.replace(run.condense, score="random")),
        "scratch": dataclasses.replace(run, condense=None, methods=fewer, training=longer),
    }
    return {name: dataclasses.replace(r, output=str(folder / name)) for name, r in planned.items()}


def _fewer(values: dict[str, Any], keep: float) -> dict[str, Any]:
    """The settings of a method with max(1, floor(r p + 1/2)) prompts in a block in place of p."""
    method: Any = methods.from_dict(values)
    if method.name not in ("vpt", "spt"):
        return values
    each = method.prompts
    fewer = number(keep, each) if isinstance(each, int) else tuple(number(keep, p) for p in each)
    return methods.to_dict(dataclasses.replace(method, prompts=fewer))


def compared(run: Run, found: dict[str, dict[str, Any]]) -> str:
    """Metrics of the source, the condensed run and its controls as a table; they are written to controls.json as well."""
    assert run.condense is not None
    source = read_metrics(Path(run.condense.run))
    splits = [split for split in ("val", "test") if split in source]
    rows = {
        name: {
            "trained": metrics["trainable_parameters"],
            "macs": metrics["macs"]["finished"],
            **{split: metrics[split]["accuracy"] for split in splits},
        }
        for name, metrics in {"source": source, **found}.items()
    }
    write_whole(Path(run.output) / CONTROLS, json.dumps(rows, indent=2) + "\n")
    lines = [f"{'':<12}{'trained':>12}{'GMACs':>12}" + "".join(f"{split:>9}" for split in splits)]
    for name, row in rows.items():
        shares = "".join(f"{row[split]:>9.2%}" for split in splits)
        lines.append(f"{name:<12}{row['trained']:>12,}{row['macs'] / 1e9:>12.4g}{shares}")
    return "\n".join(lines)
