"""Multiply-adds of a model: counted by torch on the meta device, where nothing is computed, and by closed form.

Both count what torch's FlopCounterMode counts: Linears, convolutions and the two products of attention. Norms, biases, softmax,
activations and losses are left out; causal attention is counted in full. 1 MAC (a multiplication and an addition) = 2 FLOPs.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from gossamer import hosts
from gossamer.adapted import AdaptedModule, Finished
from gossamer.anatomy import Anatomy
from gossamer.anatomy.block import get, has
from gossamer.anatomy.displaced import Displaced
from gossamer.anatomy.plan import Plan
from gossamer.errors import UserError
from gossamer.fingerprint import of_torchao

TEXT_TOKENS = 32  # tokens of a text where none are asked for
PROMPT_TOKENS = 77  # of what a denoiser reads, which CLIP's text tower pads to so many


@dataclass(frozen=True)
class Sample:
    """The size of one sample: pixels (height, width) of its image, and tokens of its text and of what the decoder reads.

    Of a denoiser the image is the map that it reads, in places.
    Where a sample has several images (NLVR2), the backbone runs once for each, with the whole text.
    """

    image: tuple[int, int] | None
    text: int | None
    decoder: int | None
    images: int = 1

    @classmethod
    def of(
        cls,
        backbone: nn.Module,
        image_size: int | tuple[int, int] | None = None,
        tokens: int | dict[str, int] | None = None,
    ) -> Sample:
        """A sample that the model can read; what is not given has the size the model was made for, texts 32 tokens.

        Raises:
            ValueError: a size for something that the model does not read, or longer than it can read.
        """
        backbone = hosts.of(backbone).inner(backbone)
        if (latent := hosts.of(backbone).latent(backbone)) is not None:
            return cls(_map(backbone, latent.side, image_size), _prompt(backbone, latent.text_width, tokens), None)
        texts = _texts(backbone, tokens)
        images = 2 if "ForImagesAndText" in type(backbone).__name__ else 1
        return cls(_image(backbone, image_size), texts.get("text", texts.get("encoder")), texts.get("decoder"), images)

    def inputs(self, backbone: nn.Module, batch: int) -> dict[str, Any]:
        """What the model is called with, on its device, in a batch."""
        backbone = hosts.of(backbone).inner(backbone)
        host = hosts.of(backbone)
        if host.latent(backbone) is not None and self.image is not None:
            return host.denoising(backbone, batch, self.image, self.text)
        device, config = next(backbone.parameters()).device, getattr(backbone, "config", None)
        given: dict[str, Any] = {}
        if self.text is not None:
            given["input_ids"] = _ids(config, batch, self.text, device)
        if isinstance(backbone, hosts.Halves):
            given |= backbone.once()[1]
        if self.decoder is not None:
            given["decoder_input_ids"] = _ids(config, batch, self.decoder, device)
            full = torch.ones(batch, 1, self.decoder, self.decoder, dtype=torch.bool, device=device)
            given["decoder_attention_mask"] = full.tril()  # a smaller mask is built by looking at values
        if self.image is None:
            return given
        dtype = next(p for p in backbone.parameters() if p.is_floating_point()).dtype
        if (
            getattr(config, "model_type", None) == "vilt"
        ):  # without a mask it asks its configuration for what it has not
            given["attention_mask"] = torch.ones(batch, self.text or 0, dtype=torch.long, device=device)
        channels = setting(config, "num_channels") or getattr(backbone, "in_chans", 3)
        several = () if self.images == 1 else (self.images,)
        given["pixel_values"] = torch.zeros(batch, *several, channels, *self.image, device=device, dtype=dtype)
        if config is not None and self.image != _pair(setting(config, "image_size")) and _interpolates(backbone):
            given["interpolate_pos_encoding"] = True
        return given

    def __str__(self) -> str:
        image = [] if self.image is None else [f"an image of {self.image[0]} x {self.image[1]} pixels"]
        return " and ".join([*image, *(f"{count} tokens of {side}" for side, count in self.texts().items())]) + " alone"

    def texts(self) -> dict[str, int]:
        """Tokens by what reads them: {"text": n}, or {"encoder": n, "decoder": m}; empty for models without text."""
        if self.decoder is not None:
            return {"encoder": self.text, "decoder": self.decoder} if self.text else {"decoder": self.decoder}
        return {} if self.text is None else {"text": self.text}

    def tokens(self, anatomy: Anatomy) -> dict[str, int]:
        """Stack -> tokens that its blocks see of one sample, the model's own prefix tokens included."""
        counts = {}
        for name, blocks in anatomy.stacks.items():
            stack, patches = blocks[0].stack, 0
            if stack.counts_as is not None:
                continue
            if stack.modality != "text" and self.image is not None:
                patches = patch_count(anatomy.patch_steps(name), self.image)
                dropped = setting(getattr(anatomy.model, "config", None), "mask_ratio") or 0  # masked autoencoders
                patches = int(patches * (1 - dropped))
            text = self.decoder if name == "decoder" and self.decoder is not None else self.text
            if stack.modality == "latent":
                counts |= dict.fromkeys(stack.context, self.text or 0)
            if (stack.windows or stack.level) is not None and self.image is not None:
                counts[f"{name}.rows"] = self.image[0] // anatomy.patch_steps(name)[0]
            both = (text or 0) + 1 + patches
            seen = {"vision": patches + blocks[0].prefix, "text": text or 0, "both": both, "latent": patches}
            counts[name] = seen[stack.modality]
        return counts


