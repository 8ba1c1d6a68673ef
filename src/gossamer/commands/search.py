"""`gossamer search RUN.yaml`: the arms of a run's method, by bandit or race, on training images alone; `gossamer train` goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gossamer.runs import run_file


def command(arguments: Sequence[str]) -> None:
    """Searches and prints what was found."""
    run, switches = run_file.parse(arguments, "search")
    as_json = switches.pop("json")

    from gossamer.racing.race import FOLDER as RACE
    from gossamer.racing.race import race
    from gossamer.runs import processes
    from gossamer.runs.lock import alone
    from gossamer.searching.folder import FOUND, HISTORY
    from gossamer.searching.run import FOLDER, search_run

    if run.search.by == "race":
        with alone(Path(run.output)):
            raced = race(run, **switches)
        folder, found, after = Path(run.output) / RACE, raced, f"{len(raced.rows)} runs"
        said = f"{raced.name} won after {after}"
        beside = "rows.jsonl"
    else:
        searched = search_run(run, **switches)
        folder, found, after = Path(run.output) / FOLDER, searched, f"{searched.updates} updates"
        said, beside = f"found after {after}", HISTORY
    if not processes.first():
        return
    arms = [found.arms[i] for i in found.chosen]
    if as_json:
        print(
            json.dumps({"by": run.search.by, "chosen": arms, "after": after, "run_file": str(folder / FOUND)}, indent=2)
        )
        return
    print(f"{said}: {', '.join(arms)}")
    print(f"{beside} and the picture are in {folder}; next: gossamer train {folder / FOUND}")
