"""Real image sets that need no hub: they come with packages of PyPI or Debian."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer import carriers
from gossamer.data.images import ImageArray, ImageDataset, ImageFiles
from gossamer.data.stratify import stratified
from gossamer.documents import expanded
from gossamer.errors import MissingPackage, UserError

if TYPE_CHECKING:
    import numpy as np

ELPV_TASKS = {
    "defect": ("functional", "defective"),
    "grade": ("functional", "possibly defective", "probably defective", "defective"),
    "type": ("monocrystalline", "polycrystalline"),
}
ELPV_SPLIT_SEED = 0
DIGITS_SPLIT_SEED = 0
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FASHION_PLACES = ("fashion-mnist", "FashionMNIST/raw", "")
"""Where the idx files may lie in $GOSSAMER_DATA, which is looked at before `FASHION_SYSTEM`."""
FASHION_SYSTEM = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts them."""


def elpv(split: str = "train", task: str = "defect") -> ImageDataset:
    """Solar cells photographed in their own light (elpv), 300 x 300, grey; 1,000 images to train, 1,000 to test.

    `task="defect"`: defective if the graded probability of a defect is 0.5 or more (31 % are). `task="grade"`: the four
    grades. `task="type"`: of one silicon crystal or of many. The split is fixed, kept in elpv_split.json, stratified by
    grade and the same for all tasks; the 624 images left are unused. Source: Buerhop-Lutz et al. 2018, CC BY-NC-SA 4.0,
    carried by elpv-dataset.
    """
    if task not in ELPV_TASKS:
        raise UserError(f"elpv has no task {task!r}; known: {', '.join(ELPV_TASKS)}")
    root, files, grades, types = _elpv_records()
    stored = json.loads(resources.files("gossamer.data").joinpath("elpv_split.json").read_text(encoding="utf-8"))
    chosen = stored[split]
    of_all = {"defect": [int(grade >= 2) for grade in grades], "grade": grades, "type": types}[task]
    return ImageDataset(
        name=f"elpv:{task} ({split})",
        classes=ELPV_TASKS[task],
        labels=tuple(of_all[i] for i in chosen),
        source=ImageFiles(tuple(root / file for file in files)),
        indices=tuple(chosen),
    )


def make_elpv_split() -> dict[str, Any]:
    """The content of elpv_split.json: 1,000 training and 1,000 test images of the 2,624, stratified by grade.

    Written with `json.dump(make_elpv_split(), file)`; the numbers are rows of the carrier's labels.csv.
    """
    _, _, grades, _ = _elpv_records()
    test = stratified(grades, 1000, ELPV_SPLIT_SEED)
    rest = sorted(set(range(len(grades))) - set(test))
    train = [rest[i] for i in stratified([grades[i] for i in rest], 1000, ELPV_SPLIT_SEED)]
    return {"seed": ELPV_SPLIT_SEED, "train": train, "test": test}


def _elpv_records() -> tuple[Path, list[str], list[int], list[int]]:
    """Folder of the carrier; of every image the file, the grade (0 to 3: probability 0, 1/3, 2/3, 1) and the type."""
    table = carriers.verified(
        "elpv-dataset",
        "elpv_dataset/data/labels.csv",
        "0abe6fe7700aea571717d7d7dfec005a47c6207b4cde26a4556b6807a115483d",
    )
    rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines()]
    grades = [round(3 * float(row[1])) for row in rows]
    return table.parent, [row[0] for row in rows], grades, [("mono", "poly").index(row[2]) for row in rows]


def digits(split: str = "train") -> ImageDataset:
    """Handwritten digits of scikit-learn, 8 x 8, grey: 1,000 to train, 797 to test, stratified with a fixed seed."""
    import numpy as np

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackage("the digits come with scikit-learn: pip install scikit-learn") from error
    bunch: Any = load_digits()
    labels = [int(label) for label in bunch.target]
    train = stratified(labels, 1000, DIGITS_SPLIT_SEED)
    chosen = train if split == "train" else sorted(set(range(len(labels))) - set(train))
    return ImageDataset(
        name=f"digits ({split})",
        classes=tuple(str(digit) for digit in range(10)),
        labels=tuple(labels[i] for i in chosen),
        source=ImageArray("digits", (bunch.images * (255 / 16)).round().astype(np.uint8)),
        indices=tuple(chosen),
    )


def fashion_mnist(split: str = "train") -> ImageDataset:
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747): clothes, 28 x 28, grey; 60,000 to train, 10,000 to test.

    Read from idx files, plain or gzipped, as Debian and torchvision lay them out: see `FASHION_PLACES`.
    """
    part = "train" if split == "train" else "t10k"
    images, labels = _idx(_fashion_file(f"{part}-images-idx3-ubyte")), _idx(_fashion_file(f"{part}-labels-idx1-ubyte"))
    return ImageDataset(
        name=f"fashion-mnist ({split})",
        classes=FASHION_CLASSES,
        labels=tuple(labels.tolist()),
        source=ImageArray(f"fashion-mnist ({split})", images),
        indices=tuple(range(len(images))),
    )


def _fashion_file(name: str) -> Path:
    own = os.environ.get("GOSSAMER_DATA")
    places = [expanded(own) / place for place in FASHION_PLACES] if own else []
    places.append(FASHION_SYSTEM)
    for place in places:
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"Fashion-MNIST is not on this machine ({name} is in none of: {', '.join(map(str, places))}). On Debian and "
        "Ubuntu: apt-get install dataset-fashion-mnist. Elsewhere: put its idx files in $GOSSAMER_DATA/fashion-mnist"
    )


def _idx(path: Path) -> np.ndarray:
    """The array of an idx file of bytes (LeCun's format: magic 0 0 8 dimensions, then their sizes, then the bytes)."""
    import numpy as np

    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise UserError(f"{path} is not an idx file of bytes: it starts with {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    body = np.frombuffer(content, dtype=np.uint8, offset=start)
    if body.size != int(np.prod(shape)):
        raise UserError(f"{path} is damaged: {body.size} bytes where its head says {shape}")
    return body.reshape(shape)


OFFLINE: dict[str, Callable[[str], ImageDataset]] = {
    "elpv": elpv,
    "elpv:grade": lambda split: elpv(split, task="grade"),
    "elpv:type": lambda split: elpv(split, task="type"),
    "digits": digits,
    "fashion-mnist": fashion_mnist,
}
"""Names of the sets, as `gossamer.data.load` takes them; each has the splits train and test."""