def _image(backbone: nn.Module, asked: int | tuple[int, int] | None) -> tuple[int, int] | None:
    name, config = type(backbone).__name__, getattr(backbone, "config", None)
    if config is not None and "pixel_values" not in inspect.signature(backbone.forward).parameters:
        if asked is not None:
            raise UserError(f"{name} reads no images, so image_size={asked} means nothing to it")
        return None
    own = setting(config, "image_size") if config is not None else _made_for(backbone)
    if asked is None and own is None:
        raise UserError(f"{name} does not say what images it was made for: give image_size=...")
    image = _pair(own if asked is None else asked)
    if config is None and image != _pair(own) and not getattr(backbone, "dynamic_img_size", False):
        raise UserError(f"this timm {name} reads {_pair(own)} pixels, not {image}: create it with img_size={image[0]}")
    return image


def _map(backbone: nn.Module, own: tuple[int, int] | None, asked: int | tuple[int, int] | None) -> tuple[int, int]:
    if asked is None and own is None:
        raise UserError(
            f"{type(backbone).__name__} does not say what maps it was made for: give image_size=..., in places"
        )
    return _pair(own if asked is None else asked)


def _prompt(backbone: nn.Module, width: int | None, asked: int | dict[str, int] | None) -> int | None:
    name = type(backbone).__name__
    if width is None and asked is not None:
        raise UserError(f"{name} reads no text, so tokens={asked} means nothing to it")
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise UserError(f"tokens={asked}: {name} reads a whole number from 1")
    return None if width is None else PROMPT_TOKENS if asked is None else asked


def _made_for(backbone: nn.Module) -> tuple[int, int] | None:
    """The images that a model of timm was made for; where it is not made for one size, those that it was pre-trained on."""
    size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    trained = (getattr(backbone, "pretrained_cfg", None) or {}).get("input_size")
    return _pair(size) if size else _pair(trained[-2:]) if trained else None


def _texts(backbone: nn.Module, asked: int | dict[str, int] | None) -> dict[str, int]:
    """Side ("text", or "encoder" and "decoder") -> tokens."""
    name, config = type(backbone).__name__, getattr(backbone, "config", None)
    reader = getattr(backbone, "language", backbone)  # of a composed model, the part that reads text
    names = inspect.signature(reader.forward).parameters
    two = "decoder_input_ids" in names
    readers = {"encoder" if two else "text": "input_ids", "decoder": "decoder_input_ids"}
    sides = tuple(side for side, name in readers.items() if name in names)
    if asked is not None and not sides:
        raise UserError(f"{name} reads no text, so tokens={asked} means nothing to it")
    limit = setting(config, "max_position_embeddings")
    usual = TEXT_TOKENS if limit is None else min(TEXT_TOKENS, limit)
    each = usual if asked is None else asked
    texts: dict[str, int] = each if isinstance(each, dict) else dict.fromkeys(sides, each)
    if set(texts) != set(sides):
        raise UserError(f"tokens={asked} is for {', '.join(texts) or 'nothing'}; {name} reads {', '.join(sides)}")
    for side, count in texts.items():
        if not isinstance(count, int) or count < 1 or (limit is not None and count > limit):
            raise UserError(
                f"{count} tokens of {side}: {name} reads a whole number from 1{'' if limit is None else f' to {limit}'}"
            )
    return texts


