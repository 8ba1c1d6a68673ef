"""A search in the folder of a run: the arms of its method, found on training images alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from gossamer import hosts, methods, tasks
from gossamer.adapting import Adapted
from gossamer.cost import machine
from gossamer.documents import write_whole
from gossamer.runs import processes, run_file
from gossamer.runs.lock import alone
from gossamer.runs.run import Run
from gossamer.runs.sets import apart, load_sets
from gossamer.searching.folder import FOUND
from gossamer.searching.search import Found, search
from gossamer.training import teaching
from gossamer.training.attention import settled

FOLDER = "search"  # inside the output of the run


def search_run(run: Run, *, resume: bool = False, overwrite: bool = False) -> Found:
    """Searches as the run says, in the folder `search` of its output, and writes the run with what was found as found.yaml there.

    The candidates are scored on a part of the training set (`search.hold_out`): images with every class in proportion, of texts
    about images all those about some of the images. Validation and test items are not opened. The head starts anew whatever
    `training.warm_start` says: solved for one choice of arms, it is far off for all others, and the search measures that.

    Raises:
        FileExistsError: the folder holds a search and neither `resume` nor `overwrite` was asked for.
        BlockingIOError: another process works in the folder of the run; the message names it.
        ValueError: settings, data or model do not fit; the message says which.
    """
    processes.begin()
    with alone(Path(run.output)):
        return _searched(run, resume=resume, overwrite=overwrite)


def _searched(run: Run, *, resume: bool, overwrite: bool) -> Found:
    applied = [methods.from_dict(values) for values in run.methods]
    kind = tasks.kind(run)
    train = load_sets(run)["train"]
    task = kind.begin(run, train)
    items, held_out = (task.prepare(part) for part in apart(train, run.search.held_out, run.seed))
    torch.manual_seed(run.seed)
    model = task.backbone(run)
    if processes.first():
        print(machine.precision(run.training.bfloat16))
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    data, collate, loss = teaching.taught(run, task, items, items, next(model.parameters()).device)

    def prepare(adapted: Adapted, data: Any) -> None:
        items.settle(adapted)
        held_out.settle(adapted)

    folder = Path(run.output) / FOLDER
    training = settled(run.training, hosts.read(model), task.sizes())
    found = search(
        model, applied, data, held_out=held_out, settings=run.search, training=training, num_labels=task.outputs,
        collate=collate, loss=loss, plain=items, prepare=prepare, after_update=_tell, folder=folder, resume=resume,
        overwrite=overwrite, seed=run.seed,
    )  # fmt: skip
    if processes.first():
        chosen = dataclasses.replace(run, methods=[methods.to_dict(m) for m in found.methods])
        write_whole(folder / FOUND, run_file.to_yaml(chosen))
    return found


def _tell(record: dict[str, Any]) -> None:
    if processes.first():
        best = min(zip(record["losses"], record["subsets"], strict=True))
        arms = " ".join(str(i) for i in best[1])
        print(f"update {record['update']}, step {record['step']}: least loss {best[0]:.4f} with {arms}", flush=True)
