"""Tip-Adapter and Tip-Adapter-F: training images vote by their likeness.

R. Zhang, R. Fang, W. Zhang, P. Gao, K. Li, J. Dai, Y. Qiao, H. Li: Tip-Adapter: Training-free CLIP-Adapter for Better
Vision-Language Modeling, arXiv 2111.03930.

    logits + alpha exp(-beta (1 - unit(u) keys^T)) values      keys: unit image vectors of the training images, values: their
    classes

Their script keeps the epoch that is best on the test images; here the last one counts, as for every method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, method
from gossamer.methods.parts.words import COMPARE, vector_width, worded

BATCH = 64


def votes(u: Tensor, keys: Tensor, values: Tensor, beta: float) -> Tensor:
    """exp(-beta (1 - u keys^T)) values: unit image vectors [B, e], keys [n, e], values [n, C] -> [B, C]."""
    return (-beta * (1 - F.linear(u, keys))).exp() @ values


@method
@dataclass(frozen=True, kw_only=True)
class TipAdapter(Method):
    """Training images vote for their classes by their likeness, where classes are words (Zhang et al., arXiv 2111.03930).

    `prepare` takes the keys from the training data; a run does it.

    Args:
        shots: training images of each class, as many as there are.
        alpha: weight of the votes.
        beta: how fast a vote falls with distance. Both are chosen on validation images by the authors; never on test images.
        trained: whether keys are trained (Tip-Adapter-F), or stay as they are found.
    """

    shots: int = 16
    alpha: float = 1.0
    beta: float = 5.5
    trained: bool = True

    name = "tip_adapter"
    reads_blocks = False

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise UserError(f"shots must be 1 or more, got {self.shots}")
        if self.alpha < 0 or self.beta < 0:
            raise UserError(f"alpha and beta must be 0 or more, got {self.alpha} and {self.beta}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Stands beside the comparison; its tree is `keys` [shots C, e] and `values` [shots C, C]."""
        model = worded(anatomy, self.name)
        part = Voting(self, model.num_labels, vector_width(model), model.get_submodule(COMPARE))
        part.to(next(model.parameters()).device)
        anatomy.swap(COMPARE, part)
        return part

    def parameters(self, anatomy: Anatomy) -> int:
        """shots C e, where keys are trained."""
        model = worded(anatomy, self.name)
        return self.shots * model.num_labels * vector_width(model) if self.trained else 0

    @property
    def learns_from(self) -> Literal["nothing", "images", "items"]:
        """Images."""
        return "images"

    @torch.no_grad()
    def prepare(self, adapted: Any, data: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
        """Takes keys and values from the training images.

        Raises:
            UserError: there are not `shots` of each class.
        """
        part = next(m for m in adapted.methods.modules() if isinstance(m, Voting))
        adapted.eval()
        found, labels = [], []
        for batch in DataLoader(data, batch_size=BATCH, collate_fn=collate):
            u = adapted.backbone.image_vectors(batch["pixel_values"].to(part.keys.device))
            found.append(F.normalize(u, dim=-1))
            labels.append(batch["labels"])
        label, classes = torch.cat(labels), part.values.shape[1]
        if (counts := label.bincount(minlength=classes)).ne(self.shots).any():
            raise UserError(
                f"tip_adapter has room for {self.shots} training images of each class, and there are {int(counts.min())} to "
                f"{int(counts.max())}: set its shots, and data.shots, to one number"
            )
        part.keys.copy_(torch.cat(found))
        part.values.copy_(F.one_hot(label, classes))
        part.check()


class Voting(Part):
    """Owner of the keys and the classes of training images, beside a comparison that is somebody else's."""

    before: nn.Module
    values: Tensor

    def __init__(self, config: TipAdapter, classes: int, width: int, before: nn.Module):
        super().__init__()
        count = config.shots * classes
        self.keys = nn.Parameter(torch.zeros(count, width), requires_grad=config.trained)
        self.register_buffer("values", torch.zeros(count, classes))
        self.alpha, self.beta, self.ready = config.alpha, config.beta, False
        self.borrow(before=before)

    def forward(self, u: Tensor, h: Tensor, scale: Tensor) -> Tensor:
        """Image vectors [B, e] and class vectors [C, e] -> logits [B, C].

        Raises:
            RuntimeError: no training images were taken yet, so none could vote.
        """
        self.check()
        return self.before(u, h, scale) + self.alpha * votes(F.normalize(u, dim=-1), self.keys, self.values, self.beta)

    def check(self) -> None:
        """Nothing, where there are training images.

        Raises:
            RuntimeError: there are none.
        """
        if self.ready or self.values.is_meta:
            return
        if not bool(self.values.any()):
            raise RuntimeError(
                "tip_adapter has no training images yet: call its prepare(adapted, training_data) once before training (a run "
                "does it, and a saved adapter has them)"
            )
        self.ready = True

    def finalize(self) -> None:
        """Nothing is left to check in a finished model."""
        self.check()
