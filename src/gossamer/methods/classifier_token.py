"""A learned classifier token: one free vector in place of the first text token that enters a fusion model.

No paper describes it; the code of APT (arXiv 2306.15706) and DAS (arXiv 2309.01479) has it beside every method they compare but
full fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block, get
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method


@method
@dataclass(frozen=True, kw_only=True)
class ClassifierToken(Method):
    """Text position 0, before the modality embedding is added, becomes a learned vector of the model's width.

    It starts as the embedding of `token` where the text begins its way. In ViLT that is what stood there, and the model is
    unchanged at the start; in METER, as the authors have it, it takes the place of what the text encoder made of that token, and
    the model changes.

    Args:
        token: id of the classifier token in the model's vocabulary: 101 for ViLT ([CLS]), 0 for METER (<s>).
        stack: None: the model's main stack.
    """

    token: int
    stack: str | None = None

    name = "classifier_token"

    def __post_init__(self) -> None:
        if self.token < 0:
            raise UserError(f"token must be an id of the vocabulary, 0 or more, got {self.token}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Places the vector; its tree is `<stack>.token` [1, 1, d].

        Raises:
            ValueError: the model has no place for it, no such id, or embeds its words in another width.
        """
        block = self._block(anatomy)
        owner, width = anatomy.owner(block.stack.name), block.sizes.width
        words = get(owner, block.stack.words or "")
        size = next(m for m in words.modules() if isinstance(m, nn.Embedding)).num_embeddings
        if self.token >= size:
            raise UserError(f"token={self.token} is no id of this model's vocabulary of {size}")
        with torch.no_grad():
            start = words(input_ids=torch.tensor([[self.token]], device=block.device)).float().clone()
        if start.shape[-1] != width:
            raise UserError(
                f"the word embeddings of this {type(owner).__name__} are {start.shape[-1]} wide and its {block.stack.name} stack "
                f"{width}: the classifier token cannot start as one of them"
            )
        tree, part = Part(), FirstToken(start)
        grow(tree, block.stack.name, part)
        anatomy.enter(block, part)
        return tree

    def _block(self, anatomy: Anatomy) -> Block:
        blocks = [column[0] for column in anatomy.columns(self.stack)]
        found = [b for b in blocks if b.stack.entrance and b.stack.words]
        if not found:
            name = blocks[0].stack.name
            raise UserError(f"no text enters the {name} stack of this {type(anatomy.model).__name__} beside images")
        return found[0]

    def parameters(self, anatomy: Anatomy) -> int:
        """d."""
        return self._block(anatomy).sizes.width


class FirstToken(Part):
    """Owner of the vector t [1, 1, d]."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.token = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, n, d] -> the same with t in the place of the first."""
        return torch.cat([self.token.to(x.dtype).expand(len(x), -1, -1), x[:, 1:]], dim=1)
