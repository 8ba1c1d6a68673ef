"""VPT: Visual Prompt Tuning, shallow and deep.

M. Jia, L. Tang, B.-C. Chen, C. Cardie, S. Belongie, B. Hariharan, S.-N. Lim: Visual Prompt Tuning, arXiv 2203.12119.

Shallow: p learnt tokens enter before the first block and run through all. Deep: every block gets p fresh tokens, and what it makes
of them is thrown away. So deep prompts matter only as keys and values, and the exact form never computes anything else for them:
K_P = W_k LN(P) + b_k and V_P = W_v LN(P) + b_v, joined to the keys and values of every sample, once per batch.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.anatomy import Anatomy, Branch
from gossamer.anatomy.block import Block
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError
from gossamer.methods.base import Method, grow, method

BRANCHES: dict[str, tuple[Branch, ...]] = {"self": ("attention",), "cross": ("cross",), "both": ("attention", "cross")}


def prompt_range(patch_area: int, width: int) -> float:
    """Half-width a of the uniform start of prompts: sqrt(6 / (3 ph pw + d)), ph pw the patch area in pixels."""
    return math.sqrt(6.0 / (3 * patch_area + width))


@torch.no_grad()
def start_head(linear: nn.Linear) -> None:
    """The paper's start of a classification head, in place: weight He normal over fan-out, bias -ln 99."""
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    if linear.bias is not None:
        nn.init.constant_(linear.bias, -math.log(99))


