import pytest
from PIL import Image

from gossamer import data
from gossamer.data.folder import load_folder


def fill(root, tree):
    """Write images with the names of `tree`; the red of an image is its place in the tree."""
    for place, name in enumerate(tree):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + place, 3), (place, 0, 0)).save(path)


def test_classes_are_sorted_and_files_too(tmp_path):
    fill(tmp_path, ["dog/b.jpg", "dog/a.PNG", "cat/z.jpeg", "ant/y.bmp"])
    (tmp_path / "README.md").write_text("about these pictures")
    (tmp_path / "cat" / ".DS_Store").write_text("x")
    (tmp_path / ".git").mkdir()
    images = load_folder(tmp_path)
    assert images.classes == ("ant", "cat", "dog")
    assert images.labels == (0, 1, 2, 2)
    assert [images.describe(i).rsplit("/", 1)[1] for i in range(4)] == ["y.bmp", "z.jpeg", "a.PNG", "b.jpg"]
    assert images[2]["image"].size == (5, 3)
    assert data.load(tmp_path).labels == images.labels
    assert data.splits(tmp_path) == ("train",)


def test_split_folders(tmp_path):
    fill(tmp_path, ["train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "Validation/dog/3.png", "test/cat/4.png"])
    assert data.splits(tmp_path) == ("train", "val", "test")
    train, val, test = (data.load(tmp_path, split) for split in ("train", "val", "test"))
    assert train.labels == (0, 1, 1)
    assert (val.classes, val.labels) == (("cat", "dog"), (1,))
    assert (test.classes, test.labels) == (("cat", "dog"), (0,))


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, ["train/1.png", "bus/1.png"])
    assert load_folder(tmp_path).classes == ("bus", "train")


@pytest.mark.parametrize(
    ("tree", "split", "message"),
    [
        (["cat/1.png", "dog/1.png"], "test", r"has no split 'test'; it has: train$"),
        (["train/cat/1.png", "train/dog/1.png"], "val", r"has no split 'val'; it has: train$"),
        (["cat/1.png"], "train", r"holds 1 class folder\(s\) \(cat\); a classifier needs two or more"),
        (["cat/1.png", "dog/1.png", "2.png"], "train", r"2\.png is an image outside any class folder"),
        (["cat/1.png", "dog/old/1.png"], "train", r"dog/old is a folder inside the class folder"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "test", r"test/c: class 'c' has no training images in"),
        (["train/a/1.png", "train/b/1.png", "c/1.png"], "train", r"mixes splits \(train\) with other folders: .*c$"),
        (["val/a/1.png", "valid/b/1.png"], "val", r"has two folders for split 'val': val and valid"),
    ],
)
def test_layouts_that_cannot_be_meant(tmp_path, tree, split, message):
    fill(tmp_path, tree)
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path, split)


def test_files_that_are_no_images_are_named(tmp_path):
    fill(tmp_path, ["cat/1.png", "dog/1.png"])
    (tmp_path / "dog" / "notes.txt").write_text("good dog")
    with pytest.raises(ValueError, match=r"dog/notes\.txt is not an image file; known: \.bmp, .*; move it elsewhere$"):
        load_folder(tmp_path)
    (tmp_path / "dog" / "notes.txt").rename(tmp_path / "dog" / "IMG_1.HEIC")
    with pytest.raises(
        ValueError, match=r"IMG_1\.HEIC is not .*what phones write as \.heic must be converted, to JPEG"
    ):
        load_folder(tmp_path)


def test_an_empty_class_is_named(tmp_path):
    fill(tmp_path, ["cat/1.png", "dog/1.png"])
    (tmp_path / "emu").mkdir()
    with pytest.raises(ValueError, match=r"the class folder .*emu is empty"):
        load_folder(tmp_path)


def test_a_class_with_test_images_only_is_refused(tmp_path):
    fill(tmp_path, ["train/a/1.png", "train/b/1.png", "test/c/1.png"])
    (tmp_path / "train" / "c").mkdir()
    with pytest.raises(ValueError, match=r"the class folder .*train/c is empty"):
        load_folder(tmp_path)


def test_an_absent_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder of images: .*nothing"):
        load_folder(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"no such file or folder: .*nothing"):
        data.load(tmp_path / "nothing")


def test_a_broken_image_is_named_when_read(tmp_path):
    fill(tmp_path, ["cat/1.png", "dog/1.png"])
    (tmp_path / "dog" / "2.jpg").write_bytes(b"\xff\xd8\xff\xe0nonsense")
    images = load_folder(tmp_path)
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be read: .*dog/2\.jpg"):
        images.check()
    with pytest.raises(ValueError, match=r"dog/2\.jpg cannot be read as an image"):
        images[2]
