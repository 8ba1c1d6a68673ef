from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from gossamer.data import scenes as module
from gossamer.data.scenes import GRID, POINTERS, SCENES, SIDE, scenes


def objects(task: str, label: int, seed: int) -> np.ndarray:
    """Places (row, column) of the pixels that objects cover."""
    image = np.asarray(SCENES[task].draw(label, random.Random(seed)), dtype=int)
    bare = np.asarray(module._background(random.Random(seed))[0], dtype=int)
    return np.argwhere(np.abs(image - bare).max(axis=2) > 25)


@pytest.mark.parametrize("task", SCENES)
def test_the_same_seed_draws_the_same_images_and_another_split_others(task: str) -> None:
    first, again, test = (scenes(task, split) for split in ("train", "train", "test"))
    assert len(first) == len(test) == 1000
    assert max(first.counts()) - min(first.counts()) <= 1
    image = first[37]["image"]
    assert (image.size, image.mode) == ((SIDE, SIDE), "RGB")
    assert image.tobytes() == again[37]["image"].tobytes()
    assert image.tobytes() != test[37]["image"].tobytes()
    assert first.labels[37] == test.labels[37] == 37 % len(first.classes)
    assert test.describe(5) == f"image 5 of {task} (test)"


def test_images_do_not_change_with_the_version_of_gossamer() -> None:
    means = {task: np.asarray(scenes(task)[11]["image"]).mean(axis=(0, 1)).round().tolist() for task in SCENES}
    assert means == {
        "location": [78, 91, 97], "orientation": [161, 184, 165], "count": [117, 123, 121],
    }  # fmt: skip


@pytest.mark.parametrize("label", [5, 6, 9, 10])  # the inner cells, where no object is cut off
def test_location_is_the_cell_of_the_objects_centre(label: int) -> None:
    for seed in range(5):
        row, column = (objects("location", label, seed).mean(axis=0) // (SIDE / GRID)).astype(int)
        assert SCENES["location"].classes[label] == f"row {row + 1}, column {column + 1}"


@pytest.mark.parametrize("label", [0, 3, 9, 14])
def test_orientation_is_where_the_head_looks(label: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTERS", {"kite": POINTERS["kite"]})
    for seed in range(5):
        away = objects("orientation", label, seed).astype(float)
        away -= away.mean(axis=0)
        down, right = away[np.hypot(*away.T).argmax()]  # the kite's head is its furthest corner
        low, high = (float(part) for part in SCENES["orientation"].classes[label].split(" degrees")[0].split(" to "))
        middle = (low + high) / 2
        off = (math.degrees(math.atan2(down, right)) - middle + 180) % 360 - 180
        assert abs(off) < (high - low) / 2 + 3


def test_count_is_the_number_of_separate_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[tuple[float, float, float]] = []
    place: Callable = module._place

    def record(image: Image.Image, points, centre, radius, angle, colour) -> None:
        placed.append((*centre, radius))
        place(image, points, centre, radius, angle, colour)

    monkeypatch.setattr(module, "_place", record)
    for label, name in enumerate(SCENES["count"].classes):
        placed.clear()
        SCENES["count"].draw(label, random.Random(label))
        assert name == f"{len(placed)} objects"
        for i, (x, y, r) in enumerate(placed):
            assert r <= min(x, y, SIDE - x, SIDE - y)
            assert all(math.hypot(x - u, y - v) > r + s for u, v, s in placed[:i])


def test_every_object_reaches_about_as_far() -> None:
    for points in [*module.OBJECTS.values(), *POINTERS.values()]:
        assert 0.9 < max(math.hypot(*point) for point in points) < 1.15


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no drawn task 'shape'; known: location, orientation, count"):
        scenes("shape")
