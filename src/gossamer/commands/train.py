"""`gossamer train RUN.yaml`, or a folder of images: a run from its file to its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gossamer.runs import run_file


def command(arguments: Sequence[str]) -> None:
    """Trains and prints the final scores."""
    run, switches = run_file.parse(arguments)
    as_json = switches["json"]

    from gossamer import tasks
    from gossamer.condensation.run import train
    from gossamer.runs import processes

    metrics = train(run, resume=switches["resume"], overwrite=switches["overwrite"])
    if not processes.first():
        return
    if as_json:
        print(json.dumps({"output": run.output, **metrics}, indent=2))
        return
    for split in ("val", "test"):
        if split in metrics:
            print(f"{split}\n{tasks.kind(run).table(metrics[split])}")
    print(f"everything is in {run.output}")
