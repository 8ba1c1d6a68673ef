"""Files of published benchmarks: found where they usually lie, read with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def find(folder: Path, *places: str) -> Path:
    """The first of `places` that exists below `folder`; FileNotFoundError with all of them if none does."""
    for place in places:
        if (folder / place).exists():
            return folder / place
    raise FileNotFoundError(f"{folder} holds no {' and no '.join(places)}")


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError with file, line and column where it is malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno} is not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of every line of a JSON-lines file; empty lines are passed over."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"line {number} of {path}"
            try:
                record = json.loads(line.rstrip("\n"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{place} is not JSON: {error.msg} at column {error.colno}") from error
            yield place, mapping(record, place)


def mapping(value: Any, place: str) -> dict[str, Any]:
    """`value`, which must be a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{place} is not a record of named fields, but {_shown(value)}")
    return value


def field(record: dict[str, Any], name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """`record[name]`, which must be there and of the type `kind`; ValueError with the place otherwise."""
    if name not in record:
        raise ValueError(f"{place} has no field {name!r}; it has: {', '.join(map(str, record))}")
    value = record[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        kinds = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{place} has {_shown(value)} in field {name!r}, which should be {kinds}")
    return value


def number(value: str, names: tuple[str, ...], place: str) -> int:
    """The place of `value` in `names`; ValueError with the known ones otherwise."""
    if value not in names:
        raise ValueError(f"{place} has {value!r}; known: {', '.join(names)}")
    return names.index(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
