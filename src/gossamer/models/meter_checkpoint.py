"""The checkpoints that METER's authors published, by their key names (`meter_clip16_288_roberta_pretrain.ckpt` and the like).

    model = load("meter_clip16_288_roberta_vqa.ckpt", MeterForQuestionAnswering, image_size=576)
    model.save_pretrained("meter-vqa")      # safetensors; from_pretrained reads it from now on

Z.-Y. Dou et al., arXiv 2111.02387. The CLIP variants; the Swin ones have another vision tower and are refused.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from gossamer.errors import UserError
from gossamer.models import checkpoints, meter_heads
from gossamer.models.checkpoints import Pair, Table
from gossamer.models.meter import MeterConfig, MeterModel, MeterPreTrainedModel

POSITIONS = "vision_model.embeddings.position_embedding.weight"
TYPES = "token_type_embeddings.weight"
_TOWER, _RESBLOCK = "vit_model.visual", "vit_model.visual.transformer.resblocks.*"
_LAYER = "vision_model.encoder.layers.*"
_QKV = tuple(f"{_LAYER}.self_attn.{name}_proj" for name in "qkv")

PAIRS: tuple[Pair, ...] = (
    (f"{_TOWER}.class_embedding", "vision_model.embeddings.class_embedding"),
    (f"{_TOWER}.positional_embedding", POSITIONS),
    (f"{_TOWER}.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    (f"{_TOWER}.ln_pre.*", "vision_model.pre_layrnorm.*"),
    (f"{_RESBLOCK}.attn.in_proj_*", (f"{_QKV[0]}.*", f"{_QKV[1]}.*", f"{_QKV[2]}.*")),
    (f"{_RESBLOCK}.attn.out_proj.*", f"{_LAYER}.self_attn.out_proj.*"),
    (f"{_RESBLOCK}.ln_1.*", f"{_LAYER}.layer_norm1.*"),
    (f"{_RESBLOCK}.ln_2.*", f"{_LAYER}.layer_norm2.*"),
    (f"{_RESBLOCK}.mlp.c_fc.*", f"{_LAYER}.mlp.fc1.*"),
    (f"{_RESBLOCK}.mlp.c_proj.*", f"{_LAYER}.mlp.fc2.*"),
    (f"{_TOWER}.ln_post.*", "vision_model.post_layernorm.*"),
    ("text_transformer.*", "text_model.*"),
    ("cross_modal_text_transform.*", "text_transform.*"),
    ("cross_modal_image_transform.*", "image_transform.*"),
    (TYPES, TYPES),
    ("cross_modal_text_layers.*", "text_layers.*"),
    ("cross_modal_image_layers.*", "image_layers.*"),
    ("cross_modal_text_pooler.*", "text_pooler.*"),
    ("cross_modal_image_pooler.*", "image_pooler.*"),
)
"""Keys of the backbone, relative to a MeterModel."""

DROP = (
    "vit_model.positional_embedding", "vit_model.ln_final.*",  # of CLIP's text side
    "text_transformer.embeddings.position_ids", "text_transformer.pooler.*",  # never read
)  # fmt: skip

HEADS: dict[str, tuple[Pair, ...]] = {
    "MeterForQuestionAnswering": (("vqa_classifier.*", "classifier.*"),),
    "MeterForImagesAndTextClassification": (("nlvr2_classifier.*", "classifier.*"),),
    "MeterForVisualEntailment": (("snli_classifier.*", "classifier.*"),),
    "MeterForRetrieval": (checkpoints.RANK, checkpoints.MATCHING),
}
"""Class -> its heads."""

TWO_IMAGES = "MeterForImagesAndTextClassification"


def table(kind: type[MeterPreTrainedModel]) -> Table:
    """The authors' names for the keys of a class; what only other classes have is dropped."""
    return checkpoints.table(kind, MeterModel, "meter.", PAIRS, DROP, HEADS)


