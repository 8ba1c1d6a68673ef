import gzip
import json
import struct
from importlib import resources

import numpy as np
import pytest

from gossamer import data
from gossamer.data.easy_vqa import easy_vqa
from gossamer.data.offline import elpv, make_elpv_split


def test_elpv_asks_whether_a_cell_is_defective():
    train, test = data.load("elpv", "train"), data.load("elpv", "test")
    assert train.classes == test.classes == ("functional", "defective")
    assert train.counts() == test.counts() == (687, 313)
    assert not set(train.indices) & set(test.indices)
    image = test[0]["image"]
    assert (image.size, image.mode) == ((300, 300), "RGB")
    assert test.describe(0).endswith(f"cell{test.indices[0] + 1:04d}.png")
    train.check()


def test_elpv_grades_are_of_the_same_images():
    defects, grades = data.load("elpv", "test"), data.load("elpv:grade", "test")
    assert grades.indices == defects.indices
    assert grades.counts() == (575, 112, 40, 273)
    assert tuple(int(grade >= 2) for grade in grades.labels) == defects.labels
    with pytest.raises(ValueError, match="elpv has no task 'colour'; known: defect, grade, type"):
        elpv("train", task="colour")


def test_elpv_types_are_of_the_same_images():
    types = data.load("elpv:type", "test")
    assert types.indices == data.load("elpv", "test").indices
    assert types.counts() == (399, 601)


def test_the_stored_split_is_the_one_the_function_makes():
    stored = json.loads(resources.files("gossamer.data").joinpath("elpv_split.json").read_text())
    assert stored == make_elpv_split()
    assert len(set(stored["train"]) | set(stored["test"])) == 2000


def test_digits():
    train, test = data.load("digits"), data.load("digits", "test")
    assert (len(train), len(test)) == (1000, 797)
    assert not set(train.indices) & set(test.indices)
    assert min(train.counts()) >= 95
    item = train[17]
    pixels = np.asarray(item["image"])
    assert pixels.shape == (8, 8, 3)
    assert pixels.max() == 255
    from sklearn.datasets import load_digits

    assert load_digits().target[train.indices[17]] == item["label"]


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """Fashion-MNIST's files with 10 and 3 images: gzipped as Debian has them to train, plain as torchvision to test."""
    images = np.random.default_rng(0).integers(0, 256, (13, 28, 28), dtype=np.uint8)
    labels = np.array([*range(10), 7, 0, 9], dtype=np.uint8)
    monkeypatch.setenv("GOSSAMER_DATA", str(tmp_path))
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        (folder / f"train-{name}.gz").write_bytes(gzip.compress(idx(array[:10])))
        (folder / f"t10k-{name}").write_bytes(idx(array[10:]))
    return folder, images


def test_fashion_mnist_is_read_from_idx_files(fashion):
    _, images = fashion
    train, test = data.load("fashion-mnist"), data.load("fashion-mnist", "test")
    assert train.labels == tuple(range(10))
    assert [test.classes[label] for label in test.labels] == ["Sneaker", "T-shirt/top", "Ankle boot"]
    assert np.array_equal(np.asarray(test[1]["image"])[..., 0], images[11])


def test_damaged_idx_files_are_named(fashion):
    folder, _ = fashion
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        ValueError, match=r"t10k-images-idx3-ubyte is damaged: 2347 bytes where its head says \(3, 28, 28\)"
    ):
        data.load("fashion-mnist", "test")
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="is not an idx file of bytes: it starts with 3c 68 74 6d"):
        data.load("fashion-mnist", "test")


def test_fashion_mnist_says_what_to_install(fashion):
    folder, _ = fashion
    (folder / "t10k-labels-idx1-ubyte").rename(folder / "hidden")
    from gossamer.data import offline

    if offline.FASHION_SYSTEM.is_dir():
        pytest.skip("Debian's package is installed")
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        data.load("fashion-mnist", "test")


def test_names_and_splits():
    assert data.offline_names() == (
        "elpv", "elpv:grade", "elpv:type", "digits", "fashion-mnist", "desk/fashion", "desk/digits", "desk/defects",
        "desk/grades", "desk/cells", "desk/location", "desk/orientation", "desk/count", "tints",
    )  # fmt: skip
    assert data.splits("digits") == ("train", "test")
    with pytest.raises(ValueError, match="digits has no split 'val'; it has: train, test"):
        data.load("digits", "val")
    with pytest.raises(ValueError, match=r"no set of images 'elpv:colour'; there are: elpv:grade, elpv:type$"):
        data.load("elpv:colour")


def test_easy_vqa():
    train, test = easy_vqa("train"), easy_vqa("test")
    assert (len(train), len(test)) == (38575, 9673)
    assert len(train.classes) == 13
    item = train[0]
    assert (item["text"], item["references"]) == ("what is the blue shape?", ("rectangle",))
    assert train.classes[item["label"]] == "rectangle"
    assert [image.size for image in item["images"]] == [(64, 64)]
    assert "record 0 of" in train.describe(0)
    assert train.describe(0).endswith("train/questions.json")
    with pytest.raises(ValueError, match="easy-vqa has no split 'val'; it has: train, test"):
        easy_vqa("val")
