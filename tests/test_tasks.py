from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import gossamer as gm
from gossamer import cli, data, tasks
from gossamer.batches import on
from gossamer.evaluate import evaluate
from gossamer.predict import answer
from gossamer.runs.run import Data
from gossamer.runs.sets import apart, load_sets
from gossamer.runs.trained import load_adapter
from gossamer.tasks.classifying_answers import answer_loss
from gossamer.tasks.texts import score_answers
from gossamer.training.train import train
from gossamer.training.trainer import ClassifierTrainer

from . import questions, squares

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")
LORA = {"method": "peft", "peft_type": "LORA", "r": 2}
KINDS = {
    "bert-gqa": ("bert", "gqa", (questions.VISUAL,)),
    "bert-vqav2": ("bert", "vqav2", ({"method": "dvp", "block": 1, "heads": 4},)),
    "llama-gqa": ("llama", "gqa", (questions.VISUAL, LORA)),
    "llama-vqav2": ("llama", "vqav2", ({"method": "memvp", "rank": 3},)),
    "t5-gqa": ("t5", "gqa", (questions.VISUAL,)),
    "roberta-gqa": ("roberta", "gqa", (questions.VISUAL,)),
    "bart-gqa": ("bart", "gqa", ({"method": "memvp", "rank": 3},)),
    "vilt-gqa": ("vilt", "gqa", ({"method": "apt", "rank": 2},)),
    "vilt-nlvr2": ("vilt", "nlvr2", ({"method": "adapter"},)),
    "vilt-snli-ve": ("vilt", "snli-ve", ({"method": "apt", "rank": 2},)),
    "meter-vqav2": ("meter", "vqav2", ({"method": "apt", "rank": 2},)),
    "meter-nlvr2": ("meter", "nlvr2", (LORA,)),
    "meter-snli-ve": ("meter", "snli-ve", ({"method": "das", "skip": 1, "rank": 4},)),
}


