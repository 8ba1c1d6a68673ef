"""MemVP, memory-space visual prompting: an image as extra keys and values of every feed-forward network.

S. Jie, Y. Tang, N. Ding, Z.-H. Deng, K. Han, Y. Wang: Memory-Space Visual Prompting for Efficient Vision-Language Fine-Tuning,
ICML 2024, arXiv 2405.05615.

    V' = lambda g (SiLU(Z A^T + a) B^T + b)        Z [I, n_v, d_v] patch tokens, g 1 with an image and 0 without
    K = [V'; 0] + P_K,   U = [V'; 0] + P_V          [I, m, d], one pair for all blocks
    FFN'(x) = FFN(x) + s Dropout(phi(x K^T)) U

which is the FFN with the rows K joined to its first matrix and the columns s U^T to its second; in gated FFNs the new units
bypass the product with the up branch. There is no softmax, no scale and no mask, so positions stay independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy, sight
from gossamer.anatomy.block import Block, Site
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method
from gossamer.methods.parts import bottleneck
from gossamer.methods.parts.bottleneck import Bottleneck
from gossamer.methods.parts.patches import Patches

KEYS_STD = 0.02  # of P_K at the start


def visual_memory(projected: Tensor, slots: int, scale: float, exists: Tensor | None = None) -> Tensor:
    """V [I, m, d] from projected patch tokens [I, n_v, d]: lambda times those that exist [I, n_v or 1], zeros for the rest."""
    projected = scale * projected
    if exists is not None:
        projected = projected * exists[..., None].to(projected.dtype)
    return F.pad(projected, (0, 0, 0, slots - projected.shape[1]))


def memory_read(
    x: Tensor, keys: Tensor, values: Tensor, activation: Callable[[Tensor], Tensor], dropout: float = 0.0
) -> Tensor:
    """M(x) = Dropout(phi(x K^T)) U for x [R, L, d] and K, U [S, m, d]; R / S rows in a row belong to each of the S samples."""
    units = F.dropout(memory_units(x, keys, activation), dropout, dropout > 0)
    return (units @ values).reshape(x.shape)


def memory_units(x: Tensor, keys: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """phi(x K^T) [S, R L / S, m]: how much each state of each sample asks for each slot."""
    return activation(x.reshape(keys.shape[0], -1, x.shape[-1]) @ keys.transpose(1, 2))


@method
@dataclass(frozen=True, kw_only=True)
class MemVP(Method):
    """Images in the memory of feed-forward networks (Jie et al., arXiv 2405.05615); for models made by `VisionLanguage`.

    Args:
        rank: r, width of the projector; 128 is the authors'.
        extra_slots: slots m - n_v that hold no image, a trained memory of their own. The authors: 64 for LLaMA-7B, 144 for 13B.
        image_tokens: n_v, the most patch tokens that an image may have. None: those of an image of the tower's own size.
        scale: s, factor of the memory's answer; the authors' 0.1.
        visual_scale: lambda, factor of what the projector gives; the authors' 0.01.
        vision_rank: h, width of the adapters in the vision tower, beside the MLP of every block but the last, which is not run.
            The authors' 12; 0: none.
        vision_scale: s_c, factor of those adapters; the authors' 0.1.
        dropout: rate on memory units and inside vision adapters in training; the authors' 0.1.
        layers: indices of the blocks that read the memory, in each stack. None: all, the authors'.
        stacks: of the language model: "encoder", "decoder", "text". None: all that it has.
    """

    rank: int = 128
    extra_slots: int = 0
    image_tokens: int | None = None
    scale: float = 0.1
    visual_scale: float = 0.01
    vision_rank: int = 12
    vision_scale: float = 0.1
    dropout: float = 0.1
    layers: tuple[int, ...] | None = None
    stacks: tuple[str, ...] | None = None

    name = "memvp"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"rank must be at least 1, got {self.rank}")
        for field in ("extra_slots", "vision_rank"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} must be 0 or more, got {getattr(self, field)}")
        if self.image_tokens is not None and self.image_tokens < 0:
            raise UserError(f"image_tokens must be 0 or more (or None for the tower's own), got {self.image_tokens}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Places the memory; its tree is `memory.{down,up,keys,values}` and `vision.blocks.<i>.ffn.{down,up}`.

        Raises:
            TypeError: the model is not made by `VisionLanguage`.
            ValueError: a block has no activation that its family names.
        """
        seen, blocks, tree = sight.of(anatomy.model), self.read_by(anatomy), Part()
        *vision, last = anatomy.blocks("vision")
        memory = VisualMemory(anatomy, self, self.slots(anatomy), seen)
        tree.add_module("memory", memory)
        anatomy.look(memory)
        anatomy.skip(last)
        for block in vision if self.vision_rank else ():
            adapter = Bottleneck(
                block.sizes.width,
                self.vision_rank,
                activation="gelu",
                scale=self.vision_scale,
                dropout=self.dropout,
                bias=False,
                device=block.device,
            )
            grow(tree, f"{block.key}.ffn", adapter)
            anatomy.add(block, "ffn", adapter)
        for block in blocks:
            anatomy.add(block, "ffn", MemoryRead(block, memory))
        return tree

    def read_by(self, anatomy: Anatomy) -> list[Block]:
        """The blocks whose FFN reads the memory."""
        stacks = self.stacks or anatomy.adapted
        if "vision" in stacks:
            raise UserError(f"stacks={stacks}: the memory is read by the language model, not by the vision tower")
        return [block for stack in stacks for block in anatomy.blocks(stack, self.layers)]

    def slots(self, anatomy: Anatomy) -> int:
        """m, number of slots."""
        if self.image_tokens is not None:
            return self.image_tokens + self.extra_slots
        config: Any = anatomy.owner("vision").config
        return sight.patch_count(config.image_size, config.patch_size) + self.extra_slots

    def parameters(self, anatomy: Anatomy) -> int:
        """2 m d + r (d_v + 1) + d (r + 1) + 2 (N_c - 1) d_v h; the adapter of the vision tower's last block would never run."""
        d, tower = self.read_by(anatomy)[0].sizes.width, anatomy.blocks("vision")
        d_v, r, h = tower[0].sizes.width, self.rank, self.vision_rank
        adapters = (len(tower) - 1) * bottleneck.parameters(d_v, h, bias=False)
        return 2 * self.slots(anatomy) * d + r * (d_v + 1) + d * (r + 1) + adapters

    def foresee(self, plan: Plan) -> None:
        """The vision tower's last block is not run."""
        plan.skip(Site(plan.anatomy.blocks("vision")[-1]))

    def finished_macs(self, plan: Plan) -> int:
        """2 n m d in each block, n_v r (d_v + d) and 2 n d_v h for each vision adapter an image."""
        blocks, m = self.read_by(plan.anatomy), self.slots(plan.anatomy)
        *tower, last = plan.anatomy.blocks("vision")
        d, d_v, n = blocks[0].sizes.width, last.sizes.width, plan.tokens(last)
        image = (n - last.prefix) * self.rank * (d_v + d)
        image += sum(2 * plan.tokens(b) * d_v * self.vision_rank for b in tower)
        return sum(2 * plan.tokens(b) * m * d for b in blocks) + image


