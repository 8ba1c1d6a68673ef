"""Auto classes for what transformers has none: one text about two images, as in NLVR2, and texts ranked for an image."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # pyright: ignore[reportPrivateImportUsage]


class AutoModelForTwoImages(_BaseAutoModelClass):
    """ViLT and METER (which `gossamer.models.register` adds) with their heads for a text about two images."""

    _model_mapping = _LazyAutoMapping(
        CONFIG_MAPPING_NAMES, OrderedDict([("vilt", "ViltForImagesAndTextClassification")])
    )


class AutoModelForRetrieval(_BaseAutoModelClass):
    """ViLT and METER (which `gossamer.models.register` adds) with a head that ranks texts for an image."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


def tell_images_apart(model: Any) -> None:
    """Gives a model of two images a third row in its modality table, a copy of the second, where it has two. Others stay."""
    if not type(model).__name__.endswith("ForImagesAndTextClassification"):
        return
    owner = getattr(model.base_model, "embeddings", model.base_model)  # ViLT's embeddings; METER's table is its own
    rows = owner.token_type_embeddings.weight.detach()
    if len(rows) > 2:
        return
    owner.token_type_embeddings = nn.Embedding.from_pretrained(torch.cat([rows, rows[1:]]), freeze=False)
    if model.config.model_type == "meter":
        model.config.image_types = 2
    else:
        model.config.modality_type_vocab_size = 3
