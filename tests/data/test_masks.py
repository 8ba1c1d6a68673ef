"""Images with masks: folders, palettes, ADE20K as published, what is refused; the drawn task of garments."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gossamer import data
from gossamer.data import masks
from gossamer.errors import UserError

NAMES = ("ground", "shoe", "bag")


def save(folder: Path, name: str, mask: Any, *, size: tuple[int, int] | None = None, suffix: str = ".png") -> None:
    """An image and its mask; the image is grey where the mask says 0."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    mask = np.array(mask, dtype=np.uint8)
    Image.new("RGB", size or (mask.shape[1], mask.shape[0]), (90, 120, 30)).save(folder / "images" / f"{name}{suffix}")
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def folder(root: Path) -> Path:
    save(root / "train", "a", [[0, 1, 2], [255, 2, 1]])
    save(root / "train", "b", [[0, 0]], suffix=".jpg")
    save(root / "val", "c", [[2], [2], [0]])
    (root / "classes.txt").write_text("ground\nshoe\n\nbag\n")
    return root


def test_a_folder_of_images_masks_and_classes(tmp_path: Path) -> None:
    root = folder(tmp_path)
    assert data.has_masks(root)
    assert data.mask_set_splits(root) == ("train", "val")
    train = data.load_masks(root)
    assert train.classes == NAMES
    assert len(train) == 2
    assert train[0]["image"].size == (3, 2)
    assert train[0]["mask"].tolist() == [[0, 1, 2], [255, 2, 1]]
    assert train[0]["mask"].dtype == np.uint8
    assert data.load_masks(root, "val")[0]["mask"].tolist() == [[2], [2], [0]]
    assert [Path(name).name for name in train.pictured()] == ["a.png", "b.jpg"]
    both = masks.joined([train, data.load_masks(root, "val")])
    assert both.subset([2, 0])[0]["mask"].tolist() == [[2], [2], [0]]
    with pytest.raises(UserError, match="no split 'test'"):
        data.load_masks(root, "test")


def test_without_splits_everything_is_for_training_and_zero_may_mean_nothing(tmp_path: Path) -> None:
    save(tmp_path, "a", [[0, 1], [3, 255]])
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    assert data.load_masks(tmp_path, zero="ignore")[0]["mask"].tolist() == [[255, 0], [2, 255]]
    with pytest.raises(UserError, match=r"a\.png has the value 3; there are 3 classes"):
        data.load_masks(tmp_path)[0]


def test_palettes_hold_indices_and_what_is_written_is_read_again(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2], [2, 255, 0]], dtype=np.uint8)
    save(tmp_path, "a", mask)
    masks.picture_of(mask).save(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    with Image.open(tmp_path / "masks" / "a.png") as stored:
        assert stored.mode == "P"
        assert stored.convert("RGB").getpixel((1, 0)) == (128, 0, 0)  # Pascal VOC's second colour
    assert data.load_masks(tmp_path)[0]["mask"].tolist() == mask.tolist()
    image = data.load_masks(tmp_path)[0]["image"]
    over = np.asarray(masks.overlay(image, mask))
    assert over[1, 1].tolist() == [90, 120, 30]
    assert over[0, 1].tolist() == [109, 60, 15]


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path)
    save(root / "train", "d", [[0, 1]], size=(2, 2))
    with pytest.raises(UserError, match=r"d\.png is 2 x 2 pixels, and its mask 1 x 2"):
        data.load_masks(root)[2]
    with pytest.raises(UserError, match=r"1 of 3 images cannot be read: .*d\.png"):
        data.load_masks(root).check()
    Image.new("RGB", (3, 2)).save(root / "train" / "masks" / "a.png")
    with pytest.raises(UserError, match="mode RGB: colours are no classes"):
        data.load_masks(root)[0]
    (root / "train" / "masks" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.png cannot be read with its mask"):
        data.load_masks(root)[0]
    (root / "train" / "masks" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no mask \(\.png\) of the same name for a\.png"):
        data.load_masks(root)
    Image.new("L", (3, 2)).save(root / "train" / "masks" / "e.png")
    (root / "train" / "images" / "a.png").unlink()
    with pytest.raises(UserError, match="no image for the masks e"):
        data.load_masks(root)
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt is not there"):
        data.load_masks(root, "val")
    with pytest.raises(UserError, match="is no set of masks"):
        data.load_masks(tmp_path / "elsewhere")


def ade(root: Path) -> Path:
    for part, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        for kind in ("images", "annotations"):
            (root / kind / part).mkdir(parents=True)
        Image.fromarray(np.full((3, 5), 70, dtype=np.uint8)).save(root / "images" / part / f"{name}.jpg")  # grey
        mask = np.array([[0, 1, 150, 2, 0]] * 3, dtype=np.uint8)
        Image.fromarray(mask).save(root / "annotations" / part / f"{name}.png")
    return root


def test_ade20k_as_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ade(tmp_path / "ADEChallengeData2016")
    monkeypatch.setenv("GOSSAMER_DATA", str(tmp_path))
    for split in ("train", "val"):
        images = data.load_masks("ade20k", split)
        assert len(images.classes) == 150
        assert images.classes[0] == "wall"
        assert images[0]["mask"][0].tolist() == [255, 0, 149, 1, 255]
        assert images[0]["image"].mode == "RGB"
    with pytest.raises(UserError, match="no split 'test'"):
        data.load_masks("ade20k", "test")
    with pytest.raises(UserError, match="says itself what 0 is"):
        data.load_masks("ade20k", zero="class")
    wrong = np.full((3, 5), 151, dtype=np.uint8)
    Image.fromarray(wrong).save(root / "annotations" / "training" / "ADE_train_00000001.png")
    with pytest.raises(UserError, match=r"ADE_train_00000001\.jpg has the value 150"):
        data.load_masks("ade20k")[0]


def idx(array: Any) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven garments to train and three to test: bright discs."""
    rows, columns = np.mgrid[:28, :28] - 13.5
    disc = (200 * (rows**2 + columns**2 < 120)).astype(np.uint8)
    monkeypatch.setenv("GOSSAMER_DATA", str(tmp_path))
    (tmp_path / "fashion-mnist").mkdir()
    for part, labels in (("train", [*range(10), 7]), ("t10k", [3, 0, 9])):
        pictures = np.stack([disc] * len(labels))
        for name, array in (("images-idx3-ubyte", pictures), ("labels-idx1-ubyte", np.array(labels, dtype=np.uint8))):
            (tmp_path / "fashion-mnist" / f"{part}-{name}.gz").write_bytes(gzip.compress(idx(array)))


@pytest.mark.usefixtures("fashion")
def test_garments_lie_where_their_masks_say_and_are_the_same_each_time() -> None:
    train, test = data.load_masks("desk/garments"), data.load_masks("desk/garments", "test")
    assert len(train) == len(test) == 1000
    assert train.classes[:2] == ("ground", "T-shirt/top")
    seen: set[int] = set()
    for i in range(40):
        one, again, other = train[i], data.load_masks("desk/garments")[i], test[i]
        assert one["image"].size == (112, 112)
        assert one["mask"].shape == (112, 112)
        assert (np.asarray(one["image"]) == np.asarray(again["image"])).all()
        assert (one["mask"] == again["mask"]).all()
        assert not (np.asarray(one["image"]) == np.asarray(other["image"])).all()
        assert set(np.unique(other["mask"])) <= {0, 1, 4, 10}
        share = float((one["mask"] > 0).mean())
        assert 0.02 < share < 0.6
        seen |= set(np.unique(one["mask"]).tolist())
    assert seen == set(range(11))
