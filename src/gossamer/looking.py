"""Where a composed model looks in an image while it reads a question, with DVP or MemVP: maps, and a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gossamer.data import open_image
from gossamer.errors import UserError
from gossamer.methods.dvp import VisualPrompt
from gossamer.methods.memvp import MemoryRead
from gossamer.report import figure_of, save_figure

if TYPE_CHECKING:
    from gossamer.adapting import Adapted


@contextmanager
def looking(adapted: Adapted, image_size: int) -> Iterator[dict[str, Tensor]]:
    """What the first call (or the first step of the first generation) inside the context looks at: block -> maps [B, h, w].

    DVP: the weights by which the prompt is made of patch tokens, mean over heads and prompts; with those of class tokens, which
    have no place, they sum to 1. MemVP: the activation |phi(x K^T)| of each patch's memory unit, mean over the tokens of the text,
    padding included; a map for every block that reads.

    Args:
        adapted: with DVP or MemVP, on images that every text has.
        image_size: pixels a side of the images.

    Raises:
        ValueError: neither of the methods.
    """
    parts = [part for part in _parts(adapted) if isinstance(part, VisualPrompt | MemoryRead)]
    if not parts:
        names = ", ".join(method.name for method in adapted.applied)
        raise UserError(f"only DVP and MemVP say where they look, and the model is adapted by {names}")
    tower: Any = adapted.anatomy.owner("vision")
    side = image_size // int(tower.config.patch_size)
    prefix, maps = adapted.anatomy.blocks("vision")[0].prefix, {}

    def look(part: Any, args: tuple[Any, ...]) -> None:
        if part.block.key in maps or not part.acting():
            return
        if isinstance(part, VisualPrompt):
            found = part.weights(*args).mean(dim=1)[:, prefix:]
        else:
            found = part.units(args[0]).abs().mean(dim=1)
        maps[part.block.key] = found[:, : side * side].detach().float().cpu().unflatten(1, (side, side))

    handles = [part.register_forward_pre_hook(look) for part in parts]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _parts(adapted: Adapted) -> list[Any]:
    """The parts of methods, and those that they placed in blocks without owning anything."""
    placed = [part for change in adapted.anatomy.log if isinstance(part := getattr(change, "part", None), MemoryRead)]
    return [*adapted.methods.modules(), *placed]


def answer(adapted: Adapted, files: Sequence[str | Path], text: str, path: str | Path) -> list[dict[str, Any]]:
    """Answers to a text about each of the image files, as `gossamer.predict.answer`, and a PNG at `path` of where the model looked.

    Raises:
        ValueError: no image, or a model that does not say where it looks.
    """
    from gossamer import tasks

    if not files:
        raise UserError("a picture of where the model looks needs an image file")
    task: Any = tasks.of(adapted)
    records, maps = [], []
    for file in files:
        with looking(adapted, task.preprocessing.size) as found:
            records += task.answer(adapted, [file], text)
        maps.append(torch.cat(list(found.values())).mean(dim=0))
    draw(records, maps, path, prepare=task.preprocessing)
    return records


def draw(records: Sequence[Mapping[str, Any]], maps: Sequence[Tensor], path: str | Path, *, prepare: Any) -> None:
    """Question, image, answer, and one map [h, w] over each image as the model read it, as a PNG at `path`.

    Args:
        records: {"images", "text", "answer"} with one image file each.
        maps: one for each; each is drawn from its smallest weight to its largest.
        path: of the PNG.
        prepare: the `Preprocessing` of the images.
    """
    figure, axes = figure_of(2.6 * 2 * len(records), 3.3, columns=2 * len(records))
    mean, std = (torch.tensor(value)[:, None, None] for value in (prepare.mean, prepare.std))
    for place, (record, weights) in enumerate(zip(records, maps, strict=True)):
        seen = prepare(open_image(record["images"][0])) * std + mean
        left, right = axes[2 * place : 2 * place + 2]
        left.imshow(seen.permute(1, 2, 0).clamp(0, 1).numpy())
        left.set_title(f"{textwrap.fill(record['text'], 40)}\n{record['answer']}", fontsize=8)
        right.imshow(seen.mean(dim=0).numpy(), cmap="gray", vmin=0, vmax=1)
        high, wide = seen.shape[-2:]
        right.imshow(weights.numpy(), cmap="inferno", alpha=0.6, extent=(-0.5, wide - 0.5, high - 0.5, -0.5))
        right.set_title(f"looked at\n{float(weights.min()):.2g} to {float(weights.max()):.2g}", fontsize=8)
    for each in axes:
        each.set_axis_off()
    save_figure(figure, path)
