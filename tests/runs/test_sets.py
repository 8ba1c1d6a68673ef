from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from gossamer import data
from gossamer.data import Preprocessing
from gossamer.runs.prepared import Prepared
from gossamer.runs.run import Data, Images
from gossamer.runs.sets import load_sets, preprocessing, unscored

from .. import squares


def test_a_part_of_the_training_images_is_held_out_and_stays_the_same(tmp_path: Path) -> None:
    sets = load_sets(squares.run(tmp_path, validation=0.1))
    assert {name: images.counts() for name, images in sets.items()} == {
        "train": (135, 135), "val": (15, 15), "test": (60, 60),
    }  # fmt: skip
    assert not set(sets["train"].indices) & set(sets["val"].indices)
    assert load_sets(squares.run(tmp_path, validation=0.1))["val"].indices == sets["val"].indices
    assert load_sets(squares.run(tmp_path, validation=0.1, seed=1))["val"].indices != sets["val"].indices


def test_a_validation_split_of_the_set_is_used_as_it_is(tmp_path: Path) -> None:
    folder = squares.save_images(tmp_path / "images", train=4, test=3)
    shutil.copytree(folder / "test", folder / "val")
    sets = load_sets(squares.run(tmp_path, data=folder))
    assert {name: len(images) for name, images in sets.items()} == {"train": 8, "val": 6, "test": 6}


def test_a_last_training_uses_the_validation_images_too(tmp_path: Path) -> None:
    folder = squares.save_images(tmp_path / "images", train=4, test=3)
    shutil.copytree(folder / "test", folder / "val")
    run = squares.run(tmp_path, data=folder)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, train="trainval"))
    sets = load_sets(run)
    assert {name: len(images) for name, images in sets.items()} == {"train": 14, "test": 6}
    assert sets["train"].counts() == (7, 7)
    assert sets["train"].describe(13).endswith("val/same/002.png")


def test_published_benchmarks_may_lack_a_class_in_training(tmp_path: Path) -> None:
    run = squares.run(tmp_path, validation=0.0)
    for name, rows in {"train800": "0123", "val200": "45", "test": "01"}.items():
        squares.save_images(tmp_path / name, train=2, test=0)
        images = sorted((tmp_path / name / "train").rglob("*.png"))
        lines = [f"{path.relative_to(tmp_path)} {label}\n" for path, label in zip(images, rows, strict=False)]
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    sets = load_sets(dataclasses.replace(run, data=Data(name="vtab/clevr_dist", path=str(tmp_path))))
    assert {name: images.labels for name, images in sets.items()} == {
        "train": (0, 1, 2, 3),
        "val": (4, 5),
        "test": (0, 1),
    }
    assert len(sets["test"].classes) == 6


def test_a_limit_draws_evenly_from_every_split(tmp_path: Path) -> None:
    sets = load_sets(squares.run(tmp_path, limit=50, validation=0.0))
    assert {name: images.counts() for name, images in sets.items()} == {"train": (25, 25), "test": (25, 25)}


def test_a_limit_below_the_number_of_classes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"data.limit=1 of .* leaves no training image of: different|data.limit=1 of .* leaves no training image of: same",
    ):
        load_sets(squares.run(tmp_path, limit=1, validation=0.0))


def test_images_are_prepared_as_the_run_says_over_what_the_model_says(tmp_path: Path) -> None:
    run = squares.run(tmp_path)
    assert preprocessing(run) == Preprocessing(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    small = dataclasses.replace(run, model=dataclasses.replace(run.model, name="dinov2-small"))
    direct = dataclasses.replace(small, images=Images(size=84, resize="direct"))
    assert preprocessing(direct) == Preprocessing(size=84, resize="direct")


def test_a_model_that_does_not_say_how_needs_a_run_that_does(tmp_path: Path) -> None:
    run = dataclasses.replace(squares.run(tmp_path), images=Images(size=16))
    with pytest.raises(ValueError, match=r"no preprocessor_config.json; give images.size, images.mean and images.std"):
        preprocessing(run)


def test_images_are_decoded_once_where_they_fit_and_each_time_where_not() -> None:
    images, prepare = data.load(squares.images(), "test").subset(range(5)), Preprocessing(size=16)
    kept, read = Prepared(images, prepare), Prepared(images, prepare, memory=100)
    assert kept.kept is not None
    assert read.kept is None
    assert kept.labels.tolist() == list(images.labels)
    for i in range(5):
        assert torch.equal(kept[i]["pixel_values"].to("cpu"), prepare(images[i]["image"]))
        assert torch.equal(read[i]["pixel_values"].values, kept[i]["pixel_values"].values)


@pytest.mark.parametrize("memory", [2**30, 100])
def test_a_bad_image_is_named_at_once(tmp_path: Path, memory: int) -> None:
    folder = squares.save_images(tmp_path, train=2, test=1)
    (folder / "train" / "same" / "000.png").write_text("no image")
    with pytest.raises(ValueError, match=r"same/000.png"):
        Prepared(data.load(folder, "train"), Preprocessing(size=16), memory)


def test_a_large_image_is_only_opened_when_asked_for(tmp_path: Path) -> None:
    folder = squares.save_images(tmp_path, train=2, test=1)
    Image.new("RGB", (40, 30)).save(folder / "train" / "same" / "000.png")
    prepared = Prepared(data.load(folder, "train"), Preprocessing(size=16), memory=100)
    assert prepared[2]["pixel_values"].to("cpu").shape == (3, 16, 16)


def test_the_test_split_can_be_left_unread(tmp_path: Path) -> None:
    run = squares.run(tmp_path)
    unread = dataclasses.replace(run, data=dataclasses.replace(run.data, test=False))
    assert set(load_sets(run)) == {"train", "val", "test"}
    assert set(load_sets(unread)) == {"train", "val"}


def test_classes_that_no_scored_image_has_are_said(tmp_path: Path) -> None:
    """Twelve classes of three images and one of a single one, which stays for training."""
    for label in range(13):
        (folder := tmp_path / "images" / f"c{label:02}").mkdir(parents=True)
        for i in range(3 if label < 12 else 1):
            Image.new("RGB", (8, 8), (20 * label, 80 * i, 0)).save(folder / f"{i}.png")
    sets = load_sets(squares.run(tmp_path, data=tmp_path / "images", validation=0.2))
    assert sets["train"].counts() == (*[2] * 7, *[3] * 5, 1)
    assert unscored(sets) == [
        "no val image is of 6 of 13 classes, so its scores say nothing of them: c07; c08; c09; c10; c11; c12"
    ]
    assert unscored({"train": sets["val"], "val": sets["train"]}) == []
