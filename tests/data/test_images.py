import copy
import pickle
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from gossamer.data import ImageDataset, open_image, to_rgb
from gossamer.data.images import ImageArray, ImageFiles, every, exif_unremarked
from gossamer.errors import UserError
from tests.bad.pictures import TIFF, jpeg

GREY = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


def grey_set(labels=(0, 2, 1, 2, 0), classes=("ant", "bee", "cat")):
    return ImageDataset(
        name="grey", classes=classes, labels=labels, source=ImageArray("grey", GREY), indices=tuple(range(len(labels)))
    )


def test_items_are_rgb_images_with_labels():
    dataset = grey_set()
    assert len(dataset) == 5
    item = dataset[3]
    assert item["label"] == 2
    assert item["image"].mode == "RGB"
    assert item["image"].size == (3, 4)
    assert np.array_equal(np.asarray(item["image"]), np.repeat(GREY[3][..., None], 3, axis=-1))
    assert dataset.counts() == (2, 1, 2)
    assert dataset.describe(3) == "image 3 of grey"
    assert len(list(dataset)) == 5


def test_a_subset_keeps_places_and_order():
    part = grey_set().subset([4, 1]).subset([1, 0])
    assert part.labels == (2, 0)
    assert part.describe(0) == "image 1 of grey"
    assert np.asarray(part[0]["image"])[0, 0, 0] == GREY[1, 0, 0]


def test_copies_and_pickles_are_whole():
    dataset = grey_set()
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert other.labels == dataset.labels
        assert np.array_equal(np.asarray(other[2]["image"]), np.asarray(dataset[2]["image"]))


def test_labels_of_another_list_of_classes():
    other = grey_set().with_classes(["cat", "dog", "bee", "ant"])
    assert other.labels == (3, 0, 2, 0, 3)
    assert other.classes == ("cat", "dog", "bee", "ant")
    with pytest.raises(ValueError, match="image 1 of grey is of class 'cat', which is not among the expected classes"):
        grey_set().with_classes(["ant", "bee"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((0, 3, 1, 2, 0), "image 1 of grey has label 3, but the 3 classes are numbered from 0 to 2$"),
        ((0, 1, 1, -1, 0), "image 3 of grey has label -1, .*; -1 usually marks images without labels"),
        ((), "grey holds no images"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        grey_set(labels)


def test_counts_of_images_and_labels_must_agree():
    with pytest.raises(ValueError, match="grey: 2 images, but 1 labels"):
        ImageDataset(name="grey", classes=("a",), labels=(0,), source=ImageArray("grey", GREY), indices=(0, 1))


def test_training_needs_every_class():
    grey_set().require_every_class()
    with pytest.raises(ValueError, match="grey has no training image of: bee"):
        grey_set((0, 2, 0, 2, 0)).require_every_class()


def test_unreadable_images_are_all_named(tmp_path):
    good, empty, text, cut = (tmp_path / name for name in ("good.png", "empty.png", "text.png", "cut.jpg"))
    Image.fromarray(GREY[0]).save(good)
    empty.touch()
    text.write_text("this is no image")
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:900])
    dataset = ImageDataset(
        name="mixed", classes=("a",), labels=(0,) * 4, source=ImageFiles((good, empty, text, cut)), indices=(0, 1, 2, 3)
    )
    with pytest.raises(ValueError, match=r"2 of 4 images cannot be read: .*empty\.png \(.*text\.png \(cannot identify"):
        dataset.check()
    dataset.subset([0, 3]).check()
    with pytest.raises(ValueError, match=r"cut\.jpg cannot be read as an image: .*truncated"):
        dataset[3]
    assert open_image(good).size == (3, 4)
    with pytest.raises(ValueError, match=r"text\.png cannot be read as an image"):
        open_image(text)
    with pytest.raises(FileNotFoundError, match=r"no such image file: .*none\.png"):
        open_image(tmp_path / "none.png")


def test_exif_orientation_is_honoured(tmp_path):
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:10, :10] = (250, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: shown after a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = open_image(tmp_path / "turned.png")
    assert image.size == (20, 30)
    assert np.array_equal(np.asarray(image), np.rot90(pixels, -1))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_grey_is_scaled(tmp_path, name):
    values = np.array([[0, 257, 32896], [65535, 128, 129]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert np.asarray(open_image(tmp_path / name))[..., 1].tolist() == [[0, 1, 128], [255, 0, 1]]


def test_32_bit_integers_within_16_bits_are_scaled_and_others_refused():
    values = np.array([[0, 65535], [257, 514]], dtype=np.int32)
    assert np.asarray(to_rgb(Image.fromarray(values)))[..., 2].tolist() == [[0, 255], [1, 2]]
    with pytest.raises(ValueError, match="its integer pixels reach from 0 to 65536, beyond 16 bits"):
        to_rgb(Image.fromarray(values + np.array([[0, 1], [0, 0]], dtype=np.int32)))


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point numbers, whose scale is unknown"):
        to_rgb(Image.fromarray(np.zeros((2, 3), dtype=np.float32)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode):
    image = Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode)
    assert np.asarray(to_rgb(image)).tolist() == [[[255, 255, 255]] * 3] * 2


def test_palette_with_transparency_makes_no_warning(tmp_path):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "clear.png", transparency=b"\x00\x80")
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (10, 20, 30)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_several_threads_read_in_order_and_every_fault_is_named(threads):
    together = threading.Barrier(3)

    def read(i):
        together.wait(timeout=20)  # three at a time, or none goes on
        time.sleep(0.01 * (2 - i % 3))  # the last one asked for is the first one read
        if i in (13, 16):
            raise UserError(f"file {i} is damaged")
        return i

    found = []
    with pytest.raises(UserError, match="2 of 24 images cannot be read: file 13 is damaged; file 16 is damaged"):
        found.extend(every(24, read))
    assert found == list(range(13))


def test_damaged_exif_is_no_remark_in_any_thread(tmp_path, threads):
    paths = tuple(tmp_path / f"{i}.jpg" for i in range(40))
    for path in paths:
        path.write_bytes(jpeg(exif=TIFF + b"\x40\0" + b"\x12\x01\x03\0" * 3))
    images = ImageDataset(
        name="j", classes=("a",), labels=(0,) * 40, source=ImageFiles(paths), indices=tuple(range(40))
    )
    filters = list(warnings.filters)
    found = list(every(40, images.__getitem__))
    assert len(found) == 40
    assert list(warnings.filters) == filters
    with exif_unremarked:
        inner = threading.Thread(target=images.check)
        inner.start()
        inner.join()
        assert list(warnings.filters) != filters, "another thread has left, and this one is inside"
    assert list(warnings.filters) == filters
    with pytest.warns(UserWarning, match="Truncated File Read"):
        Image.open(paths[0]).close()
