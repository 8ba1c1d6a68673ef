"""Every Python snippet of README and docs is run, page by page, every file is read, and every command has what it is given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from gossamer import methods
from gossamer.comparison import plan
from gossamer.runs import run_file

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
QUICK = ("inspect", "cost")  # commands that run in seconds, without training


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "snippet"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)
    assert namespace


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("gossamer ")]


@pytest.mark.parametrize("command", sorted({c for p in PAGES for c in commands(p)}))
def test_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from gossamer.cli import main

    _, verb, *rest = shlex.split(command)
    if verb in QUICK:
        assert main([verb, *rest]) == 0
        assert capsys.readouterr().out
        return
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert verb in said
    for option in (of.partition("=")[0] for of in rest if of.startswith("--")):
        assert option in said, f"gossamer {verb} has no {option}"
    settings = [of for of in rest if re.match(r"[\w.]+=", of)]
    if verb == "serve":
        return  # NAME=FOLDER is no setting
    if verb == "compare":
        plan.read(ROOT / "examples" / "comparison.yaml", settings)
    elif settings:
        run_file.parse([str(ROOT / "examples" / "image_classification.yaml"), *settings], verb)


def files() -> list[tuple[str, str]]:
    """The page and the text of each YAML file in README and docs."""
    return [(page.name, block) for page in PAGES for block in blocks(page, "yaml")]


@pytest.mark.parametrize(("page", "text"), files(), ids=lambda value: value if value.endswith(".md") else "")
def test_files_are_read(page: str, text: str, tmp_path: Path) -> None:
    """A run file, or one of a comparison, with settings and methods that there are."""
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    if "\ntasks:" in text:
        comparison = plan.read(path)
        cells = [*plan.cells(comparison, {}), *(c for of in plan.candidates(comparison).values() for c in of)]
        runs = [cell.run for cell in cells]
    else:
        runs = [run_file.parse([str(path)])[0]]
    for values in (values for run in runs for values in run.methods):
        assert methods.from_dict(values)
