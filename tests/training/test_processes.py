"""Several processes of one run: its batches shared out, and the numbers of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler

import gossamer
from gossamer.runs import processes
from gossamer.runs.run_file import to_yaml
from gossamer.training import sharing
from gossamer.training.train import train

from .. import squares


def test_every_row_of_a_batch_is_one_processs_and_none_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "number", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        batches = sharing.Shares(BatchSampler(range(11), 5, drop_last=False))
        assert len(batches) == 3
        shares.append(list(batches))
    assert shares == [[[0, 3], [5, 8], [10]], [[1, 4], [6, 9], [10]], [[2], [7], [10]]]


def test_the_mean_over_processes_is_the_mean_over_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 11 items in batches of 5 the last batch has one row; the processes that have none of it count nothing."""
    monkeypatch.setattr(processes, "number", lambda: 3)
    classes, tokens, scores = torch.tensor([2, 4]), torch.tensor([[-100, 5, 6], [-100, 7, -100]]), torch.zeros(2, 9)
    weights = {}
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        weights[rank] = [sharing.weight(classes, step, 11, 5) for step in (0, 1, 2, 3)]
    assert weights == {0: [2, 2, 2, 2], 1: [2, 2, 0, 2], 2: [2, 2, 0, 2]}
    assert (sharing.weight(tokens, 0, 11, 5), sharing.weight(scores, 0, 11, 5)) == (3, 2)
    assert sharing.weight(classes, 1, 10, 5) == 2, "a batch that comes out even is nobody's alone"
    monkeypatch.setattr(processes, "total", lambda values: [8.0])
    assert float(processes.averaged(torch.tensor(2.0), 4.0)) == pytest.approx(3 * 2.0 * 4 / 8)


def together(*arguments: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of two processes of one command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"PYTHONPATH": str(Path(gossamer.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "gossamer", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, said, strict=True)]


def numbers(found: Any, number: Any = lambda value: value) -> Any:
    """What is no matter of the clock, each number as `number` has it."""
    if isinstance(found, dict):
        return {name: numbers(value, number) for name, value in found.items() if name != "seconds"}
    if isinstance(found, list):
        return [numbers(value, number) for value in found]
    return number(found) if isinstance(found, float) else found


def read(folder: Path) -> list[Any]:
    """The metrics of a run, and the records of its epochs."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in [(folder / "metrics.json").read_text(), *lines]]


@pytest.mark.slow
def test_two_processes_train_in_one_folder_to_the_numbers_of_one(tmp_path: Path) -> None:
    """40 training images in batches of 13: uneven shares, and a last batch of one row."""
    data = squares.save_images(tmp_path / "images", train=25, test=9)
    settings = {"data": data, "epochs": 3, "lr": 0.01, "batch": 13}
    alone = squares.run(tmp_path / "alone", {"method": "vpt", "prompts": 4}, **settings)
    train(alone)
    (tmp_path / "run.yaml").write_text(to_yaml(alone))
    asked = ("train", str(tmp_path / "run.yaml"), f"output={tmp_path / 'both'}")
    said = together(*asked)
    assert [code for code, _, _ in said] == [0, 0], said
    assert [bool(output) for _, output, _ in said] == [True, False], "the first one tells the scores"
    assert said[1][2].count("epoch") == 0
    expected = numbers(read(tmp_path / "alone"), lambda value: pytest.approx(value, rel=1e-4, abs=1e-6))
    assert numbers(read(tmp_path / "both")) == expected
    log = (tmp_path / "both" / "train.log").read_text()
    assert log.count("epoch 1/3") == log.count("solving the head") == 1
    again = together(*asked)
    assert [code for code, _, _ in again] == [2, 2]
    assert all("holds a run already (finished)" in errors for _, _, errors in again)
