"""`gossamer search` on the tiny task: a folder with everything, a run that trains, and test images left alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import gossamer as gm
from gossamer.cli import main
from gossamer.runs.run_file import parse, to_yaml
from gossamer.searching.search import rules_of
from gossamer.training.train import train

from .. import squares

DAS = {"method": "das", "skip": 1, "rank": 4, "init": "zero_up"}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    shutil.copytree(squares.images(), images)
    for path in (images / "test").rglob("*.png"):
        path.write_bytes(b"nobody reads this")
    run = squares.run(tmp_path / "run", DAS, data=images, epochs=1, limit=None)
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(run))
    return path


def test_a_search_leaves_a_run_that_trains(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["search.rules.eta=50", "search.epochs=2", "search.rules.interval=2"]
    assert main(["search", str(run_file), *settings]) == 0
    said = capsys.readouterr().out
    folder = run_file.parent / "run" / "search"
    result = json.loads((folder / "result.json").read_text())
    assert f"found after {result['updates']} updates: vision.blocks.{result['chosen'][0]}" in said
    assert {p.name for p in folder.iterdir()} == {
        "settings.json", "history.jsonl", "preferences.png", "result.json", "found.yaml",
    }  # fmt: skip
    found = parse([str(folder / "found.yaml")])[0]
    assert found.methods[0]["skip"] == result["chosen"]
    assert found.search.rules == {"eta": 50, "interval": 2}
    assert main(["search", str(run_file), *settings]) == 2
    assert "holds a search already (finished)" in capsys.readouterr().err
    assert main(["search", str(run_file), *settings, "--resume"]) == 0
    assert main(["search", str(run_file), "search.rules.etta=1", "--overwrite"]) == 2
    assert "search.rules has no rule 'etta'" in capsys.readouterr().err
    other = run_file.parent / "other"
    assert main(["search", str(run_file), *settings, "training.warm_start=false", f"output={other}"]) == 0
    again = json.loads((other / "search" / "result.json").read_text())
    assert again == result  # the head of a search starts anew in any case
    metrics = train(squares.run(run_file.parent / "trained", found.methods[0], epochs=1, limit=60))
    assert metrics["macs"]["finished"] < metrics["macs"]["bare"]


def test_every_published_option_is_reached_from_the_command_line(run_file: Path) -> None:
    of_llava = {"policy": "softmax", "sharpness": 10.0, "candidates": 5, "eta": 0.1, "interval": 3, "ramp": True}
    more = {"distinct": False, "update": "policy_gradient", "training": "uniform", "reward": "accuracy", "warmup": 0}
    wanted = {**of_llava, **more}
    assert set(wanted) == {field.name for field in dataclasses.fields(gm.Bandit)}
    settings = {"reward_data": "train-batch", "reward_batch": 8, "dropout": True, "budget": 0.75, "cost": "latency"}
    settings |= {"epochs": 4, "hold_out": 0.1, "saving": 0.5, "checkpoint": 7}
    settings |= {"by": "race", "candidates": 5, "engine": "ray", "workers": 3}
    assert set(settings) | {"rules"} == {field.name for field in dataclasses.fields(gm.Search)}
    given = [f"search.{name}={value}" for name, value in settings.items()]
    given += [f"search.rules.{name}={value}" for name, value in wanted.items()]
    run = parse([str(run_file), *given], "search")[0]
    assert run.search == gm.Search(rules=wanted, **settings)
    assert rules_of(gm.DAS(skip=1), run.search) == gm.Bandit(**wanted)


def test_help_and_a_method_without_arms(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--help"]) == 0
    assert "gossamer search" in capsys.readouterr().out
    assert main(["search", str(run_file), "methods=[{method: vpt}]"]) == 2
    assert "exactly one method with something to choose" in capsys.readouterr().err
