"""The small pair for classes by words: its loss by hand, what it trains, and its way into the zoo, with tiny towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer, Dinov2Config, Dinov2Model

import gossamer as gm
from gossamer import data, zoo
from gossamer.data import tints
from gossamer.models.pair import MeanTextDualEncoder
from gossamer.pretraining import aligning

from ..data.test_masks import fashion as fashion

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "photo",
    "of",
    "picture",
    "one",
    ".",
    *tints.COLOURS,
    *tints.GARMENTS.values(),
)


@pytest.fixture
def towers(tmp_path: Path) -> dict[str, str]:
    torch.default_generator.manual_seed(0)
    tower = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=56, patch_size=14, mlp_ratio=2
    )
    Dinov2Model(tower).save_pretrained(tmp_path / "vision")
    (tmp_path / "vision" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"shortest_edge": 56}}'
    )
    reader = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, vocab_size=len(WORDS),
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(reader).save_pretrained(tmp_path / "words")
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(tmp_path / "words")
    return {"vision": str(tmp_path / "vision"), "words": str(tmp_path / "words")}


def test_a_text_is_the_mean_of_its_real_tokens(towers: dict[str, str]) -> None:
    pair: Any = aligning.towers(aligning.Recipe(**towers, projection=6))
    tokens = zoo.tokenizer(towers["words"])(["a red bag", "a photo of a red bag ."], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = pair.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        short = tokens["input_ids"][:1, : int(tokens["attention_mask"][0].sum())]
        states = pair.text_model(short).last_hidden_state
        torch.testing.assert_close(found[:1], pair.text_projection(states.mean(1)))
        torch.testing.assert_close(pair.get_text_features(short), found[:1])
    with pytest.raises(NotImplementedError, match=r"gossamer\.ZeroShot"):
        pair()


def test_images_that_share_a_caption_share_its_target(towers: dict[str, str]) -> None:
    pair: Any = aligning.towers(aligning.Recipe(**towers, projection=6))
    seen, said, captions = torch.randn(5, 24), torch.randn(5, 16), torch.tensor([3, 1, 3, 0, 3])
    u, t = F.normalize(pair.visual_projection(seen), dim=1), F.normalize(pair.text_projection(said), dim=1)
    logits, total = u @ t.T / 0.07, torch.zeros(())
    for i in range(5):
        same = [j for j in range(5) if captions[j] == captions[i]]
        total = total - sum(logits.log_softmax(1)[i, j] + logits.log_softmax(0)[j, i] for j in same) / len(same)
    torch.testing.assert_close(aligning.alignment(pair, seen, said, captions), total / 10)


def test_combinations_are_seen_or_not_and_every_word_is_seen() -> None:
    assert len(tints.CLASSES) == 42
    assert len(tints.UNSEEN) == 12
    assert not {*tints.SEEN} & {*tints.UNSEEN}
    assert {word for name in tints.SEEN for word in name.split()} == {
        word for name in tints.CLASSES for word in name.split()
    }


@pytest.mark.usefixtures("fashion")
def test_the_pair_comes_out_of_the_cache_and_is_the_same_again(
    towers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [name for name in ("Trouser", "Sandal") if name not in tints.GARMENTS]
    assert not missing
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(aligning, "tints", lambda split: data.load("tints", "train"))
    recipe = aligning.Recipe(**towers, projection=6, steps=30, batch=16)
    folder = aligning.align(recipe)
    first = (folder / "model.safetensors").read_bytes()
    pair: Any = zoo.load(aligning.NAME)
    assert isinstance(pair, MeanTextDualEncoder)
    vision: Any = zoo.load(towers["vision"])
    assert all(torch.equal(p, vision.get_parameter(n)) for n, p in pair.vision_model.named_parameters())
    model = gm.ZeroShot.of(pair, ["red bag", "blue boot"], zoo.tokenizer(aligning.NAME))
    assert model(torch.randn(2, 3, 56, 56)).logits.shape == (2, 2)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert (aligning.align(recipe) / "model.safetensors").read_bytes() == first
