"""What every task can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor, nn

from gossamer.data import Preprocessing
from gossamer.errors import UserError
from gossamer.runs.prepared import BATCH, PreparedSet
from gossamer.runs.run import Run

if TYPE_CHECKING:
    from typing_extensions import Self

    from gossamer.adapting import Adapted


class Scores(Protocol):
    """How good an adapter is on a set."""

    loss: float | None
    accuracy: float

    def headline(self) -> dict[str, float]:
        """The shares by which runs are compared, accuracy first."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON."""
        ...


class Task(ABC):
    """One kind of task: its data, its inputs, its loss, its scores.

    `name` stands in an adapter's metadata, `unit` is what a set holds, `measure` what the scores call accuracy; `reads` are the
    settings of a run that it reads beside those that all do, see `gossamer.tasks.reading`.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    measure: ClassVar[str] = "accuracy"
    reads: ClassVar[tuple[str, ...]]
    preprocessing: Preprocessing

    @classmethod
    @abstractmethod
    def begin(cls, run: Run, train: Any) -> Self:
        """The task of a new run with the training set `train`; ValueError where they do not fit."""

    @classmethod
    @abstractmethod
    def of(cls, adapted: Adapted) -> Self:
        """The task of a trained adapter, from its metadata; ValueError where something is not recorded."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What `of` reads, as JSON."""

    @property
    @abstractmethod
    def outputs(self) -> int | None:
        """Outputs of the head; None where the model needs none."""

    @abstractmethod
    def backbone(self, run: Run) -> nn.Module:
        """The pre-trained model of the run, ready to be adapted."""

    @abstractmethod
    def prepare(self, items: Any) -> PreparedSet:
        """A set as the model reads it; ValueError for a set of another task."""

    def varied(self, prepared: PreparedSet, run: Run) -> Any:
        """The set for tuning, with the random changes that the run asks for; it collates its items itself."""
        return prepared

    @abstractmethod
    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch: the model's inputs, and "labels"."""

    @abstractmethod
    def score(self, adapted: Adapted, prepared: Any, *, batch: int = BATCH, workers: int = 0) -> Scores:
        """The scores of an adapter on a prepared set."""

    @abstractmethod
    def asked(self, prepared: Any) -> dict[str, Tensor]:
        """A whole prepared set as one batch of the model's inputs, without what is to be answered."""

    def timed(self, model: Any, inputs: dict[str, Tensor]) -> dict[str, Callable[[], Any]]:
        """What a comparison times of a model, adapted, finished or bare: "latency" is one pass over `inputs`."""
        return {"latency": lambda: model(**inputs)}

    def texts_alone(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """A training batch without its images, for a bare model; None where the model cannot do without."""
        return None

    @property
    def together(self) -> int:
        """How many image files `gossamer predict` asks about at a time."""
        return 1

    def named(self, given: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        """The arguments of `gossamer predict` that name images, and the texts behind them. Default: no texts."""
        return given, ()

    @abstractmethod
    def replies(self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str]) -> list[dict[str, Any]]:
        """What `gossamer predict` says of image files, and the texts that the task reads.

        Each record has "file" or "images", and "answer" or "probabilities".
        """

    @staticmethod
    @abstractmethod
    def table(scores: dict[str, Any]) -> str:
        """Scores (as JSON) as lines for people."""

    def sizes(self) -> dict[str, Any]:
        """What a cost sheet is asked about. Default: images as they are prepared."""
        return {"image_size": self.preprocessing.size}

    def watch(self, adapted: Adapted, folder: Path, epoch: int) -> None:  # noqa: B027 most have nothing to show
        """Pictures of what a model does at the end of an epoch, in the folder of a run."""

    def write_to(
        self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str], place: Path, seed: int
    ) -> list[dict[str, Any]]:
        """What `gossamer predict --output` writes to a folder or a file; records as of `replies`.

        Raises:
            UserError: the task writes no pictures.
        """
        raise UserError(
            f"--output writes masks of images, and images that are drawn; this is an adapter for {self.name}"
        )

    def draw(self, scores: Any, folder: Path, split: str) -> None:  # noqa: B027 most have no picture
        """Pictures of scores, in the folder of a run."""
