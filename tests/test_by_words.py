"""Classification by words from a run file to predictions with other words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertTokenizer, CLIPImageProcessor

import gossamer as gm
from gossamer import cli, data, tasks
from gossamer.errors import UserError
from gossamer.evaluate import evaluate
from gossamer.runs.run import Data, Images, Model, Run, Training
from gossamer.runs.sets import load_sets
from gossamer.runs.trained import load_adapter
from gossamer.training.train import train

from . import squares
from .models.test_zero_shot import dual

pytestmark = pytest.mark.usefixtures("undrawn")

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "photo",
    "of",
    ".",
    "same",
    "different",
    "squares",
    "dog",
    "cat",
    "red",
    "bag",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dual encoder of random weights with a tokenizer of sixteen words."""
    root = tmp_path_factory.mktemp("pair")
    model = dual()
    torch.default_generator.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        model.logit_scale.fill_(1.0)
    model.save_pretrained(root)
    vocab = {word: i for i, word in enumerate(WORDS)}
    BertTokenizer(vocab=vocab).save_pretrained(root)
    CLIPImageProcessor(size=12, crop_size=12, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(root)
    return root


def run(pair: Path, output: Path, method: Any = None, **changes: Any) -> Run:
    methods = [method or {"method": "apt", "prompts": 4, "rank": 2, "stack": "both"}]
    names = {"same": "same squares", "different": "different squares"}
    settings: dict[str, Any] = {
        "model": Model(name=str(pair), head="words"), "methods": methods, "output": str(output), "images": Images(),
        "data": Data(name=str(squares.images()), shots=4, names=names, limit=None, score_limit=20, validation=0.2),
        "training": Training(epochs=2, batch=4),
    }  # fmt: skip
    return Run(**{**settings, **changes})


@pytest.fixture(scope="module")
def trained(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("by_words")
    return root / "run", train(run(pair, root / "run"))


def test_a_run_trains_and_its_folder_scores_the_same(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = trained
    assert metrics["images"] == {"train": 8, "val": 8, "test": 20}
    adapted = load_adapter(folder)
    assert adapted.metadata["words"]["names"] == ["different squares", "same squares"]
    assert adapted.metadata["words"]["templates"] == ["a photo of a {}."]
    drawn = load_sets(run(Path(), folder))["train"]
    assert adapted.metadata["words"]["drawn"] == list(drawn.indices)
    scores = evaluate(adapted, data.load(str(squares.images()), "test"))
    assert scores.n == 120
    assert gm.load(folder / "adapter").backbone.words == adapted.backbone.words  # type: ignore[union-attr]


def test_predictions_may_be_asked_for_other_words(
    trained: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    image = str(next((squares.images() / "test" / "same").iterdir()))
    assert cli.main(["predict", str(folder), image, "--json"]) == 0
    (own,) = json.loads(capsys.readouterr().out)
    assert set(own["probabilities"]) == {"same", "different"}
    assert cli.main(["predict", str(folder), image, "--json", "--words", "dog", "red bag", "cat"]) == 0
    (other,) = json.loads(capsys.readouterr().out)
    assert set(other["probabilities"]) == {"dog", "red bag", "cat"}
    assert sum(other["probabilities"].values()) == pytest.approx(1)


METHODS = {
    "untrained": {"method": "untrained"}, "coop": {"method": "coop", "context": 4},
    "clip_adapter": {"method": "clip_adapter"}, "tip": {"method": "tip_adapter", "shots": 4},
    "vpt": {"method": "vpt", "prompts": 2}, "lora": {"method": "peft", "peft_type": "LORA", "r": 2},
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [*METHODS][:4] + [pytest.param(name, marks=pytest.mark.slow) for name in [*METHODS][4:]]
)
def test_baselines_run(pair: Path, tmp_path: Path, name: str) -> None:
    epochs = 0 if name == "untrained" else 1
    metrics = train(run(pair, tmp_path / "run", METHODS[name], training=Training(epochs=epochs, batch=4)))
    frozen = metrics["trainable_parameters"] == 0
    assert frozen == (name == "untrained")
    if name == "tip":
        adapted = load_adapter(tmp_path / "run")
        votes = adapted.methods["tip_adapter"].values
        assert votes.sum(0).tolist() == [4] * votes.shape[1]
        task: Any = tasks.of(adapted)
        with pytest.raises(UserError, match="takes no other words"):
            task.with_words(adapted, ["dog", "cat"])


def test_a_zero_shot_score_is_that_of_a_loop(pair: Path, tmp_path: Path) -> None:
    chosen = run(pair, tmp_path / "run", METHODS["untrained"], training=Training(epochs=0))
    metrics = train(chosen)
    model = gm.ZeroShot.of(
        gm.zoo.load(pair), ["different squares", "same squares"], gm.zoo.tokenizer(pair), ["a photo of a {}."]
    )
    prepare = gm.zoo.preprocessing(pair)
    right = 0
    test = load_sets(chosen)["test"]
    with torch.no_grad():
        for item in test:
            right += int(model(prepare(item["image"])[None]).logits.argmax() == item["label"])
    assert metrics["test"]["accuracy"] == right / len(test)


def test_halves_of_the_classes_are_for_words_alone(pair: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.classes=base is for model\.head=words"):
        train(run(pair, tmp_path / "a", model=Model(name=str(squares.backbone())), data=Data(name="x", classes="base")))
    assert cli.main(["predict", str(squares.trained()), str(squares.images() / "test"), "--words", "a"]) == 2


def test_what_was_trained_on_one_half_is_asked_about_the_other(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = squares.save_images(tmp_path / "images", train=6, test=5)
    for split in ("train", "test"):
        for name, other in (("same", "red_bag"), ("different", "cat")):
            folder = images / split / other
            folder.mkdir()
            for file in [*(images / split / name).iterdir()][: 4 if split == "test" else 3]:
                file.rename(folder / file.name)
    names = {"different": "squares", "same": "same squares"}
    chosen = Data(name=str(images), shots=2, classes="base", names=names, validation=0)
    train(run(pair, tmp_path / "run", data=chosen))
    assert load_adapter(tmp_path / "run").metadata["labels"] == ["cat", "different"]
    capsys.readouterr()
    for which, labels in (("base", {"cat", "different"}), ("new", {"red_bag", "same"})):
        assert cli.main(["evaluate", str(tmp_path / "run"), "--classes", which, "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)["recall"]) == labels
    assert cli.main(["evaluate", str(squares.trained()), "--classes", "new"]) == 2
