"""Plain visual prompts: every visual token of an image, projected, stands in front of the text. DVP and MemVP are compared with it.

As in H. Liu, C. Li, Q. Wu, Y. J. Lee: Visual Instruction Tuning (LLaVA), arXiv 2304.08485: one Linear, or MemVP's bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy, sight
from gossamer.anatomy.leading import Lead
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method
from gossamer.methods.parts.patches import Patches


@method
@dataclass(frozen=True, kw_only=True)
class VisualTokens(Method):
    """All visual tokens as input of the language model, or of a later block; for models made by `VisionLanguage`.

    With LoRA on the language model: `[VisualTokens(), LoraConfig(...)]`.

    Args:
        block: in front of which they enter; 0, the first, is behind the text's embeddings. They stand there to the last block of
            the stack, an encoder's where there is one; a decoder behind it reads the text's states only.
        tokens: "all": every token behind the tower's last block, as DVP reads them; "patches": the patch tokens behind its last
            norm.
        rank: None: the projector is one Linear (LLaVA's); else two with SiLU between, this wide (MemVP's).
        stack: of the language model; None: its first.
    """

    block: int = 0
    tokens: Literal["all", "patches"] = "all"
    rank: int | None = None
    stack: str | None = None

    name = "visual_tokens"

    def __post_init__(self) -> None:
        if self.tokens not in ("all", "patches"):
            raise UserError(f"tokens must be all or patches, got {self.tokens!r}")
        if self.rank is not None and self.rank < 1:
            raise UserError(f"rank must be at least 1 (or None for one Linear), got {self.rank}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Places the tokens; their tree is `<stack>.blocks.<i>.visual.projector`."""
        sight.of(anatomy.model)
        tree, (first,) = Part(), anatomy.blocks(self.stack, (self.block,))
        part = Projected(anatomy, self)
        grow(tree, f"{first.key}.visual", part)
        anatomy.look(part.projector)
        anatomy.lead(first, part)
        return tree

    def _widths(self, anatomy: Anatomy) -> list[int]:
        """Widths from the tower's tokens to the language model's."""
        inner = [] if self.rank is None else [self.rank]
        return [anatomy.blocks("vision")[0].sizes.width, *inner, anatomy.blocks(self.stack)[0].sizes.width]

    def parameters(self, anatomy: Anatomy) -> int:
        """d_v d + d, or r (d_v + 1) + d (r + 1)."""
        widths = self._widths(anatomy)
        return sum(a * b + b for a, b in pairwise(widths))

    def foresee(self, plan: Plan) -> None:
        """m tokens from the first block on."""
        stack = plan.anatomy.blocks(self.stack)[0].stack.name
        plan.insert(plan.anatomy.stacks[stack][self.block], self._count(plan), last=plan.anatomy.stacks[stack][-1])

    def _count(self, plan: Plan) -> int:
        """m, tokens of one image."""
        return plan.counts["vision"] - (plan.anatomy.blocks("vision")[0].prefix if self.tokens == "patches" else 0)

    def finished_macs(self, plan: Plan) -> int:
        """Those of the projector."""
        return self._count(plan) * sum(a * b for a, b in pairwise(self._widths(plan.anatomy)))


class Projector(sight.Reader):
    """Visual tokens [I, m, d_v] -> [I, m, d]; Linears as they start, or two Xavier uniform ones with zero biases."""

    def __init__(self, anatomy: Anatomy, config: VisualTokens):
        super().__init__()
        widths, device = config._widths(anatomy), anatomy.blocks(config.stack)[0].device
        self.linears = nn.ModuleList(nn.Linear(a, b, device=device) for a, b in pairwise(widths))
        for linear in self.linears if config.rank is not None else ():
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        self.view = Patches(anatomy) if config.tokens == "patches" else None

    def forward(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """The vision tower's states [I, N, d_v] -> tokens [I, m, d], and which exist [I, m] where images differ in size."""
        if self.view is not None:
            states, mask = self.view(states, mask)
        tokens = states.to(next(self.linears.parameters()).dtype)
        for i, linear in enumerate(self.linears):
            tokens = linear(tokens if i == 0 else F.silu(tokens))
        return (tokens,) if mask is None else (sight.last(tokens, mask), sight.last(mask, mask))


class Projected(Lead):
    """The tokens in front of the text."""

    seeing: sight.Sight

    def __init__(self, anatomy: Anatomy, config: VisualTokens):
        super().__init__()
        self.projector = Projector(anatomy, config)
        stack = anatomy.blocks(config.stack)[0].stack
        self.beside_text = stack.relative_bias and stack.name != "decoder"  # their distance to the text counts
        self.borrow(seeing=sight.of(anatomy.model))

    def forward(self, x: Tensor, side: Tensor | None) -> Tensor:
        """States x [B, N, d] -> tokens [B, m, d]; none where no text has an image.

        Raises:
            ValueError: padding would stand between the tokens and a text whose distance to them counts.
        """
        if self.beside_text and self.seeing.scene.layout.padding == "left":
            raise UserError(
                "visual tokens stand in front of the first place, where a text of this batch is padded: pad on the right"
            )
        kept = self.seeing.of(self.projector)
        return x.new_zeros(x.shape[0], 0, x.shape[-1]) if kept is None else sight.spread(kept[0], x.shape[0])

    def visible(self, batch: int) -> Tensor | None:
        """[batch, m or 1]: those of texts with an image, as many as their image has."""
        kept, present = self.seeing.of(self.projector), self.seeing.scene.present
        exists = list(kept[1:]) if kept else []
        exists += [] if present is None else [present[:, None]]
        if not exists:
            return None
        return sight.spread(exists[0] if len(exists) == 1 else exists[0] & exists[1], batch)
