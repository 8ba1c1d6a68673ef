"""Auto classes for what transformers has none: one text about two images, as in NLVR2, and texts ranked for an image."""

from __future__ import annotations

from collections import OrderedDict

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
