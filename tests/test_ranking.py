"""Retrieval: texts ranked for images by ViLT and METER, from Karpathy's files to recalls."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import gossamer as gm
from gossamer import cli, data, tasks, zoo
from gossamer.batches import on
from gossamer.comparison.timing import timed
from gossamer.evaluate import evaluate
from gossamer.models.ranking import MatchingHead, matching_loss
from gossamer.predict import answer, rank
from gossamer.runs.trained import load_adapter
from gossamer.tasks import ranking_texts
from gossamer.tasks.ranking_texts import RankingTexts, loss_among_all
from gossamer.training.train import train

from . import questions, squares

pytestmark = pytest.mark.usefixtures("undrawn")

TEXTS = {"negatives": 4}
KINDS = {
    "vilt-flickr30k": ("vilt", "flickr30k", ({"method": "apt", "rank": 2},)),
    "meter-coco": ("meter", "coco", ({"method": "das", "skip": 1, "rank": 4},)),
}


def ranking(name: str, methods: Any, of: str = "flickr30k") -> tuple[RankingTexts, Any, Any]:
    """The task, the prepared test captions, and an adapter with methods that are not the identity."""
    run = questions.run(Path("unused"), name, of, methods, texts=TEXTS)
    task = RankingTexts.begin(run, data.load_image_text(of, "train", path=questions.SETS[of]()))
    torch.default_generator.manual_seed(3)
    adapted = gm.adapt(task.backbone(run), [gm.methods.from_dict(m) for m in methods], num_labels=task.outputs)
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return task, task.prepare(data.load_image_text(of, "test", path=questions.SETS[of]())), adapted.eval()


@pytest.mark.parametrize("kind", ["vilt-flickr30k", pytest.param("meter-coco", marks=pytest.mark.slow)])
def test_every_kind_trains_is_saved_and_gives_the_same_recalls_again(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, of, methods = KINDS[kind]
    run = questions.run(tmp_path / "run", name, of, methods, texts=TEXTS)
    metrics = train(run)
    assert metrics["captions"] == {"train": 61, "val": 25, "test": 36}
    assert metrics["train_loss"] > 0
    assert metrics["macs"]["bare"] > 0
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert {"val_loss", "val_accuracy", "val_TR@1", "val_IR@10"} <= history[-1].keys()
    adapted = load_adapter(tmp_path / "run")
    captions = data.load_image_text(of, "test", path=questions.SETS[of]())
    assert evaluate(adapted, captions).recalls == metrics["test"]["recalls"]
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert f"IR@10{metrics['test']['recalls']['IR@10']:>24.2%}" in shown
    assert "images                      7" in shown
    image, said = str(captions.examples[2].images[0]), list(captions.examples[2].references)
    assert cli.main(["predict", str(tmp_path / "run" / "adapter"), image, *said, "both", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    task: Any = tasks.of(adapted)
    scores = task.similarity(adapted, task.prepare(captions))[2]
    expected = [said[i] for i in scores[task.prepare(captions).owner == 2].argsort(descending=True).tolist()]
    assert [text for text in found["probabilities"] if text != "both"] == expected
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert found["answer"] == next(iter(found["probabilities"]))
    taken = timed(adapted, run, "test", tuned=True)
    assert min(taken[name] for name in ("latency_ms", "bare_latency_ms", "step_ms", "step_mib")) > 0


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("meter", ({"method": "apt", "rank": 2}, {"method": "vpt", "prompts": 3, "deep": False})),
        ("meter", ({"method": "adapter"}, {"method": "vpt", "prompts": 2, "attention": "both"})),
        ("vilt", ({"method": "classifier_token", "token": 1}, {"method": "das", "skip": 1, "rank": 4})),
    ],
)
def test_similarities_are_those_of_pairs_one_by_one(name: str, methods: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task, captions, adapted = ranking(name, methods)
    found = task.similarity(adapted, captions, batch=5)
    assert found.shape == (7, 36)
    for image, text in ((0, 0), (6, 35), (3, 17)):
        given = task.padded([captions.tokens[text]])
        pair = adapted(**given, pixel_values=captions.pictures[captions.paths[image]].to("cpu")[None])
        torch.testing.assert_close(pair.logits[0, 0], found[image, text], rtol=1e-4, atol=1e-5)
    counted: list[int] = []
    encode_image = adapted.backbone.encode_image
    monkeypatch.setattr(adapted.backbone, "encode_image", lambda pixels: (counted.append(1), encode_image(pixels))[1])
    torch.testing.assert_close(task.similarity(adapted, captions, batch=64), found, rtol=1e-4, atol=1e-5)
    assert len(counted) == 7  # once for all texts
    monkeypatch.setattr(ranking_texts, "MEMORY", 1)
    torch.testing.assert_close(task.similarity(adapted, captions, batch=20), found, rtol=1e-4, atol=1e-5)
    assert len(counted) == 7 + 2 * 7  # texts that do not fit together take turns


def test_recalls_are_those_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image's own texts score 1 with it, but images 1 and 2 are taken for each other; image 0 has six texts, others five."""
    task, captions, adapted = ranking("vilt", ({"method": "linear_probe"},))
    taken = torch.tensor([0, 2, 1, 3, 4, 5, 6])
    similarity = (captions.owner == taken[:, None]).float() - 0.01 * torch.arange(36)
    similarity += 0.001 * torch.arange(7)[:, None]
    monkeypatch.setattr(RankingTexts, "similarity", lambda *args, **kwargs: similarity)
    scores = task.score(adapted, captions)
    assert (scores.n, scores.texts) == (7, 36)
    # before the own texts of images 1 and 2 come the other's five, and the six of image 0; before their image five others
    assert scores.recalls["TR@1"] == pytest.approx(5 / 7)
    assert scores.recalls["TR@5"] == pytest.approx(5 / 7)
    assert scores.recalls["TR@10"] == pytest.approx(5 / 7)
    assert scores.recalls["IR@1"] == pytest.approx(26 / 36)
    assert scores.recalls["IR@5"] == pytest.approx(26 / 36)
    assert scores.recalls["IR@10"] == 1
    assert scores.accuracy == pytest.approx(sum(scores.recalls.values()) / 6)
    assert scores.headline() == {"accuracy": scores.accuracy, **scores.recalls}


