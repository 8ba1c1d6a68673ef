"""What a composed model sees: images turned into what each method needs of them, and shown to the language model's blocks.

A *reader* is a part that looks at the vision tower's states once per image and keeps what it makes of them. A *scene* is one
forward pass or one generation: which image belongs to which text. While it lasts, the parts that methods placed in the language
model's blocks ask for their rows. Nothing is seen outside a scene, so no image leaks into the next call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gossamer.anatomy.seams import Part
from gossamer.anatomy.session import Scene, Session
from gossamer.errors import WrongKind


class Reader(Part):
    """Turns the vision tower's states into what is kept of an image for every text about it."""

    def forward(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """States [I, N, d_v] behind the tower's last block and which of them exist [I, N] (None: all) -> what is kept, [I, ...]."""
        raise NotImplementedError

    def rows(self, kept: tuple[Tensor, ...], index: Tensor | None, present: Tensor | None) -> tuple[Tensor, ...]:
        """What was kept, for B texts: row index[b] for each (None: row b). One without an image (index -1, and False in `present`
        [B]; None: all have one) gets any row."""
        return kept if index is None else tuple(t[index.clamp(min=0)] for t in kept)


@dataclass(frozen=True)
class Seen:
    """Images as the readers keep them: one tuple of tensors [I, ...] a reader. May be reused for any number of texts."""

    kept: list[tuple[Tensor, ...]]
    images: int


class Sight:
    """The readers of a model, and what they show now."""

    def __init__(self, session: Session) -> None:
        self.readers: list[nn.Module] = []
        self.session = session

    @property
    def scene(self) -> Scene:
        """What is shown now.

        Raises:
            RuntimeError: nothing, because the language model was called past the model that sees.
        """
        if self.session.scene is None:
            raise RuntimeError(
                "nothing is shown: the language model was called on its own. Call the composed model (its forward or generate), "
                "without images where there are none; or detach the adapter first"
            )
        return self.session.scene

    def of(self, reader: nn.Module) -> tuple[Tensor, ...] | None:
        """The rows [B, ...] of a reader in the present scene, or None where there is no image at all."""
        rows = self.scene.rows
        return None if rows is None else rows[self.readers.index(reader)]


def of(model: nn.Module) -> Sight:
    """The sight of a composed model.

    Raises:
        TypeError: the model is none.
    """
    found = getattr(model, "sight", None)
    if not isinstance(found, Sight):
        raise WrongKind(
            f"{type(model).__name__} does not see: compose a vision tower and a language model with "
            "gossamer.VisionLanguage(vision, language)"
        )
    return found


def spread(rows: Tensor, batch: int) -> Tensor:
    """Rows [B, ...] for `batch` sequences, of which batch / B in a row belong to each text (beams, several answers)."""
    return rows if rows.shape[0] == batch else rows.repeat_interleave(batch // rows.shape[0], dim=0)


def question_end(question: Tensor | None, states: Tensor) -> Tensor:
    """Position [B] of the last token of each question, in states [B, N, d]."""
    if question is None:
        return torch.full((states.shape[0],), states.shape[1] - 1, device=states.device)
    steps = torch.arange(question.shape[1], device=states.device)
    return (steps * spread(question, states.shape[0]).long()).argmax(dim=1)


def last(x: Tensor, mask: Tensor) -> Tensor:
    """Rows of x [B, n, ...] with those that the mask [B, n] leaves out moved to the front, so that the last stand at -k .. -1."""
    order = mask.long().argsort(dim=1, stable=True)
    return x[torch.arange(len(x), device=x.device)[:, None], order]


def patch_count(image: int | tuple[int, int], patch: int | tuple[int, int]) -> int:
    """Patches of a square or (height, width) image."""
    (height, width), (rows, columns) = ((size, size) if isinstance(size, int) else size for size in (image, patch))
    return (height // rows) * (width // columns)
