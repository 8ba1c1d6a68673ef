"""`gossamer shrink RUN`: the cheapest model within a point of a finished run."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gossamer.arguments import positive


def command(arguments: Sequence[str]) -> None:
    """Shrinks a finished run and prints what came of it."""
    parser = argparse.ArgumentParser(
        prog="gossamer shrink",
        description="Find the cheapest model within a tolerance of a finished run: blocks give way to bridges, the run teaches. "
        "The same command goes on after a kill.",
    )
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument(
        "--within", type=float, default=1.0, help="points of accuracy that may be lost (default: %(default)s)"
    )
    parser.add_argument("--faster", type=float, help="ask for so many times the bare backbone's speed as well")
    parser.add_argument(
        "--cost", choices=("latency", "macs"), default="latency", help="what is counted (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=positive, default=1, help="with which the chosen model is trained")
    parser.add_argument(
        "--candidates", type=positive, default=8, help="choices of blocks in each race (default: %(default)s)"
    )
    parser.add_argument(
        "--hold-out", type=float, default=0.25, help="part of the training items, where RUN held out none"
    )
    parser.add_argument("--budget-minutes", type=float, help="try no further number of blocks after so many minutes")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where runs are made")
    parser.add_argument("--workers", type=positive, default=1, help="runs at a time, on each machine")
    parser.add_argument("--output", default="", help="folder of everything that is made (default: RUN-shrunk)")
    parser.add_argument("--export", metavar="FILE.onnx", help="write the model as one file, too")
    given = vars(parser.parse_args(arguments))
    export = given.pop("export")
    from gossamer.racing.shrink import REPORT, shrink
    from gossamer.racing.whole import Shrink

    asked = Shrink(**given)
    found = shrink(asked)
    print(table(found))
    if export and found["final"]:
        from gossamer.export import export_run

        export_run(found["final"][0]["run"], Path(export), format="onnx", int8=found["chosen"]["int8"])
        print(f"exported to {export}")
    print(f"everything is in {asked.folder}; {REPORT} has all numbers")


def table(found: dict[str, Any]) -> str:
    """A report as lines for people."""
    cost = found["asked"]["cost"]
    lines = [f"{'skipped, merged':<20}{'held-out':>10}{'points':>8}{cost + ', bare = 1':>20}"]
    lines.append(f"{'none (the run)':<20}{found['reference']['accuracy']:>10.2%}")
    for t in sorted(found["tried"], key=lambda t: -t["cost"]):
        mark = "" if t["within"] else "  not within"
        name = f"{t['blocks']}, {t['merged']}{', 8 bits' if t['int8'] else ''}"
        lines.append(f"{name:<20}{t['accuracy']:>10.2%}{-100 * t['lost']:>+8.1f}{t['cost']:>20.3f}{mark}")
    lines.append(found["why"])
    final = found["final"]
    if final:
        accuracy = [f["accuracy"] for f in final]
        spread = f" ± {100 * statistics.stdev(accuracy):.1f}" if len(accuracy) > 1 else ""
        times = ", ".join(
            f"{1 / statistics.fmean(f[name] for f in final):.2f} x at batch {name.rpartition('_')[2]}"
            for name in final[0]
            if name.startswith("latency_ratio_at_")
        )
        lines.append(
            f"{final[0]['split']}: {100 * statistics.fmean(accuracy):.1f}{spread} %; speed of the bare backbone: {times}"
        )
    of_run, probe = found["teacher"], found["probe"]
    if of_run["accuracy"] is not None:
        lines.append(f"the run: {of_run['accuracy']:.1%}; linear probe: {probe['accuracy']:.1%}")
    return "\n".join(lines)
