"""JSON and YAML files, read in one place and with limits: a bad one is a sentence that names it and the place in it.

Both refuse what is too large, too deep, of the wrong encoding, or names one field twice; YAML also what grows when its aliases are
written out. Neither makes anything but plain values.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gossamer.errors import UserError

SETTINGS = 16 * 2**20  # bytes of a JSON file that holds settings or results
RECORDS = 4 * 2**30  # of one that holds the records of a data set
LINE = 16 * 2**20  # of one record in a file of lines
YAML = 2**20
VALUES = 100_000  # in a YAML file, those behind an alias counted each time
DEPTH = 64
MOST = 2**31 - 1  # that a whole number in a file may be: what torch counts with


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with the home folder in place of ~; UserError where ~NAME names nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{os.fspath(path)}: {error}") from error


def read_json(path: str | os.PathLike[str], limit: int = SETTINGS) -> Any:
    """The content of a JSON file of at most `limit` bytes.

    Raises:
        UserError: what it holds is not JSON, names a field twice, or is too large or too deep; with line and column.
        OSError: the file is not there or cannot be read.
    """
    return parse_json(_content(path, limit), path)


def parse_json(data: bytes, place: object, *, one_line: bool = False) -> Any:
    """The value that JSON spells; `place` begins the message of an error, and says the line already where there is but one."""
    text = _text(data, place)
    try:
        return strict_json(text)
    except json.JSONDecodeError as error:
        found = "it is empty" if not text.strip() else error.msg
        if one_line:
            raise UserError(f"{place} is not JSON: {found} at column {error.colno}") from error
        raise UserError(f"{place}, line {error.lineno}, column {error.colno} is not JSON: {found}") from error
    except RecursionError:
        raise UserError(f"{place} is not read: it is nested too deep") from None
    except ValueError as error:
        raise UserError(f"{place} is not valid JSON: {error}") from error


def strict_json(text: str) -> Any:
    """What `json.loads` makes of a text; ValueError also where it names a field twice, or a number has thousands of digits."""
    return json.loads(text, object_pairs_hook=_distinct)


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """(place, value) of every line of a file with one JSON value a line; empty lines are passed over."""
    with open(path, "rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LINE + 1), b""), start=1):
            place = f"line {number} of {path}"
            if len(line) > LINE:
                raise UserError(f"{place} has more than {LINE:,} bytes; it should be one record")
            if line.strip():
                yield place, parse_json(line.rstrip(), place, one_line=True)


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a text file; UserError where it is not UTF-8 or larger than any list of files."""
    return _text(_content(path, RECORDS), path).splitlines()


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file of at most `YAML` bytes; None where it is empty.

    Raises:
        UserError: what it holds is not YAML, names a field twice, or is too large or too deep; with line and column.
        OSError: the file is not there or cannot be read.
    """
    return parse_yaml(_text(_content(path, YAML), path), path)


def parse_yaml(text: str, place: object) -> Any:
    """The value that YAML spells, 1e-3 being a number and a date a string; `place` begins the message of an error."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measured(node, 0, {}, place)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise UserError(f"{place}{where} is not YAML that is read here: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{place} is not YAML that is read here: {error}") from error
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{place} is not read: it is nested too deep") from None
    except ValueError as error:
        raise UserError(f"{place} holds a number that is not read: {error}") from error
    finally:
        loader.dispose()


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that a kill or a full disk leaves the old one or the new one."""
    staged = path.with_name(f".{path.name}.new")
    try:
        with naming(path):
            staged.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
            os.replace(staged, path)
    except OSError:
        staged.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within the block what the system refuses is said of `path`: it names no file where an open one cannot be written on."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's plain values, with the numbers of YAML 1.2 and without dates."""


_FLOAT = "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, form) for tag, form in rules if tag not in (_FLOAT, "tag:yaml.org,2002:timestamp")]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def _measured(node: yaml.Node, depth: int, known: dict[int, tuple[int, int] | None], place: object) -> tuple[int, int]:
    """Values and levels of a node, an alias counted as what it stands for; `known` holds those seen, None while they are open."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise UserError(f"{_line(node, place)}: an anchor holds itself, so it has no end")
    else:
        known[id(node)] = None
        if depth > DEPTH:
            raise UserError(f"{_line(node, place)} is nested more than {DEPTH} levels deep")
        inside = [_measured(child, depth + 1, known, place) for child in _children(node, place)]
        found = known[id(node)] = 1 + sum(size for size, _ in inside), 1 + max((high for _, high in inside), default=0)
    size, height = found
    if size > VALUES or depth + height > DEPTH + 1:
        much = f"more than {VALUES:,} values" if size > VALUES else f"more than {DEPTH} levels"
        raise UserError(f"{_line(node, place)} holds {much}, aliases written out; nothing that is read here does")
    return found


def _children(node: yaml.Node, place: object) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return node.value
    if not isinstance(node, yaml.MappingNode):
        return []
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise UserError(f"{_line(key, place)}: {key.value!r:.80} stands there twice; leave one of them out")
            seen.add((key.tag, key.value))
    return [child for pair in node.value for child in pair]


def _line(node: yaml.Node, place: object) -> str:
    return f"{place}, line {node.start_mark.line + 1}"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise UserError(f"the field {twice!r:.80} stands there twice")
    return found


def _content(path: str | os.PathLike[str], limit: int) -> bytes:
    """The bytes of a file, which is no pipe or device that would never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{os.fspath(path)} is a folder or a device; a file is read here")
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(
            f"{os.fspath(path)} is larger than {limit:,} bytes, which no such file is; is it the right one?"
        )
    return data


def _text(data: bytes, place: object) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from error
