"""What an adapter records of the run that trained it, for its card: data, protocol, training settings, seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from gossamer.documents import expanded
from gossamer.methods import Method
from gossamer.runs.run import Run

_ELSEWHERE = ("name", "path", "image", "label", "subset", "names", "templates", "test")  # of the data, no protocol
_MACHINE = ("workers", "report_to", "torch_compile", "attention", "fused", "tf32", "gradient_checkpointing")


def told(run: Run, applied: list[Method], items: Mapping[str, Sized], *, tuned: bool) -> dict[str, Any]:
    """{"data": name, "items": {split: count}, "seed", "protocol": {...}, "training": {...}} as JSON, without paths of this machine.

    A learning rate that the run leaves to the methods is written out for each; there are no settings of training where nothing was
    `tuned` by steps.
    """
    data, training = dataclasses.asdict(run.data), dataclasses.asdict(run.training)
    protocol = {n: v for n, v in data.items() if n not in _ELSEWHERE and v is not None}
    chosen = {n: v for n, v in training.items() if n not in _MACHINE}
    if run.training.lr is None:
        chosen["lr"] = ", ".join(f"{m.name} {m.learning_rate:g}" for m in applied)
    if run.training.teacher is None:
        chosen = {n: v for n, v in chosen.items() if not n.startswith("teacher")}
    else:
        chosen["teacher"] = Path(run.training.teacher).name
    folder = expanded(run.data.name).exists()
    return {
        "data": Path(run.data.name).name if folder else run.data.name,
        "items": {split: len(of) for split, of in items.items()},
        "seed": run.seed,
        "protocol": protocol,
        "training": {**chosen, "augment": list(run.images.augment)} if tuned else {},
    }