def test_the_loss_among_all_is_cross_entropy_with_the_texts_of_other_images() -> None:
    similarity, owner = torch.randn(3, 7), torch.tensor([0, 0, 1, 1, 1, 2, 2])
    by_hand = []
    for text, image in enumerate(owner.tolist()):
        among = [text, *(t for t in range(7) if owner[t] != image)]
        by_hand.append(F.cross_entropy(similarity[image, among][None], torch.tensor([0])))
    assert loss_among_all(similarity, owner) == pytest.approx(float(sum(by_hand)) / 7, rel=1e-5)


def test_false_texts_are_those_of_other_images_drawn_anew() -> None:
    task, captions, _ = ranking("vilt", ({"method": "linear_probe"},))
    task = dataclasses.replace(task, negatives=400)
    captions = task.prepare(captions.captions)
    marked = [[place] for place in range(36)]
    captions.tokens = marked
    for place in (0, 5, 6, 20, 35):
        own = {i for i in range(36) if captions.owner[i] == captions.owner[place]}
        drawn = [ids[0] for ids in captions[place]["texts"]]
        assert drawn[0] == place
        assert set(drawn[1:]) == set(range(36)) - own  # all of them come, none of the image's own
    torch.default_generator.manual_seed(5)
    first = captions[3]["texts"]
    assert captions[3]["texts"] != first
    torch.default_generator.manual_seed(5)
    assert captions[3]["texts"] == first
    batch = dataclasses.replace(task, negatives=3)
    again = batch.prepare(captions.captions)
    given = again.collate([again[0], again[9]])
    assert given["input_ids"].shape == given["attention_mask"].shape
    assert given["input_ids"].shape[:2] == (2, 4)
    assert given["labels"].tolist() == [0, 0]
    assert given["pixel_values"].values.shape == (2, 3, questions.SIZE, questions.SIZE)


def test_the_loss_ranks_and_matches_where_the_matching_head_is_known() -> None:
    for name in ("vilt", "meter"):
        task, captions, adapted = ranking(name, ({"method": "linear_probe"},))
        batch = on(torch.device("cpu"), captions.collate([captions[0], captions[9], captions[30]]))
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        logits = adapted(**inputs).logits
        assert logits.shape == (3, 5)
        by_hand = F.cross_entropy(logits, torch.tensor([0, 0, 0]))
        torch.testing.assert_close(task.loss(adapted, batch), by_hand)
        adapted.itm_score.weight.normal_()
        output = adapted(**batch)
        torch.testing.assert_close(output.loss, by_hand + matching_loss(output.matching_logits, batch["labels"]))
        assert "itm_score" not in " ".join(adapted.state_dict())


