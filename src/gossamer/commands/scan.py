"""`gossamer scan RUN.yaml`, or a finished run's folder: where in its depth a model decides a task, with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gossamer.runs import run_file


def command(arguments: Sequence[str]) -> None:
    """Scans and prints a table."""
    folder = Path(arguments[0]) if len(arguments) == 1 else None
    trained = folder is not None and (folder / run_file.RUN_FILE).is_file()
    run = run_file.read(folder) if trained and folder is not None else run_file.parse(arguments, "scan")[0]

    from gossamer.searching import depth
    from gossamer.searching.scan import FOLDER, TABLE, scan_run

    found = scan_run(run, trained=trained)
    print(depth.table(found))
    print(f"{TABLE} and the picture are in {Path(run.output) / FOLDER}")
