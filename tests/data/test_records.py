import datasets
import numpy as np
import pytest
from PIL import Image

from gossamer import data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(i):
    return Image.fromarray(np.full((3, 4 + i, 3), 10 * i, dtype=np.uint8))


def table(labels, feature=None, **columns):
    features = {"image": datasets.Image(), "label": feature or datasets.Value("int64")}
    features |= {name: datasets.Value("string") for name in columns}
    values = {"image": [picture(i) for i in range(len(labels))], "label": labels, **columns}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def parquet(tmp_path, *args, **kwargs):
    table(*args, **kwargs).to_parquet(tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def test_a_parquet_file_with_class_names(tmp_path):
    path = parquet(tmp_path, [1, 0, 1], datasets.ClassLabel(names=["cat", "ant"]))
    images = data.load(path)
    assert images.classes == ("cat", "ant")
    assert images.labels == (1, 0, 1)
    assert images[2]["image"].size == (6, 3)
    assert images[2]["image"].getpixel((0, 0)) == (20, 20, 20)
    assert images.describe(2) == f"record 2 of {path} (train)"
    assert images.subset([2]).describe(0) == images.describe(2)
    assert data.splits(path) == ("train",)


@pytest.mark.parametrize(
    ("labels", "kind", "classes", "numbers"),
    [
        ([3, 1, 3], datasets.Value("int32"), ("1", "3"), (1, 0, 1)),
        (["dog", "cat", "ant"], datasets.Value("string"), ("ant", "cat", "dog"), (2, 1, 0)),
        ([True, False, True], datasets.Value("bool"), ("False", "True"), (1, 0, 1)),
    ],
)
def test_labels_without_names_are_numbered_in_order(tmp_path, labels, kind, classes, numbers):
    images = data.load(parquet(tmp_path, labels, kind))
    assert images.classes == classes
    assert images.labels == numbers


def test_saved_sets_with_splits(tmp_path):
    both = datasets.DatasetDict(
        train=table(["dog", "ant"], datasets.Value("string")), validation=table(["dog"], datasets.Value("string"))
    )
    both.save_to_disk(tmp_path / "saved")
    assert data.splits(tmp_path / "saved") == ("train", "val")
    held = data.load(tmp_path / "saved", "val")
    assert (held.classes, held.labels) == (("ant", "dog"), (1,))
    both["train"].save_to_disk(tmp_path / "one")
    assert data.load(tmp_path / "one").labels == (1, 0)
    with pytest.raises(ValueError, match=r"saved has no split 'test'; it has: train, validation"):
        data.load(tmp_path / "saved", "test")


def test_a_folder_of_parquet_files(tmp_path):
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    table([0, 1, 2]).to_parquet(folder / "train-00000-of-00001.parquet")
    table([2, 1]).to_parquet(folder / "test-00000-of-00001.parquet")
    assert data.splits(tmp_path / "set") == ("train", "test")
    assert data.load(tmp_path / "set", "test").labels == (2, 1)


def test_columns_are_named_where_they_cannot_be_found(tmp_path):
    path = tmp_path / "odd.parquet"
    records = table([0, 1]).rename_columns({"image": "photo", "label": "kind"})
    records.add_column("grade", [5, 6]).to_parquet(path)
    with pytest.raises(
        ValueError, match="no column looks like the label column; name it with label=COLUMN, one of photo"
    ):
        data.load(path)
    assert data.load(path, label="kind").classes == ("0", "1")
    assert data.load(path, label="grade").classes == ("5", "6")
    with pytest.raises(ValueError, match="has no column 'colour'; it has: photo, kind, grade"):
        data.load(path, label="colour")


def test_two_columns_that_could_be_meant(tmp_path):
    path = tmp_path / "two.parquet"
    table([0, 1]).add_column("labels", [1, 0]).to_parquet(path)
    with pytest.raises(ValueError, match="label and labels could each be the label column; name it with label="):
        data.load(path)


def test_columns_cannot_be_named_for_folders(tmp_path):
    with pytest.raises(ValueError, match="image, label can only be named for parquet, arrow and hub data"):
        data.load(tmp_path, image="photo", label="kind")


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0, None, 1], datasets.Value("int64"), r"record 1 of .* has no label in column 'label'"),
        ([0, 1, -1], datasets.Value("int64"), r"record 2 of .* has label -1; negative numbers usually mark missing"),
        ([0.5, 1.0], datasets.Value("float32"), r"record 0 of .* has 0.5 in column 'label'; a label is a whole number"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, kind, message):
    with pytest.raises(ValueError, match=message):
        data.load(parquet(tmp_path, labels, kind))


def test_labels_outside_the_class_names_are_named_by_record(tmp_path):
    kind = datasets.ClassLabel(names=["cat", "ant"])
    records = table([0, 1, 7]).cast_column("label", datasets.Value("int64"))
    features = records.features.copy()
    features["label"] = kind
    records.info.features = features
    path = tmp_path / "wrong"
    datasets.Dataset(records.data, info=records.info).save_to_disk(path)
    with pytest.raises(ValueError, match=r"record 2 of .*wrong \(train\) has label 7, but the 2 classes are numbered"):
        data.load(path)


def test_a_class_without_training_images_is_refused(tmp_path):
    path = parquet(tmp_path, [0, 0], datasets.ClassLabel(names=["cat", "ant"]))
    with pytest.raises(ValueError, match="has no training image of: ant"):
        data.load(path)


def test_a_test_label_unknown_in_training_is_refused(tmp_path):
    both = datasets.DatasetDict(train=table([0, 1]), test=table([1, 4]))
    both.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"record 1 of .*saved \(test\) has label 4, which no training record has"):
        data.load(tmp_path / "saved", "test")


def test_unreadable_and_absent_images_are_named_by_record(tmp_path):
    good = {"bytes": b"", "path": None}
    import io

    buffer = io.BytesIO()
    picture(0).save(buffer, format="png")
    good["bytes"] = buffer.getvalue()
    records = datasets.Dataset.from_dict(
        {"image": [good, {"bytes": b"nonsense", "path": None}, None], "label": [0, 1, 0]}
    )
    records.to_parquet(tmp_path / "raw.parquet")
    images = data.load(tmp_path / "raw.parquet")
    assert images[0]["image"].size == (4, 3)
    with pytest.raises(ValueError, match=r"record 1 of .*raw.parquet \(train\) cannot be read as an image"):
        images[1]
    with pytest.raises(
        ValueError, match=r"2 of 3 images cannot be read: record 1 .*record 2 .*the record has no image"
    ):
        images.check()


def test_the_hub_without_a_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    message = r"the data set 'someone/some-set' is not on this machine, and there is no network connection"
    with pytest.raises(ConnectionError, match=message):
        data.load("someone/some-set")
    assert datasets.config.HF_HUB_OFFLINE is False


def test_other_files_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"labels.csv is a file, but neither .parquet nor .arrow"):
        data.load(tmp_path / "labels.csv")