def load(
    path: str | Path,
    kind: type[MeterPreTrainedModel] = MeterModel,
    *,
    config: MeterConfig | None = None,
    image_size: int | None = None,
    num_labels: int | None = None,
) -> Any:
    """A METER from a checkpoint of its authors, in evaluation mode.

    The position table is resized to `image_size`, bicubic, the class token's row kept; a class for two images gets a third row in
    the modality table, a copy of the second, where the file has two. A head that the file has not starts fresh, but the rank head
    as row 1 of the matching head.

    Args:
        path: their .ckpt (read without executing anything, see `checkpoints.read`), or its state dict as .safetensors.
        kind: MeterModel or one of the classes of `meter_heads`.
        config: None: the published base model.
        image_size: pixels a side; None: as in the file.
        num_labels: answers or classes, where the file has no such head; None: as in the file, else as in the configuration.

    Raises:
        ValueError: the file holds APT's modules, keys that no table knows, too many or too few, or other shapes.
    """
    theirs = checkpoints.read(path)
    checkpoints.check_no_adapter(theirs, str(path))
    tensors, unknown = table(kind).ours(theirs)
    config = copy.deepcopy(config) if config else MeterConfig()
    prefix = "" if kind is MeterModel else "meter."
    if prefix + POSITIONS in tensors:
        _resize(config, tensors, prefix, image_size)
    config.image_types = 2 if kind.__name__ == TWO_IMAGES else _rows(tensors, prefix) - 1
    _grow_types(tensors, prefix, 1 + config.image_types)
    config.num_labels = checkpoints.labels(tensors, num_labels, path) or config.num_labels  # type: ignore[assignment]
    model = build(kind, config, tensors, unknown, str(path), ("classifier.", "rank_output.", "itm_score."))
    if kind is meter_heads.MeterForRetrieval and "rank_output.weight" not in tensors:
        model.start_rank_head()
    return model


def build(
    kind: Any,
    config: MeterConfig,
    tensors: dict[str, Tensor],
    unknown: list[str],
    where: str,
    new: tuple[str, ...] = (),
) -> Any:
    """`checkpoints.build`, with keys as the installed transformers has them: before 5.23 it wraps the CLIP tower once more."""
    with torch.device("meta"):
        wrapped = hasattr(CLIPVisionModel(CLIPVisionConfig(num_hidden_layers=1)), "vision_model")
    own = {k.replace("vision_model.", "vision_model.vision_model.") if wrapped else k: t for k, t in tensors.items()}
    return checkpoints.build(kind, config, own, unknown, where, new)


def export(model: MeterPreTrainedModel) -> dict[str, Tensor]:
    """A METER's tensors under the authors' names: what `load` reads."""
    tensors = {k.replace("vision_model.vision_model.", "vision_model."): v for k, v in model.state_dict().items()}
    return table(type(model)).theirs(tensors)


def _resize(config: MeterConfig, tensors: dict[str, Tensor], prefix: str, image_size: int | None) -> None:
    """Position table and configuration agree on an image size: the asked one, or the file's."""
    vision, rows = config.vision_config, tensors[prefix + POSITIONS]
    size = image_size or round((len(rows) - 1) ** 0.5) * vision.patch_size
    if size % vision.patch_size:
        raise UserError(f"image_size={size} is no multiple of the patches of {vision.patch_size} pixels")
    vision.image_size = size
    tensors[prefix + POSITIONS] = checkpoints.grid(rows, size // vision.patch_size)


def _rows(tensors: dict[str, Tensor], prefix: str) -> int:
    return len(tensors[prefix + TYPES]) if prefix + TYPES in tensors else 2


def _grow_types(tensors: dict[str, Tensor], prefix: str, rows: int) -> None:
    """The modality table gets a third row, a copy of the second, where two images are to be told apart."""
    types = tensors.get(prefix + TYPES)
    if types is not None and len(types) == 2 < rows:
        tensors[prefix + TYPES] = torch.cat([types, types[1:]])
