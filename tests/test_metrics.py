from __future__ import annotations

import shutil

import pytest
import torch

from gossamer.metrics import by_group, caption_scores, exact_match, normalize_answer, recall_at_k, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The two dogs!", "2 dogs"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("y'allll", "y'all'll"),
        ("somebody'd", "somebodyd"),  # the evaluator's own mistake
        ("None", "0"),
        ("1,000", "1000"),
        ("black,white", "black white"),
        ("black, white", "black white"),
        ("Mr. Smith weighs 3.5 lbs.", "mr smith weighs 3.5 lbs"),
        ("t-shirt", "t shirt"),
        ("a/an apple", "apple"),
        ("10:30\n", "10:30"),
        ("  it's  ", "it's"),
    ],
)
def test_answers_are_compared_as_the_official_evaluator_does(answer: str, expected: str) -> None:
    assert normalize_answer(answer) == expected


@pytest.mark.parametrize(("said", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_vqa_accuracy_averages_over_nine_of_ten_people(said: int, expected: float) -> None:
    references = ["2"] * said + [f"other {i}" for i in range(10 - said)]
    assert vqa_accuracy("Two", references) == pytest.approx(expected)


def test_where_all_agree_answers_are_compared_as_they_are() -> None:
    assert vqa_accuracy("two", ["two"] * 10) == 1
    assert vqa_accuracy("Two", ["two"] * 10) == 0
    with pytest.raises(ValueError, match="needs what people answered"):
        vqa_accuracy("yes", [])


def test_exact_match() -> None:
    assert exact_match(" Bus", ["bus"]) == 1
    assert exact_match("buses", ["bus", "buses"]) == 0
    with pytest.raises(ValueError, match="needs the right answer"):
        exact_match("bus", [])


def test_means_by_group() -> None:
    means = by_group([1.0, 0.0, 0.5], [("NAT", "TXT", "IMG"), ("NAT", "NO"), ()])
    assert means == {"all": 0.5, "IMG": 1.0, "NAT": 0.5, "NO": 0.0, "TXT": 1.0}
    assert next(iter(means)) == "all"
    with pytest.raises(ValueError, match="got 2 scores and 1 lists"):
        by_group([1.0, 0.0], [()])


def test_recall_at_k_against_its_definition() -> None:
    owner = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    similarity = torch.randn(4, 7)
    found = recall_at_k(similarity, owner, ks=(1, 2, 3))
    for k in (1, 2, 3):
        texts = [bool((owner[row.topk(k).indices] == image).any()) for image, row in enumerate(similarity)]
        images = [int(owner[text]) in similarity[:, text].topk(k).indices for text in range(7)]
        assert found[f"TR@{k}"] == pytest.approx(sum(texts) / 4)
        assert found[f"IR@{k}"] == pytest.approx(sum(images) / 7)


def test_recall_at_k_counts_ties_against() -> None:
    owner = torch.arange(3).repeat_interleave(5)
    assert set(recall_at_k(torch.zeros(3, 15), owner, ks=(1, 2)).values()) == {0.0}
    perfect = recall_at_k(torch.nn.functional.one_hot(owner).T.float(), owner)
    assert perfect == {"TR@1": 1, "TR@5": 1, "TR@10": 1, "IR@1": 1, "IR@5": 1, "IR@10": 1}


def test_recall_at_k_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one of the 3 images for each of the 4 texts, and every image at least once"):
        recall_at_k(torch.zeros(3, 4), torch.tensor([0, 1, 1, 0]))
    with pytest.raises(ValueError, match="one of the 3 images for each of the 4 texts"):
        recall_at_k(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="a similarity is not a number"):
        recall_at_k(torch.full((1, 1), torch.nan), torch.tensor([0]))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="COCO's caption evaluation needs Java")
def test_caption_scores() -> None:
    pytest.importorskip("pycocoevalcap")
    references = {
        "1": ["A dog runs on the grass.", "a brown dog running over a green lawn"],
        "2": ["Two people ride a red bus.", "a red bus with two people in it"],
    }
    found = caption_scores({"1": "a dog runs on the grass", "2": "two people ride a blue bus"}, references)
    assert list(found) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert found["BLEU-1"] == pytest.approx(11 / 12, abs=1e-6)
    assert found["BLEU-2"] == pytest.approx((11 / 12 * 8 / 10) ** 0.5, abs=1e-6)
    assert found["ROUGE-L"] == pytest.approx((1 + 5 / 6) / 2)
    assert 0.5 < found["METEOR"] < 1


def test_caption_scores_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"of the same images, one or more; they differ in \['2'\]"):
        caption_scores({"1": "a dog"}, {"1": ["a dog"], "2": ["a cat"]})
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="need Java for COCO's tokenizer and METEOR"):
        caption_scores({"1": "a dog"}, {"1": ["a dog"]})
