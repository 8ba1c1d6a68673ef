"""Pre-training in small: reproducible, resumable, stored with hashes, found by name, and never run unasked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer as gm
from gossamer import carriers, cli, zoo
from gossamer.data import Preprocessing
from gossamer.pretraining import aligning, denoising
from gossamer.pretraining import pretrain as module
from gossamer.pretraining.pretrain import RECIPES, pretrain
from gossamer.training.trainer import WatchedTrainer
from gossamer.zoo import cache
from gossamer.zoo.sources import PRETRAINED

from . import made

pytestmark = pytest.mark.skipif(not carriers.installed("easy-vqa"), reason="the carrier of easy-vqa is not installed")


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and few drawings."""
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        module, "easy_vqa", lambda split: made.few() if split == "train" else pytest.fail("test images")
    )


def test_every_name_of_the_zoo_has_a_recipe() -> None:
    assert {*RECIPES, aligning.NAME, denoising.NAME} == set(PRETRAINED)
    assert set(PRETRAINED) < set(zoo.names())


@pytest.mark.parametrize("model", ["vilt", "meter"])
def test_a_pre_trained_model_is_found_by_its_name(model: str) -> None:
    name, recipe = f"{model}-small-easy", made.recipe(model)
    folder = pretrain(name, recipe)
    assert folder == cache.cache_folder() / name == zoo.resolve(name)
    assert sorted(path.name for path in cache.cache_folder().iterdir()) == [f".{name}.lock", name]
    record = json.loads((folder / "pretraining.json").read_text())
    assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert set(record["held_out"]) == {"words", "told", "matching"}
    assert zoo.preprocessing(name) == Preprocessing(size=12, resize="direct")
    bare = zoo.load(name)
    asking: Any = zoo.load(name, task="visual-question-answering", num_labels=13)
    own = {k: t for k, t in bare.state_dict().items() if not k.startswith("pooler")}
    held = asking.base_model.state_dict()
    assert all(torch.equal(tensor, held[key]) for key, tensor in own.items())
    adapted = gm.adapt(asking, gm.APT(prompts=3, rank=2)).eval()
    ids = zoo.tokenizer(name)(["a red circle", "no teal shape is present"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = adapted(**ids, pixel_values=torch.randn(2, 3, 12, 12)).logits
    assert logits.shape == (2, 13)


@pytest.mark.parametrize("model", ["vilt", "meter"])
def test_training_moves_what_learns_and_leaves_what_is_frozen(model: str) -> None:
    recipe = made.recipe(model)
    before = {key: tensor.clone() for key, tensor in module._start(recipe).state_dict().items()}
    after = zoo.load(pretrain("some", recipe)).state_dict()
    for key, tensor in after.items():
        if key.startswith(recipe.frozen):
            assert torch.equal(tensor, before[key]), key
    moved = [
        key for key, tensor in after.items() if key.startswith(("encoder", "image_layers")) and key.endswith("weight")
    ]
    assert moved
    assert all(not torch.equal(after[key], before[key]) for key in moved)


def test_the_seed_decides_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made.hashes(pretrain("one", made.recipe("vilt")))
    assert made.hashes(pretrain("two", made.recipe("vilt"))) == first
    other = made.hashes(pretrain("three", made.recipe("vilt", seed=1)))
    assert other["model.safetensors"] != first["model.safetensors"]


@pytest.mark.parametrize("model", ["vilt", "meter"])
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, steps = made.recipe(model), []
    whole = made.hashes(pretrain("whole", recipe))
    step = WatchedTrainer.training_step

    def interrupted(self: WatchedTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        steps.append(self.state.global_step)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(WatchedTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain("cut", recipe)
    assert not (cache.cache_folder() / "cut").exists()
    assert made.hashes(pretrain("cut", recipe)) == whole
    assert steps == [0, 1, 2, 3, 4, 4, 5]


def test_checkpoints_of_another_recipe_are_not_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made.hashes(pretrain("whole", made.recipe("vilt", seed=2)))
    step = WatchedTrainer.training_step

    def interrupted(self: WatchedTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(WatchedTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain("cut", made.recipe("vilt"))
    assert made.hashes(pretrain("cut", made.recipe("vilt", seed=2))) == whole


def test_a_diverged_loss_is_an_error_and_stores_nothing() -> None:
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step \d of 6: training has diverged; lower the recipe's rates"
    ):
        pretrain("wild", made.recipe("vilt", lr=1e30, fresh_lr=1e30))
    assert not (cache.cache_folder() / "wild").exists()


def test_a_name_without_a_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="no recipe for 'vilt'; there are vilt-small-easy, meter-small-easy"):
        pretrain("vilt")


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_zoo_says_how_to_make_a_model_and_does_not_train(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"it is not there; run: gossamer pretrain {name} \(.* minutes?"):
        zoo.load(name)
    assert f"gossamer pretrain {name}" in zoo.available_offline()
    assert not cache.cache_folder().exists()


def test_a_damaged_model_is_not_used() -> None:
    folder = pretrain("vilt-small-easy", made.recipe("vilt"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(FileNotFoundError, match=r"model.safetensors was changed .*; run: gossamer pretrain"):
        zoo.load("vilt-small-easy")


def test_the_command_tells_scores_and_hash(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(RECIPES, "meter-small-easy", made.recipe("meter"))
    assert cli.main(["pretrain", "meter-small-easy"]) == 0
    shown = capsys.readouterr().out
    assert made.hashes(zoo.resolve("meter-small-easy"))["model.safetensors"] in shown
    assert all(what in shown for what in ("words", "told", "matching"))
    assert cli.main(["inspect", "meter-small-easy"]) == 0
    assert "fusion stack (main): 6 blocks MeterLayer" in capsys.readouterr().out
    assert cli.main(["pretrain", "meter"]) == 2
