"""`gossamer protocol`: the run files of a published protocol."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gossamer.errors import UserError
from gossamer.protocols import PAPERS, files
from gossamer.runs import run_file


def command(arguments: Sequence[str]) -> None:
    """`gossamer protocol`: writes the run files and prints the commands that train them."""
    parser = argparse.ArgumentParser(
        prog="gossamer protocol", description="Write the run files of a published protocol."
    )
    parser.add_argument("paper", help=", ".join(PAPERS))
    parser.add_argument("task", help="such as vtab/dtd or fgvc/cub")
    parser.add_argument("folder", help="for the run files, and the folders of the runs in it")
    parser.add_argument("--stage", default="final", help="select (the grid) or final (every seed; the default)")
    parser.add_argument(
        "--lr", type=float, help="of the final stage, as the paper gives it (default: the published one)"
    )
    parser.add_argument("--weight-decay", type=float, help="of the final stage, likewise")
    parser.add_argument("--path", help="folder of the benchmark's files (default: in $GOSSAMER_DATA)")
    asked = parser.parse_args(arguments)
    if (asked.lr is None) != (asked.weight_decay is None):
        raise UserError("--lr and --weight-decay are chosen together; give both or neither")
    settings = None if asked.lr is None else (asked.lr, asked.weight_decay)
    written = files(asked.paper, asked.task, asked.stage, asked.folder, settings=settings, path=asked.path)
    Path(asked.folder).mkdir(parents=True, exist_ok=True)
    for name, run in written.items():
        path = Path(asked.folder) / f"{name}.yaml"
        path.write_text(run_file.to_yaml(run), encoding="utf-8")
        print(f"gossamer train {path}")
