"""The notebooks of `examples`: their cells run from top to bottom in one namespace, as a kernel runs them."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


def cells(notebook: Path, kind: str) -> list[str]:
    """The texts of one kind of cells."""
    return ["".join(cell["source"]) for cell in read(notebook)["cells"] if cell["cell_type"] == kind]


def read(notebook: Path) -> dict[str, Any]:
    return json.loads(notebook.read_text(encoding="utf-8"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_say_what_they_are_and_hold_no_outputs(notebook: Path) -> None:
    assert len(NOTEBOOKS) == 3
    document = read(notebook)
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in document["cells"]}) == len(document["cells"])
    assert cells(notebook, "markdown")[0].startswith("# ")
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    for text in cells(notebook, "code"):
        ast.parse(text)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails gives its exit code, which is the last value of its cell."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "notebook"}
    for text in cells(notebook, "code"):
        *body, last = ast.parse(text).body
        exec(compile(ast.Module(body, []), notebook.name, "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), notebook.name, "eval"), namespace)
            assert not isinstance(value, int) or value == 0, text
            if isinstance(value, Image.Image):
                value.load()  # as a kernel does that shows it
        else:
            exec(compile(ast.Module([last], []), notebook.name, "exec"), namespace)
