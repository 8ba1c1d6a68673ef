"""Captions written by composed models, from Karpathy's files to COCO's scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

import gossamer as gm
from gossamer import cli, data, metrics
from gossamer.evaluate import evaluate
from gossamer.predict import answer, caption, rank
from gossamer.runs.trained import load_adapter
from gossamer.tasks.texts import PreparedTexts
from gossamer.tasks.writing_captions import WritingCaptions
from gossamer.training.train import train

from . import questions, squares

pytestmark = pytest.mark.usefixtures("undrawn")

MEMVP = {"method": "memvp", "rank": 6, "scale": 1.0, "visual_scale": 1.0, "vision_rank": 0, "dropout": 0.0}
TEXTS = {"answer_tokens": 6}


def overlap(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """In place of COCO's code, which needs Java: the share of captions that somebody wrote."""
    assert captions.keys() == references.keys()
    found = sum(text in {said.rstrip(".") for said in references[image]} for image, text in captions.items())
    return {"BLEU-4": 0.5, "CIDEr": found / len(captions)}


@pytest.fixture
def scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "require_caption_scorers", lambda: None)
    monkeypatch.setattr(metrics, "caption_scores", overlap)


@pytest.mark.usefixtures("scorers")
@pytest.mark.parametrize(("name", "of"), [("llama", "coco"), ("t5", "flickr30k")])
def test_it_trains_is_saved_and_writes_the_same_again(
    name: str, of: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = questions.run(tmp_path / "run", name, of, (MEMVP,), texts=TEXTS)
    found = train(run)
    assert found["captions"] == {"train": 61, "val": 25, "test": 36}
    assert found["test"]["n"] == 7
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert {"val_loss", "val_accuracy", "val_CIDEr", "val_BLEU-4"} <= history[-1].keys()
    assert ", CIDEr " in (tmp_path / "run" / "train.log").read_text()
    adapted = load_adapter(tmp_path / "run")
    captions = data.load_image_text(of, "test", path=questions.SETS[of]())
    again = evaluate(adapted, captions)
    assert again.scores == found["test"]["scores"]
    assert again.loss == pytest.approx(found["test"]["loss"])
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert "CIDEr" in capsys.readouterr().out
    image = str(captions.examples[2].images[0])
    assert cli.main(["predict", str(tmp_path / "run"), image]) == 0
    written = caption(adapted, [image])[0]["answer"]
    assert capsys.readouterr().out.split() == [image, *written.split()]


def test_a_set_has_every_caption_and_an_image_is_written_about_once(
    scorers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = questions.run(tmp_path, "llama", "coco", (MEMVP,), texts=TEXTS)
    captions = data.load_image_text("coco", "test", path=questions.coco())
    task = WritingCaptions.begin(run, captions)
    prepared = task.prepare(captions)
    assert len(prepared) == 36
    assert [e.references for e in prepared.texts.examples[:6]] == [(t,) for t in captions.examples[0].references]
    batch = prepared.collate([prepared[0], prepared[1], prepared[6]])
    assert len(batch["pixel_values"].values) == 2
    assert batch["image_index"].tolist() == [0, 0, 1]
    asked: list[tuple[str, ...]] = []

    def told(self: WritingCaptions, adapted: object, prepared: PreparedTexts, *, places: list[int], **options: object):
        for place in places:
            asked.append(prepared.texts.examples[place].references)
            yield {"answer": asked[-1][0].rstrip(".")}

    monkeypatch.setattr(WritingCaptions, "ask", told)
    adapted = gm.adapt(task.backbone(run), gm.methods.from_dict(MEMVP))
    adapted.metadata |= {"task": task.name, **task.record()}
    scores = task.score(adapted, prepared)
    assert (scores.n, scores.accuracy) == (7, 1.0)
    assert asked == [e.references[:1] for e in captions.examples]


@pytest.mark.usefixtures("scorers")
def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for name, texts, message in (
        ("bert", {}, "was not published as a model that writes .* choose another model.name"),
        ("llama", {"answers": "classes"}, "captions are written, and coco has no classes: leave out texts.answers"),
        ("llama", {"prompt": "{text}: "}, r"images with captions have no text to put in place of {text}"),
    ):
        with pytest.raises(ValueError, match=message):
            train(questions.run(tmp_path / "run", name, "coco", (MEMVP,), texts=texts))
    adapted = gm.adapt(
        WritingCaptions.begin(run := questions.run(tmp_path, "t5", "coco"), _captions("train")).backbone(run),
        gm.methods.from_dict(MEMVP),
    )
    task = WritingCaptions.begin(run, _captions("train"))
    adapted.metadata |= {"task": task.name, **task.record()}
    image = str(questions.coco() / "val2014" / "COCO_val2014_200000000001.jpg")
    with pytest.raises(ValueError, match="trained for captioning: it takes no text to answer"):
        answer(adapted, [image], "red")
    with pytest.raises(ValueError, match="trained for captioning: it ranks no texts"):
        rank(adapted, [image], ["red"])
    with pytest.raises(ValueError, match="there is no image to write a caption for"):
        caption(adapted, [])
    with pytest.raises(ValueError, match=r"writes captions, and .* is no image with captions"):
        evaluate(adapted, data.load_image_text("gqa", "testdev", path=questions.gqa()))
    with pytest.raises(ValueError, match=r"writes captions, and .* has labelled images"):
        evaluate(adapted, data.load(squares.images(), "test"))


def test_without_the_scorers_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError("caption scores need pycocoevalcap: pip install 'gossamer[captions]'")

    monkeypatch.setattr(metrics, "require_caption_scorers", absent)
    with pytest.raises(ImportError, match=r"pip install 'gossamer\[captions\]'"):
        train(questions.run(tmp_path / "run", "llama", "coco", (MEMVP,), texts=TEXTS))
    assert not (tmp_path / "run" / "run.yaml").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="COCO's caption evaluation needs Java")
def test_captions_are_learned_and_scored_by_cocos_own_code(tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap")
    torch.default_generator.manual_seed(0)
    run = questions.run(tmp_path / "run", "llama", "coco", (MEMVP,), texts=TEXTS, epochs=30, lr=1e-2)
    found = train(run)["test"]
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert list(found["scores"]) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert found["accuracy"] == found["scores"]["CIDEr"] > history[0]["val_CIDEr"]
    assert found["loss"] < history[0]["val_loss"]


def _captions(split: str) -> data.ImageTextDataset:
    return data.load_image_text("coco", split, path=questions.coco())
