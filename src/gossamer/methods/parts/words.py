"""What methods for classification by words share: the two places that such a model has for them."""

from __future__ import annotations

from typing import Any

from gossamer.anatomy import Anatomy
from gossamer.errors import UserError

COMPARE, ENTRY = "compare", "entry"  # modules of a classifier by words: vectors -> logits; tokens of texts -> tokens


def worded(anatomy: Anatomy, name: str) -> Any:
    """The model, which compares images with classes in words.

    Raises:
        UserError: it does not.
    """
    model = anatomy.model
    if not {COMPARE, ENTRY} <= dict(model.named_children()).keys():
        raise UserError(
            f"{name} changes how images are compared with classes in words, and {type(model).__name__} compares none: adapt "
            "gossamer.ZeroShot(...) of a pair of towers"
        )
    return model


def vector_width(model: Any) -> int:
    """e, the width of the space that image and text vectors share."""
    config = model.pair.config
    projected = getattr(config, "projection_dim", None)  # SigLIP's towers end in it without a projection
    return config.text_config.projection_size if projected is None else projected
