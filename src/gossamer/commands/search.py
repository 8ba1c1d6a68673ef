"""`gossamer search RUN.yaml`: the arms of a run's method, by bandit or race, on training images alone; `gossamer train` goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gossamer.runs import run_file


def command(arguments: Sequence[str]) -> None:
    """Searches and prints what was found."""
    run, switches = run_file.parse(arguments, "search")

    from gossamer.racing.race import FOLDER as RACE
    from gossamer.racing.race import race
    from gossamer.runs import processes
    from gossamer.runs.lock import alone
    from gossamer.searching.folder import FOUND, HISTORY
    from gossamer.searching.run import FOLDER, search_run

    if run.search.by == "race":
        with alone(Path(run.output)):
            raced = race(run, **switches)
        folder = Path(run.output) / RACE
        print(f"{raced.name} won after {len(raced.rows)} runs: {', '.join(raced.arms[i] for i in raced.chosen)}")
        print(f"rows.jsonl and the picture are in {folder}; next: gossamer train {folder / FOUND}")
        return
    found = search_run(run, **switches)
    if processes.first():
        folder = Path(run.output) / FOLDER
        print(f"found after {found.updates} updates: {', '.join(found.arms[i] for i in found.chosen)}")
        print(f"{HISTORY} and the picture are in {folder}; next: gossamer train {folder / FOUND}")
