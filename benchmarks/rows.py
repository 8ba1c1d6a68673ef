"""Rows of results: what every benchmark records about how its numbers were made."""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from gossamer.cost import machine


def describe(seed: int) -> dict[str, Any]:
    """Command, seed, versions, hardware, commit and date of this run."""
    return {
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
        "seed": seed,
        "versions": machine.versions(),
        "hardware": machine.hardware(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Adds rows to a file of JSON lines; rows that are there stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def known(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where it is not there yet."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def there(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a file that has all these values; None where it was not made yet."""
    return next((row for row in known(path) if all(row[name] == value for name, value in key.items())), None)


def spread(values: list[float]) -> str:
    """Mean and, of several values, standard deviation; shares in percent."""
    wide = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{wide}"


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows as aligned text; columns: heading -> format of a row, such as "{paper:.2f}"."""
    cells = [list(columns), *([form.format(**row) for form in columns.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _commit() -> str | None:
    """The commit of the working tree, with "+" where files differ from it; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed.strip() else "")
