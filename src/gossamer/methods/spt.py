"""SPT: Self-Prompt Tuning. VPT whose prompts start as tokens that the frozen backbone itself makes of training images.

Y. Wang, L. Cheng, C. Fang, D. Zhang, M. Duan, M. Wang: Revisiting the Power of Prompt for Visual Tuning, arXiv 2402.02382.

The prompts that enter a block start as rows of a bank: the patch tokens that enter this block, of some training images, as they are
(random), averaged over windows of the image (mean_pooling, max_pooling), or clustered (kmeans). `harvest` builds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.anatomy.plan import Plan
from gossamer.anatomy.seams import Part
from gossamer.errors import UserError, WrongKind
from gossamer.methods.base import Method, method
from gossamer.methods.parts.bank import Bank, bare
from gossamer.methods.vpt import VPT, Prompts

STRATEGIES = ("random", "mean_pooling", "max_pooling", "kmeans")
IMAGES = 1024  # harvested where no number is given; the authors take the whole training set
ROWS = 4096  # of a bank that k-means compares with the centres at once


def smallest(noise: Tensor, count: int) -> Tensor:
    """Places of the `count` smallest entries of noise [rows], in increasing order: a sample without replacement."""
    return noise.argsort(stable=True)[:count]


def windows(tokens: int, count: int, *, compat: bool = False) -> list[slice]:
    """`count` windows over a sequence of n tokens: even ones, [floor(i n / m), ceil((i + 1) n / m)).

    compat: the authors' m - 1 windows of w = floor(n / (m - 1)) tokens, and a last one of the final n mod w; where that is 0 it is
    the whole sequence, because their slice from -0 is.

    Raises:
        ValueError: compat with m - 1 > n, for which the authors' windows are empty.
    """
    if not compat:
        return [slice(i * tokens // count, -(-(i + 1) * tokens // count)) for i in range(count)]
    if count == 1:
        return [slice(0, tokens)]
    width = tokens // (count - 1)
    if width == 0:
        raise UserError(
            f"compat=True cuts {tokens} tokens into {count - 1} windows, which would be empty: use compat=False"
        )
    rest = tokens % width
    regular = [slice(i * width, (i + 1) * width) for i in range(count - 1)]
    return [*regular, slice(tokens - rest if rest else 0, tokens)]


def pool(tokens: Tensor, window: slice, strategy: str) -> Tensor:
    """Mean or maximum of a window of an image's tokens [n, d] -> [d]."""
    inside = tokens[window]
    return inside.mean(dim=0) if strategy == "mean_pooling" else inside.amax(dim=0)


