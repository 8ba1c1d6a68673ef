"""Run files: settings (`gossamer.runs.run`) from YAML and the command line, and back."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gossamer import documents
from gossamer.errors import UserError
from gossamer.runs.run import Run

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

RUN_FILE = "run.yaml"
SWITCHES = {
    "resume": "continue the run in the output folder",
    "overwrite": "remove an earlier run in the output folder",
    "json": "print the results as JSON",
}
SHORT = {"model": "name", "data": "name"}
"""Parts that may be one word: `model: dinov2-small` is `model: {name: dinov2-small}`, `data: FOLDER` likewise."""
T = TypeVar("T")


def parse(arguments: Sequence[str], command: str = "train") -> tuple[Run, dict[str, bool]]:
    """The run that the arguments of `gossamer train` (or another command) describe, and its switches (`SWITCHES`).

    Arguments: a run file (YAML), or a folder of images in place of the file that `gossamer init` would write for it, and options
    `--training.epochs 3`, the same as `training.epochs=3`, which change what it says. Of several files or equal options the later
    one wins.

    Raises:
        UserError: unknown name (the known ones are listed), missing or unfit value.
        FileNotFoundError: there is no such file.
    """
    files, options = _sorted(arguments)
    values: dict[str, Any] = {}
    for file in files:
        values = merged(values, _first(file) if Path(file).is_dir() else settings(file, Run, "run file"))
    given = _options(command, options)
    switches = {name: given.pop(name, False) for name in SWITCHES}
    return build(Run, merged(values, given)), switches


def settings(path: str | Path, kind: type, what: str) -> dict[str, Any]:
    """The settings in a YAML file, such as a "run file", with names that the dataclass `kind` has; their values are unchecked.

    Raises:
        UserError: it holds something else; the message names file and setting.
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such {what}: {path}")
    values = documents.read_yaml(path)
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise UserError(f"{path} is no {what}: it holds {found}, not named settings")
    values = _spelt_out(values)
    _check_names(kind, values, f"{path}: ")
    return values


def build(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass of settings, such as `Run`, from nested plain values, such as the content of a YAML file.

    Raises:
        UserError: unknown name (the known ones are listed), missing or unfit value.
    """
    from jsonargparse import ArgumentError

    values = _spelt_out(values)
    _check_names(kind, values, "")
    parser = _parser_of(kind)
    try:
        return kind(**vars(parser.instantiate(parser.parse_object(values))))
    except ArgumentError as error:
        raise UserError(" ".join(str(error).split())) from error


def merged(values: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Settings changed by others, part by part; lists are replaced."""
    both = {
        k: merged(values[k], v) for k, v in change.items() if isinstance(v, dict) and isinstance(values.get(k), dict)
    }
    return {**values, **change, **both}


def read(folder: str | Path) -> Run:
    """The run whose folder this is.

    Raises:
        FileNotFoundError: there is no run.yaml in it.
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no folder of a run: it has no {RUN_FILE}")
    return parse([str(path)])[0]


def to_yaml(run: Run) -> str:
    """The run file with every setting."""
    import yaml

    command = f"# gossamer train {RUN_FILE} output=...\n"
    return command + yaml.safe_dump(_plain(dataclasses.asdict(run)), sort_keys=False, allow_unicode=True)


def _first(folder: str) -> dict[str, Any]:
    """The settings of the first run on a folder of images."""
    from gossamer.data.folder import load_folder, split_folders
    from gossamer.runs import first

    if (Path(folder) / RUN_FILE).is_file():
        raise UserError(f"{folder} is the folder of a run; to repeat it, give its {RUN_FILE} and another output=...")
    splits = split_folders(documents.expanded(folder))
    images = load_folder(folder, next(iter(splits)))
    text = first.text(folder, len(images), len(images.classes), validated="val" in splits)
    return _spelt_out(documents.parse_yaml(text, folder))


def _spelt_out(values: dict[str, Any]) -> dict[str, Any]:
    """Settings with their parts in full (see `SHORT`)."""
    full = {part: {name: values[part]} for part, name in SHORT.items() if isinstance(values.get(part), str)}
    return {**values, **full}


DESCRIPTIONS = {
    "train": "Adapt a model to labelled images. Every option can stand in the run file.",
    "scan": "Show where in its depth a model decides the task of a run file, or of a finished run's folder.",
    "search": "Find the arms of a method, such as the layers that DAS skips, for the task of a run file.",
}


def _options(command: str, options: Sequence[str]) -> dict[str, Any]:
    """Options of the command line as nested values, those that are given."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(
        prog=f"gossamer {command}",
        usage=f"gossamer {command} [RUN.yaml | FOLDER] [--OPTION VALUE | OPTION=VALUE] ...",
        description=DESCRIPTIONS[command],
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode=_mode(),
    )
    parser.add_argument("--config", help="the run file; RUN.yaml alone means the same")
    parser.add_class_arguments(Run, as_group=False)
    for name, text in SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    for action in parser._actions:
        action.required = False  # what the options do not say, the file may
    try:
        return parser.parse_args(list(options), defaults=False).as_dict()
    except ArgumentError as error:
        raise UserError(_explained(str(error))) from error


