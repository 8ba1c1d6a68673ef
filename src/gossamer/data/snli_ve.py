"""SNLI-VE (Xie et al., arXiv 1901.06706): does a photograph of Flickr30K entail a sentence? From the official JSON-lines files.

snli_ve_{train,dev,test}.jsonl
flickr30k_images/3416050480.jpg ... (or flickr30k-images)
"""

from __future__ import annotations

from pathlib import Path

from gossamer.data.files import field, find, inside, number, read_json_lines
from gossamer.data.image_text import Example, ImageTextDataset

PARTS = {"train": "train", "val": "dev", "test": "test"}
CLASSES = ("contradiction", "neutral", "entailment")
IMAGES = ("flickr30k_images", "flickr30k-images", "Flickr30K/images", "images")
"""Where the images may lie."""


def snli_ve(folder: Path, split: str) -> ImageTextDataset:
    """Hypotheses (sentence2) of one split, each about one image; the premise in words (sentence1) is left out, as usual."""
    images = find(folder, *IMAGES)
    examples = []
    for source, record in read_json_lines(find(folder, f"snli_ve_{PARTS[split]}.jsonl")):
        label = number(field(record, "gold_label", str, source), CLASSES, f"field 'gold_label' of {source}")
        image = str(field(record, "Flickr30K_ID", (str, int), source)).removesuffix(".jpg")
        examples.append(
            Example(
                id=str(record.get("pairID", len(examples))),
                images=(inside(images, f"{image}.jpg", source),),
                text=field(record, "sentence2", str, source),
                references=(CLASSES[label],),
                scores=((label, 1.0),),
                source=source,
            )
        )
    return ImageTextDataset(name=f"snli-ve ({split})", classes=CLASSES, examples=tuple(examples))
