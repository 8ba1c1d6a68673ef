"""`gossamer plan`: what is worth trying on a set of images, what each would take on this machine, and a comparison of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.arguments import natural, positive

if TYPE_CHECKING:
    from gossamer.racing.plan import Planned


def command(arguments: Sequence[str]) -> None:
    """Plans, prints a table and writes a comparison file."""
    parser = argparse.ArgumentParser(
        prog="gossamer plan",
        description="Before any training: usual methods and settings for a set of images, with what they would cost and take on "
        "this machine; what fits the budget becomes a file for `gossamer compare`.",
    )
    parser.add_argument("--data", required=True, help="a folder of images by class, or a set with a name")
    parser.add_argument("--model", default="dinov2-small", help="the backbone (default: %(default)s)")
    parser.add_argument("--size", type=positive, help="pixels a side (default: as the model was published)")
    parser.add_argument("--epochs", type=natural, default=10, help="of every run (default: %(default)s)")
    parser.add_argument("--batch", type=positive, default=32, help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=3, help="of the comparison (default: %(default)s)")
    parser.add_argument("--budget-minutes", type=float, help="of all runs together (default: none)")
    parser.add_argument("--output", default="plan.yaml", help="the comparison file (default: %(default)s)")
    asked = parser.parse_args(arguments)
    file = Path(asked.output)
    if file.exists():
        raise FileExistsError(f"{file} is there already; choose another --output, or remove it")

    from gossamer.comparison.settings import written
    from gossamer.cost import machine
    from gossamer.documents import write_whole
    from gossamer.racing.plan import comparison, plan
    from gossamer.runs.run import Data, Images, Model, Run, Training

    run = Run(
        model=Model(name=asked.model),
        data=Data(name=asked.data),
        images=Images(size=asked.size),
        methods=[{"method": "linear_probe"}],
        training=Training(epochs=asked.epochs, batch=asked.batch, bf16="auto"),
        output=str(file.with_suffix("")),
    )
    found = plan(run, seeds=asked.seeds, budget_minutes=asked.budget_minutes)
    hardware = machine.hardware()
    print(f"measured on {hardware['gpu'] or hardware['processor']}, {machine.precision(run.training.bfloat16)}")
    print(table(found))
    chosen = comparison(run, found, seeds=asked.seeds, output=run.output)
    write_whole(file, written(chosen))
    print(f"{file} compares what fits: gossamer compare {file}; then gossamer shrink on the run that you like best")


def table(found: Sequence[Planned]) -> str:
    """Settings and what they take, as lines for people."""
    lines = [
        f"{'':<30}{'trained':>11}{'GMACs':>8}{'x bare':>8}{'x time':>8}{'MiB a step':>12}{'min a run':>11}{'min in all':>12}"
    ]
    for one in found:
        if one.refused is not None:
            lines.append(f"{one.setting.name:<30}  not with this model: {one.refused}")
            continue
        left_out = "" if one.fits else "  beyond the budget"
        lines.append(
            f"{one.setting.name:<30}{one.trainable:>11,}{one.gmacs:>8.2f}{one.share:>8.2f}{one.latency:>8.2f}{one.step_mib:>12,.0f}"
            f"{one.run_minutes:>11.1f}{one.minutes:>12.1f}{left_out}"
        )
    return "\n".join(lines)
