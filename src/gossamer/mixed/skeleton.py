"""Copies of a model that weigh nothing: modules of their own over the same weights."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gossamer.adapting import Adapted

M = TypeVar("M", bound=nn.Module)


def skeleton(model: M) -> M:
    """A copy of a model whose frozen parameters and buffers lie where the model's lie; what batch norms count is its own."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    for module in model.modules():
        if not isinstance(module, _BatchNorm):
            memo |= {id(buffer): buffer for buffer in module.buffers(recurse=False)}
    return copy.deepcopy(model, memo)


def on_skeleton(backbone: nn.Module, applied: Any, **told: Any) -> Adapted:
    """An adapter whose trained parameters are its own, on a skeleton: what it trains of the backbone lies there no more."""
    adapted = Adapted(backbone, applied, **told)
    assert adapted.placement is not None, "it was placed when it was made"
    for name in adapted.placement.originals:
        parameter = adapted.backbone.get_parameter(name)
        parameter.data = parameter.data.clone()
    return adapted
