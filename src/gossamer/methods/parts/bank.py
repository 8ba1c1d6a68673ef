"""Banks of tokens: what enters the blocks of a model as it was before methods were placed in it, for items of a training set.

Nothing is kept but one batch: tokens are handed out item by item, and only for the items that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from gossamer import batches, reading
from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import Block
from gossamer.errors import UserError


class Bank:
    """The tokens that enter some blocks of a bare model, for items drawn from a training set.

    Args:
        adapted: the model that is called, while `bare` lasts.
        anatomy: a fresh one of its backbone.
        layers: blocks of one stack, in order.
        data: items by index, and a length.
        collate: makes a batch of a list of items: a dictionary of inputs, images, or a pair whose first is images. None: torch's.
        batch_size: items in one forward pass.
        with_pos: layer 0 takes its tokens with their position embedding, also where the model has them without.
    """

    def __init__(
        self,
        adapted: Any,
        anatomy: Anatomy,
        layers: Sequence[Block],
        data: Any,
        collate: Callable[[list[Any]], Any] | None = None,
        batch_size: int = 32,
        *,
        with_pos: bool = False,
    ):
        self.adapted, self.anatomy, self.data = adapted, anatomy, data
        self.collate, self.batch_size = collate or default_collate, batch_size
        self.layers, self.width = list(layers), layers[0].sizes.width
        self.patches = None if with_pos or layers[0].index > 0 else anatomy.patches(layers[0].stack.name)
        self.images: list[int] = []
        self.lengths: list[int] = []

    def draw(self, images: Tensor) -> None:
        """From now on the bank is that of these items of the data; `lengths` has the number of tokens of each."""
        self.images = images.tolist()
        if self.layers[0].stack.modality == "text":
            batches = (self.batch(places) for places in self._batches(range(len(self.images))))
            self.lengths = [n for inputs in batches for n in self._valid(inputs).sum(dim=1).tolist()]
        else:
            self.lengths = []
            _, tokens = next(self.tokens([0], self.layers[:1]))
            self.lengths = [len(tokens[0])] * len(self.images)

    def tokens(self, places: Sequence[int], layers: Sequence[Block]) -> Iterator[tuple[int, list[Tensor]]]:
        """For the drawn images at these places: the place and, for each of the layers, its tokens [n, d] in float32.

        Raises:
            ValueError: an image with another number of tokens than the first.
        """
        for some in self._batches(places):
            inputs = self.batch(some)
            states = self._states(inputs, layers)
            for i, place in enumerate(some):
                found = [s[i].float().cpu() for s in states]
                if self.lengths and len(found[0]) != self.lengths[place]:
                    raise UserError(
                        f"item {self.images[place]} has {len(found[0])} tokens and the first had {self.lengths[place]}: "
                        "harvest images of one size, the size of training"
                    )
                yield place, found

    def _batches(self, places: Sequence[int]) -> Iterator[Sequence[int]]:
        return (places[i : i + self.batch_size] for i in range(0, len(places), self.batch_size))

    def batch(self, places: Sequence[int]) -> dict[str, Any]:
        """The model's inputs for drawn images, on its device; an image tensor alone is `pixel_values`.

        Raises:
            ValueError: images padded to one size, in a model that mixes their patches with text.
        """
        batch = self.collate([self.data[self.images[place]] for place in places])
        if not hasattr(batch, "keys"):
            batch = {"pixel_values": batch[0] if isinstance(batch, list | tuple) else batch}
        if "pixel_mask" in batch and not batch["pixel_mask"].bool().all():
            raise UserError(
                "the pixel_mask hides a part of an image, whose patches are no tokens: resize images to one size"
            )
        inputs = {k: v for k, v in batch.items() if k not in ("label", "labels")}
        return batches.on(self.layers[0].device, inputs)

    def _states(self, inputs: dict[str, Any], layers: Sequence[Block]) -> list[list[Tensor]]:
        """Of each layer and sample the tokens that enter; the model runs no further than the last of the layers."""
        patches = self.patches if layers[0].index == 0 else None
        blocks, seen = layers[patches is not None :], Seen(len(layers))
        handle = None if patches is None else patches.register_forward_hook(seen.after)
        for block in blocks:
            self.anatomy.observe(block, seen)
        try:
            self.adapted(**inputs)
        except Enough:
            pass
        finally:
            self.anatomy.undo()
            if handle is not None:
                handle.remove()
        embedded = [list(states) for states in seen.states[: patches is not None]]
        return embedded + [self._content(states, inputs) for states in seen.states[patches is not None :]]

    def _content(self, states: Tensor, inputs: dict[str, Any]) -> list[Tensor]:
        """Of each sample, the tokens that are neither prefix nor padding."""
        stack = self.layers[0].stack
        if stack.modality == "both":
            return list(states[:, inputs["input_ids"].shape[1] + stack.visual_prefix :])
        if stack.modality in ("vision", "latent"):
            return list(states[:, self.layers[0].prefix :])
        return [x[keep] for x, keep in zip(states, self._valid(inputs), strict=True)]

    def _valid(self, inputs: dict[str, Any]) -> Tensor:
        """[B, N] of a text's tokens: True for those that are neither prefix nor padding."""
        valid = written(inputs, self.layers[0]).clone()
        valid[:, : self.layers[0].prefix] = False
        return valid


def written(inputs: dict[str, Any], block: Block) -> Tensor:
    """[B, N] of the text that a block reads: True for tokens that are no padding; also of several texts for one image."""
    side = "decoder_" if "decoder_input_ids" in inputs and block.stack.name == "decoder" else ""
    mask = inputs.get(f"{side}attention_mask")
    found = torch.ones_like(inputs[f"{side}input_ids"]) if mask is None else mask
    return found.bool().flatten(0, -2)


def present(states: Tensor, block: Block, inputs: dict[str, Any]) -> Tensor:
    """[B, N] of the states [B, N, d] in a block of a bare model: False for padding of texts.

    Raises:
        UserError: the inputs do not say which tokens of a text are there.
    """
    stack, found = block.stack, states.new_ones(states.shape[:2], dtype=torch.bool)
    if stack.modality in ("vision", "latent"):
        return found
    if stack.name == "decoder" and "decoder_input_ids" not in inputs and "labels" in inputs:
        texts = inputs["labels"] >= 0
    else:
        texts = written(inputs, block)
    if len(texts) != len(found) or texts.shape[1] > found.shape[1]:
        raise UserError(
            f"{block.name} reads {list(found.shape)} tokens, and the texts of the batch are {list(texts.shape)}: nothing says "
            "which of them are padding"
        )
    found[:, : texts.shape[1]] = texts  # patches behind them
    return found


class Enough(Exception):
    """Ends a forward pass once everything that was asked for has been seen."""


class Seen(nn.Module):
    """Keeps the states that it is shown, up to a number."""

    def __init__(self, count: int):
        super().__init__()
        self.count, self.states = count, []

    def forward(self, states: Tensor) -> None:
        """Keeps the states."""
        self.states.append(states)
        if len(self.states) == self.count:
            raise Enough

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """The same, as a hook behind a patch embedding [B, n, d] or [B, h, w, d]."""
        self(output.flatten(1, -2))


@contextmanager
def bare(adapted: Any) -> Iterator[Anatomy]:
    """The adapted model without its methods, in evaluation mode and full precision; gives a fresh anatomy of it."""
    mode, device = adapted.training, next(adapted.backbone.parameters()).device.type
    adapted.eval()
    try:
        with torch.no_grad(), torch.autocast(device, enabled=False), adapted.anatomy.bare():
            yield reading.read(adapted.backbone)
    finally:
        adapted.train(mode)