MORE = (
    "bert-vqav2",
    "llama-gqa",
    "roberta-gqa",
    "bart-gqa",
    "meter-nlvr2",
    "meter-snli-ve",
    "vilt-gqa",
    "vilt-snli-ve",
    "t5-gqa",
)  # each part of which another has


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k in MORE else ()) for k in KINDS])
def test_every_kind_trains_is_saved_and_gives_the_same_scores_again(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, of, methods = KINDS[kind]
    metrics = train(questions.run(tmp_path / "run", name, of, methods))
    assert metrics["train_loss"] > 0
    adapted = load_adapter(tmp_path / "run" / "adapter")
    split, published = ("val", "val") if of == "vqav2" else ("test", "testdev" if of == "gqa" else "test")
    texts = data.load_image_text(of, published, path=questions.SETS[of]())
    assert evaluate(adapted, texts, batch=7).accuracy == metrics[split]["accuracy"]
    assert metrics[split]["n"] == len(texts)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--split", split, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["groups"] == metrics[split]["groups"]
    assert again["measure"] == ("VQA accuracy" if of == "vqav2" else "exact match")
    files = [str(path) for path in texts.examples[3].images]
    assert cli.main(["predict", str(tmp_path / "run" / "adapter"), *files, texts.examples[3].text, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    task: Any = tasks.of(adapted)
    assert found[0]["answer"] == task.answers(adapted, task.prepare(texts.subset([3])))[0][0]


@pytest.mark.slow
def test_a_composed_model_learns_what_it_must_see(tmp_path: Path) -> None:
    """The answers hang on the image alone: colours and yes or no cannot be told from the question."""
    run = questions.run(tmp_path / "b", "bert", epochs=12, lr=0.02, head_lr=0.02, validation=0.0)
    seen = train(run)
    assert seen["test"]["accuracy"] > 0.8
    assert seen["test"]["groups"].keys() == {"attr", "query", "verify"}
    write = train(questions.run(tmp_path / "l", "llama", methods=(questions.VISUAL, LORA), epochs=25, lr=0.03))
    assert write["test"]["accuracy"] > 0.6


def test_a_run_leaves_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # this one is drawn
    train(questions.run(tmp_path / "run", "bert"))
    folder = tmp_path / "run"
    names = {
        "run.yaml",
        "train.log",
        "warm_start.json",
        "start.json",
        "history.jsonl",
        "metrics.json",
        "curves.png",
        "adapter",
    }
    assert {path.name for path in folder.iterdir()} == names
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["texts"] == {"train": 120, "val": 2, "test": 30}
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert records[-1]["val_accuracy"] == metrics["val"]["accuracy"]
    assert records[-1]["val_loss"] == pytest.approx(metrics["val"]["loss"])
    card = (folder / "adapter" / "README.md").read_text()
    assert "Task: answer-classification." in card
    assert "Labels: blue, green, no, red, yes." in card
    image = str(questions.gqa() / "images" / "testdev1.jpg")
    assert cli.main(["predict", str(folder), image, "what colour is it ?", "--top", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(image)
    assert shown.count("%") == 2


def test_a_run_that_was_stopped_ends_with_the_numbers_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ({"method": "memvp", "rank": 3, "dropout": 0.2},)
    whole = train(questions.run(tmp_path / "whole", "llama", methods=methods, epochs=3))
    step, taken = ClassifierTrainer.training_step, []

    def stopped(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append(0)
        if len(taken) == 12:  # an epoch has 8 steps
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    run = questions.run(tmp_path / "stopped", "llama", methods=methods, epochs=3)
    with monkeypatch.context() as patched:
        patched.setattr(ClassifierTrainer, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    torch.default_generator.manual_seed(99)
    resumed = train(run, resume=True)
    assert {k: v for k, v in resumed.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}
    ours, theirs = (load_adapter(tmp_path / name).state_dict() for name in ("stopped", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# ---- batches ----


def prepared(name: str, of: str = "gqa", methods: Any = (questions.VISUAL,), **settings: Any) -> tuple[Any, Any, Any]:
    """The task of a run, its training set prepared, and the adapted model."""
    run = questions.run(Path("unused"), name, of, methods, **settings)
    sets = load_sets(run)
    task: Any = tasks.kind(run).begin(run, sets["train"])
    adapted = gm.adapt(task.backbone(run), [gm.methods.from_dict(m) for m in methods], num_labels=task.outputs)
    return task, task.prepare(sets["train"]), adapted


def test_the_loss_is_on_the_tokens_of_the_answer_and_the_end_alone() -> None:
    task, texts, adapted = prepared("llama")
    batch = on(CPU, texts.collate([texts[0], texts[1]]))
    end = task.tokenizer.eos_token_id
    for row, ids, i in zip(batch["labels"], batch["input_ids"], (0, 1), strict=True):
        answered = row[row != -100]
        expected = task.tokenizer(texts.texts.examples[i].references[0])["input_ids"]
        assert answered.tolist() == [*expected, end]
        where = (row != -100).nonzero().flatten()
        assert ids[where].tolist() == answered.tolist()
    logits = adapted(**{k: v for k, v in batch.items() if k != "labels"}).logits[:, :-1].flatten(0, 1)
    by_hand = F.cross_entropy(logits, batch["labels"][:, 1:].flatten())
    assert task.loss(adapted, batch).item() == pytest.approx(by_hand.item(), rel=1e-5)
    t5, texts, _ = prepared("t5")
    batch = texts.collate([texts[0]])
    assert batch["labels"].tolist() == [t5.tokenizer(text_target=texts.texts.examples[0].references[0])["input_ids"]]


def test_batch_mates_and_padding_do_not_change_an_answer() -> None:
    for name in ("llama", "t5", "bart", "bert", "roberta"):
        task, texts, adapted = prepared(name)
        some = dataclasses.replace(texts.texts, examples=texts.texts.examples[:9])
        longer = dataclasses.replace(some.examples[1], text="what colour is the square ? " * 3)
        some = dataclasses.replace(some, examples=(longer, *some.examples))
        together, loss = task.answers(adapted, task.prepare(some), batch=10)
        alone, each = task.answers(adapted, task.prepare(some), batch=1)
        assert together == alone
        assert loss == pytest.approx(each, rel=1e-5)


def test_an_image_is_prepared_once_and_seen_once() -> None:
    task, texts, adapted = prepared("bert")
    assert len(texts.pictures.rows) * 2 == len(texts)
    batch = on(CPU, texts.collate([texts[0], texts[1], texts[2]]))
    assert batch["pixel_values"].shape == (2, 3, questions.SIZE, questions.SIZE)
    assert batch["image_index"].tolist() == [0, 0, 1]
    before = task.loss(adapted, batch).item()
    texts.settle(adapted)
    settled = texts.collate([texts[0], texts[1], texts[2]])
    assert settled["states"].shape == (2, 17, 24)
    assert "pixel_values" not in settled
    assert task.loss(adapted, settled).item() == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize(("name", "of"), [("bert", "gqa"), ("bert", "vqav2"), ("llama", "gqa")])
def test_a_batch_of_another_sets_items_has_their_own_labels(name: str, of: str) -> None:
    """As a search scores held-out texts, and a loader may mix two sets."""
    run = questions.run(Path("unused"), name, of, texts={"answer_tokens": 3})
    texts = data.load_image_text(of, "train", path=questions.SETS[of]())
    task = tasks.kind(run).begin(run, texts)
    kept, held = (task.prepare(part) for part in apart(texts, 0.4, 0))
    adapted = gm.adapt(task.backbone(run), gm.methods.from_dict(questions.VISUAL), num_labels=task.outputs)
    held.settle(adapted)
    items = [held[i] for i in range(len(held))]
    found, expected = kept.collate(items), held.collate(items)
    assert found.keys() == expected.keys()
    assert found.pop("layout") == expected.pop("layout")
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert not torch.equal(found["labels"], kept.collate([kept[i] for i in range(len(held))])["labels"])


def test_a_tower_that_is_trained_is_run_each_time() -> None:
    _, texts, adapted = prepared("llama", methods=({"method": "memvp", "rank": 3, "vision_rank": 2},))
    texts.settle(adapted)
    assert texts.pictures.kind == "pixel_values"


def test_soft_scores_are_a_sum_over_answers_and_classes_a_cross_entropy() -> None:
    logits, scores = torch.randn(4, 7), torch.rand(4, 7)
    by_hand = F.binary_cross_entropy_with_logits(logits, scores) * 7
    assert float(answer_loss(logits, scores)) == pytest.approx(float(by_hand), rel=1e-6)
    labels = torch.tensor([1, -100, 6, 0])
    assert float(answer_loss(logits, labels)) == pytest.approx(
        float(F.cross_entropy(logits[[0, 2, 3]], labels[[0, 2, 3]]))
    )
    task, texts, _ = prepared("bert", "vqav2")
    assert task.soft
    assert texts.labels is None
    labels = texts.collate([texts[0], texts[1]])["labels"]
    assert torch.equal(labels, texts.texts.targets([0, 1]))
    assert labels.max() == 1


# ---- sets ----


def test_no_image_of_validation_is_seen_in_training() -> None:
    run = questions.run(Path("unused"), "bert", train="trainval", validation=0.0)
    assert {name: len(s) for name, s in load_sets(run).items()} == {"train": 122, "test": 30}
    easy = dataclasses.replace(run, data=Data(name="easy-vqa", validation=0.25, limit=400))
    sets = load_sets(easy)
    images = {name: {path for e in s.examples for path in e.images} for name, s in sets.items()}
    assert not images["train"] & images["val"]
    assert len(images["val"]) == round(0.25 * len(images["train"] | images["val"]))
    assert len(sets["train"]) + len(sets["val"]) == 400 == len(sets["test"])
    fewer = load_sets(dataclasses.replace(easy, data=dataclasses.replace(easy.data, score_limit=90)))
    assert fewer["train"].examples == sets["train"].examples
    assert fewer["val"].examples == sets["val"].examples  # held out of the training split, and no split of its own
    assert len(fewer["test"]) == 90
    published = Data(name="vqav2", path=str(questions.vqav2()), limit=9, score_limit=4)
    split = load_sets(dataclasses.replace(run, data=published))
    assert {name: len(s) for name, s in split.items()} == {"train": 9, "val": 4}


def test_answers_for_a_server_are_written_and_unpublished_ones_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(questions.run(tmp_path / "run", "bert", "vqav2"))
    folder, file = str(questions.vqav2()), tmp_path / "results.json"
    other = ["evaluate", str(tmp_path / "run"), "--data", "vqav2", "--path", folder, "--split", "test-dev"]
    assert cli.main(other) == 2
    assert "is not published; gossamer evaluate --results FILE" in capsys.readouterr().err
    assert cli.main([*other, "--results", str(file)]) == 0
    assert "6 answers are in" in capsys.readouterr().out
    results = json.loads(file.read_text())
    assert [r["question_id"] for r in results] == [0, 1, 10, 11, 20, 21]
    assert {r["answer"] for r in results} <= set(load_adapter(tmp_path / "run").metadata["labels"])


def test_scores_are_exact_match_or_peoples_agreement() -> None:
    texts = data.load_image_text("gqa", "testdev", path=questions.gqa())
    right = [example.references[0].upper() for example in texts.examples]
    assert score_answers(right, texts, 0.5).accuracy == 1
    wrong = ["no such answer", *right[1:]]
    assert score_answers(wrong, texts, None).accuracy == pytest.approx(29 / 30)
    assert score_answers(wrong, texts, None).groups["verify"] == 1


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "of", "changes", "message"),
    [
        ("bert", "nlvr2", {}, r"has 2 images, and the model reads at most one image with a text"),
        ("bert", "gqa", {"texts": {"answers": "text"}}, r"was not published as a model that writes .* texts.answers=classes"),
        ("vilt", "gqa", {"texts": {"answers": "text"}}, r"texts.answers=text needs a language model .* set model.vision"),
        ("vilt", "gqa", {"methods": ({"method": "spt"},)}, r"spt starts from labelled images, and gqa has texts"),
        ("words", "gqa", {}, r"no model of the family bert .*set model.vision"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str, of: str, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(questions.run(tmp_path / "run", name, of, **changes))
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_tasks_are_not_mixed(tmp_path: Path) -> None:
    train(questions.run(tmp_path / "run", "bert"))
    adapted = load_adapter(tmp_path / "run")
    with pytest.raises(ValueError, match=r"answers texts about images, and .* has labelled images"):
        evaluate(adapted, data.load(squares.images(), "test"))
    with pytest.raises(ValueError, match=r"this adapter classifies images, and gqa \(testdev\) has texts about images"):
        evaluate(load_adapter(squares.trained()), data.load_image_text("gqa", "testdev", path=questions.gqa()))
    with pytest.raises(ValueError, match="it takes no text"):
        answer(load_adapter(squares.trained()), [], "what colour is it ?")
    run = squares.run(tmp_path / "other")
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, vision="dinov2-small"))
    with pytest.raises(
        ValueError, match=r"model.vision=dinov2-small is for texts about images \(easy-vqa, .* as model.name"
    ):
        train(run)
