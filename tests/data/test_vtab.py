from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from PIL import Image

from gossamer import data
from gossamer.data.vtab import CLASSES

from .published import image, write

ROWS = {"train800": [("a", 3), ("b", 0)], "val200": [("c", 3)], "train800val200": [("a", 3), ("b", 0), ("c", 3)]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks as the list files have them; test has three images."""
    for task in ("svhn", "kitti"):
        for name, rows in {**ROWS, "test": [("d", 1), ("e", 2), ("f", 0)]}.items():
            lines = [f"images/{name}/{stem}.png {label}\n" for stem, label in rows]
            write(tmp_path / task / f"{name}.txt", "".join(lines))
            for stem, label in rows:
                image(tmp_path / task / "images" / name / f"{stem}.png", (label, 0, 0))
    return tmp_path


def test_all_19_tasks_have_names() -> None:
    assert len(data.names("vtab")) == len(CLASSES) == 19
    assert (
        sum(CLASSES.values())
        == 100 + 102 + 47 + 102 + 37 + 10 + 397 + 2 + 10 + 45 + 5 + 8 + 6 + 6 + 4 + 16 + 16 + 18 + 9
    )


def test_list_files_are_read(folder: Path) -> None:
    sets = {split: data.load("vtab/svhn", split, path=folder) for split in ("train", "val", "trainval", "test")}
    assert {split: images.labels for split, images in sets.items()} == {
        "train": (3, 0), "val": (3,), "trainval": (3, 0, 3), "test": (1, 2, 0),
    }  # fmt: skip
    assert sets["train"].classes == tuple("0123456789")
    assert sets["test"][1]["image"].getpixel((0, 0)) == (2, 0, 0)
    assert sets["train"].describe(1).endswith("svhn/images/train800/b.png")
    assert data.load("vtab/svhn", path=folder / "svhn").labels == (3, 0)
    assert data.splits("vtab/svhn") == ("train", "val", "test")


def test_files_are_looked_for_in_the_folder_of_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"vtab/kitti is read .* set data.path .* \$GOSSAMER_DATA/vtab-1k"):
        data.load("vtab/kitti")
    monkeypatch.setenv("GOSSAMER_DATA", str(folder.parent))
    with pytest.raises(FileNotFoundError, match=r"vtab/kitti: no such folder: .*vtab-1k"):
        data.load("vtab/kitti")
    folder.rename(folder.parent / "vtab-1k")
    assert len(data.load("vtab/kitti", "test")) == 3


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("images/test/d.png", ValueError, r"line 2 of .*test.txt is 'images/test/d.png'; it should be an image's path"),
        ("images/test/d.png -1", ValueError, "line 2 of .*test.txt is 'images/test/d.png -1'"),
        ("images/test/d.png 4", ValueError, "line 2 of .*test.txt has label 4; the 4 classes are numbered from 0"),
        ("images/test/x.png 1", FileNotFoundError, r"1 of 2 images are not there: .*test/x.png \(line 2 of"),
    ],
)
def test_a_bad_line_is_named(folder: Path, line: str, error: type, message: str) -> None:
    write(folder / "kitti" / "test.txt", f"images/test/e.png 2\n{line}\n")
    with pytest.raises(error, match=message):
        data.load("vtab/kitti", "test", path=folder)


@pytest.mark.parametrize("names", [("train800", "val200"), ("train", "validation")])
def test_data_sets_of_the_datasets_library_are_read(tmp_path: Path, names: tuple[str, str]) -> None:
    parts = {}
    for name, labels in ((names[0], [1, 0]), (names[1], [1]), ("test", [0, 1, 1])):
        rows = {"image": [Image.new("RGB", (4, 4), (label, 7, 0)) for label in labels], "label": labels}
        parts[name] = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "patch_camelyon"))
    joined = data.load("vtab/patch_camelyon", "trainval", path=tmp_path)
    assert joined.labels == (1, 0, 1)
    assert joined.classes == ("0", "1")
    assert joined[2]["image"].getpixel((0, 0)) == (1, 7, 0)
    assert "record 0 of" in joined.describe(2)
    assert data.load("vtab/patch_camelyon", "val", path=tmp_path).labels == (1,)
    assert data.load("vtab/patch_camelyon", "test", path=tmp_path / "patch_camelyon").labels == (0, 1, 1)


def test_data_sets_with_class_names_keep_them(tmp_path: Path) -> None:
    rows = {"image": [Image.new("RGB", (4, 4)) for _ in range(2)], "label": [1, 0]}
    named = datasets.ClassLabel(names=["normal", "tumour"])
    part = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).cast_column("label", named)
    datasets.DatasetDict({"train": part}).save_to_disk(str(tmp_path / "patch_camelyon"))
    datasets.DatasetDict({"train": part}).save_to_disk(str(tmp_path / "svhn"))
    assert data.load("vtab/patch_camelyon", path=tmp_path).classes == ("normal", "tumour")
    with pytest.raises(ValueError, match=r"\(train\) has 2 classes; vtab/svhn has 10"):
        data.load("vtab/svhn", path=tmp_path)


def test_a_folder_without_the_task_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds neither test.txt nor parquet or arrow files"):
        data.load("vtab/dtd", "test", path=tmp_path)
    with pytest.raises(
        ValueError, match=r"no set of images 'vtab/imagenet'; there are: vtab/cifar, .*vtab/smallnorb_ele$"
    ):
        data.load("vtab/imagenet", path=tmp_path)
    with pytest.raises(ValueError, match="vtab/dtd has no split 'dev'; it has: train, val, trainval, test"):
        data.load("vtab/dtd", "dev", path=tmp_path)
