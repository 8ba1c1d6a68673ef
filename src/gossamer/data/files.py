"""Files of published benchmarks: found where they usually lie, read with errors that name file and line."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from gossamer import documents
from gossamer.errors import UserError

T = TypeVar("T", bound=Hashable)

SHOWN = 20  # faults of one kind listed in a message
JUNK = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information")


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: what macOS and Windows leave, and all that is hidden."""
    return name.startswith(".") or name.lower() in JUNK


def entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without junk."""
    return sorted(path for path in folder.iterdir() if not is_junk(path.name))


def find(folder: Path, *places: str) -> Path:
    """The first of `places` that exists below `folder`; FileNotFoundError with all of them if none does."""
    for place in places:
        if (folder / place).exists():
            return folder / place
    raise FileNotFoundError(f"{folder} holds no {' and no '.join(places)}")


def inside(folder: Path, name: str, place: str) -> Path:
    """The path `name` below `folder`; UserError where it would lead out of it."""
    parts = PureWindowsPath(name).parts if "\\" in name else PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in parts or "\0" in name:
        raise UserError(f"{place} names {name!r:.200}, which leads out of {folder}; paths are relative to it")
    return folder / name


def read_json(path: Path) -> Any:
    """The content of a JSON file of records; UserError with file, line and column where it is malformed."""
    return documents.read_json(path, documents.RECORDS)


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of every line of a JSON-lines file; empty lines are passed over."""
    for place, record in documents.read_json_lines(path):
        yield place, mapping(record, place)


def mapping(value: Any, place: str) -> dict[str, Any]:
    """`value`, which must be a JSON object."""
    if not isinstance(value, dict):
        raise UserError(f"{place} is not a record of named fields, but {reprlib.repr(value)}")
    return value


def field(record: dict[str, Any], name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """`record[name]`, which must be there and of the type `kind`; UserError with the place otherwise."""
    if name not in record:
        raise UserError(f"{place} has no field {name!r}; it has: {', '.join(map(str, record))}")
    value = record[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(k.__name__ for k in kinds)
        raise UserError(f"{place} has {reprlib.repr(value)} in field {name!r}, which should be {names}")
    return value


def number(value: str, names: tuple[str, ...], place: str) -> int:
    """The place of `value` in `names`; UserError with the known ones otherwise."""
    if value not in names:
        raise UserError(f"{place} has {value!r:.80}; known: {', '.join(names)}")
    return names.index(value)


def twice(values: Iterable[T]) -> list[T]:
    """Values that come more than once, each once."""
    return [value for value, count in Counter(values).items() if count > 1]


def listed(faults: Sequence[str]) -> str:
    """Faults as one text: the first twenty, and how many more there are."""
    more = len(faults) - SHOWN
    return "; ".join(faults[:SHOWN]) + (f"; and {more:,} more" if more > 0 else "")


def require_present(paths: Iterable[tuple[Path, str]]) -> None:
    """FileNotFoundError that lists the image files which are not there, each with the place that names it; opens none."""
    first: dict[Path, str] = {}
    for path, place in paths:
        first.setdefault(path, place)
    absent = [f"{path} ({place})" for path, place in first.items() if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{len(absent):,} of {len(first):,} images are not there: {listed(absent)}")
