"""What prompts do, as arrays and as pictures: where they are looked at, how many are left, how rich attention is with them.

Arrays are torch tensors and need nothing else; matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import memory
from gossamer.anatomy.tokens import Ledger
from gossamer.errors import UserError
from gossamer.methods.cvpt import CrossPrompts
from gossamer.methods.vpt import Prompts, RememberedPrompts, prompts_of
from gossamer.report import figure_of, grid_of_axes, save_figure

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from gossamer.adapting import Adapted
    from gossamer.anatomy import Anatomy
    from gossamer.anatomy.block import Block

SHARE = 0.9  # of the squared singular values that an effective rank holds
SHOWN = 4  # prompts in a picture of attention, and images where they have no single class
CLASSES = 8  # of which such a picture has an image each, at most


# ---- arrays ----


def effective_rank(attention: Tensor, share: float = SHARE) -> Tensor:
    """Of matrices [..., N, M] the smallest k [...] with sum_{j <= k} sigma_j^2 >= share sum_j sigma_j^2."""
    squares = torch.linalg.svdvals(attention.double()).square().cumsum(dim=-1)
    return (squares < share * squares[..., -1:]).sum(dim=-1) + 1


@torch.no_grad()
def attention_rank(adapted: Adapted, share: float = SHARE, **inputs: Any) -> dict[str, float]:
    """Effective rank of each block's attention, `vision.blocks.3` -> mean over samples, heads and windows.

    Rows are those that are computed: prompts of the exact form are keys only, and ask nothing.

    Raises:
        ValueError: an attention that does not let itself be watched; the message says why.
    """
    with _watching(adapted, adapted.anatomy.blocks()) as seen:
        _pass(adapted, inputs)
    return {key: float(effective_rank(weights[0], share).double().mean()) for key, weights in seen.items()}


@torch.no_grad()
def prompt_attention(adapted: Adapted, **inputs: Any) -> dict[str, Tensor]:
    """How much each patch reads of each prompt: `vision.blocks.3` -> [B, p, h, w], the mean over heads of softmax weights.

    For VPT and SPT these are the prompts' columns of self-attention, deep or shallow, in either form; for CVPT the weights of its
    cross-attention. Blocks without prompts are left out.

    Args:
        adapted: with one of these methods on an image model.
        inputs: as the model is called, pixel_values among them.

    Raises:
        ValueError: none of these methods or several, no grid of patches, or attention that cannot be watched.
    """
    blocks = adapted.anatomy.blocks()
    if blocks[0].stack.modality != "vision" or "pixel_values" not in inputs:
        raise UserError(f"{type(adapted.backbone).__name__} has no grid of patches to draw over an image")
    if blocks[0].stack.windows is not None:
        raise UserError("in windows every prompt is read anew by each, so no single map belongs to an image")
    grid = _grid(adapted, inputs["pixel_values"])
    crossed = [m for m in adapted.methods.modules() if isinstance(m, CrossPrompts)]
    if crossed:
        across = [Crossed(adapted, part, grid) for part in crossed]
        _pass(adapted, inputs, [one.part.register_forward_pre_hook(one.before) for one in across])
        return {one.part.block.key: one.maps for one in across}
    if not any(isinstance(m, Prompts) for m in adapted.methods.modules()):
        raise UserError(f"there are no prompts: the model is adapted by {', '.join(m.name for m in adapted.applied)}")
    seers: dict[str, Columns] = {}
    for part in prompts_of(adapted).values():
        for block in [part.block] if part.deep else _from(adapted, part.block):
            if block.key in seers:
                raise UserError(f"several methods put prompts into {block.key}, and a block has one map")
            seers[block.key] = Columns(adapted, part, block, grid)
    with _watching(adapted, [seer.block for seer in seers.values()]) as seen:
        for key, seer in seers.items():
            seer.weights = seen[key]
        attentions = [(seer.block.part("attention"), seer.behind) for seer in seers.values()]
        _pass(adapted, inputs, [attention.register_forward_hook(behind) for attention, behind in attentions])
    return {key: seer.maps for key, seer in seers.items()}


def _from(adapted: Adapted, block: Block) -> list[Block]:
    column = adapted.anatomy.column(block)
    return column[column.index(block) :]


class Columns:
    """What patches read of one part's prompts in a block, picked out behind its attention, while the ledger knows the rows."""

    maps: Tensor  # [B, p, h, w]

    def __init__(self, adapted: Adapted, part: Prompts, block: Block, grid: tuple[int, int]):
        self.part, self.block, self.grid, self.anatomy = part, block, grid, adapted.anatomy
        self.weights: list[Tensor] = []  # [B, H, N, p + N] of every call

    def behind(self, attention: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keeps the rows of patches, and the columns of prompts."""
        weights = self.weights[-1].mean(dim=1)
        ledger, remembered = _ledger(self.anatomy, self.block, weights.shape[1]), weights.shape[2] - weights.shape[1]
        if isinstance(self.part, RememberedPrompts):
            columns = memory.columns_of(self.block.part("attention"), self.part)
        else:
            change = next(change for change in self.anatomy.log if change.part is self.part)
            rows = ledger.rows_of(change)
            columns = slice(remembered + rows.start, remembered + rows.stop)
        self.maps = ledger.behind(weights[:, :, columns]).transpose(1, 2).unflatten(2, self.grid)


class Crossed:
    """What patches read of the prompts of one cross-attention, while the ledger knows the rows."""

    maps: Tensor  # [B, p, h, w]

    def __init__(self, adapted: Adapted, part: CrossPrompts, grid: tuple[int, int]):
        self.part, self.grid, self.anatomy = part, grid, adapted.anatomy

    def before(self, part: nn.Module, args: tuple[Any, ...]) -> None:
        """Keeps the rows of patches of its weights for the states that it reads."""
        weights = self.part.weights(args[0]).mean(dim=1)
        ledger = _ledger(self.anatomy, self.part.block, weights.shape[1])
        self.maps = ledger.behind(weights).transpose(1, 2).unflatten(2, self.grid)


def _ledger(anatomy: Anatomy, block: Block, rows: int) -> Ledger:
    """The tokens in a block now; where nobody inserts any, the model's own."""
    return anatomy.session.ledger(block.stack) or Ledger(block.prefix, rows)


@contextmanager
def _watching(adapted: Adapted, blocks: Sequence[Block]) -> Iterator[dict[str, list[Tensor]]]:
    """While the context lasts, the lists of the blocks' keys get the weights of every call of their self-attention."""
    for block in blocks:
        reason = adapted.anatomy.obstacle(block, "remember")
        if reason is not None:
            raise UserError(f"the attention of {block.name} cannot be watched: {reason}")
    with ExitStack() as stack:
        yield {block.key: stack.enter_context(memory.watched(block)) for block in blocks}


def _pass(adapted: Adapted, inputs: Mapping[str, Any], handles: Sequence[RemovableHandle] = ()) -> None:
    """One pass in evaluation mode, behind which these hooks go."""
    mode = adapted.training
    try:
        adapted.eval()(**inputs)
    finally:
        for handle in handles:
            handle.remove()
        adapted.train(mode)


def _grid(adapted: Adapted, pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of patches."""
    steps = adapted.anatomy.patch_steps()
    high, wide = (side // step for side, step in zip(pixels.shape[-2:], steps, strict=True))
    return high, wide


# ---- pictures ----


def kept_prompts(counts: Mapping[str, Sequence[int]], path: str | Path) -> None:
    """How many prompts each block has, as a PNG at `path`; `counts` is `Condensed.counts`, method -> number for each block."""
    figure, axes = figure_of(max(5.0, 0.35 * max(map(len, counts.values()))), 3.0, columns=len(counts))
    for column, (method, numbers) in zip(axes, counts.items(), strict=True):
        bars = column.bar(range(len(numbers)), numbers)
        column.bar_label(bars, fontsize=8)
        column.set(xlabel="block", ylabel="prompts", title=f"{method}: {sum(numbers):,} prompts")
        column.xaxis.get_major_locator().set_params(integer=True)
        column.margins(y=0.15)
    save_figure(figure, path)


def attention_ranks(ranks: Mapping[int, Mapping[str, float]], path: str | Path) -> None:
    """Effective rank of attention over the number of prompts, as a PNG at `path`: every block, and their mean.

    `ranks` maps a number of prompts to what `attention_rank` found of the model that has them.
    """
    figure, (axes,) = figure_of(5.5, 3.6)
    prompts = sorted(ranks)
    blocks = list(ranks[prompts[0]])
    for i, block in enumerate(blocks):
        axes.plot(
            prompts,
            [ranks[p][block] for p in prompts],
            color="C7",
            linewidth=0.8,
            label="one block" if i == 0 else None,
        )
    mean = [sum(ranks[p].values()) / len(ranks[p]) for p in prompts]
    axes.plot(prompts, mean, color="C0", marker="o", label="mean of all blocks")
    axes.set(xlabel="prompts in each block", ylabel="effective rank of attention", ylim=(0, None))
    axes.legend()
    save_figure(figure, path)


def prompt_maps(images: Tensor, maps: Tensor, prompts: Sequence[int], path: str | Path, *, title: str) -> None:
    """Attention to prompts drawn over images, as a PNG at `path`: a row an image, a column a prompt, with its mean weight.

    Args:
        images: [B, 3, H, W], 0 to 1.
        maps: [B, p, h, w] of one block, as `prompt_attention` gives them. Each is drawn from its smallest weight to its largest.
        prompts: places of those of the p that are drawn.
        path: of the PNG.
        title: above all.
    """
    from matplotlib.colors import Normalize

    figure, grid = grid_of_axes(len(images), 1 + len(prompts))
    high, wide = images.shape[-2:]
    for row, image, of_image in zip(grid, images, maps, strict=True):
        row[0].imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
        for axes, place in zip(row[1:], prompts, strict=True):
            weights = of_image[place]
            axes.imshow(image.mean(dim=0).numpy(), cmap="gray", vmin=0, vmax=1)
            norm = Normalize(float(weights.min()), float(weights.max()))
            axes.imshow(
                weights.numpy(), cmap="inferno", norm=norm, alpha=0.5, extent=(-0.5, wide - 0.5, high - 0.5, -0.5)
            )
            axes.set_title(f"prompt {place}: {float(weights.mean()):.2g}", fontsize=7)
    figure.suptitle(title, fontsize=9, y=1 - 0.06 / figure.get_figheight())  # above the titles of the first row
    save_figure(figure, path)


def attention_of_run(adapted: Adapted, images: Any, path: str | Path) -> None:
    """`prompt_maps` of examples of a prepared split, for the last block with prompts and those of them that vary most.

    Examples are the first image of each of the first classes; the first images where items have no single class. Nothing is
    drawn for a model without prompts.

    Raises:
        ValueError: its prompts cannot be drawn; the message says why.
    """
    if not any(isinstance(m, Prompts | CrossPrompts) for m in adapted.methods.modules()):
        return
    device = next(adapted.parameters()).device
    places = examples(images.labels) if images.labels is not None else range(min(SHOWN, len(images)))
    pixels = torch.stack([images[i]["pixel_values"].to(device) for i in places])
    maps = prompt_attention(adapted, pixel_values=pixels)
    key, last = list(maps.items())[-1]
    chosen = last.flatten(2).std(dim=2, correction=0).mean(dim=0).topk(min(SHOWN, last.shape[1])).indices.sort().values
    prepare = images.preprocessing
    shown = pixels.cpu() * torch.tensor(prepare.std)[:, None, None] + torch.tensor(prepare.mean)[:, None, None]
    title = f"how much patches read of the prompts in {key}; mean weights above"
    prompt_maps(shown, last.cpu(), chosen.tolist(), path, title=title)


def examples(labels: Tensor) -> list[int]:
    """Places of the first item of each class, for at most `CLASSES` classes, by class."""
    return [int((labels == label).nonzero()[0, 0]) for label in labels.unique()[:CLASSES]]
