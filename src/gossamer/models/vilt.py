"""ViLT is transformers' own; here are the authors' checkpoints by their key names, and its random patch order held still.

W. Kim, B. Son, I. Kim: ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision, ICML 2021, arXiv
2102.03334.

    model = load("vilt_200k_mlm_itm.ckpt", transformers.ViltForQuestionAnswering, num_labels=3129)

Original blocks have a LayerNorm epsilon of 1e-6, transformers has one value, 1e-12, for all: outputs move by about 2e-6.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViltConfig, ViltModel
from transformers.models.vilt.modeling_vilt import ViltEmbeddings

from gossamer.errors import WrongKind
from gossamer.models import checkpoints
from gossamer.models.checkpoints import Pair, Table

_BLOCK, _LAYER = "transformer.blocks.*", "encoder.layer.*"
_QKV = tuple(f"{_LAYER}.attention.attention.{name}.*" for name in ("query", "key", "value"))
TYPES = "embeddings.token_type_embeddings.weight"

PAIRS: tuple[Pair, ...] = (
    ("text_embeddings.*", "embeddings.text_embeddings.*"),
    ("token_type_embeddings.weight", TYPES),
    ("transformer.cls_token", "embeddings.cls_token"),
    ("transformer.pos_embed", "embeddings.position_embeddings"),
    ("transformer.patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
    (f"{_BLOCK}.norm1.*", f"{_LAYER}.layernorm_before.*"),
    (f"{_BLOCK}.norm2.*", f"{_LAYER}.layernorm_after.*"),
    (f"{_BLOCK}.attn.qkv.*", (_QKV[0], _QKV[1], _QKV[2])),
    (f"{_BLOCK}.attn.proj.*", f"{_LAYER}.attention.output.dense.*"),
    (f"{_BLOCK}.mlp.fc1.*", f"{_LAYER}.intermediate.dense.*"),
    (f"{_BLOCK}.mlp.fc2.*", f"{_LAYER}.output.dense.*"),
    ("transformer.norm.*", "layernorm.*"),
    ("pooler.*", "pooler.*"),
)
"""Keys of the backbone, relative to a ViltModel."""

DROP = ("text_embeddings.position_ids",)

HEADS: dict[str, tuple[Pair, ...]] = {
    "ViltForQuestionAnswering": (("vqa_classifier.*", "classifier.*"),),
    "ViltForImagesAndTextClassification": (("nlvr2_classifier.*", "classifier.*"),),
    "ViltForImageAndTextRetrieval": (checkpoints.RANK,),
    "ViltForRetrieval": (checkpoints.RANK, checkpoints.MATCHING),
}
"""Class -> its heads."""

TWO_IMAGES = "ViltForImagesAndTextClassification"


def table(kind: type[nn.Module]) -> Table:
    """The authors' names for the keys of a class of transformers; what only other classes have is dropped."""
    return checkpoints.table(kind, ViltModel, "vilt.", PAIRS, DROP, HEADS)


def load(
    path: str | Path,
    kind: type[Any] = ViltModel,
    *,
    config: ViltConfig | None = None,
    num_labels: int | None = None,
) -> Any:
    """A ViLT from a checkpoint of its authors, in evaluation mode, its patch order held still (`hold_order`).

    A class for two images gets a third row in the modality table, a copy of the second, where the file has two. A head that the
    file has not starts fresh, but the rank head as row 1 of the matching head.

    Args:
        path: their .ckpt (read without executing anything, see `checkpoints.read`), or its state dict as .safetensors.
        kind: ViltModel, ViltForQuestionAnswering, ViltForImagesAndTextClassification, ViltForImageAndTextRetrieval, or
            `gossamer.models.ranking.ViltForRetrieval`, which knows the matching head.
        config: None: the published base model.
        num_labels: answers or classes, where the file has no such head; None: as in the file, else as in the configuration.

    Raises:
        ValueError: the file holds APT's modules, keys that no table knows, too many or too few, or other shapes.
    """
    theirs = checkpoints.read(path)
    checkpoints.check_no_adapter(theirs, str(path))
    tensors, unknown = table(kind).ours(theirs)
    config = copy.deepcopy(config) if config else ViltConfig()
    prefix = "" if kind is ViltModel else "vilt."
    types = tensors.get(prefix + TYPES)
    if types is not None:
        if kind.__name__ == TWO_IMAGES and len(types) == 2:
            types = tensors[prefix + TYPES] = torch.cat([types, types[1:]])
        config.modality_type_vocab_size = len(types)
    config.num_images = 2 if kind.__name__ == TWO_IMAGES else config.num_images
    config.num_labels = checkpoints.labels(tensors, num_labels, path) or config.num_labels  # type: ignore[assignment]
    ranks = checkpoints.RANK in HEADS.get(kind.__name__, ())
    if ranks and "rank_output.weight" not in tensors and "itm_score.fc.weight" in theirs:
        tensors |= {f"rank_output.{leaf}": theirs[f"itm_score.fc.{leaf}"][1:] for leaf in ("weight", "bias")}
    model = checkpoints.build(kind, config, tensors, unknown, str(path), ("classifier.", "rank_output.", "itm_score."))
    hold_order(model)
    return model