def kmeans_start(bank: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows of a bank [rows, d] where k-means starts (k-means++): drawn in proportion to the squared distance to those before."""
    chosen = [int(torch.randint(len(bank), (1,), generator=generator))]
    distance = torch.full((len(bank),), torch.inf, dtype=torch.float64)
    while len(chosen) < count:
        distance = torch.minimum(distance, _squared(bank, bank[chosen[-1:]]).squeeze(1))
        total = distance.cumsum(dim=0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64)
        place = torch.searchsorted(total, drawn * total[-1], right=True) if total[-1] > 0 else drawn * len(bank)
        chosen.append(min(int(place), len(bank) - 1))
    return torch.tensor(chosen)


def kmeans(bank: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's iterations over a bank [rows, d] from centres [m, d] until no row changes its centre.

    Returns centres [m, d], assignment [rows] and inertia, the sum of squared distances to the own centre. A centre that no row is
    near to stays where it is.
    """
    centres, previous = centres.double(), torch.inf
    assignment = _squared(bank, centres).argmin(dim=1)
    while True:
        members = torch.bincount(assignment, minlength=len(centres))
        sums = torch.zeros_like(centres)
        for rows, own in zip(bank.split(ROWS), assignment.split(ROWS), strict=True):
            sums.index_add_(0, own, rows.double())
        centres = torch.where(members[:, None] > 0, sums / members.clamp(min=1)[:, None], centres)
        pairs = zip(bank.split(ROWS), assignment.split(ROWS), strict=True)
        inertia = torch.stack([(rows.double() - centres[own]).square().sum() for rows, own in pairs]).sum()
        nearest = _squared(bank, centres).argmin(dim=1)
        if torch.equal(nearest, assignment) or inertia >= previous:  # in exact arithmetic only the first ends it
            return centres.to(bank.dtype), assignment, inertia.to(bank.dtype)
        assignment, previous = nearest, inertia


def _squared(bank: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [rows, m] in float64, a piece of the bank at a time."""
    return torch.cat([torch.cdist(piece.double(), centres.double()).square() for piece in bank.split(ROWS)])


@method
@dataclass(frozen=True, kw_only=True)
class SPT(Method):
    """VPT with prompts that start as tokens of training images (Wang et al., arXiv 2402.02382).

    `adapt` has no data, so the prompts are set afterwards, by `harvest(adapted, data)`; until then the model refuses to run. A
    saved adapter holds them, and loads without data.

    Args:
        prompts: m. The paper: 20 deep, 100 shallow. A tuple, as `gossamer.condense` leaves it, cannot be harvested again.
        deep: as in VPT.
        strategy: how prompts are made of the bank; see the module.
        images: B_h, drawn from the training set. None: all, but at most 1024; the authors take as many as there are.
        with_pos: layer 0 takes its tokens with their position embedding; the authors take them before it is added.
        compat: the authors' windows, and their drawing of images with replacement.
        seed: of the images, rows and k-means starts that are drawn.
        form: as in VPT.
        stay: as in VPT.
        blocks: as in VPT.
        stack: None: the model's main stack. In stacks of text, tokens are words; of text and image, patches.
    """

    prompts: int | tuple[int, ...] = 20
    deep: bool = True
    strategy: Literal["random", "mean_pooling", "max_pooling", "kmeans"] = "random"
    images: int | None = None
    with_pos: bool = False
    compat: bool = False
    seed: int = 0
    form: Literal["exact", "sequence"] = "exact"
    stay: bool | None = None
    blocks: tuple[int, ...] | None = None
    stack: str | None = None

    name = "spt"
    learning_rate = 3e-2  # ours, for some ten epochs (docs/spt.md); the authors take 1e-3 to 5e-2 for a hundred

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        if self.images is not None and self.images < 1:
            raise UserError(f"images must be at least 1 (or None for at most {IMAGES}), got {self.images}")
        _ = self.vpt  # its own checks

    @property
    def vpt(self) -> VPT:
        """The same method without the start."""
        same = ("prompts", "deep", "form", "stay", "blocks", "stack")
        return VPT(**{name: getattr(self, name) for name in same})

    @property
    def each(self) -> int:
        """m, the prompts of every block that is harvested.

        Raises:
            ValueError: the blocks have different numbers.
        """
        if isinstance(self.prompts, int):
            return self.prompts
        raise UserError(
            f"prompts={self.prompts} is what condensing has left of a harvest; only the same number for all blocks can be harvested"
        )

    def targets(self, anatomy: Anatomy) -> list[Block]:
        """VPT's."""
        return self.vpt.targets(anatomy)

    def attach(self, anatomy: Anatomy) -> Part:
        """Places VPT's prompts; their tree is VPT's, and `harvested`.

        Raises:
            ValueError: the blocks differ in width (Swin, which the paper leaves out as well), or states belong to no sample.
        """
        for block, _ in self.vpt.prompted(anatomy):
            if block.stack.packed:
                raise UserError(
                    f"SPT harvests tokens of samples, and the states of {block.name} are rows of all images: use VPT"
                )
        widths = sorted({block.sizes.width for block, _ in self.vpt.prompted(anatomy)})
        if len(widths) > 1:
            raise UserError(
                f"SPT harvests tokens of one width, and these blocks have {widths}: use VPT, or blocks of one stage"
            )
        return SelfPrompts(self, self.vpt.attach(anatomy))

    @property
    def learns_from(self) -> Literal["nothing", "images", "items"]:
        """Images."""
        return "images"

    def prepare(self, adapted: Any, data: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
        """Harvests the prompts, unless an earlier SPT of the same model has harvested for all of them."""
        if unharvested(adapted):
            harvest(adapted, data, collate=collate)

    def parameters(self, anatomy: Anatomy) -> int:
        """N p d for deep prompts, p d for shallow ones."""
        return self.vpt.parameters(anatomy)

    def foresee(self, plan: Plan) -> None:
        """As VPT's."""
        self.vpt.foresee(plan)

    def finished_macs(self, plan: Plan) -> int:
        """As VPT's."""
        return self.vpt.finished_macs(plan)

    def training_macs(self, plan: Plan) -> tuple[int, int]:
        """As VPT's."""
        return self.vpt.training_macs(plan)


class SelfPrompts(Part):
    """VPT's tree, with prompts that refuse to be used before they were harvested."""

    harvested: Tensor | None
    handles: list[Any]

    def __init__(self, config: SPT, tree: Part):
        super().__init__()
        for name, child in tree.named_children():
            self.add_module(name, child)
        self.config = config
        own = self.prompts()
        device = next(self.parameters()).device if own else None
        self.register_buffer("harvested", torch.tensor(not own, device=device))
        self.ready = not own
        self.borrow(handles=[p.register_forward_pre_hook(self.check) for p in own])

    def prompts(self) -> list[Prompts]:
        """The prompted blocks' prompts, in order."""
        return [m for m in self.modules() if isinstance(m, Prompts)]

    def check(self, *_: Any) -> None:
        """Nothing, where the prompts are set.

        Raises:
            RuntimeError: they are not.
        """
        if self.ready:
            return
        if self.harvested is not None and not self.harvested.is_meta and not bool(self.harvested):
            raise RuntimeError(
                "the prompts of SPT are not set yet: call gossamer.methods.spt.harvest(adapted, training_data) once before "
                "training (a saved adapter has them)"
            )
        self.ready = True

    @torch.no_grad()
    def set(self, values: Tensor) -> None:
        """The prompts [layers, m, d] become these values."""
        for prompts, value in zip(self.prompts(), values, strict=True):
            assert prompts.prompts is not None
            prompts.prompts.copy_(value)
        assert self.harvested is not None
        self.harvested.fill_(True)
        self.ready = True

    def finalize(self) -> None:
        """As VPT's prompts; nothing is left to check."""
        self.check()
        super().finalize()
        for handle in self.handles:
            handle.remove()
        self.harvested = None


def unharvested(adapted: Any) -> list[SelfPrompts]:
    """The SPT prompts of an adapted model that no harvest has set yet; empty where there is nothing to do."""
    trees = [tree for tree in adapted.methods.values() if isinstance(tree, SelfPrompts)]
    return [tree for tree in trees if tree.harvested is not None and not bool(tree.harvested)]


def harvest(
    adapted: Any,
    data: Any,
    *,
    batch_size: int = 32,
    collate: Callable[[list[Any]], Any] | None = None,
    memory: int = 2**30,
) -> None:
    """Sets the prompts of SPT in an adapted model from training data, with the backbone as it was before anything was placed in it.

    Args:
        adapted: from `gm.adapt(model, gm.SPT(...))`, also among other methods; its prompts are overwritten.
        data: training set (items by index, and a length), or a DataLoader, of which data set, collation and batch size are used.
            Items are what the model is called with: dictionaries with pixel_values and the like, images [c, h, w], or pairs whose
            first is one. Images need one size.
        batch_size: images in one forward pass; the prompts do not depend on it.
        collate: makes a batch of a list of items. None: the DataLoader's, or torch's.
        memory: bytes for the banks that k-means keeps; layers that do not fit wait for another pass. The other strategies draw rows
            first and forward only the images that were hit, so they keep nothing but one batch and the prompts.

    Raises:
        ValueError: no SPT in the model, fewer tokens than prompts, images of several sizes, or a bank over `memory`.
        TypeError: data without a length or without items by index.
    """
    trees = [tree for tree in adapted.methods.values() if isinstance(tree, SelfPrompts)]
    if not trees:
        raise UserError("there is no SPT in this model: gm.adapt(model, gm.SPT(...)) places one")
    if isinstance(data, DataLoader):
        collate, batch_size, data = collate or data.collate_fn, data.batch_size or batch_size, data.dataset
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise WrongKind(
            f"SPT draws training images by index, and a {type(data).__name__} has no items by index or no length"
        )
    with bare(adapted) as anatomy:
        for tree in [t for t in trees if t.prompts()]:
            placed = {p.block.key for p in tree.prompts()}  # not where another method replaces the block
            found, prompted = [], {block.index for block, _ in tree.config.vpt.prompted(anatomy)}
            for column in anatomy.columns(tree.config.stack):
                layers = [b for b in column if b.index in prompted and b.key in placed]
                if layers:
                    bank = Bank(adapted, anatomy, layers, data, collate, batch_size, with_pos=tree.config.with_pos)
                    found.append(prompts_from(bank, tree.config, memory))
            tree.set(torch.cat(found))


def prompts_from(bank: Bank, config: SPT, memory: int = 2**30) -> Tensor:
    """Prompts [layers, m, d] of a bank, by the configuration's strategy and seed; `memory` as in `harvest`."""
    generator = torch.Generator().manual_seed(config.seed)
    size = len(bank.data)
    if size == 0:
        raise UserError("SPT takes its prompts from training images, and the training set is empty")
    count = config.images or min(size, IMAGES)
    if count > size and not config.compat:
        raise UserError(f"images={count}, but there are {size} and none is taken twice (with compat=True they may be)")
    if config.compat:
        bank.draw(torch.randint(size, (count,), generator=generator))
    else:
        bank.draw(torch.randperm(size, generator=generator)[:count])
    rows = config.each * count if config.strategy.endswith("pooling") else sum(bank.lengths)
    if config.each > rows:
        raise UserError(
            f"prompts={config.each}, but {count} images give only {rows} rows to choose from: harvest more images"
        )
    if config.strategy == "kmeans":
        return _clustered(bank, config, generator, memory)
    # float32 whatever the default is: another precision would draw other rows
    drawn = [torch.rand(rows, generator=generator, dtype=torch.float32) for _ in bank.layers]
    return _sampled(bank, config, [smallest(u, config.each) for u in drawn])


def _sampled(bank: Bank, config: SPT, chosen: Sequence[Tensor]) -> Tensor:
    """The chosen rows of every layer: tokens image by image, or windows, each over all images."""
    wanted: dict[int, list[tuple[int, int, slice]]] = {}  # image -> (layer, place among the prompts, tokens)
    starts = torch.tensor([0, *bank.lengths]).cumsum(dim=0)
    for layer, rows in enumerate(chosen):
        for place, row in enumerate(rows.tolist()):
            if config.strategy == "random":
                image = int(torch.searchsorted(starts, row, right=True)) - 1
                tokens = slice(row - int(starts[image]), row - int(starts[image]) + 1)
            else:
                window, image = divmod(row, len(bank.lengths))
                tokens = windows(bank.lengths[image], config.each, compat=config.compat)[window]
            wanted.setdefault(image, []).append((layer, place, tokens))
    prompts = torch.empty(len(bank.layers), config.each, bank.width)
    for image, layers in bank.tokens(sorted(wanted), bank.layers):
        for layer, place, tokens in wanted[image]:
            source = layers[layer]
            prompts[layer, place] = (
                source[tokens][0] if config.strategy == "random" else pool(source, tokens, config.strategy)
            )
    return prompts


def _clustered(bank: Bank, config: SPT, generator: torch.Generator, memory: int) -> Tensor:
    """k-means centres of every layer, as many layers at a time as fit into memory."""
    total = sum(bank.lengths)
    needed = total * bank.width * 4
    if needed > memory:
        fitting = max(1, len(bank.lengths) * memory // needed)
        raise UserError(
            f"k-means needs {needed:,} bytes for the {total:,} tokens of one layer, more than memory={memory:,}: "
            f"harvest fewer images (images={fitting}) or give more memory"
        )
    centres, at_once = [], memory // needed
    ends = torch.tensor(bank.lengths).cumsum(dim=0).tolist()
    for first in range(0, len(bank.layers), at_once):
        layers = bank.layers[first : first + at_once]
        rows = torch.empty(len(layers), total, bank.width)
        for image, found in bank.tokens(range(len(bank.lengths)), layers):
            for place, tokens in enumerate(found):
                rows[place, ends[image] - len(tokens) : ends[image]] = tokens
        centres += [kmeans(r, r[kmeans_start(r, config.each, generator)])[0] for r in rows]
    return torch.stack(centres)
