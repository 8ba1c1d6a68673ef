"""The model card: YAML that reads back, and text of others that stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gossamer import card, tasks

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
