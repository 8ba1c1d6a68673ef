"""`gossamer compare`: methods x tasks x seeds from one file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from gossamer.arguments import positive
from gossamer.comparison.settings import Comparison, Selection


def command(arguments: Sequence[str]) -> None:
    """`gossamer compare`: performs a comparison and prints where its report is; exit code 1 if a cell failed."""
    parser = argparse.ArgumentParser(
        prog="gossamer compare",
        description="Methods x tasks x seeds from one file. The same command goes on after a kill.",
        epilog=f"The file:\n{_explained(Comparison)}\n\nselection:\n{_explained(Selection)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="the comparison, YAML")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="settings that change the file's")
    parser.add_argument(
        "--workers", type=positive, default=1, help="cells at a time, on each machine (default: %(default)s)"
    )
    parser.add_argument("--engine", default="local", help="where cells run: local, or ray (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    asked = parser.parse_intermixed_args(arguments)

    from gossamer.comparison import plan
    from gossamer.comparison.sweep import REPORT, compare

    comparison = plan.read(asked.file, asked.settings)
    rows = compare(comparison, engine=asked.engine, workers=asked.workers)
    failed = [row for row in rows if row["error"]]
    page = Path(comparison.output, REPORT)
    if asked.json:
        print(json.dumps({"report": str(page), "rows": rows}, indent=2))
    else:
        for row in failed:
            print(f"failed: {row['method']} on {row['task']}, seed {row['seed']}: {row['error']}")
        print(f"{len(rows) - len(failed)} of {len(rows)} cells; the report is {page}")
    if failed:
        raise SystemExit(1)


def _explained(kind: type) -> str:
    """The settings of a dataclass, as its docstring tells them."""
    import inspect

    return inspect.getdoc(kind).partition("Args:\n")[2].rstrip()  # type: ignore[union-attr]
