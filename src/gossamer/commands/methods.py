"""`gossamer methods [NAME]`: which methods there are, and the settings of each. Read from their source, so torch is not loaded."""

from __future__ import annotations

import argparse
import ast
import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.errors import UserError

FOLDER = Path(__file__).parents[1] / "methods"
PEFT = "every injectable tuner of peft: {method: peft, peft_type: LORA, r: 8}, with peft's own settings"

REQUIRED = "(to be given)"


@dataclass(frozen=True, kw_only=True)
class Told:
    """A method as its source tells of it: what it says of itself, and setting -> (kind, default), as they are written."""

    text: str
    settings: dict[str, tuple[str, str]]


def every() -> dict[str, Told]:
    """Name in run files -> method."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and "method" in map(ast.unparse, node.decorator_list):
                fields = [of for of in node.body if isinstance(of, ast.AnnAssign)]
                settings = {
                    ast.unparse(of.target): (
                        ast.unparse(of.annotation),
                        REQUIRED if of.value is None else ast.unparse(of.value),
                    )
                    for of in fields
                    if not ast.unparse(of.annotation).startswith("ClassVar")
                }
                found[_name(node)] = Told(text=ast.get_docstring(node) or "", settings=settings)
    return found


def _name(node: ast.ClassDef) -> str:
    assigned = [of for of in node.body if isinstance(of, ast.Assign) and ast.unparse(of.targets[0]) == "name"]
    return ast.literal_eval(assigned[0].value)


def listed() -> str:
    """All methods, with their settings and usual values."""
    lines = []
    for name, told in every().items():
        lines.append(f"{name:<18}{told.text.partition(chr(10))[0]}")
        if told.settings:
            values = ", ".join(f"{setting}={default}" for setting, (_, default) in told.settings.items())
            lines += textwrap.wrap(values, 110, initial_indent=" " * 18, subsequent_indent=" " * 18)
    return "\n".join([*lines, f"{'peft':<18}{PEFT}", "", "gossamer methods NAME explains the settings of one."])


def explained(name: str) -> str:
    """One method: what it says of itself, and its settings with their kinds and usual values.

    Raises:
        UserError: there is no such method; the message lists those that there are.
    """
    known = every()
    if name == "peft":
        return PEFT
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"no method {name!r}{hint}; there are {', '.join([*known, 'peft'])}")
    told = known[name]
    settings = [f"  {setting}: {kind} = {default}" for setting, (kind, default) in told.settings.items()]
    return "\n".join([told.text, "", "Settings:", *(settings or ["  none"])])


def command(arguments: Sequence[str]) -> None:
    """Prints the methods, or one of them."""
    parser = argparse.ArgumentParser(
        prog="gossamer methods", description="Which methods there are, and the settings of each in a run file."
    )
    parser.add_argument("name", nargs="?", help="one of them, to be explained (default: all, in short)")
    asked = parser.parse_args(arguments)
    print(listed() if asked.name is None else explained(asked.name))
