from __future__ import annotations

from pathlib import Path

import pytest

from gossamer import data
from gossamer.data import fgvc

from .published import image, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tasks of three classes, whose ids have gaps; images lie where the data sets' own authors put them."""
    for task, usual, below in (
        ("cub", "CUB_200_2011", "images"),
        ("dogs", "StanfordDogs", "Images"),
        ("cars", "cars", ""),
    ):
        monkeypatch.setitem(fgvc.CLASSES, task, 3)
        for split, ids in (("train", [9, 2, 4, 2]), ("val", [4]), ("test", [2, 9])):
            names = {f"{split}/{i}.jpg": id for i, id in enumerate(ids)}
            write(tmp_path / usual / f"{split}.json", names)
            for name in names:
                image(tmp_path / usual / below / name)
    return tmp_path


@pytest.mark.parametrize("task", ["cub", "dogs", "cars"])
def test_split_files_are_read(folder: Path, task: str) -> None:
    train, val, test = (data.load(f"fgvc/{task}", split, path=folder) for split in ("train", "val", "test"))
    assert train.classes == val.classes == test.classes == ("2", "4", "9")
    assert (train.labels, val.labels, test.labels) == ((2, 0, 1, 0), (1,), (0, 2))
    assert data.load(f"fgvc/{task}", "trainval", path=folder).labels == (2, 0, 1, 0, 1)
    assert train[3]["image"].size == (7, 5)
    assert test.describe(1).endswith("test/1.jpg")


def test_the_published_numbers_of_classes_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(data.load("fgvc/cub", path=folder / "CUB_200_2011")) == 4
    monkeypatch.setitem(fgvc.CLASSES, "cub", 200)
    with pytest.raises(ValueError, match=r"CUB_200_2011/train.json has 3 classes; fgvc/cub has 200"):
        data.load("fgvc/cub", "test", path=folder)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (
            {"test/0.jpg": 5},
            ValueError,
            "test.json has class id 5 for test/0.jpg; no image of train.json is of that class",
        ),
        ({"test/0.jpg": "a"}, ValueError, "test.json has 'a' for test/0.jpg; it should be a class id, a whole number"),
        ({"test/7.jpg": 2}, FileNotFoundError, r"1 of 1 images are not there: .*images/test/7.jpg \(.*test.json\)"),
        ([1], ValueError, r"test.json is not a record of named fields, but \[1\]"),
        ("{", ValueError, "test.json, line 1, column 2 is not JSON"),
    ],
)
def test_a_bad_file_is_named(folder: Path, content: object, error: type, message: str) -> None:
    write(folder / "CUB_200_2011" / "test.json", content)
    with pytest.raises(error, match=message):
        data.load("fgvc/cub", "test", path=folder)


def test_absent_files_are_listed_with_every_place(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no nabirds/train.json and no train.json|no nabirds/train.json"):
        data.load("fgvc/nabirds", path=folder)