def setting(config: Any, name: str) -> Any:
    """A value of a Hugging Face configuration, or of the vision or text part of a composed one; None where there is none."""
    for part in (config, getattr(config, "vision_config", None), getattr(config, "text_config", None)):
        if getattr(part, name, None) is not None:
            return getattr(part, name)
    return None


def patch_count(steps: tuple[int, ...], image: tuple[int, int]) -> int:
    """Patches of an image of (height, width) pixels, so many pixels from one to the next."""
    return (image[0] // steps[0]) * (image[1] // steps[1])


def _pair(size: Any) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"image_size={size!r} is neither pixels a side nor (height, width)")
    return sides[0], sides[1]


def _ids(config: Any, batch: int, length: int, device: torch.device) -> Tensor:
    end = setting(config, "eos_token_id")
    ids = torch.zeros(batch, length, dtype=torch.long, device=device)
    if isinstance(end, int):
        ids[:, -1] = end  # some classifiers look for it
    return ids


def _interpolates(backbone: nn.Module) -> bool:
    return any("interpolate_pos_encoding" in inspect.signature(m.forward).parameters for m in backbone.modules())


# ---- counted ----


def on_meta(module: nn.Module) -> Any:
    """A copy of a module on the meta device: all shapes, no values. Nothing of the original's storage is copied.

    ViLT samples its patches by looking at values; the copy takes them all, as ViLT does for one image of its own size.
    """
    memo: dict[int, Any] = {}
    for part in _every(module):
        held = [*part._parameters.values(), *part._buffers.values(), *part.__dict__.values()]
        held += [v for h in part.__dict__.values() if isinstance(h, dict) for v in h.values()]
        if isinstance(part, AdaptedModule) and part.placement is not None:
            held += part.placement.originals.values()
        for tensor in held:
            if isinstance(tensor, Tensor):
                # of torchao's a plain one: its shape and type are those of the numbers that it stands for
                plain = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if of_torchao(tensor) else None
                twin = torch.empty_like(tensor, device="meta") if plain is None else plain
                if isinstance(tensor, nn.Parameter):
                    twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
                memo[id(tensor)] = twin
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        if type(part).__name__ == "ViltEmbeddings":
            part.forward = MethodType(_embed_every_patch, part)  # type: ignore[assignment]
    return twin


def _every(module: nn.Module) -> Iterator[nn.Module]:
    """All modules in it, and those that are out of use in it."""
    for part in module.modules():
        yield part
        for held in part.held if isinstance(part, Displaced) else ():
            yield from _every(held)