@method
@dataclass(frozen=True, kw_only=True)
class VPT(Method):
    """Prompts in front of the patches (Jia et al., arXiv 2203.12119).

    Args:
        prompts: p, learnt tokens in each prompted block. The paper tries 1 to 200. A tuple gives every prompted block its own
            number, 0 for none; `gossamer.condense` makes such models.
        deep: fresh prompts in every block (VPT-deep) or one set that runs through all blocks (VPT-shallow).
        project: d_p; prompts are stored with this width and mapped to the model's by one Linear for all blocks. None: no map.
        dropout: rate on prompt coordinates in training, drawn for every sample and block. The paper: 0.1 deep, 0 shallow.
            The default is 0, because with dropout keys and values of prompts must be computed per sample; in Swin's windows
            prompts with dropout run as tokens.
        form: "exact" computes prompts as keys and values only (deep; the same function); "sequence" lets them run as tokens.
            Shallow prompts are always tokens.
        attention: which attention of a block deep prompts are keys and values of: "self"; "cross", where a block has one (the APT
            comparison's code on METER); "both", with prompts of their own (the number of prompts its table prints).
        stay: the last block's prompts stay in the model's output, so that a read-out that averages tokens (MAE's, Swin's)
            averages over them too, as the paper's code does. They then run as tokens there. None: on Swin only, since other
            read-outs take tokens one by one.
        blocks: indices of the prompted blocks, 0 first. None: all. Shallow: the one block before which prompts enter (None: 0).
        stack: "vision", "text", "encoder", "decoder", "fusion", several of them, or "both" towers of a pair (CLIP); None: the main.
    """

    prompts: int | tuple[int, ...] = 10
    deep: bool = True
    project: int | None = None
    dropout: float = 0.0
    form: Literal["exact", "sequence"] = "exact"
    attention: Literal["self", "cross", "both"] = "self"
    stay: bool | None = None
    blocks: tuple[int, ...] | None = None
    stack: str | tuple[str, ...] | None = None

    name = "vpt"
    learning_rate = 3e-3

    def __post_init__(self) -> None:
        if min(counts(self.prompts), default=-1) < 0:
            raise UserError(f"prompts must be 0 or more, got {self.prompts}")
        if self.project is not None and self.project < 1:
            raise UserError(f"project must be at least 1 (or None for no projection), got {self.project}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.form not in ("exact", "sequence"):
            raise UserError(f"form must be 'exact' or 'sequence', got {self.form!r}")
        if self.attention not in BRANCHES:
            raise UserError(f"attention must be one of {', '.join(BRANCHES)}, got {self.attention!r}")
        if self.attention != "self" and not (self.deep and self.form == "exact"):
            raise UserError(
                f"attention={self.attention!r} is for deep prompts of form 'exact': cross-attention has no other"
            )
        if not self.deep and self.blocks is not None and len(self.blocks) != 1:
            raise UserError(f"shallow prompts enter before one block, got blocks={self.blocks}")

    def attach(self, anatomy: Anatomy) -> Part:
        """Places prompts in the model; their tree is `<stack>.blocks.<i>.prompts` [p, d or d_p] and `projection`."""
        tree, targets, prompted = PromptTree(), self.targets(anatomy), self.prompted(anatomy)
        if self.attention != "self" and targets[0].cross is None:
            name = targets[0].stack.name
            raise UserError(f"attention={self.attention!r}: blocks of the {name} stack have no cross-attention")
        if not prompted:
            return tree
        self._check_widths(targets)
        self._check_dropout(targets)
        finals = [column[-1] for column in anatomy.columns(self.stack)]
        left_out = [b.index for b in finals if b not in targets]
        if self.stay and (why := anatomy.must_leave(targets[0])) is not None:
            raise UserError(f"tokens cannot stay in {why}")
        if self.stay and self.deep and left_out:
            raise UserError(
                f"stay=True keeps the prompts of the last block, {left_out[0]}, which blocks={self.blocks} leaves out"
            )
        starts = {
            b.stack.name: b for b in reversed(anatomy.blocks(self.stack))
        }  # widths of stages are one width in this
        bounds = {
            name: prompt_range(patch_area(anatomy, b), self.project or b.sizes.width) for name, b in starts.items()
        }
        projection = None
        if self.project is not None:
            projection = nn.Linear(self.project, self._widths(targets)[0], device=targets[0].device)
            nn.init.kaiming_normal_(projection.weight, mode="fan_out")
            tree.add_module("projection", projection)
        for block, count in prompted:
            bound = bounds[block.stack.name]
            for branch in BRANCHES[self.attention]:
                key = block.key if branch == "attention" else f"{block.key}.{branch}"
                if branch == "cross" or self._exact(anatomy, block, warn=True):
                    remembered = RememberedPrompts(block, count, self, bound, projection, branch)
                    grow(tree, key, remembered)
                    anatomy.remember(block, remembered, branch)
                else:
                    tokens = InsertedPrompts(block, count, self, bound, projection, branch)
                    grow(tree, key, tokens)
                    last = block if self.deep else anatomy.column(block)[-1]
                    stay = self.stays(block) and last in finals
                    anatomy.insert(block, tokens, last=last, stay=stay, read=not self.deep)
        return tree

    def _check_widths(self, targets: list[Block]) -> None:
        widths = self._widths(targets)
        if self.project is not None and len(set(widths)) > 1:
            raise UserError(
                f"project={self.project} maps to one width, and the blocks have {min(widths)} to {max(widths)}"
            )

    def _check_dropout(self, targets: list[Block]) -> None:
        closed = [block for block in targets if (names := block.stack.windows) is not None and not names.lets_in]
        if self.dropout and closed:
            raise UserError(
                f"dropout={self.dropout}: the windows of a sample share what is dropped, and {closed[0].name} does not know whose "
                "windows it sees; take dropout=0"
            )

    def _widths(self, blocks: list[Block]) -> list[int]:
        """Widths of the prompts of each block and attention."""
        return [block.sizes.read(branch) for block in blocks for branch in BRANCHES[self.attention]]

    def stays(self, block: Block) -> bool:
        """Whether prompts that come out of the last block of a block's stack are read out."""
        windows = block.stack.windows
        return windows is not None and windows.lets_in if self.stay is None else self.stay

    def targets(self, anatomy: Anatomy) -> list[Block]:
        """The blocks that may have prompts of their own; of shallow prompts where they enter (of two columns two)."""
        if not self.deep and self.blocks is None:
            return [column[0] for column in anatomy.columns(self.stack)]
        return anatomy.blocks(self.stack, self.blocks)

    def prompted(self, anatomy: Anatomy) -> list[tuple[Block, int]]:
        """The blocks that have prompts of their own, and how many.

        Raises:
            ValueError: `prompts` gives numbers for more or fewer blocks.
        """
        blocks, each = self.targets(anatomy), counts(self.prompts)
        if isinstance(self.prompts, int):
            each *= len(blocks)
        if len(each) != len(blocks):
            raise UserError(
                f"prompts={self.prompts} gives numbers for {len(each)} blocks, and {len(blocks)} are prompted"
            )
        return [(block, p) for block, p in zip(blocks, each, strict=True) if p]

    def parameters(self, anatomy: Anatomy) -> int:
        """N p d for deep prompts, p d for shallow ones; with projection N p d_p + d_p d + d. For both attentions twice N."""
        prompted, tables = self.prompted(anatomy), len(BRANCHES[self.attention])
        if self.project is None or not prompted:
            return sum(p * sum(self._widths([block])) for block, p in prompted)
        width = self._widths([prompted[0][0]])[0]
        return tables * sum(p for _, p in prompted) * self.project + (self.project + 1) * width

    def foresee(self, plan: Plan) -> None:
        """Prompts that run as tokens are in one block, shallow ones from where they enter to the end; both columns read these."""
        for block, p in self.prompted(plan.anatomy):
            if not self.deep:
                plan.insert(block, p, last=plan.anatomy.column(block)[-1], read=True)
            elif self.attention != "cross" and not self._exact(plan.anatomy, block):
                plan.insert(block, p)
            elif self.attention != "cross":
                plan.attend(block, p)
                if not self.dropout:
                    plan.remember(block, p)

    def finished_macs(self, plan: Plan) -> int:
        """2 n p d_h h for each block with stored K_P, V_P."""
        total = 0
        for block, p in self.prompted(plan.anatomy) if self.deep else ():
            if self.attention != "self":
                total += 2 * plan.tokens(block) * p * block.sizes.cross_inner
            if self.attention != "cross" and self._exact(plan.anatomy, block):
                total += 2 * plan.seen(block, "attention") * p * block.sizes.inner
        return total

    def training_macs(self, plan: Plan) -> tuple[int, int]:
        """Once per batch: 2 p d inner_kv for K_P, V_P of each block (with dropout for each sample), p d_p d where projected."""
        anatomy, prompted = plan.anatomy, self.prompted(plan.anatomy)
        projection = sum(p * (self.project or 0) * sum(self._widths([b])) for b, p in prompted)
        exact = [(b, p) for b, p in prompted if self.attention != "cross" and self._exact(anatomy, b)]
        keys_values = sum(2 * p * b.sizes.width * b.sizes.inner_kv for b, p in exact)
        if self.attention != "self":
            keys_values += sum(2 * p * b.sizes.context * b.sizes.cross_inner for b, p in prompted)
        return (keys_values, projection) if self.dropout else (0, projection + keys_values)

    def _exact(self, anatomy: Anatomy, block: Block, warn: bool = False) -> bool:
        """Whether the prompts of a block are keys and values only."""
        last = block is anatomy.column(block)[-1]
        if not self.deep or self.form != "exact" or (last and self.stays(block)):
            return False
        if self.dropout and block.stack.windows is not None:
            return (
                False  # the windows of a sample share its masks, and an attention does not know whose windows it sees
            )
        reason = anatomy.obstacle(block, "remember")
        if reason is not None and warn:
            message = f"{block.name}: prompts run as tokens here, the exact form is not possible: {reason}"
            warnings.warn(message, stacklevel=3)
        return reason is None


def counts(prompts: int | tuple[int, ...]) -> tuple[int, ...]:
    """The setting `prompts` as numbers: one for all blocks, or one for each."""
    return (prompts,) if isinstance(prompts, int) else prompts


class PromptTree(Part):
    """The prompts of all blocks, and their projection where there is one."""

    def finalize(self) -> None:
        """The projection has been folded into what each block keeps, and is let go."""
        super().finalize()
        self._modules.pop("projection", None)


class Prompts(Part):
    """The prompts of one block: owner of the weights [p, d], or [p, d_p] before the projection."""

    block: Block
    projection: nn.Linear | None
    folded: Tensor

    def __init__(self, block: Block, count: int, config: VPT, bound: float, projection: nn.Linear | None, branch: str):
        super().__init__()
        width = config.project or block.sizes.read(branch)
        self.prompts: nn.Parameter | None = nn.Parameter(
            torch.empty(count, width, device=block.device).uniform_(-bound, bound)
        )
        # Neither is a child: the block is the backbone's, the projection stands once in the method's tree.
        self.borrow(block=block, projection=projection)
        self.deep, self.dropout = config.deep, config.dropout
        self.register_buffer("folded", None)

    def tokens(self, batch: int) -> Tensor:
        """The prompts as tokens, projected and dropped out: [1, p, d], or [batch, p, d] while dropout is on."""
        if self.prompts is None:
            return self.folded
        tokens = self.prompts if self.projection is None else self.projection(self.prompts)
        if self.training and self.dropout > 0:
            return F.dropout(tokens.expand(batch, -1, -1), self.dropout)
        return tokens[None]


class InsertedPrompts(Prompts):
    """Prompts that run as tokens: forward(x [B, N, d]) = [B, p, d]."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, d] -> [B, p, d]; of x only the batch matters."""
        return self.tokens(x.shape[0]).expand(x.shape[0], -1, -1)

    @torch.no_grad()
    def finalize(self) -> None:
        """The projection is folded in: what stays is one buffer [1, p, d]."""
        self.eval()
        self.folded = self.tokens(1).clone()
        self.prompts = None
        self.borrow(block=None, projection=None)


class RememberedPrompts(Prompts):
    """Prompts as keys and values only: forward(batch) = K_P, V_P, each [1, p, inner_kv].

    While dropout is on they are [batch, p, inner_kv], because its masks differ by sample and the norm comes after it.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, block: Block, count: int, config: VPT, bound: float, projection: nn.Linear | None, branch: str):
        super().__init__(block, count, config, bound, projection, branch)
        self.branch = branch
        self.register_buffer("keys", None)
        self.register_buffer("values", None)

    def forward(self, batch: int) -> tuple[Tensor, Tensor]:
        """Number of samples -> K_P, V_P."""
        if self.prompts is None:
            return self.keys, self.values
        tokens = self.tokens(batch)
        return self.block.keys_values(tokens.to(self.block.dtype), self.branch)

    @torch.no_grad()
    def finalize(self) -> None:
        """Keys and values are stored in place of the prompts, 2 p inner_kv numbers."""
        super().finalize()
        self.eval()
        self.keys, self.values = (t.clone() for t in self.forward(1))
        self.prompts = None
        self.borrow(block=None, projection=None)


def patch_area(anatomy: Anatomy, block: Block) -> int:
    """ph pw of the model's patches; 16 x 16, the paper's, for models without patches."""
    name = block.stack.name
    if block.stack.patch_side is not None:
        high, wide = anatomy.patch_steps(name)
    elif "patches" in anatomy.around(name):
        high, wide = anatomy.patch_convolution(name).kernel_size
    else:
        return 256
    return high * wide


def prompts_of(adapted: Any) -> dict[str, Prompts]:
    """The prompts of a model in network order, `vpt.vision.blocks.3` -> its part; blocks without any have no entry.

    Raises:
        ValueError: no method with prompts.
    """
    trees = {
        name: tree for (name, tree), m in zip(adapted.methods.items(), adapted.applied, strict=True) if has_prompts(m)
    }
    if any(getattr(m, "attention", "self") == "both" for m in adapted.applied):
        raise UserError(
            "attention='both' has one number of prompts for two attentions of a block; condense either alone"
        )
    if not trees:
        found = ", ".join(m.name for m in adapted.applied)
        raise UserError(f"only prompts of VPT and SPT can be condensed, and this model is adapted by {found}")
    return {
        f"{name}.{path}": module
        for name, tree in trees.items()
        for path, module in tree.named_modules()
        if isinstance(module, Prompts)
    }


def has_prompts(method: Any) -> bool:
    """Whether a method places prompts that can be condensed: VPT and SPT."""
    return method.name in ("vpt", "spt")
