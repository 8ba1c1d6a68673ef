"""What the papers' files share: a line of the table, and figures that are counted and must equal the closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gossamer as gm
from gossamer import architectures
from gossamer.cost.counting import Sample, closed_macs, count, on_meta
from gossamer.methods import Method, as_method
from gossamer.reading import read

HOW = {
    "sequence": "prompts run as tokens; torch's counter on meta = closed form",
    "exact": "stored keys and values of prompts; torch's counter on meta = closed form",
    "parameters": "tensors of the adapter = closed form",
}


def row(what: str, paper: float, ours: float, unit: str, how: str) -> dict[str, Any]:
    """One line of the table; a difference of 0.1 from a figure printed with one decimal is its rounding."""
    return {"what": what, "paper": paper, "ours": ours, "difference": round(ours - paper, 6), "unit": unit, "how": how}


def gmacs(model: str, method: Method | None, **sizes: Any) -> float:
    """GMACs of one sample in the finished model (None: in the bare backbone), counted; they must equal the closed form."""
    return round(macs(model, method, **sizes) / 1e9, 3)


def macs(
    model: str, method: Method | None, *, finished: bool = True, changes: Mapping[str, Any] | None = None, **sizes: Any
) -> int:
    """Multiply-adds of one sample, counted; they must equal the closed form.

    In the finished model, or as in training alone in its batch, with what is computed once a batch. None: the bare backbone.
    `changes`: settings of the architecture that are others than those of its name.
    """
    backbone = architectures.build(model, **(changes or {}))
    sample, anatomy = Sample.of(backbone, **sizes), read(backbone)
    closed, ran = closed_macs(backbone, None, anatomy, sample), backbone if method else on_meta(backbone)
    if method:
        tokens = sample.tokens(anatomy)
        closed += method.macs(anatomy, tokens) + (0 if finished else sum(method.overhead(anatomy, tokens)))
        adapted: Any = on_meta(gm.adapt(backbone, method))
        ran = adapted.finalize() if finished else adapted.train()
    counted = count(ran, ran if finished else backbone, sample)[0]
    if counted != closed:
        raise SystemExit(f"{model}, {method}: counted {counted:,} MACs, closed form {closed:,}")
    return counted


def parameters(model: str, method: Any, **changes: Any) -> int:
    """Parameters of the method without a head, counted; they must equal the closed form. `changes` as in `macs`."""
    closed = as_method(method).parameters(read(architectures.build(model, **changes)))
    placed = gm.adapt(architectures.build(model, **changes), method).methods.parameters()
    counted = sum(p.numel() for p in placed if p.requires_grad)
    if counted != closed:
        raise SystemExit(f"{model}, {method}: {counted:,} parameters, closed form {closed:,}")
    return counted


def seeing(vision: str, language: str, **sizes: Any) -> gm.VisionLanguage:
    """A vision tower and a language model on the meta device, without a pooler."""
    model: Any = architectures.build(language, **sizes)
    model.pooler = None
    return gm.VisionLanguage(architectures.build(vision), model)


def seen_parameters(method: Method, *halves: str, **sizes: Any) -> int:
    """Parameters of the method without a head, counted; they must equal the closed form."""
    closed = method.parameters(read(seeing(*halves, **sizes)))
    counted = sum(p.numel() for p in gm.adapt(seeing(*halves, **sizes), method).trainable().values())
    if counted != closed:
        raise SystemExit(f"{halves}, {method}: {counted:,} parameters, closed form {closed:,}")
    return counted
