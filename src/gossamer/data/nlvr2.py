"""NLVR2 (Suhr et al., arXiv 1811.00491): is a statement true of a pair of photographs? From the official JSON-lines files.

data/{train,dev,test1}.json, or nlvr2/data/... as in a clone of the authors' repository
images/train/DIRECTORY/train-10108-0-img0.png, images/dev/dev-0-0-img0.png, images/test1/...
"""

from __future__ import annotations

from pathlib import Path

from gossamer.data.files import field, find, inside, number, read_json_lines
from gossamer.data.image_text import Example, ImageTextDataset

PARTS = {"train": "train", "val": "dev", "test": "test1"}
"""Every split and its name in the files; test is the public test set, test-P."""
CLASSES = ("False", "True")


def nlvr2(folder: Path, split: str) -> ImageTextDataset:
    """Statements of one split, each about two images: label 0 false, 1 true."""
    part = PARTS[split]
    path = find(folder, f"data/{part}.json", f"nlvr2/data/{part}.json", f"{part}.json")
    images = find(folder, f"images/{part}", part)
    examples = []
    for source, record in read_json_lines(path):
        id = field(record, "identifier", str, source)
        stem, _, _ = id.rpartition("-")  # the last number counts the statements about one pair
        below = f"{field(record, 'directory', (int, str), source)}/" if part == "train" else ""
        label = number(str(field(record, "label", (str, bool), source)), CLASSES, f"field 'label' of {source}")
        examples.append(
            Example(
                id=id,
                images=tuple(inside(images, f"{below}{stem}-img{side}.png", source) for side in (0, 1)),
                text=field(record, "sentence", str, source),
                references=(CLASSES[label],),
                scores=((label, 1.0),),
                source=source,
            )
        )
    return ImageTextDataset(name=f"nlvr2 ({split})", classes=CLASSES, examples=tuple(examples))
