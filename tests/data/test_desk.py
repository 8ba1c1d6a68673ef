from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from gossamer import data

TASKS = [name for name in data.offline_names() if name.startswith("desk/")]


@pytest.mark.parametrize("task", [name for name in TASKS if name != "desk/fashion"])
def test_every_task_has_1000_training_images_and_a_test_split(task: str) -> None:
    train, test = data.load(task, "train"), data.load(task, "test")
    assert data.splits(task) == ("train", "test")
    assert len(train) == 1000
    assert len(test) == (797 if task == "desk/digits" else 1000)
    assert train.classes == test.classes
    assert min(test.counts()) > 0
    assert train[999]["image"].mode == "RGB"


def test_fashion_is_a_fixed_even_part_of_the_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GOSSAMER_DATA", str(tmp_path))
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for part, count in (("train", 1500), ("t10k", 1200)):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{name}.gz").write_bytes(gzip.compress(head + array.tobytes()))
    for split in ("train", "test"):
        images = data.load("desk/fashion", split)
        assert images.counts() == (100,) * 10
        assert images.indices == data.load("desk/fashion", split).indices


def test_an_unknown_task_is_refused_with_the_known_names() -> None:
    with pytest.raises(
        ValueError, match=r"no set of images 'desk/colour'; there are: desk/fashion, desk/digits, .*, desk/count$"
    ):
        data.load("desk/colour")
