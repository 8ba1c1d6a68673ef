"""Few images of each class: nested draws; the published split files of the few-shot protocol, at small size."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gossamer import data
from gossamer.data.fewshot import SETS, few, half, in_words
from gossamer.data.images import ImageDataset, ImageFiles
from gossamer.errors import UserError


def labelled(counts: tuple[int, ...]) -> ImageDataset:
    labels = tuple(label for label, count in enumerate(counts) for _ in range(count))
    files = ImageFiles(tuple(Path(f"{i}.png") for i in range(len(labels))))
    classes = tuple(f"class_{i}" for i in range(len(counts)))
    return ImageDataset(name="made", classes=classes, labels=labels, source=files, indices=tuple(range(len(labels))))


def test_draws_are_exact_nested_and_the_same_at_a_seed() -> None:
    images = labelled((9, 3, 17))
    by_shots = {k: few(images, k, seed=1) for k in (1, 2, 4, 8)}
    for k, found in by_shots.items():
        assert found.counts() == (k, k, k)
        assert found.indices == few(images, k, seed=1).indices
    for small, large in ((1, 2), (2, 4), (4, 8)):
        assert not Counter(by_shots[small].indices) - Counter(by_shots[large].indices)
    assert Counter(by_shots[8].indices[8:16]).most_common(1)[0][1] == 3  # three images, eight times
    assert few(images, 4, seed=2).indices != by_shots[4].indices
    with pytest.raises(UserError, match="no image of class_1, of which 2 are asked for"):
        few(labelled((2, 0, 2)), 2, seed=0)


def test_halves_of_the_classes_have_labels_of_their_own() -> None:
    images = labelled((1, 2, 3, 4, 5))
    base, new = half(images, "base"), half(images, "new")
    assert base.classes == ("class_0", "class_1", "class_2")
    assert base.counts() == (1, 2, 3)
    assert new.classes == ("class_3", "class_4")
    assert new.counts() == (4, 5)


def test_words_are_names_with_spaces_unless_said_otherwise() -> None:
    assert in_words(["ankle_boot", "n01443537"], {"n01443537": "goldfish"}) == ["ankle boot", "goldfish"]
    with pytest.raises(UserError, match=r"data\.names has n0"):
        in_words(["a", "b"], {"n0": "x"})


def pets(root: Path, **changes: Any) -> Path:
    folder = root / "oxford_pets"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {
        "train": [["a_1.jpg", 0, "abyssinian"], ["b_1.jpg", 1, "basset_hound"], ["b_2.jpg", 1, "basset_hound"]],
        "val": [["a_2.jpg", 0, "abyssinian"]],
        "test": [["b_3.jpg", 1, "basset_hound"], ["a_3.jpg", 0, "abyssinian"]],
    }
    for name in [record[0] for part in table.values() for record in part]:
        Image.new("RGB", (5, 4), (9, 9, 200)).save(folder / "images" / name)
    (folder / "split_zhou_OxfordPets.json").write_text(json.dumps({**table, **changes}))
    return folder


def test_a_published_split_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets(tmp_path)
    monkeypatch.setenv("GOSSAMER_DATA", str(tmp_path))
    train, val, test = (data.load("fewshot/oxford_pets", split) for split in ("train", "val", "test"))
    assert train.classes == val.classes == test.classes == ("abyssinian", "basset hound")
    assert train.labels == (0, 1, 1)
    assert test.labels == (1, 0)
    assert test.describe(0).endswith("b_3.jpg")
    assert test[0]["image"].size == (5, 4)
    assert data.splits("fewshot/oxford_pets") == ("train", "val", "test")
    assert {f"fewshot/{name}" for name in SETS} == set(data.names("fewshot"))


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "record": ({"val": [["a_2.jpg", "0", "abyssinian"]]}, r"val\[0\] is not \[path, label, class name\]"),
    "name": ({"val": [["a_2.jpg", 0, "cat"]]}, r"calls the class 0 'cat', which was 'abyssinian' before"),
    "outside": ({"val": [["../a_2.jpg", 0, "abyssinian"]]}, "leads out of"),
    "gap": ({"val": [["a_2.jpg", 5, "cat"]]}, "has labels 0 to 5, but 3 classes"),
    "list": ({"val": {}}, "val is no list of images"),
    "more": ({"extra": []}, "must name the images of train, val, test, and no more"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_as_published_is_named(tmp_path: Path, name: str) -> None:
    changes, says = BROKEN[name]
    folder = pets(tmp_path, **changes)
    with pytest.raises(UserError, match=says):
        data.load("fewshot/oxford_pets", "train", path=folder)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    folder = pets(tmp_path)
    (folder / "images" / "b_2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"names images that are not there: .*b_2\.jpg"):
        data.load("fewshot/oxford_pets", "train", path=folder)
    (folder / "split_zhou_OxfordPets.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no split_zhou_\*\.json"):
        data.load("fewshot/oxford_pets", "train", path=folder)
