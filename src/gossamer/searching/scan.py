"""A scan in the folder of a run: where in its depth a model decides the task, with a picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from gossamer import tasks
from gossamer.documents import write_whole
from gossamer.runs.run import Run
from gossamer.runs.sets import load_sets
from gossamer.runs.trained import load_adapter
from gossamer.searching import depth

FOLDER = "scan"  # inside the output of the run
TABLE, PICTURE = "scan.json", "scan.png"


def scan_run(run: Run, *, trained: bool = False) -> list[depth.Depth]:
    """What a linear probe knows behind every block, on the training items of a run; written to the folder `scan` of its output.

    Args:
        run: the settings.
        trained: scan what the finished run in its folder trained, and not the pre-trained model.
    """
    from gossamer import report

    kind = tasks.kind(run)
    train = load_sets(dataclasses.replace(run, data=dataclasses.replace(run.data, test=False)))["train"]
    task = kind.begin(run, train)
    items = task.prepare(train)
    if trained:
        adapted: Any = load_adapter(run.output).eval()
        items.settle(adapted)
        found = depth.scan(adapted, adapted.anatomy, items, seed=run.seed)
    else:
        found = depth.scan_bare(task.backbone(run), items, seed=run.seed)
    folder = Path(run.output) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / TABLE, json.dumps([dataclasses.asdict(d) for d in found], indent=2) + "\n")
    if report.available():
        depth.draw(found, folder / PICTURE)
    return found