class VisualMemory(sight.Reader):
    """K, s U [I, m, d] of images: owner of the projector and of the position tables P_K and P_V [m, d].

    s is taken here, once a pass, and not from what each block reads. The projector starts Xavier uniform with zero biases, P_K
    normal (0.02), P_V zero: without an image nothing changes at first.
    """

    seeing: sight.Sight

    def __init__(self, anatomy: Anatomy, config: MemVP, slots: int, seen: sight.Sight):
        super().__init__()
        tower, block = anatomy.blocks("vision")[-1], config.read_by(anatomy)[0]
        width, device = block.sizes.width, block.device
        self.down = nn.Linear(tower.sizes.width, config.rank, device=device)
        self.up = nn.Linear(config.rank, width, device=device)
        self.keys = nn.Parameter(torch.empty(slots, width, device=device).normal_(std=KEYS_STD))
        self.values = nn.Parameter(torch.zeros(slots, width, device=device))
        for linear in (self.down, self.up):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.config, self.slots = config, slots
        self.view = Patches(anatomy)
        self.borrow(seeing=seen)

    def forward(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """The vision tower's states [I, N, d_v] behind its last block but one -> K, s U [I, m, d].

        Raises:
            ValueError: more patch tokens than slots.
        """
        patches, mask = self.view(states, mask)
        if patches.shape[1] > self.slots:
            raise UserError(
                f"an image has {patches.shape[1]} patch tokens and the memory {self.slots} slots: use smaller images, "
                f"or MemVP(image_tokens={patches.shape[1]})"
            )
        projected = self.up(F.silu(self.down(patches.to(self.down.weight.dtype))))
        memory = visual_memory(projected, self.slots, self.config.visual_scale, mask)
        return memory + self.keys, self.config.scale * (memory + self.values)

    def imageless(self) -> tuple[Tensor, Tensor]:
        """P_K, s P_V [m, d]: what a text without an image reads."""
        return self.keys, self.config.scale * self.values

    def rows(self, kept: tuple[Tensor, ...], index: Tensor | None, present: Tensor | None) -> tuple[Tensor, ...]:
        """K, s U [B, m, d] for B texts; P_K, s P_V for those without an image."""
        found = super().rows(kept, index, present)
        if present is None:
            return found
        there = present[:, None, None]
        return tuple(torch.where(there, t, own) for own, t in zip(self.imageless(), found, strict=True))

    def now(self) -> tuple[Tensor, ...]:
        """K, s U [S, m, d] of the texts at hand; S is 1 where none has an image."""
        found = self.seeing.of(self)
        return tuple(own[None] for own in self.imageless()) if found is None else found


class MemoryRead(Part):
    """s M(x) beside the FFN of one block. Owns nothing: memory and activation are others'."""

    memory: VisualMemory
    activation: nn.Module
    block: Block

    def __init__(self, block: Block, memory: VisualMemory):
        super().__init__()
        activation = block.active("act")
        if activation is None:
            raise UserError(
                f"{block.name} ({type(block.module).__name__}): its family does not name the FFN's activation"
            )
        self.borrow(memory=memory, activation=activation, block=block)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """x, output [R, L, d]: the FFN's input and output -> what is added, [R, L, d]."""
        keys, values = self.memory.now()
        dropout = self.memory.config.dropout if self.memory.training else 0.0
        return memory_read(x.to(keys.dtype), keys, values, self.activation, dropout).to(output.dtype)

    def acting(self) -> bool:
        """Whether there is an image at all."""
        return self.memory.seeing.of(self.memory) is not None

    def units(self, x: Tensor) -> Tensor:
        """phi(x K^T) [S, n, m] of what enters the FFN, x [R, L, d]."""
        keys, _ = self.memory.now()
        return memory_units(x.to(keys.dtype), keys, self.activation)