@functools.cache
def _parser_of(kind: type) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, parser_mode=_mode())
    parser.add_class_arguments(kind, as_group=False)
    return parser


@functools.cache
def _mode() -> str:
    """The name by which jsonargparse knows our reader of YAML."""
    from jsonargparse import set_loader

    set_loader("gossamer", lambda text: documents.parse_yaml(text, "a value"), exceptions=(UserError,))
    return "gossamer"


def _sorted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files, and options in the form --KEY=VALUE or --KEY VALUE."""
    files, options, value_of = [], [], None
    for token in arguments:
        for part, name in SHORT.items():
            if token == f"--{part}" or token.startswith((f"--{part}=", f"{part}=")):
                token = token.replace(part, f"{part}.{name}", 1)
        before, value_of = value_of, None
        if before is not None:
            files += [token] if before == "--config" else []
            options += [before, token] if before != "--config" else []
        elif token.startswith("--config="):
            files.append(token.partition("=")[2])
        elif token.startswith("--") and "=" not in token and token[2:] not in (*SWITCHES, "help"):
            value_of = token
        elif token.startswith("-"):
            options.append(token)
        elif "=" in token and not Path(token).is_file():
            options.append(f"--{token}")
        else:
            files.append(token)
    return files, options if value_of is None else [*options, value_of]


def _check_names(kind: type, values: Any, place: str, group: str = "") -> None:
    """UserError for a name that the dataclass `kind` has not, a part that has no names, and null where that means nothing."""
    if not isinstance(values, dict):
        raise UserError(f"{place}{group} must be named settings ({', '.join(_names(kind))}), got {values!r:.60}")
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        dotted = f"{group}.{name}" if group else name
        if name not in hints:
            close = difflib.get_close_matches(str(name), hints, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            known = ", ".join(_names(kind, group) if group else hints)
            where = f"{group} has" if group else "there is"
            raise UserError(f"{place}{where} no setting {name!r:.60}{hint}; known: {known}")
        kinds = typing.get_args(hints[name]) or (hints[name],)
        if value is None and type(None) not in kinds:
            raise UserError(f"{place}{dotted} must not be null; leave it out for its usual value")
        part = next((k for k in kinds if dataclasses.is_dataclass(k)), None)
        if part is not None and value is not None:
            _check_names(part, value, place, dotted)  # type: ignore[arg-type]


def _names(kind: type, group: str = "") -> list[str]:
    """Dotted names of all settings."""
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        dotted = f"{group}.{name}" if group else name
        part = next((k for k in (typing.get_args(hint) or (hint,)) if dataclasses.is_dataclass(k)), None)
        found += [dotted] if part is None else _names(part, dotted)  # type: ignore[arg-type]
    return found


def _explained(message: str) -> str:
    """jsonargparse's message about an option on one line; for an unknown name with the nearest, and the names of its part."""
    line = " ".join(message.split())
    if "unrecognized" not in line:
        return line
    asked = line.split()[-1].lstrip("-").partition("=")[0]
    names, (group, _, last) = _names(Run), asked.rpartition(".")
    ends = [name.rpartition(".")[2] for name in names]
    close = [name for name, end in zip(names, ends, strict=True) if end == last and not group]
    close = close or difflib.get_close_matches(asked, names, n=1)
    if not close and (end := difflib.get_close_matches(last, ends, n=1)):
        close = [name for name, of in zip(names, ends, strict=True) if of == end[0]]
    inside = [name for name in names if group and name.startswith(f"{group}.")]
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    return f"{line}{hint}; known: {', '.join(inside or typing.get_type_hints(Run))}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