def export(model: nn.Module) -> dict[str, Tensor]:
    """A ViLT's tensors under the authors' names: what `load` reads."""
    return table(type(model)).theirs(model.state_dict())


class HeldOrder:
    """Draws the order of patches from a seed of its own, and leaves torch's generator where it was."""

    def __init__(self, seed: int):
        self.seed = seed
        self.state: Tensor | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Seeds the draw."""
        if not module.training:  # else dropout behind it would repeat itself too
            self.state = torch.get_rng_state()
            torch.default_generator.manual_seed(self.seed)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Puts the generator back."""
        if self.state is not None:
            torch.set_rng_state(self.state)
            self.state = None


def hold_order(model: nn.Module, seed: int = 0) -> None:
    """From now on the same inputs give the same numbers, bit for bit, while the model's embeddings are in evaluation mode.

    ViLT puts an image's patches in a random order, drawn from torch's generator in every forward pass, and a padded image's padding
    from its invalid patches. The order changes results by rounding only; the draw changes what is random after it. Held, it is
    drawn from `seed`. In training mode it stays random, and reproducible by torch.manual_seed, as everything there.

    Raises:
        TypeError: no ViltEmbeddings in the model.
    """
    found = [m for m in model.modules() if type(m).__name__ == "ViltEmbeddings"]
    if not found:
        raise WrongKind(f"{type(model).__name__} has no ViltEmbeddings, whose patch order could be held")
    for embeddings in found:
        held = HeldOrder(seed)
        embeddings.register_forward_pre_hook(held.before)
        embeddings.register_forward_hook(held.after)


class WholeImages(ViltEmbeddings):
    """ViLT's embeddings for images that fill their batch: every patch in its place, and none drawn, so that tracers can follow."""

    def visual_embed(
        self, pixel_values: Tensor, pixel_mask: Tensor, max_image_length: int = 200
    ) -> tuple[Tensor, Tensor, Any]:
        """Embedded patches [B, 1 + n, C] behind the class token, their mask, and no places, which nothing reads.

        Raises:
            WrongKind: an image has more patches than are kept, a random choice in ViLT.
        """
        patches = self.patch_embeddings(pixel_values)
        count, channels, height, width = patches.shape
        if 0 <= max_image_length < height * width:
            raise WrongKind(
                f"images of {height} x {width} patches are too many: ViLT keeps {max_image_length} of them, drawn at random"
            )
        side = self.config.image_size // self.config.patch_size
        table = self.position_embeddings[:, 1:].transpose(1, 2).reshape(1, channels, side, side)
        places = F.interpolate(table, size=(height, width), mode="bilinear", align_corners=True)
        first = (self.cls_token + self.position_embeddings[:, :1]).expand(count, -1, -1)
        states = torch.cat([first, (patches + places).flatten(2).transpose(1, 2)], dim=1)
        return self.dropout(states), pixel_mask.new_ones(count, 1 + height * width), (None, (height, width))


def see_whole_images(model: nn.Module) -> bool:
    """Makes every ViLT in a model take images as whole (`WholeImages`), for good; whether there was one.

    The order of patches is then that of the image: outputs move by rounding.
    """
    found = [m for m in model.modules() if type(m) is ViltEmbeddings]
    for embeddings in found:
        embeddings.__class__ = WholeImages
        for hooks in (embeddings._forward_pre_hooks, embeddings._forward_hooks):
            held = [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), HeldOrder)]
            for key in held:  # nothing is drawn any more
                del hooks[key]
    return bool(found)
