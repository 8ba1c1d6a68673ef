"""A class for every pixel of an image, by a head on the tokens of a vision model or by the one it was published with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from gossamer import metrics, zoo
from gossamer.data import MaskDataset, Preprocessing, open_image
from gossamer.data.masks import IGNORE, overlay, picture_of
from gossamer.data.paired import Paired, resized, shorter_side
from gossamer.errors import UserError
from gossamer.hosts import dense
from gossamer.models.segmenter import Decoder, Segmenter
from gossamer.runs.prepared import BATCH
from gossamer.runs.run import Run
from gossamer.runs.sets import preprocessing
from gossamer.tasks.base import Task
from gossamer.tasks.recorded import labels_of, preprocessing_of, recorded

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from typing_extensions import Self

    from gossamer.adapting import Adapted

EXAMPLES = 4  # images that are drawn beside truth and answer
CHANGES = ("random-crop", "horizontal-flip", "colours")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is right of the labelled pixels of n images, all counted together.

    `accuracy` is the mean intersection over union of the classes that occur; `iou` has that of each class (None: it is neither
    labelled nor predicted), `mean_accuracy` the mean share of a class's pixels, `pixel_accuracy` that of all, `loss` the mean
    cross-entropy of a labelled pixel, `confusion` [true][predicted] the number of pixels. `examples` are drawn, not kept.
    """

    n: int
    accuracy: float
    mean_accuracy: float
    pixel_accuracy: float
    loss: float
    iou: dict[str, float | None]
    confusion: list[list[int]]
    examples: list[tuple[Any, Any, Any]] = field(default_factory=list, repr=False, compare=False)

    def headline(self) -> dict[str, float]:
        """Mean IoU as accuracy, and both accuracies of pixels."""
        return {"accuracy": self.accuracy, "mean_accuracy": self.mean_accuracy, "pixel_accuracy": self.pixel_accuracy}

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "examples"}


class PreparedMasks(Dataset):
    """Images and masks of one size, as training reads them: item i is {"pixel_values": [3, S, S], "labels": uint8 [S, S]}."""

    labels = None
    subjects = None

    def __init__(self, items: MaskDataset, change: Paired):
        self.images, self.change, self.preprocessing = items, change, change.preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        item = self.images[i]
        pixels, labels = self.change(item["image"], item["mask"])
        return {"pixel_values": pixels, "labels": labels}

    def collate(self, items: Any) -> dict[str, Tensor]:
        """{"pixel_values": [B, 3, S, S], "labels": [B, S, S]}."""
        return default_collate(items)

    def settle(self, adapted: Adapted) -> None:
        """Nothing."""


