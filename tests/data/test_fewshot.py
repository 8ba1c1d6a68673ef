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
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images are not there: .*b_2\.jpg"):
        data.load("fewshot/oxford_pets", "train", path=folder)
    (folder / "split_zhou_OxfordPets.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no split_zhou_\*\.json"):
        data.load("fewshot/oxford_pets", "train", path=folder)


def aircraft(root: Path) -> Path:
    """FGVC-Aircraft as its authors publish it: class names with spaces and slashes, in the order of variants.txt."""
    folder = root / "fgvc_aircraft"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("DR-400\nA330-200\nF/A-18\nModel B200 King\n")
    lists = {"train": ["0001 A330-200", "0002 Model B200 King"], "val": ["0003 F/A-18"], "test": ["0004 DR-400"]}
    for split, lines in lists.items():
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            Image.new("L", (7, 5), 90).save(folder / "images" / f"{line[:4]}.jpg")
    return folder


def test_aircraft_by_its_authors_lists(tmp_path: Path) -> None:
    folder = aircraft(tmp_path)
    train, val, test = (data.load("fewshot/fgvc_aircraft", split, path=folder) for split in ("train", "val", "test"))
    assert train.classes == val.classes == test.classes == ("DR-400", "A330-200", "F/A-18", "Model B200 King")
    assert (train.labels, val.labels, test.labels) == ((1, 3), (2,), (0,))
    assert train.describe(1).endswith("0002.jpg")
    assert train[0]["image"].mode == "RGB"
    (folder / "images_variant_val.txt").write_text("0003 F/A-18\n0001 Concorde\n")
    with pytest.raises(UserError, match=r"images_variant_val\.txt, line 2 is no image and one of the 4 classes"):
        data.load("fewshot/fgvc_aircraft", "val", path=folder)
    (folder / "images_variant_val.txt").write_text("../0003 F/A-18\n")
    with pytest.raises(UserError, match="leads out of"):
        data.load("fewshot/fgvc_aircraft", "val", path=folder)
    (folder / "images_variant_val.txt").write_text("0009 F/A-18\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images are not there: .*0009\.jpg"):
        data.load("fewshot/fgvc_aircraft", "val", path=folder)


def imagenet(root: Path) -> Path:
    """Folders of classes, named in a file that is not in their order; two classes of the same words, as ImageNet has."""
    folder = root / "imagenet"
    folder.mkdir()
    (folder / "classnames.txt").write_text("n03 crane\nn01 tench\nn02 crane\n")
    for part, count in (("train", 2), ("val", 1)):
        for synset in ("n01", "n02", "n03"):
            (folder / "images" / part / synset).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (6, 8)).save(folder / "images" / part / synset / f"{synset}_{i}.JPEG", "JPEG")
    return folder


def test_imagenet_by_folders_and_their_words(tmp_path: Path) -> None:
    folder = imagenet(tmp_path)
    train, test = (data.load("fewshot/imagenet", split, path=folder) for split in ("train", "test"))
    assert train.classes == test.classes == ("tench", "crane (n02)", "crane (n03)")
    assert (train.labels, test.labels) == ((0, 0, 1, 1, 2, 2), (0, 1, 2))
    assert Path(test.describe(2)).parts[-3:] == ("val", "n03", "n03_0.JPEG")
    assert few(train, 2, seed=0).counts() == (2, 2, 2)
    with pytest.raises(UserError, match="has no split 'val'; it has: train, test"):
        data.load("fewshot/imagenet", "val", path=folder)
    (folder / "images" / "val" / "n09").mkdir()
    with pytest.raises(UserError, match=r"has folders that .*classnames\.txt does not name: n09"):
        data.load("fewshot/imagenet", "test", path=folder)
    (folder / "images" / "val" / "n09").rmdir()
    (folder / "images" / "val" / "n02" / "n02_0.JPEG").unlink()
    (folder / "images" / "val" / "n02").rmdir()
    with pytest.raises(FileNotFoundError, match=r"has no folder of n02"):
        data.load("fewshot/imagenet", "test", path=folder)
    (folder / "classnames.txt").write_text("n01 tench\nn02\n")
    with pytest.raises(UserError, match=r"classnames\.txt, line 2 is no folder of a new class and its words"):
        data.load("fewshot/imagenet", "train", path=folder)
