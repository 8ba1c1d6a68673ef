"""The model card: YAML that reads back, and text of others that stays text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import gossamer as gm
from gossamer import card, predict, saving, storage, tasks
from gossamer.runs import recorded

from . import squares

NASTY = [
    "a: b", "- x", "a\n---\nlicense: mit", 'quo"te', "it's", "#tag", "[x](http://y)", "<script>alert(1)</script>", "null", "1.0",
    "{a}", "!!python/object:os.system", "a`b`", "*bold*", "| cell |", "line\r\nbreak", "\u2028", "&amp;",
]  # fmt: skip


def config_of(name: str | None, **metadata: Any) -> dict[str, Any]:
    backbone = {"class": "ViTModel", "name": name, "options": {}}
    return {
        "metadata": metadata,
        "backbone": backbone,
        "methods": [{"method": "vpt", "prompts": 3}],
        "cost": {"macs": 5},
    }


@pytest.mark.parametrize("text", NASTY)
def test_front_matter_reads_back(text: str) -> None:
    written = card.text(config_of(text, task=text, labels=[text], results={text: text}))
    _, front, rest = written.split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "gossamer", "tags": ["gossamer", "parameter-efficient"]}
    dumped = yaml.dump({"key": text}, Dumper=card._OneLine, sort_keys=False, allow_unicode=True, width=10_000)
    assert yaml.safe_load(dumped) == {"key": text}
    assert "\n---" not in dumped
    assert "\n---" not in rest
    assert "<script" not in rest.replace("\\<script", "")
    assert "](http" not in rest.replace("\\]\\(http", "")
    assert (
        sum(line.startswith("#") for line in rest.splitlines()) == 4
    )  # the title, Cost, Results, Settings: none of others


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ViTForImageClassification", "ViTForImageClassification"), ("google/vit_base", "google/vit_base"), (0.75, "0.75"),
        ("a\nb", "a b"), ("*b*", r"\*b\*"), ("<b>", r"\<b\>"), ("_x_", r"\_x\_"), ("[a](b)", r"\[a\]\(b\)"), ("a`b", r"a\`b"),
    ],
)  # fmt: skip
def test_text_is_shown_letter_by_letter(value: Any, shown: str) -> None:
    assert card.plain(value) == shown


@pytest.mark.parametrize("name", [None, "dinov2-small", "/data/backbone", "./backbone", "a/b/c", "runs/backbone"])
def test_only_a_repository_of_the_hub_is_a_base_model(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "backbone").mkdir(parents=True)
    assert "base_model" not in card.text(config_of(name))
    assert "base_model: facebook/dinov2-small\n" in card.text(config_of("facebook/dinov2-small"))
    assert "base_model:\n- a/b\n- c/d\n" in card.front(["a/b", "c/d"])
    assert "base_model" not in card.front(["a/b", name])  # half of it would be a wrong one


def test_the_hub_is_told_the_task_by_its_own_name_and_numbers_are_rounded() -> None:
    told = card.text(config_of(None, task="captioning", results={"accuracy": 2 / 3}))
    assert "pipeline_tag: image-to-text\n" in told
    assert "- accuracy: 0.6667\n" in told
    assert "pipeline_tag" not in card.text(config_of(None, task="animals"))


def test_tasks_that_the_hub_has_a_name_for_are_tasks_of_ours() -> None:
    assert tasks.TASKS.keys() - card.PIPELINES.keys() == {"image-text-retrieval"}
    assert tasks.TASKS.keys() >= card.PIPELINES.keys()


def test_the_card_of_a_run_says_what_was_recorded_and_its_snippet_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(squares.trained() / "adapter", tmp_path / "cells"))
    told = (folder / "README.md").read_text()
    assert "# vit, adapted by vpt\n" in told
    assert "- data: images (120 test, 240 train, 60 val)\n- seed: 0\n" in told
    assert "- epochs: 2\n" in told
    assert "- lr: 0.03\n" in told
    assert "- validation: 0.2\n" in told
    assert "- trained parameters: 770 of 15,866 (4.85 %)\n" in told
    assert str(squares.home()) not in told, "a card is for others: no path of this machine"
    assert not {"license", "datasets"} & yaml.safe_load(told.split("---\n")[1]).keys(), "nobody said them"
    for name in ("confusion.png", "curves.png"):
        assert f"({name})" in told
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    shutil.copyfile(next((squares.images() / "test" / "same").iterdir()), folder / "photo.jpg")
    monkeypatch.chdir(folder)
    exec(told.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.startswith("{'file': 'photo.jpg', 'label': '")


def test_facts_that_are_known_later_come_into_the_card_and_change_nothing_else(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(squares.trained() / "adapter", tmp_path / "cells"))
    before, tensors = storage.read(folder)
    found = {
        "n": 2, "mean": 0.75, "sd": 0.0123, "split": "test", "seeds": [0, 3], "latency_ms": 1.234, "bare_latency_ms": 1.5,
        "processor": None,
    }  # fmt: skip
    saving.note(folder, pictures=[squares.trained() / "attention.png"], compared=found, license="mit")
    told, again = (folder / "README.md").read_text(), storage.read(folder)
    assert "- test accuracy: 75.00% ± 1.23%, mean and standard deviation of seeds 0, 3\n" in told
    assert "- one sample: 1.23 ms finished, 1.5 ms of the bare backbone\n" in told
    assert yaml.safe_load(told.split("---\n")[1])["license"] == "mit"
    assert not (folder / "attention.png").exists(), "it shows images of the data"
    assert again[0] == {**before, "metadata": {**before["metadata"], "compared": found, "license": "mit"}}
    assert again[1].keys() == tensors.keys()


def test_a_run_that_tuned_nothing_records_no_settings_of_training_and_every_rate_by_its_name(tmp_path: Path) -> None:
    run = squares.run(tmp_path, {"method": "vpt", "prompts": 2})
    applied: list[Any] = [gm.VPT(prompts=2), gm.LinearProbe()]
    assert recorded.told(run, applied, {"train": "abc"}, tuned=False)["training"] == {}
    told = recorded.told(run, applied, {"train": "abc"}, tuned=True)
    assert told["training"]["lr"] == "vpt 0.003, linear_probe 0.001"
    assert told["items"] == {"train": 3}
    assert "teacher_weight" not in told["training"]


def test_a_backbone_without_a_name_is_asked_for_in_the_snippet() -> None:
    assert 'gm.load(".", backbone)  # backbone:' in card.text(config_of(None, task="captioning"))
    assert 'gm.load("some/one")\n' in card.text(config_of("a/b"), place="some/one")


def test_functions_of_snippets_are_there() -> None:
    assert {function for function, _ in card.ASKED.values()} <= vars(predict).keys()
    assert card.ASKED.keys() <= tasks.TASKS.keys()
