"""The head before the first step: solved on what it reads of the training items, or taken from a run that has solved the same.

Runs that begin alike, such as cells of a comparison, share solved heads in a folder. A file there is named by the SHA-256 of all
that its probe follows from: model, data, preprocessing and seed of the run, every label, and the features of the first items as
this adapter computes them. So a method that starts as the identity finds what the bare backbone left, one that does not finds
what itself left with another rate, and nothing else is ever found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from gossamer import batches, tasks
from gossamer.adapting import Adapted
from gossamer.documents import write_whole
from gossamer.hosts import heads
from gossamer.runs.folder import RunFolder
from gossamer.runs.prepared import PreparedSet, outputs
from gossamer.runs.progress import Journal
from gossamer.runs.run import Run
from gossamer.storage import pack, unpack
from gossamer.training import probe

WARM_START = "warm_start.json"
COMPARED = 16  # items whose features enter the name of a shared head
PARTS = ("model", "data", "images", "texts", "masks", "seed")  # of a run, that say what is read and how


def warm_start(
    adapted: Adapted,
    items: PreparedSet,
    run: Run,
    folder: RunFolder,
    journal: Journal,
    checkpoint: str | None,
    shared: Path | None,
    *,
    tuned: bool,
) -> dict[str, Any] | None:
    """Gives the head its solution before tuning; what came of it, as JSON. A run with a checkpoint is past this.

    Where nothing is `tuned` the solution is the result, and the penalty the best one whatever the run says.
    """
    if not run.training.warm_start:
        return None
    if adapted.head is None:
        journal.say("no warm start: there is no head")
        return None
    if items.labels is None:
        journal.say("no warm start: the linear probe needs one class for each training item, and a head")
        return None
    if len(adapted.head_modules()) > 1:
        journal.say(f"no warm start: {run.model.name} has several heads ({', '.join(adapted.head_modules())})")
        return None
    if checkpoint is not None:
        return folder.record(WARM_START)
    unit, even = tasks.of(adapted).unit, tuned and run.training.warm_start == "even"
    journal.say(f"solving the head on features of {len(items):,} {unit}")
    place = None if shared is None else place_of(shared, adapted, items, run, even=even)
    if place is not None and place.is_file():
        solved, seconds = read(place)
        journal.say("another run of this comparison has solved it")
    else:
        start = time.monotonic()
        solved = solve(adapted, items, run, even=even)
        seconds = time.monotonic() - start
        if place is not None:
            write(place, solved, seconds)
    solved.put_into(heads.last_linear(adapted.head))
    accuracy = solved.held_out_accuracy
    found = {"l2": solved.l2, "held_out_accuracy": accuracy, "seconds": seconds}
    found["probe"] = None if place is None else place.stem
    folder.write(WARM_START, json.dumps(found))
    quality = (
        f"no {unit[:-1]} could be held out"
        if accuracy is None
        else f"accuracy {accuracy:.2%} on held-out training {unit}"
    )
    journal.say(f"head solved with l2={solved.l2:.3g}: {quality}")
    return found


def solve(adapted: Adapted, items: PreparedSet, run: Run, *, even: bool = False) -> probe.Probe:
    """The linear probe of what the head reads of these items now; `even` as in `probe.fit`."""
    assert items.labels is not None, "the probe needs one class for each item"
    adapted.eval()
    device = next(adapted.parameters()).device
    features = outputs(adapted.features, items, device=device, workers=run.training.readers)
    linear = heads.last_linear(adapted.head)  # type: ignore[arg-type]
    return probe.fit(features, items.labels, linear.out_features, even=even, seed=run.seed, subjects=items.subjects)


@torch.no_grad()
def place_of(folder: Path, adapted: Adapted, items: PreparedSet, run: Run, *, even: bool = False) -> Path:
    """Where the probe of what the head reads of these items lies, or is to lie."""
    assert items.labels is not None, "the probe needs one class for each item"
    batch = items.collate([items[i] for i in range(min(COMPARED, len(items)))])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    features = adapted.eval().features(**batches.on(next(adapted.parameters()).device, inputs)).float().cpu()
    settings = dataclasses.asdict(run)
    told = {"even": even, **{name: settings[name] for name in PARTS}}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for tensor in (items.labels, features):
        digest.update(json.dumps([str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return folder / f"{digest.hexdigest()}.safetensors"


def write(path: Path, solved: probe.Probe, seconds: float) -> None:
    """Keeps a probe, and how long it took."""
    numbers = [solved.l2, -1.0 if solved.held_out_accuracy is None else solved.held_out_accuracy, seconds]
    tensors = {"weight": solved.weight, "bias": solved.bias, "numbers": torch.tensor(numbers, dtype=torch.float64)}
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(f".{os.getpid()}")  # others may be writing the same one now
    write_whole(own, pack(tensors))
    os.replace(own, path)


def read(path: Path) -> tuple[probe.Probe, float]:
    """The probe, and the seconds that it took: runs that begin alike are to report alike."""
    tensors = unpack(path.read_bytes(), path)
    l2, accuracy, seconds = tensors["numbers"].tolist()
    held_out = None if accuracy < 0 else accuracy
    return probe.Probe(weight=tensors["weight"], bias=tensors["bias"], l2=l2, held_out_accuracy=held_out), seconds
