"""What the papers on fusion models train beside a method, as lists of methods for `adapt`.

The authors of APT (arXiv 2306.15706) and DAS (arXiv 2309.01479) train with every method, and with the head alone: the poolers, the
modality embedding, and a learned classifier token that no paper mentions; their tables leave these out of the parameters.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from gossamer.methods.apt import APT
from gossamer.methods.classifier_token import ClassifierToken
from gossamer.methods.linear_probe import LinearProbe
from gossamer.methods.unfreeze import Unfreeze

VILT = ("pooler", "embeddings.token_type_embeddings", "embeddings.text_embeddings.token_type_embeddings")
METER = ("text_pooler", "image_pooler", "token_type_embeddings")


def vilt(method: Any = None) -> list[Any]:
    """A method (None: the head alone) as the authors trained it on ViLT, with pooler and both kinds of type embedding."""
    return [method or LinearProbe(), ClassifierToken(token=101), Unfreeze(modules=VILT)]


def meter(method: Any = None) -> list[Any]:
    """A method (None: the head alone) as the authors trained it on METER, with both poolers; APT's s stays at 0 there."""
    if isinstance(method, APT):
        method = dataclasses.replace(method, learn_scale=False)
    return [method or LinearProbe(), ClassifierToken(token=0), Unfreeze(modules=METER)]