@dataclass(frozen=True)
class SegmentingImages(Task):
    """The class of every pixel. An image is scored at its own size, from windows of the size that training reads."""

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    decoder: str
    stride: int

    name: ClassVar[str] = "semantic-segmentation"
    unit: ClassVar[str] = "images"
    measure: ClassVar[str] = "mIoU"
    reads: ClassVar[tuple[str, ...]] = ("model.revision", "images", "data.path", "data.train", "masks")

    @classmethod
    def begin(cls, run: Run, train: MaskDataset) -> Self:
        """With the classes of the training images."""
        if wrong := [name for name in run.images.augment if name not in CHANGES]:
            raise UserError(f"images.augment={wrong[0]} is not for images with masks; there are {', '.join(CHANGES)}")
        prepared = preprocessing(run)
        stride = run.masks.stride or -(-2 * prepared.size // 3)
        return cls(train.classes, prepared, run.masks.decoder, stride)

    @classmethod
    def of(cls, adapted: Adapted) -> Self:
        """From `labels`, `preprocessing` and `windows`."""
        windows = recorded(adapted, "windows")
        return cls(tuple(labels_of(adapted)), preprocessing_of(adapted), windows["decoder"], windows["stride"])

    def record(self) -> dict[str, Any]:
        """Labels, preprocessing, and how windows lie."""
        return {
            "labels": list(self.labels), "preprocessing": self.preprocessing.to_dict(),
            "windows": {"decoder": self.decoder, "stride": self.stride},
        }  # fmt: skip

    @property
    def outputs(self) -> int:
        """One for each class."""
        return len(self.labels)

    def backbone(self, run: Run) -> nn.Module:
        """The bare model under the decoder of the run, or the model as published, with a head for these classes."""
        chosen, model = run.masks, run.model
        if chosen.decoder == "published":
            return zoo.load(model.name, revision=model.revision, task="semantic-segmentation", num_labels=self.outputs)
        loaded: Any = zoo.load(model.name, revision=model.revision)
        bare = getattr(loaded, "base_model", loaded)
        if bare is not loaded:
            bare.name_or_path = loaded.name_or_path
        decoder = Decoder(
            outputs=self.outputs, kind=chosen.decoder, taps=None if chosen.taps is None else tuple(chosen.taps),
            auxiliary=chosen.auxiliary, channels=chosen.channels, norm=chosen.norm, dropout=chosen.dropout,
            average=chosen.average,
        )  # fmt: skip
        return Segmenter(bare, decoder)

    def prepare(self, items: MaskDataset) -> PreparedMasks:
        """Resized so that the shorter side is that of a window, and cut at random; ValueError for a set of another task."""
        if not isinstance(items, MaskDataset):
            raise UserError(f"this adapter classifies pixels, and {items.name} has no masks")
        if items.classes != self.labels:
            raise UserError(
                f"{items.name} has the classes {', '.join(items.classes)}; the adapter knows {', '.join(self.labels)}"
            )
        return PreparedMasks(items, Paired(preprocessing=self.preprocessing, filled=1.0))

    def varied(self, prepared: PreparedMasks, run: Run) -> PreparedMasks:
        """With the changes that the run asks for."""
        asked, chosen = run.images.augment, run.masks
        crop = "random-crop" in asked
        change = Paired(
            preprocessing=self.preprocessing, scale=chosen.scale if crop else (1.0, 1.0), filled=chosen.filled if crop else 1.0,
            flip="horizontal-flip" in asked, colours="colours" in asked,
        )  # fmt: skip
        return PreparedMasks(prepared.images, change)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The model's own, of all its heads."""
        return model(pixel_values=batch["pixel_values"], labels=batch["labels"].long()).loss

    def logits(self, adapted: Any, image: Image) -> Tensor:
        """Logits [C, H, W] of an image at its own size, from windows over one whose shorter side is that of a window."""
        device = next(adapted.parameters()).device
        smaller, _ = resized(image, None, shorter_side(image, self.preprocessing.size))
        pixels = self.preprocessing.of(smaller).to(device)[None]

        def of(window: Tensor) -> Tensor:
            found = adapted(pixel_values=window).logits
            return dense.resize(found, (window.shape[-2], window.shape[-1]))

        logits = dense.slide(of, pixels, self.preprocessing.size, self.stride)
        return dense.resize(logits, (image.height, image.width))[0].float()

    @torch.no_grad()
    def score(self, adapted: Adapted, prepared: PreparedMasks, *, batch: int = BATCH, workers: int = 0) -> Scores:
        """From every labelled pixel, at the size of its image; image by image, since their sizes differ."""
        adapted.eval()
        count = len(self.labels)
        confusion, total, examples = torch.zeros(count, count, dtype=torch.long), 0.0, []
        for i in range(len(prepared)):
            item = prepared.images[i]
            logits = self.logits(adapted, item["image"]).cpu()
            mask = torch.from_numpy(item["mask"])
            found = logits.argmax(0)
            confusion += metrics.counted(found, mask, count, IGNORE)
            total += float(
                nn.functional.cross_entropy(logits[None], mask[None].long(), ignore_index=IGNORE, reduction="sum")
            )
            if len(examples) < EXAMPLES:
                examples.append((item["image"], item["mask"], found.byte().numpy()))
        of = metrics.overlap(confusion)
        return Scores(
            n=len(prepared), accuracy=of.miou, mean_accuracy=of.mean_accuracy, pixel_accuracy=of.pixel_accuracy,
            loss=total / int(confusion.sum()), iou=dict(zip(self.labels, of.iou, strict=True)),
            confusion=confusion.tolist(), examples=examples,
        )  # fmt: skip

    def asked(self, prepared: PreparedMasks) -> dict[str, Tensor]:
        """The images."""
        return {"pixel_values": prepared.collate([prepared[i] for i in range(len(prepared))])["pixel_values"]}

    def masks(self, adapted: Adapted, files: Sequence[Path]) -> Iterator[tuple[Path, Image, np.ndarray]]:
        """For every image file the image and the class of each pixel [H, W], uint8."""
        adapted.eval()
        for file in files:
            image = open_image(file)
            with torch.no_grad():
                yield file, image, self.logits(adapted, image).argmax(0).byte().cpu().numpy()

    def replies(self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str]) -> list[dict[str, Any]]:
        """The share of each class in each image, as "probabilities", largest first."""
        return [self.shares(file, mask) for file, _, mask in self.masks(adapted, files)]

    def write_to(
        self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str], place: Path, seed: int
    ) -> list[dict[str, Any]]:
        """The same, and in a folder NAME.png, the mask with a palette, and NAME.overlay.png.

        Raises:
            UserError: two files of one name.
        """
        names = [file.stem for file in files]
        if again := [name for name in names if names.count(name) > 1]:
            raise UserError(f"two images are called {again[0]}, and their masks would be one file; predict them apart")
        place.mkdir(parents=True, exist_ok=True)
        found = []
        for file, image, mask in self.masks(adapted, files):
            picture_of(mask).save(place / f"{file.stem}.png")
            overlay(image, mask).save(place / f"{file.stem}.overlay.png")
            found.append({**self.shares(file, mask), "mask": str(place / f"{file.stem}.png")})
        return found

    def shares(self, file: Path, mask: np.ndarray) -> dict[str, Any]:
        """What share of an image each of its classes has."""
        counts = torch.from_numpy(mask).flatten().long().bincount(minlength=len(self.labels)) / mask.size
        pairs = sorted(zip(self.labels, counts.tolist(), strict=True), key=lambda pair: -pair[1])
        return {"file": str(file), "probabilities": {label: share for label, share in pairs if share}}

    @staticmethod
    def table(scores: dict[str, Any]) -> str:
        """Mean IoU, accuracies, loss, and the IoU of every class."""
        lines = [f"{'images':<20}{scores['n']:>9,}", f"{'mean IoU':<20}{scores['accuracy']:>9.2%}"]
        lines += [f"{name.replace('_', ' '):<20}{scores[name]:>9.2%}" for name in ("mean_accuracy", "pixel_accuracy")]
        lines += [f"{'loss':<20}{scores['loss']:>9.4f}", "IoU"]
        lines += [f"  {name:<18}{'-' if v is None else f'{v:.2%}':>9}" for name, v in scores["iou"].items()]
        return "\n".join(lines)

    def draw(self, scores: Scores, folder: Path, split: str) -> None:
        """Images, truth and answer side by side."""
        from gossamer import report

        title = f"{split}: mean IoU {scores.accuracy:.1%} of {scores.n:,} images"
        rows = [[image, overlay(image, mask), overlay(image, found)] for image, mask, found in scores.examples]
        report.beside(rows, ("image", "labelled", "found"), folder / "masks.png", title=title)
