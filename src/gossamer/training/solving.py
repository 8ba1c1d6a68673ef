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
import math
import os
import time
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Solved:
    """The probe of a head, and that from which it is tuned; `seconds` that they took."""

    best: probe.Probe
    eased: probe.Probe
    seconds: float


def warm_start(
    adapted: Adapted,
    items: PreparedSet,
    run: Run,
    folder: RunFolder,
    journal: Journal,
    checkpoint: str | None,
    shared: Path | None,
) -> tuple[dict[str, Any] | None, probe.Probe | None]:
    """Gives the head its solution; what came of it, as JSON, and where tuning is to begin elsewhere, there.

    Nothing is done where the run wants none or the head has none. A run with a checkpoint is past this.
    """
    if not run.training.warm_start:
        return None, None
    if adapted.head is None:
        journal.say("no warm start: there is no head")
        return None, None
    if items.labels is None:
        journal.say("no warm start: the linear probe needs one class for each training item, and a head")
        return None, None
    if len(adapted.head_modules()) > 1:
        journal.say(f"no warm start: {run.model.name} has several heads ({', '.join(adapted.head_modules())})")
        return None, None
    if checkpoint is not None:
        return folder.record(WARM_START), None
    unit = tasks.of(adapted).unit
    journal.say(f"solving the head on features of {len(items):,} {unit}")
    place = None if shared is None else place_of(shared, adapted, items, run)
    if place is not None and place.is_file():
        solved = read(place)
        journal.say("another run of this comparison has solved it")
    else:
        solved = solve(adapted, items, run)
        if place is not None:
            write(place, solved)
    best = solved.best
    best.put_into(heads.last_linear(adapted.head))
    accuracy = best.held_out_accuracy
    found = {"l2": best.l2, "held_out_accuracy": accuracy, "eased_l2": solved.eased.l2, "seconds": solved.seconds}
    found["probe"] = None if place is None else place.stem
    found["changed"] = changed(adapted, items) if run.training.keep == "better" else None  # nothing else asks
    folder.write(WARM_START, json.dumps(found))
    quality = (
        f"no {unit[:-1]} could be held out"
        if accuracy is None
        else f"accuracy {accuracy:.2%} on held-out training {unit}"
    )
    journal.say(f"head solved with l2={best.l2:.3g}: {quality}")
    return found, solved.eased if run.training.warm_start == "eased" and solved.eased is not best else None


def solve(adapted: Adapted, items: PreparedSet, run: Run) -> Solved:
    """The linear probes of what the head reads of these items now."""
    assert items.labels is not None, "the probe needs one class for each item"
    start = time.monotonic()
    adapted.eval()
    device = next(adapted.parameters()).device
    features = outputs(adapted.features, items, device=device, workers=run.training.readers)
    linear = heads.last_linear(adapted.head)  # type: ignore[arg-type]
    best = probe.fit(features, items.labels, linear.out_features, seed=run.seed, subjects=items.subjects)
    return Solved(best, probe.eased(features, items.labels, best), time.monotonic() - start)


@torch.no_grad()
def changed(adapted: Adapted, items: PreparedSet) -> bool:
    """Whether methods change what the head reads of the first items, before they are trained."""
    now = first_features(adapted, items)
    with adapted.anatomy.bare():
        return not torch.equal(now, first_features(adapted, items))


@torch.no_grad()
def first_features(adapted: Adapted, items: PreparedSet) -> torch.Tensor:
    """What the head reads of the first items."""
    batch = items.collate([items[i] for i in range(min(COMPARED, len(items)))])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return adapted.eval().features(**batches.on(next(adapted.parameters()).device, inputs)).float().cpu()


def place_of(folder: Path, adapted: Adapted, items: PreparedSet, run: Run) -> Path:
    """Where the probes of what the head reads of these items lie, or are to lie."""
    assert items.labels is not None, "the probe needs one class for each item"
    settings = dataclasses.asdict(run)
    digest = hashlib.sha256(json.dumps({name: settings[name] for name in PARTS}, sort_keys=True).encode())
    for tensor in (items.labels, first_features(adapted, items)):
        digest.update(json.dumps([str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return folder / f"{digest.hexdigest()}.safetensors"


def write(path: Path, solved: Solved) -> None:
    """Keeps probes."""
    best, eased = solved.best, solved.eased
    numbers = [best.l2, _or_nan(best.held_out_accuracy), _or_nan(best.held_out_loss), eased.l2, solved.seconds]
    tensors = {
        "weight": best.weight, "bias": best.bias, "eased.weight": eased.weight, "eased.bias": eased.bias,
        "numbers": torch.tensor(numbers, dtype=torch.float64),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(f".{os.getpid()}")  # others may be writing the same one now
    write_whole(own, pack(tensors))
    os.replace(own, path)


def read(path: Path) -> Solved:
    """What `write` kept, its seconds too: runs that begin alike are to report alike."""
    tensors = unpack(path.read_bytes(), path)
    l2, accuracy, loss, eased, seconds = tensors["numbers"].tolist()
    held_out = {"held_out_accuracy": _or_none(accuracy), "held_out_loss": _or_none(loss)}
    best = probe.Probe(weight=tensors["weight"], bias=tensors["bias"], l2=l2, **held_out)
    if eased == l2:
        return Solved(best, best, seconds)
    return Solved(best, probe.Probe(weight=tensors["eased.weight"], bias=tensors["eased.bias"], l2=eased), seconds)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
