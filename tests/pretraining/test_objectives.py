"""Masked words and matching: what is masked, which captions are false, the loss, and the scores."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from gossamer import carriers
from gossamer.data import Preprocessing
from gossamer.pretraining import starting
from gossamer.pretraining.captions import Caption, facts
from gossamer.pretraining.objectives import NOTHING, Drawn, Reader, WordsAndMatching, scores
from gossamer.tasks.texts import Pictures

from . import made

pytestmark = pytest.mark.skipif(not carriers.installed("easy-vqa"), reason="the carrier of easy-vqa is not installed")
MASK = made.SPECIAL.index("<mask>")


def drawn(length: int = 60, seed: int = 0) -> Drawn:
    records = defaultdict(list)
    for example in made.few().examples:
        records[example.images[0]].append((example.text, example.references[0]))
    known = {file: facts(of) for file, of in records.items()}
    pictures = Pictures(list(known), Preprocessing(size=12, resize="direct"))
    return Drawn(known, pictures, Reader(made.tokenizer()), length, seed)


def learner(model: str = "vilt") -> WordsAndMatching:
    torch.default_generator.manual_seed(3)
    of = made.recipe(model)
    if model == "vilt":
        return WordsAndMatching(starting.vilt(made.vision(), made.words(), 12), of.frozen)
    return WordsAndMatching(starting.meter(made.vision(), made.words(), layers=2), of.frozen)


def test_a_masked_word_is_masked_in_all_its_pieces() -> None:
    reader = Reader(made.tokenizer())
    piece = {name: i for i, name in enumerate(made.SPECIAL + made.PIECES)}
    ids, labels = reader.masked(Caption("the teal shape is a rectangle", ()), [1, 4])
    spelled = ["<s>", "the", MASK, MASK, "shape", "is", MASK, "rec", "##tangle", "</s>"]
    assert ids == [piece.get(name, name) for name in spelled]
    expected = [NOTHING] * len(ids)
    expected[2], expected[3], expected[6] = piece["tea"], piece["##l"], piece["a"]
    assert labels == expected


def test_half_of_the_items_are_to_be_matched_and_half_of_those_are_false() -> None:
    items = drawn(400)
    found = [items[i] for i in range(len(items))]
    for item in found[::2]:
        assert item["fits"] == NOTHING
        assert MASK in item["ids"]
        assert [label != NOTHING for label in item["words"]] == [i == MASK for i in item["ids"]]
    for item in found[1::2]:
        assert MASK not in item["ids"]
        assert set(item["words"]) == {NOTHING}
    fitting = [item["fits"] for item in found[1::2]]
    assert 80 < sum(fitting) < 120
    hidden = [label for item in found[::2] for label in item["words"] if label != NOTHING]
    told = sum(label >= made.SPECIAL.__len__() + made.PIECES.index("black") for label in hidden)
    assert 0.3 < told / len(hidden) < 0.8


def test_a_caption_that_does_not_fit_is_false_of_its_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    items, asked = drawn(200), []
    original = Drawn._caption

    def watched(self: Drawn, file: Path, fits: bool, draw: Any) -> Caption:
        caption = original(self, file, fits, draw)
        asked.append((caption, self.known[file], fits))
        return caption

    monkeypatch.setattr(Drawn, "_caption", watched)
    for i in range(len(items)):
        items[i]
    assert {fits for *_, fits in asked} == {True, False}
    for caption, known, fits in asked:
        assert caption.true_of(known) is fits
        assert caption.false_of(known) is not fits


def test_an_item_depends_on_seed_and_number_alone() -> None:
    one, other, third = drawn(30), drawn(60), drawn(30, seed=1)
    list(range(5)), [other[i] for i in range(7)]
    same = [one[i]["ids"] == other[i]["ids"] and torch.equal(one[i]["pixels"], other[i]["pixels"]) for i in range(30)]
    assert all(same)
    assert sum(one[i]["ids"] == third[i]["ids"] for i in range(30)) < 10
    with pytest.raises(IndexError, match="item 30 of 30"):
        one[30]


@pytest.mark.parametrize("model", ["vilt", "meter"])
def test_the_loss_is_that_of_masked_words_and_of_matching(model: str) -> None:
    made_of, items = learner(model).eval(), drawn(9)
    batch = items.reader.collate([items[i] for i in range(9)])
    torch.default_generator.manual_seed(0)
    loss = made_of(**batch)["loss"]
    torch.default_generator.manual_seed(0)
    words, fits = batch.pop("words"), batch.pop("fits")
    states = made_of.model(**batch)
    logits = made_of.transform(states.last_hidden_state[:, : words.shape[1]])
    logits = logits @ made_of.model.get_input_embeddings().weight.T + made_of.bias
    guessed = -logits.log_softmax(-1).gather(-1, words.clamp(min=0)[..., None])[..., 0][words >= 0].mean()
    matched = F.cross_entropy(made_of.matching(states.pooler_output)[1::2], fits[1::2])
    torch.testing.assert_close(loss, guessed + matched)


def test_a_batch_without_captions_to_match_learns_words_alone() -> None:
    made_of, items = learner("meter").eval(), drawn(5)
    batch = items.reader.collate([items[i] for i in (0, 2, 4)])
    words = batch["words"]
    guessed, _ = made_of.predict(**{name: tensor for name, tensor in batch.items() if name != "fits"})
    torch.testing.assert_close(made_of(**batch)["loss"], F.cross_entropy(guessed, words[words != NOTHING]))


@pytest.mark.parametrize("model", ["vilt", "meter"])
def test_only_what_is_not_frozen_learns_and_all_of_it_does(model: str) -> None:
    made_of, items = learner(model).train(), drawn(12)
    for name in made_of.frozen:
        assert not made_of.model.get_submodule(name).training
    made_of(**items.reader.collate([items[i] for i in range(12)]))["loss"].backward()
    for name, parameter in made_of.named_parameters():
        frozen = name.removeprefix("model.").startswith(tuple(made_of.frozen))
        assert parameter.requires_grad is not frozen, name
        assert (parameter.grad is None) is frozen, name


def test_scores_are_shares_of_right_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    made_of, items = learner(), drawn(50)
    truth = [items[i] for i in range(50)]
    pieces = len(made.SPECIAL + made.PIECES)
    red = made.SPECIAL.__len__() + made.PIECES.index("red")

    def knows_all(words: torch.Tensor, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fits = torch.tensor([max(item["fits"], 0) for item in truth])
        return F.one_hot(words[words != NOTHING], pieces).float(), F.one_hot(fits, 2).float()

    def says_red(words: torch.Tensor, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked = words[words != NOTHING]
        return F.one_hot(torch.full_like(asked, red), pieces).float(), torch.tensor([[0.0, 1.0]]).repeat(len(words), 1)

    monkeypatch.setattr(made_of, "predict", knows_all)
    assert scores(made_of, items) == {"words": 1.0, "told": 1.0, "matching": 1.0}
    monkeypatch.setattr(made_of, "predict", says_red)
    found = scores(made_of, items)
    hidden = [label for item in truth for label in item["words"] if label != NOTHING]
    assert found["words"] == hidden.count(red) / len(hidden)
    assert found["words"] < found["told"]
    assert found["matching"] == sum(item["fits"] for item in truth[1::2]) / 25
