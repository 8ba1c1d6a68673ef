"""Data sets of the `datasets` library: of the hub, or local parquet and arrow files and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gossamer.data.files import is_junk
from gossamer.data.folder import SPLIT_NAMES
from gossamer.data.images import ImageDataset
from gossamer.documents import expanded
from gossamer.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from PIL.Image import Image

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True)
class RecordImages:
    """Images in one column of a data set."""

    name: str
    records: Dataset
    column: str

    def open(self, index: int) -> Image:
        """The image of the record."""
        image = self.records[index][self.column]
        if image is None:
            raise UserError("the record has no image")
        return image

    def describe(self, index: int) -> str:
        """The record's number and the set."""
        return f"record {index} of {self.name}"


def is_records(path: Path) -> bool:
    """Whether `path` is a parquet or arrow file, or a folder that holds such files or a saved data set."""
    if path.is_file():
        return path.suffix in {".parquet", ".arrow"}
    marks = ("dataset_dict.json", "dataset_info.json", "*.parquet", "*.arrow", "data/*.parquet", "data/*.arrow")
    return path.is_dir() and any(not is_junk(found.name) for mark in marks for found in path.glob(mark))


def load_records(
    spec: str | Path,
    split: str = "train",
    *,
    image: str | None = None,
    label: str | None = None,
    subset: str | None = None,
) -> ImageDataset:
    """One split of a data set with an image column and a label column.

    `spec` is a parquet or arrow file (one split, train), a folder of them or one that `save_to_disk` wrote, or the name
    of a data set of the hub, with `subset` as its configuration. `image` and `label` name the columns; unnamed, they
    are found by their type, then by their usual names. Class names come from the label column's own list, else they
    are the sorted distinct labels of the train split.

    ValueError for: an absent split or column, columns that cannot be told apart, and a label that is missing, of a
    wrong type or outside the classes, with the record's number. ConnectionError where the hub cannot be reached.
    """
    splits = open_splits(spec, subset)
    key = split_key(splits, split)
    if key is None:
        raise UserError(f"{spec} has no split {split!r}; it has: {', '.join(map(str, splits))}")
    records, name = splits[key], f"{spec} ({key})"
    image = image or _image_column(records, name)
    label = label or _label_column(records, name, image)
    for column in (image, label):
        if column not in records.column_names:
            raise UserError(f"{name} has no column {column!r}; it has: {', '.join(records.column_names)}")
    values = _labels(records, label, name)
    classes = _class_names(records, label)
    if classes is None:
        train = split_key(splits, "train")
        seen = values if train in (None, key) else _labels(splits[train], label, f"{spec} ({train})")
        classes, values = _numbered(seen, values, name)
    return ImageDataset(
        name=name,
        classes=tuple(classes),
        labels=tuple(values),
        source=RecordImages(name, _as_images(records, image), image),
        indices=tuple(range(len(values))),
    )


def open_splits(spec: str | Path, subset: str | None = None) -> DatasetDict:
    """Every split of the data set, by its own name.

    Raises:
        UserError: what is there cannot be read.
        ConnectionError: the hub cannot be reached.
    """
    try:
        return _open_splits(spec, subset)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # the library says what is wrong with a file or a name by a dozen kinds of error
        raise UserError(f"{spec} cannot be read as a data set: {type(error).__name__}: {error}") from error


def _open_splits(spec: str | Path, subset: str | None) -> DatasetDict:
    import datasets

    path = expanded(spec)
    if path.suffix == ".parquet" and path.is_file():
        return datasets.DatasetDict({"train": datasets.Dataset.from_parquet(str(path))})
    if path.suffix == ".arrow" and path.is_file():
        return datasets.DatasetDict({"train": datasets.Dataset.from_file(str(path))})
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = datasets.load_from_disk(str(path))
        return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict({"train": saved})
    if path.is_dir():
        return cast("DatasetDict", datasets.load_dataset(str(path), subset))
    return _from_hub(str(spec), subset)


def split_key(splits: Sequence[str] | DatasetDict, split: str) -> str | None:
    """The name in `splits` of the split `split` ("val" is also found as "validation" or "valid"), or None."""
    return next((name for name in (split, *SPLIT_NAMES.get(split, ())) if name in splits), None)


def _from_hub(name: str, subset: str | None) -> DatasetDict:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    from gossamer.hub import offline_reason

    offline = offline_reason()
    try:
        with _offline_if(offline is not None):
            return cast("DatasetDict", datasets.load_dataset(name, subset))
    except (DatasetNotFoundError, FileNotFoundError) as error:
        raise UserError(
            f"no data set {name!r} on the Hugging Face hub, and no folder or file of that name; gossamer.data.names() lists the "
            "sets that need no hub"
        ) from error
    except ConnectionError as error:
        reason = offline or "the hub did not answer"
        raise ConnectionError(
            f"the data set {name!r} is not on this machine, and {reason}; gossamer.data.names() lists the sets that need no hub"
        ) from error


@contextmanager
def _offline_if(offline: bool) -> Iterator[None]:
    """Within the block `datasets` asks only its cache, instead of trying the network again and again."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _image_column(records: Dataset, name: str) -> str:
    import datasets

    typed = [column for column, kind in records.features.items() if isinstance(kind, datasets.Image)]
    return _one(typed or [column for column in IMAGE_COLUMNS if column in records.features], records, name, "image")


def _label_column(records: Dataset, name: str, image: str) -> str:
    import datasets

    typed = [column for column, kind in records.features.items() if isinstance(kind, datasets.ClassLabel)]
    usual = [column for column in LABEL_COLUMNS if column in records.features and column != image]
    return _one(typed or usual, records, name, "label")


def _one(found: list[str], records: Dataset, name: str, role: str) -> str:
    if len(found) == 1:
        return found[0]
    several = f"{' and '.join(found)} could each be" if found else "no column looks like"
    raise UserError(
        f"{name}: {several} the {role} column; name it with {role}=COLUMN, one of {', '.join(records.column_names)}"
    )


def _labels(records: Dataset, column: str, name: str) -> list[Any]:
    """The labels of every record: all whole numbers, or all strings."""
    values = records.select_columns(column).with_format("arrow")[:][column].to_pylist()
    for i, value in enumerate(values):
        if value is None:
            raise UserError(f"record {i} of {name} has no label in column {column!r}")
        if not isinstance(value, (int, str)):
            raise UserError(
                f"record {i} of {name} has {value!r} in column {column!r}; a label is a whole number or a string"
            )
    return values


def _class_names(records: Dataset, column: str) -> list[str] | None:
    """The names that the column's own type gives its classes, if it does."""
    import datasets

    kind = records.features[column]
    return list(kind.names) if isinstance(kind, datasets.ClassLabel) else None


def _numbered(seen: list[Any], values: list[Any], name: str) -> tuple[list[str], list[int]]:
    """Class names from the labels `seen` in training, and `values` as their numbers."""
    classes = {value: number for number, value in enumerate(sorted(set(seen)))}
    for i, value in enumerate(values):
        if value not in classes:
            raise UserError(f"record {i} of {name} has label {value!r}, which no training record has")
        if isinstance(value, int) and value < 0:
            raise UserError(f"record {i} of {name} has label {value}; negative numbers usually mark missing labels")
    return [str(value) for value in classes], [classes[value] for value in values]


def _as_images(records: Dataset, column: str) -> Dataset:
    """The one column of images, decoded on reading."""
    import datasets

    images = records.select_columns(column)
    if isinstance(images.features[column], datasets.Image):
        return images
    return images.cast_column(column, datasets.Image())
