"""`gossamer new method NAME` and `gossamer new family NAME`: a new file of Gossamer, with its row, its test and its page.

What is written adapts, and passes the contract, as it is; then it is made into what it is to be. `skeletons/` holds the texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from string import Template

from gossamer.errors import UserError

SKELETONS = Path(__file__).parent / "skeletons"
METHODS, BACKBONES, TWINS = "tests/contract/methods.py", "tests/contract/backbones.py", "tests/twins.py"


def new_method(name: str, kind: str, checkout: Path) -> list[Path]:
    """Writes a method that moves what every FFN gives by a learnt vector; returns the files that were written or changed.

    Args:
        name: of its file, and as run files say it: words in small letters joined by _.
        kind: name of its class.
        checkout: folder of a checkout of Gossamer.

    Raises:
        UserError: no checkout, no such name, or a file that is there already.
    """
    values = {"name": name, "Class": kind, "row": name.replace("_", "-")}
    made = {
        f"src/gossamer/methods/{name}.py": "method",
        f"tests/methods/test_{name}.py": "test_method",
        f"docs/{name}.md": "page",
    }
    _check(name, kind, checkout, [*made], [METHODS])
    _insert(checkout / METHODS, "METHODS: dict[str, Row] = {\n", "\n}\n", _filled("row_method", values))
    return [checkout / METHODS, *_write(checkout, made, values)]


def new_family(name: str, kind: str, checkout: Path) -> list[Path]:
    """Writes a family with the names of ViT, its twin by hand and its row; returns the files that were written or changed.

    Args:
        name: the `model_type` in the configuration of its models.
        kind: a class of transformers that is the bare encoder, such as PixioModel; `...Config` is that of its configuration.
        checkout: folder of a checkout of Gossamer.

    Raises:
        UserError: no checkout, no such name, or a file that is there already.
    """
    file = name.replace("-", "_")
    values = {"name": name, "Class": kind.removesuffix("Model"), "Model": kind, "TWIN": file.upper()}
    values |= {"Config": f"{kind.removesuffix('Model')}Config", "row": name.replace("_", "-")}
    made = {f"src/gossamer/families/{file}.py": "family"}
    _check(file, kind, checkout, [*made], [BACKBONES, TWINS])
    _insert(checkout / BACKBONES, "BACKBONES: dict[str, Backbone] = {\n", "\n}\n", _filled("row_family", values))
    twins = checkout / TWINS
    twins.write_text(twins.read_text(encoding="utf-8") + _filled("twin", values), encoding="utf-8")
    return [checkout / BACKBONES, twins, *_write(checkout, made, values)]


def class_of(name: str) -> str:
    """The usual class of a method's name: SSF of ssf, LinearProbe of linear_probe."""
    words = name.split("_")
    return name.upper() if len(words) == 1 and len(name) < 5 else "".join(word.capitalize() for word in words)


def _check(name: str, kind: str, checkout: Path, made: Sequence[str], changed: Sequence[str]) -> None:
    if not (name.isidentifier() and name == name.lower() and kind.isidentifier()):
        raise UserError(f"{name!r} and {kind!r} are to be names of a file and a class: letters, digits and _")
    if missing := [file for file in changed if not (checkout / file).is_file()]:
        raise UserError(
            f"{checkout} is no checkout of Gossamer: it has no {missing[0]}; run this where src and tests are"
        )
    if there := [file for file in made if (checkout / file).exists()]:
        raise UserError(f"{there[0]} is there already; choose another name")


def _filled(skeleton: str, values: dict[str, str]) -> str:
    return Template((SKELETONS / f"{skeleton}.txt").read_text(encoding="utf-8")).substitute(values)


def _write(checkout: Path, made: dict[str, str], values: dict[str, str]) -> list[Path]:
    for file, skeleton in made.items():
        (checkout / file).write_text(_filled(skeleton, values), encoding="utf-8")
    return [checkout / file for file in made]


def _insert(path: Path, opening: str, closing: str, line: str) -> None:
    """Puts a line behind the last one between an opening and the closing that follows it."""
    text = path.read_text(encoding="utf-8")
    if opening not in text:
        raise UserError(f"{path} has no line {opening.strip()!r}, behind which the new row would stand")
    end = text.index(closing, text.index(opening)) + 1
    path.write_text(text[:end] + line + text[end:], encoding="utf-8")


def command(arguments: Sequence[str]) -> None:
    """Writes what was asked for, and says what is left to do."""
    parser = argparse.ArgumentParser(
        prog="gossamer new", description="In a checkout of Gossamer: the skeleton of a new method or family."
    )
    parser.add_argument("what", choices=["method", "family"])
    parser.add_argument("name", help="of a method as run files say it (ssf); of a family its model_type (vit_msn)")
    parser.add_argument(
        "--class", dest="kind", help="of a method (default: from its name); of a family its model in transformers"
    )
    parser.add_argument("--checkout", default=".", type=Path, help="folder of the checkout (default: this one)")
    asked = parser.parse_args(arguments)
    if asked.what == "method":
        written = new_method(asked.name, asked.kind or class_of(asked.name), asked.checkout)
        row = asked.name.replace("_", "-")
    else:
        if asked.kind is None:
            raise UserError("a family needs a model to be read: --class PixioModel")
        written, row = new_family(asked.name, asked.kind, asked.checkout), asked.name.replace("_", "-")
    print("\n".join(str(path) for path in written))
    print(f"it works as it is; make it yours, then: python -m pytest tests/contract -m 'slow or not slow' -k {row}")
