"""CoOp: learnt vectors in front of the name of every class.

K. Zhou, J. Yang, C. C. Loy, Z. Liu: Learning to Prompt for Vision-Language Models, arXiv 2109.01134. One context for all
classes, in front.

    text = [start, V_1 .. V_m, name, ., end]          V [m, d] in place of embedded words, before positions are added
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError, WrongKind
from gossamer.methods.base import Method, method
from gossamer.methods.parts.words import ENTRY, worded

SPREAD = 0.02


@method
@dataclass(frozen=True, kw_only=True)
class CoOp(Method):
    """Learnt vectors in front of the words of every class, in a pair that classifies by words (Zhou et al., arXiv 2109.01134).

    They stand behind the token that starts a text; with the template "{}." the texts are the paper's.

    Args:
        context: m, vectors. The paper: 16; they start at N(0, 0.02^2).
    """

    context: int = 16

    name = "coop"
    learning_rate = 2e-3
    reads_blocks = False

    def __post_init__(self) -> None:
        if self.context < 1:
            raise UserError(f"context must be 1 or more, got {self.context}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Makes room in the texts, and stands behind the embedding of words; its tree is `vectors` [m, d].

        Raises:
            UserError: texts have no room for so many, or do not begin with a token that starts them.
        """
        model = worded(anatomy, self.name)
        model.check_room(self.context)
        path, words = _words(anatomy)
        part = Context(words, self.context)
        anatomy.swap(ENTRY, Room(self.context))
        anatomy.swap(path, Behind(words, part))
        return part

    def parameters(self, anatomy: Anatomy) -> int:
        """m d."""
        worded(anatomy, self.name)
        return self.context * _words(anatomy)[1].embedding_dim


def _words(anatomy: Anatomy) -> tuple[str, Any]:
    """Name and module of the embedding of words in the text tower."""
    embedding: Any = anatomy.owner("text").get_input_embeddings()  # type: ignore[operator]
    inside = embedding.inner if isinstance(embedding, Behind) else embedding
    if not isinstance(inside, nn.Embedding):
        raise WrongKind(f"words are embedded by {type(inside).__name__}, no table that vectors could stand behind")
    return next(name for name, module in anatomy.model.named_modules() if module is embedding), inside


class Context(Part):
    """Owner of V [m, d]."""

    def __init__(self, words: nn.Embedding, count: int):
        super().__init__()
        start = SPREAD * torch.randn(count, words.embedding_dim, device=words.weight.device)
        self.vectors = nn.Parameter(start.to(words.weight.dtype))


class Room(nn.Module):
    """Texts with m places behind their first token."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and mask [n, L] -> [n, L + m]."""
        shape = (len(ids), self.count)
        return (
            torch.cat([ids[:, :1], ids.new_zeros(shape), ids[:, 1:]], dim=1),
            torch.cat([mask[:, :1], mask.new_ones(shape), mask[:, 1:]], dim=1),
        )


class Behind(nn.Module):
    """Embedded words, with V in the places behind the first."""

    def __init__(self, inner: nn.Embedding, context: Context):
        super().__init__()
        self.inner, self.context = inner, context

    def forward(self, ids: Tensor) -> Tensor:
        """[n, L] -> [n, L, d]."""
        x, vectors = self.inner(ids), self.context.vectors
        rows = vectors.to(x.dtype).expand(len(x), -1, -1)
        return torch.cat([x[:, :1], rows, x[:, 1 + len(vectors) :]], dim=1)