@pytest.mark.parametrize("name", ["vilt", "meter"])
def test_the_rank_head_starts_as_row_one_of_a_known_matching_head(name: str, tmp_path: Path) -> None:
    first: Any = zoo.load(questions.model(name), task="image-text-retrieval")
    second: Any = zoo.load(questions.model(name), task="image-text-retrieval")
    assert not first.itm_score.known
    assert not torch.equal(first.rank_output.weight, second.rank_output.weight)  # nothing to start from
    first.itm_score.weight.normal_()
    first.itm_score.bias.normal_()
    first.save_pretrained(tmp_path / "whole")
    whole: Any = zoo.load(tmp_path / "whole", task="image-text-retrieval")
    assert torch.equal(whole.rank_output.weight, first.rank_output.weight)
    assert whole.itm_score.known
    headless = {k: v for k, v in first.state_dict().items() if not k.startswith("rank_output")}
    first.save_pretrained(tmp_path / "headless", state_dict=headless)
    started: Any = zoo.load(tmp_path / "headless", task="image-text-retrieval")
    assert torch.equal(started.rank_output.weight, first.itm_score.weight[1:])
    assert torch.equal(started.rank_output.bias, first.itm_score.bias[1:])
    assert list(MatchingHead(3).parameters()) == []


@pytest.mark.slow
def test_a_killed_run_ends_with_the_numbers_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [questions.run(tmp_path / name, "vilt", "flickr30k", texts=TEXTS, methods=LORA) for name in "ab"]
    whole = train(made[0])
    score, calls = RankingTexts.score, []

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # while the second epoch is validated
            raise KeyboardInterrupt
        return score(*args, **kwargs)

    monkeypatch.setattr(RankingTexts, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        train(made[1])
    monkeypatch.setattr(RankingTexts, "score", score)
    again = train(made[1], resume=True)
    assert (again["train_loss"], again["test"]) == (whole["train_loss"], whole["test"])


LORA = ({"method": "peft", "peft_type": "LORA", "r": 2},)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("words", {}, r"no model of the family bert for image-text-retrieval"),
        ("vilt", {"limit": 1}, r"flickr30k captions \(train\) has one image"),
        ("vilt", {"texts": {"answers": "classes"}}, r"ViLT and METER rank them, without texts.answers"),
        ("vilt", {"texts": {"negatives": 0}}, r"texts.negatives must be 1 or more, got 0"),
        ("vilt", {"methods": ({"method": "spt"},)}, r"spt starts from labelled images, and flickr30k has texts"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(questions.run(tmp_path / "run", name, "flickr30k", **{"methods": LORA, **changes}))
    assert not (tmp_path / "run" / "run.yaml").exists()


def saved(folder: Path, of: str) -> Any:
    """An adapter of a ViLT for a set, as training saves it."""
    run = questions.run(folder, "vilt", of, LORA)
    sets = data.load_image_text(of, "train", path=questions.SETS[of]())
    task = tasks.kind(run).begin(run, sets)
    adapted = gm.adapt(task.backbone(run), gm.methods.from_dict(LORA[0]), num_labels=task.outputs)
    adapted.metadata |= {"task": task.name, **task.record()}
    adapted.save_pretrained(folder)
    return load_adapter(folder)


def test_tasks_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapted, asked = saved(tmp_path / "run", "flickr30k"), saved(tmp_path / "asked", "gqa")
    image = str(questions.flickr30k() / "flickr30k-images" / "test0.jpg")
    with pytest.raises(
        ValueError, match=r"ranks captions, and .*testdev_balanced_questions.json is no image with captions"
    ):
        evaluate(adapted, data.load_image_text("gqa", "testdev", path=questions.gqa()))
    with pytest.raises(ValueError, match=r"ranks texts for images, and .* has labelled images"):
        evaluate(adapted, data.load(squares.images(), "test"))
    with pytest.raises(ValueError, match=r"answers texts about images, and images\[17\] of .* has no text to answer"):
        evaluate(asked, data.load_image_text("flickr30k", "test", path=questions.flickr30k()))
    with pytest.raises(ValueError, match=r"trained for answer-classification: it ranks no texts"):
        rank(asked, [image], ["red"])
    with pytest.raises(ValueError, match=r"trained for image-text-retrieval: it takes no text to answer"):
        answer(adapted, [image], "red")
    for given, message in (
        ([image], "must be one or more, and none empty; got []"),
        (["red", "green"], "there is no image to rank 2 text(s) for: name image files first"),
        ([image, "red", ""], "none empty"),
        (["absent.jpg", "red"], "no such image file or folder: absent.jpg"),
    ):
        assert cli.main(["predict", str(tmp_path / "run"), *given]) != 0
        assert message in capsys.readouterr().err
    results = str(tmp_path / "results.json")
    here = ["--data", "flickr30k", "--path", str(questions.flickr30k())]
    assert cli.main(["evaluate", str(tmp_path / "run"), *here, "--results", results]) == 2
    assert "this adapter was trained for image-text-retrieval" in capsys.readouterr().err
