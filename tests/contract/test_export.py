"""Finished models leave the house: torch.compile takes them whole, ONNX gives the same numbers in another runtime.

A chain of pairs runs each time, so that every family and every method has its turn; the other pairs are slow.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gossamer.export import Logits

from .table import BACKBONES, METHODS, Backbone, Row, adapt, disturb, run

FAMILIES = ("vit", "dinov2", "clip-vision", "timm", "bert", "segmenter", "by-words")
KINDS = ("vpt", "vpt-shallow", "pfeiffer", "lora")
COMPILED = {("vit", "vpt"), ("dinov2", "vpt-shallow"), ("clip-vision", "pfeiffer"), ("timm", "lora"), ("bert", "vpt")}
EXPORTED = {("timm", "vpt-shallow")}


def pairs(fast: set[tuple[str, str]]) -> Any:
    rows = [
        pytest.param(BACKBONES[b], METHODS[m], id=f"{b}-{m}", marks=() if (b, m) in fast else pytest.mark.slow)
        for b in FAMILIES
        for m in KINDS
    ]
    return pytest.mark.parametrize(("backbone", "row"), rows)


def finished(backbone: Backbone, row: Row) -> tuple[Logits, tuple[Tensor, ...], Tensor]:
    inputs = backbone.inputs()
    model = disturb(adapt(backbone, row)).finalize()
    return Logits(model, list(inputs)).eval(), tuple(inputs.values()), run(model, inputs)


@pairs(COMPILED)
def test_compiles_in_one_graph(backbone: Backbone, row: Row) -> None:
    model, inputs, expected = finished(backbone, row)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), expected, rtol=0, atol=1e-6)


@pairs(EXPORTED)
def test_onnx_agrees_at_any_batch(backbone: Backbone, row: Row, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, inputs, expected = finished(backbone, row)
    batch = torch.export.Dim("batch", min=2, max=64)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=(tuple({0: batch} for _ in inputs),))
    assert program is not None
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    for count in (3, 2):
        given = {name: tensor[:count].numpy() for name, tensor in zip(names, inputs, strict=True)}
        found = torch.from_numpy(session.run(None, given)[0])
        torch.testing.assert_close(found, expected[:count], rtol=1e-4, atol=1e-4)
