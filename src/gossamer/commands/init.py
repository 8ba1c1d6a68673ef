"""`gossamer init FOLDER`: looks at a folder of images and writes a run file for it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from gossamer.data.inspection import Inspection

SHOWN = 12  # classes and faults that are listed
EACH, TILE = 8, 160  # images of a class on the contact sheet, and their pixels


def command(arguments: Sequence[str]) -> None:
    """`gossamer init`: tells what the folder holds, draws a contact sheet, and writes the run file beside it."""
    parser = argparse.ArgumentParser(
        prog="gossamer init",
        description="Look at a folder of images (class/image.jpg, or train/class/image.jpg) and write a run file for it.",
        epilog="example: gossamer init photographs && gossamer train photographs.yaml",
    )
    parser.add_argument("folder", help="of the images")
    parser.add_argument("--to", metavar="FILE", help="the run file (default: NAME.yaml here, the folder being NAME)")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    asked = parser.parse_args(arguments)

    from gossamer.documents import expanded

    folder = expanded(asked.folder)
    file = expanded(asked.to) if asked.to else Path(f"{folder.resolve().name}.yaml")
    if file.exists() and not asked.overwrite:
        raise UserError(f"{file} is there already: --overwrite replaces it, --to names another")
    found, sheet = look(asked.folder, file)
    if asked.json:
        print(json.dumps(_record(found, file, sheet), indent=2))
        return
    print("\n".join(told(found)))
    print(f"contact sheet: {sheet}" if sheet else "no contact sheet: matplotlib is not installed (gossamer[report])")
    first = "remove what is damaged, then " if found.damaged else ""
    print(f"run file: {file}; next: {first}gossamer train {file}")


def look(folder: str, file: Path) -> tuple[Inspection, Path | None]:
    """What a folder of images holds, and the PNG of its contact sheet, None without matplotlib; it and the run file are written.

    Args:
        folder: of the images, as the run file is to name it.
        file: the run file; the sheet lies beside it. Older ones are replaced.

    Raises:
        UserError: it is no folder to train on; see `gossamer.data.inspection.inspect`.
        FileNotFoundError: there is no such folder.
    """
    from gossamer import report
    from gossamer.data import inspection
    from gossamer.documents import naming
    from gossamer.runs import first
    from gossamer.runs.shown import shown

    found = inspection.inspect(folder, lambda files: shown(files, "looking"))
    train = next(iter(found.counts.values()))
    text = first.text(folder, sum(train.values()), len(train), validated="val" in found.counts)
    sheet = file.with_suffix(".png") if found.sizes and report.available() else None
    if sheet is not None:
        report.contact_sheet(_examples(found), sheet)
    with naming(file):
        file.write_text(text, encoding="utf-8")
    return found, sheet


def told(found: Inspection) -> list[str]:
    """What was found in a folder, in lines for people."""
    lines = []
    for split, counts in found.counts.items():
        lines.append(f"{split}: {sum(counts.values()):,} images of {len(counts)} classes")
        lines += [f"  {count:>7,}  {name}" for name, count in list(counts.items())[:SHOWN]]
        lines += [f"           and {len(counts) - SHOWN} more classes"] if len(counts) > SHOWN else []
    if found.sizes:
        small, middle, large = (f"{width} x {height}" for width, height in found.sizes)
        lines.append(f"sizes: {small} to {large} pixels, the middle one {middle}")
    if found.skew >= 2:
        advice = ": look at balanced accuracy beside accuracy" if found.skew >= 5 else ""
        lines.append(f"the largest class has {found.skew:.1f} times the training images of the smallest{advice}")
    lines += _some("damaged, to be removed before training", list(found.damaged.values()))
    torn = [" = ".join(map(str, group)) for group in found.torn]
    lines += _some("the same image in two classes or splits, so that one label is wrong or a test is seen", torn)
    rest = [" = ".join(map(str, group)) for group in found.twins if group not in found.torn]
    return lines + _some("the same image twice", rest)


def _some(what: str, faults: list[str]) -> list[str]:
    if not faults:
        return []
    more = [f"  and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
    return [f"{what} ({len(faults):,}):", *(f"  {fault}" for fault in faults[:SHOWN]), *more]


def _examples(found: Inspection) -> dict[str, list[Image]]:
    """Some images of each of the first classes, from its whole length, by what stands above them."""
    from gossamer.data.folder import load_folder
    from gossamer.data.images import open_image

    images = load_folder(found.folder, next(iter(found.counts)))
    files: dict[str, list[Path]] = {name: [] for name in images.classes[:SHOWN]}
    for i, label in enumerate(images.labels):
        file = Path(images.describe(i))
        if (name := images.classes[label]) in files and file not in found.damaged:
            files[name].append(file)
    rows = {}
    for name, some in files.items():
        places = {round(i * (len(some) - 1) / (EACH - 1)) for i in range(EACH)} if some else set()
        rows[f"{name} ({len(some):,})"] = [open_image(some[place]) for place in sorted(places)]
        for image in rows[f"{name} ({len(some):,})"]:
            image.thumbnail((TILE, TILE))
    return rows


def _record(found: Inspection, file: Path, sheet: Path | None) -> dict[str, Any]:
    return {
        "folder": str(found.folder),
        "counts": found.counts,
        "sizes": found.sizes,
        "damaged": {str(path): why for path, why in found.damaged.items()},
        "twins": [[str(path) for path in group] for group in found.twins],
        "run_file": str(file),
        "contact_sheet": None if sheet is None else str(sheet),
    }
