"""Every Python snippet of README and docs is run, page by page; every `gossamer` command there is one that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

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
    assert verb in capsys.readouterr().out
