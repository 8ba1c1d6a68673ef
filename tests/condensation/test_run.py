"""`gossamer condense`: a finished run, cut and tuned further, with its controls."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer as gm
from gossamer import cli
from gossamer.condensation import number
from gossamer.condensation import run as condensed_run
from gossamer.condensation.run import train
from gossamer.condensation.scoring import scores
from gossamer.methods.vpt import prompts_of
from gossamer.runs.prepared import Prepared
from gossamer.runs.run_file import read
from gossamer.runs.sets import load_sets, preprocessing
from gossamer.training.train import CUT

from .. import squares
from ..training.test_train import _kill_when, numbers


@pytest.fixture(scope="module")
def condensed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs behind the cut, as the command line makes it, with its controls."""
    folder = tmp_path_factory.mktemp("runs") / "condensed"
    arguments = ["--keep", "0.3", "--controls", "--output", str(folder), "training.epochs=2", "training.lr=0.02"]
    assert cli.main(["condense", str(squares.trained()), *arguments]) == 0
    return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_a_condensed_run_is_a_run_of_its_own(condensed: Path) -> None:
    run = read(condensed)
    assert run.condense is not None
    assert (run.condense.run, run.condense.keep) == (str(squares.trained()), 0.3)
    assert (run.training.epochs, run.training.lr) == (2, 0.02)
    assert run.methods == read(squares.trained()).methods
    record = json.loads((condensed / "condensed.json").read_text())
    assert (record["prompts_before"], record["prompts_after"]) == (30, 9)
    metrics = metrics_of(condensed)
    assert metrics["condensed"] == {k: record[k] for k in CUT}
    assert metrics["warm_start"] is None
    assert metrics["trainable_parameters"] == 9 * 24 + 2 * 25
    epochs = [json.loads(line)["epoch"] for line in (condensed / "history.jsonl").read_text().splitlines()]
    assert epochs == [0, 1, 2], "epoch 0 is the cut, before it is tuned"
    adapted = gm.load(condensed / "adapter")
    assert adapted.applied == (gm.VPT(prompts=tuple(record["counts"]["vpt"])),)
    assert adapted.metadata["results"]["test_accuracy"] == metrics["test"]["accuracy"]
    assert gm.evaluate.evaluate(adapted, gm.data.load(squares.images(), "test")).to_dict() == metrics["test"]


def test_scores_are_taken_on_the_training_images_and_the_trained_prompts(condensed: Path) -> None:
    run, source = read(condensed), gm.load(squares.trained() / "adapter")
    images = Prepared(load_sets(run)["train"], preprocessing(run))
    found = {name: values.tolist() for name, values in scores(source, images).items()}
    record = json.loads((condensed / "condensed.json").read_text())
    for name, values in found.items():
        torch.testing.assert_close(torch.tensor(record["scores"][name]), torch.tensor(values), rtol=1e-4, atol=1e-8)


def test_without_tuning_the_kept_prompts_are_the_trained_ones(tmp_path: Path) -> None:
    settings = {"keep": 0.3, "ranking": "local"}
    run = condensed_run.planned(squares.trained(), settings, tmp_path / "cut", ["training.epochs=0"])
    metrics = train(run)
    record = json.loads((tmp_path / "cut" / "condensed.json").read_text())
    cut, source = gm.load(tmp_path / "cut" / "adapter"), gm.load(squares.trained() / "adapter")
    assert record["counts"] == {"vpt": [3, 3, 3]}
    for name, part in prompts_of(cut).items():
        assert torch.equal(part.prompts, prompts_of(source)[name].prompts[record["kept"][name]])  # type: ignore
    assert torch.equal(cut.head.weight, source.head.weight)  # type: ignore[union-attr]
    assert metrics["val"]["accuracy"] == record["after_cut"]["val_accuracy"]


def test_controls_have_as_many_epochs_in_all(condensed: Path) -> None:
    folder = condensed / "controls"
    full, drawn, scratch = (read(folder / name) for name in ("full", "random", "scratch"))
    assert scratch.condense is None
    assert full.condense is not None
    assert drawn.condense is not None
    assert (full.condense.keep, drawn.condense.score) == (1.0, "random")
    assert (full.training.epochs, drawn.training.epochs, scratch.training.epochs) == (2, 2, 4)
    assert scratch.methods[0]["prompts"] == number(0.3, 10) == 3
    rows = json.loads((condensed / "controls.json").read_text())
    assert list(rows) == ["source", "condensed", "full", "random", "scratch"]
    for name in ("full", "random", "scratch"):
        assert rows[name]["test"] == metrics_of(folder / name)["test"]["accuracy"]
    assert rows["condensed"]["macs"] == rows["random"]["macs"] == rows["scratch"]["macs"] < rows["full"]["macs"]
    assert rows["full"]["macs"] == rows["source"]["macs"]
    assert [rows[n]["trained"] for n in rows] == [770, 266, 770, 266, 266]


@pytest.mark.slow
def test_a_killed_condensation_ends_with_the_numbers_of_one_that_was_not(condensed: Path, tmp_path: Path) -> None:
    settings = {"keep": 0.3}
    changes = ["training.epochs=2", "training.lr=0.02"]
    run = condensed_run.planned(squares.trained(), settings, tmp_path / "killed", changes)
    _kill_when(run, tmp_path / "killed", "checkpoints/checkpoint-*/trainer_state.json")
    expected = metrics_of(condensed)
    found = numbers(train(run, resume=True))
    assert found == numbers(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no folder of a run: it has no run.yaml"),
        (
            ["{run}", "data.limit=3"],
            "'data.limit=3': model, data and methods are those of the run in {run}; only training.",
        ),
        (["{run}", "--keep", "3"], "keep is the share of prompts that stays, above 0 and up to 1, got 3.0"),
        (["{run}", "--score", "best"], "score must be one of taylor, norm"),
        (["{run}", "training.epoch=3"], "did you mean 'training.epochs'?"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(squares.trained())
    output = ["--output", str(tmp_path / "out")]
    assert cli.main(["condense", *(a.format(run=run) for a in arguments), *output]) == 2
    said = capsys.readouterr().err
    assert message.format(run=run) in said
    assert not (tmp_path / "out" / "run.yaml").exists()


def test_an_unfinished_run_and_other_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.yaml").write_text((squares.trained() / "run.yaml").read_text())
    run = condensed_run.planned(tmp_path / "begun", {}, tmp_path / "out", [])
    with pytest.raises(FileNotFoundError, match="has not finished: continue it with gossamer train"):
        train(run)
    shutil.copytree(squares.trained(), tmp_path / "other")
    config = tmp_path / "other" / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"different"', '"unlike"'))
    run = condensed_run.planned(tmp_path / "other", {}, tmp_path / "out", [])
    with pytest.raises(
        ValueError, match=r"trained on the classes \['unlike', 'same'\], and the data has \['different', 'same'\]"
    ):
        train(run)
