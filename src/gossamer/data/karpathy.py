"""COCO and Flickr30K captions in the splits of Karpathy and Fei-Fei (arXiv 1412.2306), for retrieval and for captioning.

dataset_coco.json, dataset_flickr30k.json (or karpathy/...)
train2014/COCO_train2014_000000000009.jpg, val2014/...; flickr30k-images/1000092795.jpg
"""

from __future__ import annotations

from pathlib import Path

from gossamer.data.files import field, find, inside, listed, mapping, number, read_json
from gossamer.data.image_text import Example, ImageTextDataset
from gossamer.errors import UserError

PARTS = ("train", "restval", "val", "test")
"""The parts of the file. restval, COCO's validation images that Karpathy did not choose, belongs to train."""
IMAGES = {"coco": ("",), "flickr30k": ("flickr30k-images", "flickr30k_images", "images", "")}


def karpathy(folder: Path, split: str, benchmark: str) -> ImageTextDataset:
    """The images of one split, train, val or test, of "coco" or "flickr30k"; `references` are the captions, text is empty.

    UserError where the file has an image twice, in whatever splits.
    """
    path = find(folder, f"dataset_{benchmark}.json", f"karpathy/dataset_{benchmark}.json")
    images = find(folder, *IMAGES[benchmark])
    content = mapping(read_json(path), str(path))
    examples = []
    places: dict[Path, list[int]] = {}
    for place, entry in enumerate(field(content, "images", list, str(path))):
        source = f"images[{place}] of {path}"
        record = mapping(entry, source)
        part = PARTS[number(field(record, "split", str, source), PARTS, f"field 'split' of {source}")]
        below = inside(images, str(record.get("filepath", "")), source)
        image = inside(below, field(record, "filename", str, source), source)
        places.setdefault(image, []).append(place)
        if part != split and not (part == "restval" and split == "train"):
            continue
        captions = field(record, "sentences", list, source)
        if not captions:
            raise UserError(f"{source} has no sentences")
        examples.append(
            Example(
                id=str(record.get("cocoid", field(record, "imgid", int, source))),
                images=(image,),
                text="",
                references=tuple(field(mapping(caption, source), "raw", str, source).strip() for caption in captions),
                source=source,
            )
        )
    if again := [f"{image} (images {', '.join(map(str, of))})" for image, of in places.items() if len(of) > 1]:
        raise UserError(f"{path} has {len(again):,} images more than once: {listed(again)}")
    return ImageTextDataset(name=f"{benchmark} captions ({split})", classes=(), examples=tuple(examples))
