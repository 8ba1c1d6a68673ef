"""SSF: a learnt scale and shift behind every Linear, every norm and the patch embedding; nothing is left of it in a finished model.

Lian, Zhou, Feng, Wang: Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning, arXiv 2210.08823.

Every operation of the frozen model gives y [..., d]; it becomes gamma * y + beta, channel by channel. Both can be written into the
weights in front of them: gamma W x + (gamma b + beta). Where a norm has no bias, it gets no shift, which it could not hold.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.anatomy.projection import quantised, shape_of
from gossamer.anatomy.rewritten import Wrapped
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method


def rescaled(y: Tensor, gamma: Tensor, beta: Tensor | None) -> Tensor:
    """gamma * y + beta, y [..., d] and gamma, beta [d] (None: no shift)."""
    return gamma * y if beta is None else gamma * y + beta


@method
@dataclass(frozen=True, kw_only=True)
class SSF(Method):
    """Scale and shift behind every operation of the model (Lian et al., arXiv 2210.08823).

    Args:
        std: of the normal distributions that scales (around 1) and shifts (around 0) start from; the authors' 0.02. 0: the model
            starts as it was.
        embedding: also behind the patch embedding and the last norm, as the authors have it.
        blocks: indices, None: all.
        stack: one, several, or "both" towers of a pair (CLIP); None: the model's main stack.
    """

    std: float = 0.02
    embedding: bool = True
    blocks: tuple[int, ...] | None = None
    stack: str | tuple[str, ...] | None = None

    name = "ssf"

    def __post_init__(self) -> None:
        if self.std < 0:
            raise UserError(f"std must be 0 or more, got {self.std}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Places them; their tree is `<stack>.blocks.<i>.<role>` and `<stack>.{patches,norm}`, each with `gamma` and `beta`."""
        tree = Part()
        for block in anatomy.blocks(self.stack, self.blocks):
            for role in _roles(block):
                part = self._part(block.part(role), block.device)
                grow(tree, f"{block.key}.{role}", part)
                anatomy.rewrite(block, role, Rescaled(block.part(role), part))
        for role, name in self._around(anatomy).items():
            module = anatomy.model.get_submodule(name)
            part = self._part(module, next(module.parameters()).device)
            grow(tree, role, part)
            anatomy.swap(name, Rescaled(module, part))
        return tree

    def _part(self, module: nn.Module, device: torch.device) -> Rescale:
        width, shifts = _channels(module)
        return Rescale(width, shifts, self.std, device)

    def _around(self, anatomy: Anatomy) -> dict[str, str]:
        """Stack with role, and name, of what stands around the blocks and does something."""
        stacks = anatomy.named(self.stack) if self.embedding else []
        around = {f"{stack}.{role}": name for stack in stacks for role, name in anatomy.around(stack).items()}
        return {role: n for role, n in around.items() if not isinstance(anatomy.model.get_submodule(n), nn.Identity)}

    def parameters(self, anatomy: Anatomy) -> int:
        """2 d for each of them, d for norms without a bias."""
        modules = [block.part(role) for block in anatomy.blocks(self.stack, self.blocks) for role in _roles(block)]
        modules += [anatomy.model.get_submodule(name) for name in self._around(anatomy).values()]
        return sum(width * (1 + shifts) for width, shifts in map(_channels, modules))


def _roles(block: Block) -> list[str]:
    """Roles of a block that something plays; ModernBERT's first block has no norm in front."""
    return [role for role in block.roles() if not isinstance(block.part(role), nn.Identity)]


def _channels(module: Any) -> tuple[int, bool]:
    """Channels that a module gives, and whether it can hold a shift: norms only where they have a bias."""
    if getattr(module, "weight", None) is None:
        raise UserError(
            f"SSF scales what Linears and norms with weights give, and this {type(module).__name__} has none"
        )
    if quantised(module):
        return shape_of(module)[0], True
    norm = module.weight.dim() == 1
    width = module.weight.shape[1] if isinstance(module, Conv1D) else len(module.weight)
    return width, not norm or getattr(module, "bias", None) is not None  # RMS norms have no such attribute


class Rescale(Part):
    """gamma and beta [d] behind one module: what is trained, and kept in the method's tree."""

    wrapper: Rescaled | None

    def __init__(self, width: int, shifts: bool, std: float, device: torch.device):
        super().__init__()
        self.gamma = nn.Parameter(1 + std * torch.randn(width, device=device))
        self.beta = nn.Parameter(std * torch.randn(width, device=device)) if shifts else None
        self.borrow(wrapper=None)

    def release(self) -> None:
        """Once they are in the weights, they are let go."""
        if self.wrapper is not None and self.wrapper.inner is None:
            self._parameters.clear()
        self.borrow(wrapper=None)


class Rescaled(Wrapped):
    """A Linear, convolution or norm with gamma and beta behind it."""

    scale: Rescale

    def __init__(self, inner: nn.Module, scale: Rescale):
        super().__init__(inner)
        self.borrow(scale=scale)
        scale.borrow(wrapper=self)

    def behind(self, y: Tensor) -> Tensor:
        """What the inner module gives, rescaled: [..., d], of a convolution [B, d, h, w]."""
        behind = (-1, 1, 1) if isinstance(self.inner, nn.Conv2d) else (-1,)
        gamma, beta = (None if t is None else t.to(y.dtype).view(behind) for t in (self.scale.gamma, self.scale.beta))
        assert gamma is not None, "there always is a scale"
        return rescaled(y, gamma, beta)

    @torch.no_grad()
    def merged(self) -> nn.Module | None:
        """The inner module with weights of its own; None where it is none whose weights are known to scale what it gives."""
        inner: Any = self.inner
        norm = inner.weight.dim() == 1
        if not norm and (type(inner) not in (nn.Linear, nn.Conv2d) or quantised(inner)):
            return None  # what peft could not merge, or would be rounded again
        plain, gamma, beta = copy.copy(inner), self.scale.gamma, self.scale.beta
        plain._parameters = dict(inner._parameters)
        rows = gamma.view(-1, *[1] * (inner.weight.dim() - 1))
        plain.weight = nn.Parameter((rows * inner.weight).to(inner.weight.dtype), requires_grad=False)
        if beta is not None:
            held = beta if inner.bias is None else gamma * inner.bias + beta
            plain.bias = nn.Parameter(held.to(inner.weight.dtype), requires_grad=False)
        return plain if not norm or self._equals(plain) else None

    def _equals(self, plain: nn.Module) -> bool:
        """Whether a norm with weights that are scaled gives what this gives; one may count its weights from 1 (Gemma's)."""
        inner: Any = self.inner
        if inner.weight.is_meta:
            return True  # nothing to compute with, and nothing that is counted
        x = torch.linspace(-1, 1, len(inner.weight), device=inner.weight.device, dtype=inner.weight.dtype).cos()[None]
        found, expected = plain(x), rescaled(inner.forward(x), self.scale.gamma, self.scale.beta)
        return torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
