"""Run files: settings (`gossamer.runs.run`) from YAML and the command line, and back."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gossamer.errors import UserError
from gossamer.runs.run import Run

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

RUN_FILE = "run.yaml"
T = TypeVar("T")


def parse(arguments: Sequence[str], command: str = "train") -> tuple[Run, dict[str, bool]]:
    """The run that the arguments of `gossamer train` (or another command) describe, and the switches "resume" and "overwrite".

    Arguments: a run file (YAML), options `--training.epochs 3`, and the same as `training.epochs=3`; later ones win.

    Raises:
        ValueError: unknown name (the known ones are listed), missing or unfit value.
    """
    from jsonargparse import ArgumentError

    parser = _parser(command)
    try:
        parsed = parser.parse_args(_rewritten(arguments))
        values = parser.instantiate(parsed)
    except ArgumentError as error:
        raise UserError(_explained(str(error), parser)) from error
    switches = {name: getattr(values, name) for name in ("resume", "overwrite")}
    return Run(**{f.name: getattr(values, f.name) for f in dataclasses.fields(Run)}), switches


def build(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass of settings, such as `Run`, from nested plain values, such as the content of a YAML file.

    Raises:
        ValueError: unknown name (the known ones are listed), missing or unfit value.
    """
    from jsonargparse import ArgumentError

    parser = _parser_of(kind)
    try:
        return kind(**vars(parser.instantiate(parser.parse_object(values))))
    except ArgumentError as error:
        raise UserError(_explained(str(error), parser)) from error


@functools.cache
def _parser_of(kind: type) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    return parser


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


DESCRIPTIONS = {
    "train": "Adapt a model to labelled images. Every option can stand in the run file.",
    "search": "Find the arms of a method, such as the layers that DAS skips, for the task of a run file.",
}


def _parser(command: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"gossamer {command}",
        usage=f"gossamer {command} [RUN.yaml] [--OPTION VALUE | OPTION=VALUE] ...",
        description=DESCRIPTIONS[command],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="the run file; RUN.yaml alone means the same")
    parser.add_class_arguments(Run, as_group=False)
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier run in the output folder")
    return parser


def _rewritten(arguments: Sequence[str]) -> list[str]:
    """KEY=VALUE becomes --KEY=VALUE, and a YAML file --config FILE."""
    rewritten = []
    for place, token in enumerate(arguments):
        is_value = place > 0 and arguments[place - 1].startswith("--") and "=" not in arguments[place - 1]
        is_value = is_value and arguments[place - 1] not in ("--resume", "--overwrite")
        if token.startswith("-") or is_value:
            rewritten.append(token)
        elif "=" in token and not Path(token).is_file():
            rewritten.append(f"--{token}")
        else:
            if not Path(token).is_file():
                raise FileNotFoundError(f"no such run file: {token}")
            rewritten += ["--config", token]
    return rewritten


def _explained(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message on one line; for an unknown name with the nearest and all known names."""
    known = [name for name, _ in parser.get_defaults(skip_validation=True).items() if name != "config"]
    line = " ".join(message.split())
    if "not accept" not in line and "unrecognized" not in line:
        return line
    asked = line.replace("'", " ").split()[-1].lstrip("-").partition("=")[0]
    close = difflib.get_close_matches(asked, [*known, *(name.rpartition(".")[2] for name in known)], n=1)
    return f"{line}{f' (did you mean {close[0]!r}?)' if close else ''}; known: {', '.join(known)}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
