"""The arguments of `gossamer condense`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from gossamer.arguments import natural, positive


def command(arguments: Sequence[str]) -> None:
    """Condenses the prompts of a finished run, tunes what is left, and prints the scores."""
    parser = argparse.ArgumentParser(
        prog="gossamer condense",
        description="Delete the prompts of a finished run that matter least, and tune the others further.",
        epilog="example: gossamer condense runs/solar --keep 0.3 training.epochs=5",
    )
    parser.add_argument("run", help="folder of a finished run with prompts (vpt, spt)")
    parser.add_argument(
        "--keep", type=float, default=0.3, help="share of all prompts that stays (default: %(default)s)"
    )
    parser.add_argument("--score", default="taylor", help="taylor, norm, grad, gate, inner, magnitude or random")
    parser.add_argument("--ranking", default="global", help="global (default), or local: in each block")
    parser.add_argument("--min-per-block", type=natural, default=0, help="prompts that every block keeps at least")
    parser.add_argument("--rounds", type=positive, default=1, help="cuts, with scores taken anew before each")
    parser.add_argument("--per-sample", action="store_true", help="average the scores of single images")
    parser.add_argument("--output", help="folder of the new run (default: RUN-keepKEEP)")
    parser.add_argument("--controls", action="store_true", help="train the controls as well: full, random, scratch")
    parser.add_argument("--resume", action="store_true", help="continue what an earlier process began in the folder")
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier run in the folder")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("training", nargs="*", metavar="training.NAME=VALUE", help="what differs in the tuning")
    asked = parser.parse_intermixed_args(arguments)
    from gossamer import tasks
    from gossamer.condensation import run as condensed_run

    names = ("keep", "score", "ranking", "min_per_block", "rounds", "per_sample")
    settings = {name: getattr(asked, name) for name in names}
    output = asked.output or f"{Path(asked.run)}-keep{asked.keep:g}"
    run = condensed_run.planned(asked.run, settings, output, asked.training)
    switches = {"resume": asked.resume, "overwrite": asked.overwrite}
    metrics = condensed_run.train(run, **switches)
    found = {"condensed": metrics}
    if asked.controls:
        found |= {n: condensed_run.train(control, **switches) for n, control in condensed_run.controls(run).items()}
    if asked.json:
        print(json.dumps({"output": run.output, **found}, indent=2))
        return
    for split in ("val", "test"):
        if split in metrics:
            print(f"{split}\n{tasks.kind(run).table(metrics[split])}")
    if asked.controls:
        print(condensed_run.compared(run, found))
    print(f"everything is in {run.output}")
