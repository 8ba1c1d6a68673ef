"""A model's architecture as a record of JSON, and the model again from it, on the meta device.

A record is what a file of this folder holds, {"class", "config"}, or {"architecture", "arguments"} of timm, or {"class", "parts",
"arguments"} of a composed model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from gossamer import hosts
from gossamer.architectures import of_diffusers, of_timm, of_transformers
from gossamer.errors import UserError
from gossamer.models.segmenter import Segmenter
from gossamer.models.vision_language import VisionLanguage
from gossamer.models.zero_shot import ZeroShot

COMPOSED: dict[str, type[hosts.Halves]] = {kind.__name__: kind for kind in (VisionLanguage, ZeroShot, Segmenter)}
"""Models whose halves have a record, and a reference of their own, each."""


def described(model: nn.Module) -> dict[str, Any]:
    """The record of a model.

    Raises:
        UserError: a module of the user's own, which nobody else can make again, or one of timm of which timm keeps no name.
    """
    host: Any = hosts.of(model)
    if isinstance(model, hosts.Halves):
        parts = {half: described(part) for half, part in model.parts.items()}
        return {"class": type(model).__name__, "parts": parts, "arguments": host.options(model)}
    if isinstance(host, hosts.Timm):
        name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
        if not name:
            raise UserError(
                f"this {type(model).__name__} was not made by timm.create_model, so nothing says how to make it again"
            )
        return {"architecture": name, "arguments": {"num_classes": host.outputs(model), **host.options(model)}}
    if isinstance(host, hosts.Diffusers):
        told: Any = model.config
        said = {name: value for name, value in dict(told).items() if not name.startswith("_")}
        return {"class": type(model).__name__, "config": json.loads(json.dumps(said))}
    if not isinstance(model, PreTrainedModel) or type(model).__module__.partition(".")[0] not in (
        "transformers",
        "gossamer",
    ):
        raise UserError(f"{type(model).__name__} is a class of your own, which nobody else can make again")
    config: Any = model.config
    said = json.loads(config.to_json_string(use_diff=False))
    if config._attn_implementation:
        said["attn_implementation"] = config._attn_implementation
    return {"class": type(model).__name__, "config": said}


def made(record: Mapping[str, Any]) -> nn.Module:
    """The model that a record describes, on the meta device, in evaluation mode.

    Raises:
        UserError: it is of no class that is known here, or its library cannot make it.
    """
    if "architecture" in record:
        return of_timm(record["architecture"], record["arguments"])
    kind = record["class"]
    if kind in COMPOSED:
        with torch.device("meta"):
            parts = {half: made(part) for half, part in record["parts"].items()}
            return COMPOSED[kind](**parts, **record["arguments"]).eval()
    if "model_type" not in record["config"]:
        return of_diffusers(kind, record["config"], {})
    return of_transformers(kind, record["config"], {}, {})
