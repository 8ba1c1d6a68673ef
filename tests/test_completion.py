"""Completion in shells: what can stand where, and a real bash that asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gossamer as gm
from gossamer import cli
from gossamer.completion import SCRIPTS, words


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["tr"], ["train"]),
        (["co"], ["cost", "condense", "compare", "completion"]),
        (["train", "run.yaml", "training.ep"], ["training.epochs="]),
        (["train", "--training.ep"], ["--training.epochs"]),
        (["export", "--for"], ["--format"]),
        (["shrink", "runs/a", "--wi"], ["--within"]),
        (["compare", "c.yaml", "--wor"], ["--workers"]),
        (["nothing", "--"], []),
        (["evaluate", "runs/"], []),
    ],
)
def test_words(typed: list[str], found: list[str]) -> None:
    assert words(typed) == found


def test_an_empty_word_offers_commands_or_options() -> None:
    assert words([]) == words([""]) == list(cli.COMMANDS)
    offered = words(["predict", ""])
    assert "--picture" in offered
    assert all(word.startswith("--") for word in offered)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_every_shell_has_its_lines(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    assert "gossamer completion words --" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "gossamer"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gossamer "$@"\n')
    program.chmod(0o755)
    script = """
        source <(gossamer completion bash)
        for words in "gossamer sea" "gossamer train x.yaml training.war" "gossamer export x --fo"; do
            COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
            _gossamer
            echo "${COMPREPLY[@]}"
        done
    """
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(gm.__file__).parents[1]),
    }
    said = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert said.stdout.split("\n") == ["search", "training.warm_start=", "--format", ""]
    assert said.stderr == ""
