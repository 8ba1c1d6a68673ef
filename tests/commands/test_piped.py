"""What commands write into a pipe or a file: lines, and nothing that moves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gossamer as gm
from gossamer.cli import main
from gossamer.runs.run_file import to_yaml

from .. import squares


def run_file(folder: Path) -> str:
    path = folder / "run.yaml"
    path.write_text(to_yaml(squares.run(folder / "run", {"method": "vpt", "prompts": 3}, limit=40, epochs=2)))
    return str(path)


def check(told: str) -> None:
    assert not {"\r", "\x1b"} & set(told)
    assert re.findall(r"^epoch (\d)/2: .*\)?$", told, re.MULTILINE) == ["0", "1", "2"]
    assert len(told.splitlines()) == 8, "what is read, solved and eased (three lines), computed in, and three epochs"


def test_training_writes_one_line_an_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", run_file(tmp_path)]) == 0
    check(capsys.readouterr().err)


@pytest.mark.slow
def test_training_writes_one_line_an_epoch_into_a_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "gossamer", "train", run_file(tmp_path)]
    environment = {"PYTHONPATH": str(Path(gm.__file__).parents[1])}
    said = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    check(said.stderr)
    assert said.stdout.splitlines()[-1] == f"everything is in {tmp_path / 'run'}"
