"""What the pair is pre-trained on: masked words of true captions, and whether a caption fits its image.

    words:     -log p(w | caption with w masked, image)          over the masked pieces of words
    matching:  -log p(fits | caption, image)                     half of the captions are false of their image

Masked words: J. Devlin et al., BERT, arXiv 1810.04805, whole words; matching as in ViLT, arXiv 2102.03334, and METER, arXiv
2111.02387.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from gossamer import reading
from gossamer.pretraining import captions
from gossamer.pretraining.captions import COLOURS, SHAPES, Caption, Facts
from gossamer.tasks.texts import Pictures, padded

NOTHING = -100  # a label that counts for nothing
MASKED_SAID, MASKED_OTHER = 0.5, 0.15  # shares of words that are masked: those that only the image tells, and others


class WordsAndMatching(nn.Module):
    """A ViLT or METER with the two heads of pre-training; its forward pass gives the sum of both losses.

    Words are predicted by a Linear, GELU and LayerNorm, then by the model's own word embeddings and a bias; matching by a Linear on
    what the poolers give. What is frozen stays in evaluation mode.

    Args:
        model: a bare ViLT or METER, whose text states are as wide as its word embeddings.
        frozen: names of its modules that are not trained.
    """

    def __init__(self, model: Any, frozen: Sequence[str]):
        super().__init__()
        self.model, self.frozen = model, frozen
        for name in frozen:
            model.get_submodule(name).requires_grad_(False)
        vocabulary, width = model.get_input_embeddings().weight.shape
        linear = nn.Linear(width, width)
        self.transform = nn.Sequential(linear, nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.matching = nn.Linear(reading.read(model).readout.pooled * model.config.hidden_size, 2)
        for fresh in (linear, self.matching):
            nn.init.normal_(fresh.weight, std=0.02)
            nn.init.zeros_(fresh.bias)

    def train(self, mode: bool = True) -> WordsAndMatching:
        """Training mode for all that is trained."""
        super().train(mode)
        for name in self.frozen:
            self.model.get_submodule(name).eval()
        return self

    def predict(self, words: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """A batch -> logits [m, vocabulary] of its masked pieces, those that `words` [B, n] labels, and of matching, [B, 2]."""
        output = self.model(**inputs)
        asked = output.last_hidden_state[:, : words.shape[1]][words != NOTHING]
        logits = F.linear(self.transform(asked), self.model.get_input_embeddings().weight, self.bias)
        return logits, self.matching(output.pooler_output)

    def forward(self, words: Tensor, fits: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The loss of a batch: ids and mask [B, n], pixels, labels `words` [B, n] and `fits` [B], -100 where there is none."""
        guessed, matched = self.predict(words, **inputs)
        return {"loss": _mean_loss(guessed, words[words != NOTHING]) + _mean_loss(matched, fits)}


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, averaged over the samples that have a label; 0 where none has."""
    counted = (labels != NOTHING).sum().clamp(min=1)
    return F.cross_entropy(logits, labels, ignore_index=NOTHING, reduction="sum") / counted


class Reader:
    """Captions as a model reads them: tokens, some words of them masked, in batches with their images."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def masked(self, caption: Caption, places: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids, the words at these places (0 is the first) masked in all their pieces, and the labels of the pieces."""
        read = self.tokenizer(caption.text)
        hidden = [word in places for word in read.word_ids()]
        ids = [self.tokenizer.mask_token_id if h else i for h, i in zip(hidden, read["input_ids"], strict=True)]
        return ids, [i if h else NOTHING for h, i in zip(hidden, read["input_ids"], strict=True)]

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of items {"pixels", "ids", "words", "fits"}, padded on the right."""
        return {
            "pixel_values": torch.stack([item["pixels"] for item in items]),
            "input_ids": padded([item["ids"] for item in items], self.tokenizer.pad_token_id),
            "attention_mask": padded([[1] * len(item["ids"]) for item in items], 0),
            "words": padded([item["words"] for item in items], NOTHING),
            "fits": torch.tensor([item["fits"] for item in items]),
        }


class Drawn(Dataset):
    """`length` captions with their images; item i is a function of seed and i alone.

    Of even ones some words are masked, odd ones fit their image or do not.

    Args:
        known: what is known of each drawing, by its file.
        pictures: the drawings, prepared.
        reader: tokenizes.
        length: how many there are.
        seed: of all draws.
    """

    def __init__(self, known: dict[Path, Facts], pictures: Pictures, reader: Reader, length: int, seed: int):
        self.known, self.files, self.pictures, self.reader = known, list(known), pictures, reader
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < self.length:
            raise IndexError(f"item {i} of {self.length}")
        draw = random.Random(f"{self.seed} {i}")
        file = draw.choice(self.files)
        if i % 2:
            fits = draw.random() < 0.5
            caption, places = self._caption(file, fits, draw), []
        else:
            fits, caption = NOTHING, self._caption(file, True, draw)
            places = _hidden(caption, draw)
        ids, words = self.reader.masked(caption, places)
        return {"pixels": self.pictures[file].to("cpu"), "ids": ids, "words": words, "fits": int(fits)}

    def _caption(self, file: Path, fits: bool, draw: random.Random) -> Caption:
        """One that is true of a drawing, or another drawing's that is false of it."""
        if fits:
            return captions.write(self.known[file], draw)
        while True:
            caption = captions.write(self.known[draw.choice(self.files)], draw)
            if caption.false_of(self.known[file]):
                return caption


def _hidden(caption: Caption, draw: random.Random) -> list[int]:
    """Places of the words that are masked, at least one."""
    words = caption.text.split()
    share = [MASKED_SAID if word in COLOURS + SHAPES else MASKED_OTHER for word in words]
    places = [place for place, p in enumerate(share) if draw.random() < p]
    return places or [draw.randrange(len(words))]


@torch.no_grad()
def scores(model: WordsAndMatching, drawn: Drawn, batch: int = 128) -> dict[str, float]:
    """Shares of right answers on drawn captions: `words` of masked pieces, `told` of those of colours and shapes, `matching`.

    A piece counts where it is the likeliest of the whole vocabulary. A colour or shape that is denied ("no circle") has several
    right values, of which one counts.
    """
    model.eval()
    device = next(model.parameters()).device
    told = {i for word in COLOURS + SHAPES for i in drawn.reader.tokenizer(word)["input_ids"][1:-1]}
    found: dict[str, list[bool]] = {"words": [], "told": [], "matching": []}
    for start in range(0, len(drawn), batch):
        given = drawn.reader.collate([drawn[i] for i in range(start, min(start + batch, len(drawn)))])
        given = {name: tensor.to(device) for name, tensor in given.items()}
        words, fits = given["words"], given.pop("fits")
        guessed, matched = model.predict(**given)
        labels = words[words != NOTHING]
        right = (guessed.argmax(1) == labels).tolist()
        found["words"] += right
        found["told"] += [hit for hit, label in zip(right, labels.tolist(), strict=True) if label in told]
        found["matching"] += (matched.argmax(1) == fits)[fits != NOTHING].tolist()
    return {name: sum(hits) / len(hits) for name, hits in found.items()}
