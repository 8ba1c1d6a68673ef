import numpy as np
import pytest

from gossamer.data import ImageDataset, split, stratified
from gossamer.data.images import ImageArray

LABELS = [0] * 20 + [1] * 7 + [2] * 3


def dataset(labels):
    pixels = np.zeros((len(labels), 2, 3), dtype=np.uint8)
    return ImageDataset(
        name="zeros",
        classes=("a", "b", "c"),
        labels=tuple(labels),
        source=ImageArray("zeros", pixels),
        indices=tuple(range(len(labels))),
    )


def test_every_class_keeps_its_share():
    drawn = stratified(LABELS, 10, seed=4)
    assert drawn == sorted(set(drawn))
    # shares 6.67, 2.33 and 1: the largest remainder rounds up
    assert np.bincount([LABELS[i] for i in drawn]).tolist() == [7, 2, 1]


def test_the_draw_depends_on_the_seed_only():
    assert stratified(LABELS, 10, seed=4) == stratified(LABELS, 10, seed=4) != stratified(LABELS, 10, seed=5)
    assert stratified(LABELS, 30) == list(range(30))
    assert stratified(LABELS, 0) == []
    with pytest.raises(ValueError, match="cannot draw 31 of 30 items"):
        stratified(LABELS, 31)


def test_a_split_covers_everything_once():
    kept, held = split(dataset(LABELS), 0.2, seed=1)
    assert kept.counts() == (16, 6, 2)
    assert held.counts() == (4, 1, 1)
    assert sorted(kept.indices + held.indices) == list(range(30))


@pytest.mark.parametrize(
    ("labels", "fraction", "message"),
    [
        (LABELS, 1.0, "the fraction held out must be between 0 and 1, got 1.0"),
        (LABELS, 0.01, "holding out 0.01 of the 30 images of zeros leaves one part empty"),
        (
            [0, 1, 2],
            0.3,
            r"holding out 0.3 of the 3 images of zeros leaves one part empty; give more images, or hold none out",
        ),
    ],
)
def test_splits_that_leave_nothing_are_refused(labels, fraction, message):
    with pytest.raises(ValueError, match=message):
        split(dataset(labels), fraction)


@pytest.mark.parametrize(
    ("labels", "fraction", "left"),
    [
        ([0] * 9 + [1], 0.9, (1, 1, 0)),
        ([0] * 5 + [1] * 5 + [2], 0.2, (4, 4, 1)),
        ([0] + [1] + [2] * 3, 0.4, (1, 1, 1)),
    ],
)
def test_the_last_image_of_a_class_is_not_held_out(labels, fraction, left):
    kept, held = split(dataset(labels), fraction, seed=2)
    assert kept.counts() == left
    assert len(kept) + len(held) == len(labels)


def test_a_fifth_of_many_small_classes_can_be_held_out():
    """Ten classes of one image and ten of five: the remainders of the single ones are the largest."""
    labels = [*range(10), *(label for label in range(10, 20) for _ in range(5))]
    assert len(drawn := stratified(labels, 12, left=1)) == 12
    assert not {labels[i] for i in drawn} & set(range(10))
    assert {labels[i] for i in stratified(labels, 12)} & set(range(10))
