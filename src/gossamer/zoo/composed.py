"""A language model composed with a vision tower, both by name."""

from __future__ import annotations

from typing import Any, Literal

from gossamer import hosts
from gossamer.errors import WrongKind
from gossamer.models.vision_language import VisionLanguage
from gossamer.zoo.models import load
from gossamer.zoo.sources import config as config_of
from gossamer.zoo.sources import resolve

WRITERS: dict[str, Literal["causal", "seq2seq"]] = {"ForCausalLM": "causal", "ForConditionalGeneration": "seq2seq"}


def writes(name: str, revision: str | None = None) -> Literal["causal", "seq2seq"] | None:
    """How the model `name`, as it was published, writes text: after what it reads, from a decoder of its own, or not at all."""
    published = (_config(name, revision).get("architectures") or [""])[0]
    return next((form for ending, form in WRITERS.items() if published.endswith(ending)), None)


def compose(
    language: str,
    vision: str,
    *,
    writing: bool,
    revision: str | None = None,
    vision_revision: str | None = None,
) -> VisionLanguage:
    """`VisionLanguage` of two models by name, each without a task head.

    Args:
        language: the language model.
        vision: the vision tower, or a model such as CLIP that has one.
        writing: keep the language model's output layer; else the bare model, to put a classifier on.
        revision: of the language model.
        vision_revision: of the vision tower.

    Raises:
        TypeError: one of the two is no model of its kind.
    """
    text: Any = load(language, revision=revision) if writing else _bare(language, revision)
    return VisionLanguage(_bare(vision, vision_revision, part="vision_config"), text)


def _bare(name: str, revision: str | None, part: str | None = None) -> Any:
    """The model without what was published around it: a task head, an output layer, or the other half of a pair."""
    from transformers import AutoModel

    model: Any = load(name, revision=revision)
    config = getattr(model, "config", None)
    if config is None:
        raise WrongKind(f"{name} is a model of timm; compose models of transformers")
    bare, inner = model.base_model, getattr(config, part or "", None)
    if inner is None and hosts.of(bare).output_embeddings(bare) is None:
        bare.name_or_path = model.name_or_path
        return bare
    kind: Any = AutoModel._model_mapping[type(inner or config)]
    return load(name, revision=revision, kind=kind.__name__)


def _config(name: str, revision: str | None) -> dict[str, Any]:
    return config_of(resolve(name, revision) / "config.json")