def _embed_every_patch(
    self: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Any,
    pixel_values: Tensor,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """States [B, text + 1 + patches, d] of the right shape, and no mask: there is no padding."""
    patches = self.patch_embeddings(pixel_values).flatten(2).transpose(1, 2)
    return nn.functional.pad(patches, (0, 0, input_ids.shape[1] + 1, 0)), None


def count(
    model: nn.Module, backbone: nn.Module, sample: Sample, batch: int = 1, *, backward: bool = False
) -> tuple[int, int]:
    """Multiply-adds of the forward pass of a batch, and FLOPs of forward and (`backward`) backward pass, counted by torch.

    The model runs as it is, in training or evaluation mode, but for batch normalisation, which does not train on one sample. The
    backward pass computes what requires_grad asks for: frozen Linears pass gradients on to their inputs where something trained
    lies before them; their weights get none.

    Args:
        model: may be changed (its gradients are).
        backbone: the part of it that reads the inputs.
        sample: sizes.
        batch: samples.
        backward: whether to count the backward pass as well.
    """
    inputs = sample.inputs(backbone, batch)
    for norm in (module for module in model.modules() if isinstance(module, _BatchNorm)):
        norm.eval()
    with counter(model) as counted:
        named = isinstance(model, AdaptedModule | Finished)
        output = _first(model(**inputs) if named else hosts.of(model).run(model, (), inputs))
        forward = counted.get_total_flops()
        if backward and output.requires_grad:  # not where what is trained is computed once for all samples
            output.sum().backward()
    return forward // 2, counted.get_total_flops()


@contextmanager
def counter(model: nn.Module) -> Iterator[FlopCounterMode]:
    """Torch's counter, while the model multiplies by what that knows.

    It does not know the fused kernel of attention on a CPU, nor the grouped one of experts, and without gradients it stumbles over
    views of trained parameters.
    """
    before = [
        (part, part.get_experts_implementation()) for part in model.modules() if isinstance(part, PreTrainedModel)
    ]
    try:
        for part, _ in before:
            part.set_experts_implementation("batched_mm")
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad(), FlopCounterMode(display=False) as counting:
            yield counting
    finally:
        for part, chosen in before:
            part.set_experts_implementation(chosen)


def _first(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    named = [output.get(name) for name in ("logits", "last_hidden_state")]
    return next(t for t in [*named, *output.to_tuple()] if isinstance(t, Tensor))


# ---- closed form ----


def closed_macs(model: nn.Module, head: nn.Module | None, anatomy: Anatomy, sample: Sample) -> int:
    """Multiply-adds of one sample in a model without methods: patch embedding, blocks, poolers, projections and heads.

    What stands outside the blocks is taken to run once a sample, except the patch convolution (once a patch), what maps tokens into
    a stack (once a token), output embeddings and the heads of decoder-only models (once a token), and attention pooling (keys and
    values once a patch).

    Args:
        model: the backbone; the parts of methods that a finished model carries are left out.
        head: one that was built beside the model.
        anatomy: of this model.
        sample: sizes.
    """
    tokens = sample.tokens(anatomy)
    total = sample.images * Plan(anatomy, tokens).macs()
    known = {id(m) for block in anatomy for m in block.module.modules()}
    for block in [b for b in anatomy if b.merging is not None]:
        known |= {id(m) for m in block.merging.modules()}  # type: ignore[union-attr]
    known |= {id(m) for m in getattr(hosts.of(model).inner(model), "gossamer", nn.Module()).modules()}
    if isinstance(model, hosts.Halves):
        apart = [*model.own_heads().values(), *model.once()[0]]
        known |= {id(m) for own in apart for m in own.modules()}
        total += model.own_macs(sample.image)
    last = tokens[anatomy.readout.counts_as or anatomy.readout.name]
    each_token = {id(hosts.of(model).output_embeddings(model))}
    if anatomy.stacks[anatomy.main][0].stack.causal:
        each_token |= {id(m) for m in anatomy.heads.values()}
    times = {id(module): count for module, count in _entrances(anatomy, tokens)}
    once = {id(m) for root in (*anatomy.heads.values(), head) if root is not None for m in root.modules()}
    for module in [m for root in (model, head) if root is not None for m in root.modules() if id(m) not in known]:
        images = 1 if id(module) in once else sample.images
        if isinstance(module, nn.Conv2d) and sample.image is not None:
            total += images * _convolution_macs(module, sample.image)
        elif isinstance(module, nn.Linear):
            total += images * module.weight.numel() * (last if id(module) in each_token else times.get(id(module), 1))
        elif isinstance(module, nn.MultiheadAttention):
            d = module.embed_dim
            pooled = tokens.get("vision", last)
            total += d * d + 2 * pooled * d * d + 2 * pooled * d  # its output projection is a Linear
    return total


def _entrances(anatomy: Anatomy, tokens: dict[str, int]) -> Iterator[tuple[nn.Module, int]]:
    """Linears through which tokens enter or leave a column of blocks, and how many do."""
    for name in anatomy.stacks:
        for block in (column[0] for column in anatomy.columns(name)):
            owner = anatomy.owner(name)
            yield from ((get(owner, path), block.tokens(tokens)) for path in block.stack.passed if has(owner, path))
            if block.stack.patch_side is not None and block.stack.patches is not None:
                yield get(owner, block.stack.patches), block.tokens(tokens) - block.prefix
            if block.stack.entrance is not None:
                yield get(anatomy.owner(name), block.stack.entrance), block.tokens(tokens)


def _convolution_macs(conv: nn.Conv2d, image: tuple[int, int]) -> int:
    return conv.weight.numel() * patch_count(conv.stride, image)
