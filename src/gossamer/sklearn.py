"""A classifier of images with scikit-learn's interface: fit, predict, predict_proba, score, get_params, clone, pipelines, searches.

For people with arrays. Runs (`gossamer train`) do more: validation, resume, reports, several processes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gossamer import batches, zoo
from gossamer.adapting import Adapted, adapt
from gossamer.data import ImageDataset, Preprocessing, open_image
from gossamer.data.images import to_rgb
from gossamer.errors import MissingPackage, UserError, WrongKind
from gossamer.hosts import heads
from gossamer.methods.vpt import VPT
from gossamer.runs.prepared import Prepared, outputs
from gossamer.runs.run import Training
from gossamer.training import probe
from gossamer.training.trainer import optimizer, schedule

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingPackage("gossamer.sklearn needs scikit-learn: pip install 'gossamer[sklearn]'") from error

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Self


class GossamerClassifier(ClassifierMixin, BaseEstimator):
    """A frozen vision transformer with a method and a head, trained to classify images.

    Images are an array [n, h, w, 3] or [n, h, w] (grey), uint8 or numbers from 0 to 1; or a list of PIL images, or of paths.

    Args:
        backbone: a name of the zoo or hub, a folder, or a model. A model stays as it is: `fit` works on a copy.
        method: of gossamer or peft, or a list of them; None: VPT(prompts=10).
        size: pixels a side that images are brought to. None: those that the backbone was published with.
        epochs: passes through the training images, behind the solution of the head on what the backbone reads of them; 0: none.
        batch_size: images of one step.
        learning_rate: AdamW's largest. None: the method's own.
        random_state: seed of everything that is drawn, or a generator.
        device: "cpu", "cuda", ...

    Attributes:
        classes_: the labels, sorted.
        adapted_: the trained `gossamer.Adapted`, with `save_pretrained`, `cost`, `finalize`.
        preprocessing_: how images become what it reads.
        loss_curve_: mean loss of each epoch.
    """

    classes_: np.ndarray
    adapted_: Adapted

    def __init__(
        self,
        backbone: str | Path | nn.Module = "dinov2-small",
        method: Any = None,
        *,
        size: int | None = None,
        epochs: int = 10,
        batch_size: int = 32,
        learning_rate: float | None = None,
        random_state: Any = None,
        device: str = "cpu",
    ):
        self.backbone, self.method, self.size, self.epochs = backbone, method, size, epochs
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.random_state, self.device = random_state, device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Adapts the backbone to these images and their labels [n]; itself.

        Raises:
            ValueError: images that are none, labels that are not classes, a single class, or not as many of both.
        """
        images = self._images(X)
        if y is None:
            raise UserError("requires y to be passed, but the target y is None: give a label for each image")
        check_classification_targets(y)
        told = column_or_1d(y, warn=True)
        if len(told) != len(images):
            raise UserError(
                f"Found input variables with inconsistent numbers of samples: {len(images)} images, {len(told)} labels"
            )
        self.classes_, labels = np.unique(told, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError(f"the labels hold one class, {self.classes_[0]}: a classifier tells at least two apart")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model, self.preprocessing_ = self._backbone()
            method = VPT(prompts=10) if self.method is None else copy.deepcopy(self.method)
            self.adapted_ = adapt(model, method, num_labels=len(self.classes_)).to(self.device)
            self._train(self._prepared(images, labels), seed)
        self.adapted_.metadata |= {
            "labels": list(map(str, self.classes_)), "preprocessing": self.preprocessing_.to_dict(), "task": "image-classification",
        }  # fmt: skip
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of every class [n, C], in the order of `classes_`.

        Raises:
            NotFittedError: `fit` was not called.
            ValueError: images that are none.
        """
        check_is_fitted(self)
        images = self._images(X)
        items = self._prepared(images, np.zeros(len(images), dtype=int))
        with torch.no_grad():
            logits = outputs(lambda **x: self.adapted_.eval()(**x).logits, items, device=torch.device(self.device))
        return logits.double().softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of every image [n]; errors as `predict_proba`."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(1)]

    def _backbone(self) -> tuple[nn.Module, Preprocessing]:
        """A model of its own, and how images are prepared for it."""
        if not isinstance(self.backbone, nn.Module):
            return zoo.load(self.backbone), zoo.preprocessing(self.backbone, size=self.size)
        if self.size is None:
            raise UserError(
                f"a {type(self.backbone).__name__} does not say how images are prepared for it: give size=..."
            )
        return copy.deepcopy(self.backbone), Preprocessing(size=self.size)

    def _prepared(self, images: list[Image], labels: np.ndarray) -> Prepared:
        names = tuple(map(str, range(len(self.classes_))))
        indices = tuple(range(len(images)))
        held = ImageDataset(
            name="X", classes=names, labels=tuple(map(int, labels)), source=Held(tuple(images)), indices=indices
        )
        return Prepared(held, self.preprocessing_)

    def _train(self, items: Prepared, seed: int) -> None:
        adapted, device = self.adapted_, torch.device(self.device)
        for one in adapted.applied:
            one.prepare(adapted, items, items.collate)
        with torch.no_grad():
            features = outputs(adapted.eval().features, items, device=device)
        assert items.labels is not None, "every image has one"
        solved = probe.fit(features, items.labels, len(self.classes_), seed=seed)
        if self.epochs and any(not name.startswith("head.") for name in adapted.trainable()):
            solved = probe.eased(features, items.labels, solved)
        assert adapted.head is not None, "one was built"
        solved.put_into(heads.last_linear(adapted.head))
        self.loss_curve_: list[float] = []
        loader: Any = DataLoader(items, self.batch_size, shuffle=True, collate_fn=items.collate)  # type: ignore[arg-type]
        steps = self.epochs * len(loader)
        told = Training(lr=self.learning_rate)
        steps_of = optimizer(adapted, told)
        rates = schedule(told.schedule, steps_of, steps) if steps else None
        for _ in range(self.epochs):
            adapted.train()
            self.loss_curve_.append(
                sum(self._step(batches.on(device, b), steps_of, rates) for b in loader) / len(items)
            )
        adapted.eval()

    def _step(self, batch: dict[str, Tensor], taken: torch.optim.Optimizer, rates: Any) -> float:
        """One step; the sum of the losses of its images."""
        loss = self.adapted_(**batch).loss
        if not bool(torch.isfinite(loss)):
            raise UserError(f"the loss is {float(loss)}: lower learning_rate")
        taken.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.adapted_.trainable().values()), Training().clip)
        taken.step()
        rates.step()
        return float(loss.detach()) * len(batch["labels"])

    def _images(self, X: Any) -> list[Image]:
        """Images of RGB, whatever they were given as."""
        if isinstance(X, np.ndarray) or hasattr(X, "__array__"):
            return pictures(np.asarray(X))
        if isinstance(X, str | Path) or not isinstance(X, Sequence):
            raise WrongKind(
                f"images are an array [n, h, w, 3], a list of PIL images or of paths; got a {type(X).__name__}"
            )
        if not X:
            raise UserError("found no image: 0 sample(s), and a minimum of 1 is required")
        return [open_image(one) if isinstance(one, str | Path) else to_rgb(one) for one in X]


def pictures(array: np.ndarray) -> list[Image]:
    """The images of an array [n, h, w, 3], [n, h, w, 1] or [n, h, w], uint8 or numbers from 0 to 1.

    Raises:
        UserError: it has another shape, or other values.
    """
    from PIL import Image

    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == 3)):
        raise UserError(
            f"images are an array [n, h, w, 3] or [n, h, w], got one of shape {array.shape}: Reshape your data"
        )
    if 0 in array.shape:
        raise UserError(
            f"found no image in an array of shape {array.shape}: 0 sample(s), and a minimum of 1 is required"
        )
    if array.dtype != np.uint8:
        if array.dtype.kind not in "fiub":
            raise UserError(f"pixels are uint8, or numbers from 0 to 1; got {array.dtype}")
        if not np.isfinite(array).all():
            raise UserError("Input X contains NaN or infinity: pixels are numbers from 0 to 1")
        if array.min() < 0 or array.max() > 1:
            raise UserError(
                f"pixels that are no uint8 are from 0 to 1, and these from {array.min():g} to {array.max():g}: scale them"
            )
        array = np.rint(array * 255.0).astype(np.uint8)
    return [Image.fromarray(one).convert("RGB") for one in array]


@dataclass(frozen=True)
class Held:
    """Images in memory."""

    images: tuple[Image, ...]

    def open(self, index: int) -> Image:
        """The image at `index`."""
        return self.images[index]

    def describe(self, index: int) -> str:
        """Its place."""
        return f"X[{index}]"
