"""Heads that give logits for every place of an image, their loss, and batch norms folded into the convolutions before them.

    linear   Conv1x1(BN(x))                                                     x [B, d, h, w], behind the model's last norm
    SETR     h_0 = LN(x)   h_i = up_k ReLU BN Conv3x3 h_(i-1), i = 1 .. D       logits = Conv1x1 h_D, k^D as fine as x

SETR is mmsegmentation's SETRUPHead (Zheng et al., arXiv 2012.15840) under its key names; D = 4, k = 2 is PUP, D = 2, k = 4 naive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.errors import UserError

IGNORE = 255  # the label of pixels that nobody labelled
GROUPS = 32
AT_ONCE = 8  # windows in one pass
Average = Literal["labelled", "all"]


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, C, h, w] at another size, bilinear: row i reads row (i + 0.5) h / H - 0.5, clamped at the border."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def loss(logits: Tensor, labels: Tensor, *, ignore: int = IGNORE, average: Average = "labelled") -> Tensor:
    """Cross-entropy of logits [B, C, h, w], resized to labels [B, H, W], over the pixels that are not `ignore`.

    Args:
        average: their sum over the number of labelled pixels, or over that of all, as mmsegmentation does. Without any labelled
            pixel it is 0.
    """
    logits = resize(logits, (labels.shape[-2], labels.shape[-1]))
    total = F.cross_entropy(logits, labels.long(), ignore_index=ignore, reduction="sum")
    count = (labels != ignore).sum() if average == "labelled" else torch.tensor(labels.numel(), device=labels.device)
    return total / count.clamp(min=1)


class ConvNorm(nn.Module):
    """Conv3x3 without bias, a norm, ReLU; finished: a convolution with bias, ReLU."""

    def __init__(self, given: int, channels: int, norm: str):
        super().__init__()
        self.conv = nn.Conv2d(given, channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn: nn.Module = nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, channels, h, w]."""
        return F.relu(self.bn(self.conv(x)))


class Upsample(nn.Module):
    """Maps k times as fine."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, k h, k w]."""
        return resize(x, (x.shape[-2] * self.factor, x.shape[-1] * self.factor))


class Setr(nn.Module):
    """SETR's head of convolutions.

    Args:
        width: d of the tokens.
        outputs: classes.
        channels: of the convolutions.
        convs: D.
        up: k.
        norm: "batch", or "group" for batches of few images.
        dropout: of channels before the logits.

    Raises:
        ValueError: channels that groups do not divide.
    """

    def __init__(
        self, width: int, outputs: int, *, channels: int = 256, convs: int = 4, up: int = 2, norm: str = "batch",
        dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        if norm == "group" and channels % GROUPS:
            raise UserError(f"norm='group' has {GROUPS} groups, which do not divide {channels} channels")
        self.norm = nn.LayerNorm(width, eps=1e-6)
        sizes = [width, *[channels] * convs]
        self.up_convs = nn.ModuleList(
            nn.Sequential(ConvNorm(given, channels, norm), Upsample(up)) for given in sizes[:-1]
        )
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, outputs, 1)
        start(self.conv_seg)

    def macs(self, rows: int, columns: int) -> int:
        """Multiply-adds of one map of so many places: h w k^2 c_in c_out of each convolution, resizing left out."""
        total, places = 0, rows * columns
        for step in self.up_convs:
            total += places * step[0].conv.weight.numel()  # type: ignore[index]
            places *= step[1].factor ** 2  # type: ignore[index]
        return total + places * self.conv_seg.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, d, h, w] -> logits [B, C, k^D h, k^D w]."""
        x = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        for step in self.up_convs:
            x = step(x)
        return self.conv_seg(self.dropout(x))


class DenseLinear(nn.Module):
    """One Linear a place, behind a batch norm: DINOv2's probe."""

    def __init__(self, width: int, outputs: int, *, dropout: float = 0.0):
        super().__init__()
        self.bn: nn.Module = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(width, outputs, 1)
        start(self.conv_seg)

    def macs(self, rows: int, columns: int) -> int:
        """Multiply-adds of one map of so many places."""
        return rows * columns * self.conv_seg.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, d, h, w] -> logits [B, C, h, w]."""
        return self.conv_seg(self.dropout(self.bn(x)))


def start(layer: nn.Conv2d) -> None:
    """Logits start as mmsegmentation's: N(0, 0.01^2), no bias."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def fold(head: nn.Module) -> None:
    """Batch norms of a head in evaluation go into the convolutions beside them, in place; other norms stay."""
    for module in head.modules():
        if isinstance(module, ConvNorm) and isinstance(module.bn, nn.BatchNorm2d):
            scale, shift = affine(module.bn)
            module.conv.weight.mul_(scale[:, None, None, None])
            module.conv.bias = nn.Parameter(shift, requires_grad=False)
            module.bn = nn.Identity()
        elif isinstance(module, DenseLinear) and isinstance(module.bn, nn.BatchNorm2d):
            scale, shift = affine(module.bn)
            weight = module.conv_seg.weight
            assert module.conv_seg.bias is not None, "it is made with one"
            module.conv_seg.bias.add_(weight[:, :, 0, 0] @ shift)
            weight.mul_(scale[None, :, None, None])
            module.bn = nn.Identity()


@torch.no_grad()
def fold_found(model: nn.Module, run: Callable[[], Tensor]) -> None:
    """The same in a model that others wrote: batch norms that are seen to read what a convolution gives, if nobody else reads it.

    Args:
        model: in evaluation mode.
        run: a pass of it, which gives logits; those of two passes are compared, and where they differ the model stays as it was.
    """
    watch = Watch(model)
    try:
        before = run()
    finally:
        watch.stop()
    if not watch.pairs:
        return
    kept = [(conv, conv.weight.detach().clone(), conv.bias, norm) for conv, norm in watch.pairs]
    places = {id(module): (parent, name) for parent in model.modules() for name, module in parent.named_children()}
    for conv, norm in watch.pairs:
        scale, shift = affine(norm)
        bias = shift if conv.bias is None else shift + scale * conv.bias
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias = nn.Parameter(bias, requires_grad=False)
        parent, name = places[id(norm)]
        setattr(parent, name, nn.Identity())
    if before.is_meta or torch.allclose(run(), before, rtol=1e-4, atol=1e-5 * float(1 + before.abs().max())):
        return
    for conv, weight, bias, norm in kept:
        conv.weight.copy_(weight)
        conv.bias = bias
        parent, name = places[id(norm)]
        setattr(parent, name, norm)


class Watch:
    """Sees in one pass which batch norm reads what a convolution gave."""

    def __init__(self, model: nn.Module):
        self.given: list[tuple[Tensor, nn.Conv2d]] = []
        self.pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
        self.handles: list[Any] = []
        for module in model.modules():
            if type(module) is nn.Conv2d:
                self.handles.append(module.register_forward_hook(self.gave))
            elif type(module) is nn.BatchNorm2d and module.track_running_stats and module.affine:
                self.handles.append(module.register_forward_pre_hook(self.reads))

    def gave(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """A convolution gave this."""
        assert isinstance(module, nn.Conv2d)
        self.given.append((output, module))

    def reads(self, module: nn.Module, args: Any) -> None:
        """A batch norm reads this."""
        assert isinstance(module, nn.BatchNorm2d)
        self.pairs += [(conv, module) for output, conv in self.given if output is args[0]]

    def stop(self) -> None:
        """No more."""
        for handle in self.handles:
            handle.remove()


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """gamma / sqrt(v + eps) and beta - mean of it: what a batch norm does in evaluation, [C] each."""
    assert norm.running_mean is not None, "statistics are kept"
    assert norm.running_var is not None, "both"
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale.clone(), norm.bias - norm.running_mean * scale


def windows(size: tuple[int, int], crop: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Where windows of `crop` pixels lie in an image of (height, width), as (top, bottom, left, right), row by row.

    They are `stride` apart, the last moved back to the border; a side below `crop` is taken whole.
    """
    rows, columns = (max(side - crop + stride - 1, 0) // stride + 1 for side in size)
    boxes = []
    for i in range(rows):
        for j in range(columns):
            bottom, right = min(i * stride + crop, size[0]), min(j * stride + crop, size[1])
            boxes.append((max(bottom - crop, 0), bottom, max(right - crop, 0), right))
    return boxes


def slide(logits: Callable[[Tensor], Tensor], images: Tensor, crop: int, stride: int) -> Tensor:
    """Logits [B, C, H, W] of images [B, 3, H, W], the mean over the windows that see a pixel.

    Args:
        logits: images [B, 3, h, w] -> [B, C, h, w].
        images: all of one size.
        crop: side of a window.
        stride: pixels from one to the next.
    """
    total, seen = None, images.new_zeros(images.shape[-2:])
    boxes = windows((images.shape[-2], images.shape[-1]), crop, stride)
    for first in range(0, len(boxes), AT_ONCE):
        some = boxes[first : first + AT_ONCE]  # all of one size
        each = logits(torch.cat([images[..., top:bottom, left:right] for top, bottom, left, right in some]))
        for (top, bottom, left, right), found in zip(some, each.chunk(len(some)), strict=True):
            if total is None:
                total = found.new_zeros(*found.shape[:2], *images.shape[-2:])
            total[..., top:bottom, left:right] += found
            seen[top:bottom, left:right] += 1
    assert total is not None, "there is always a window"
    return total / seen
