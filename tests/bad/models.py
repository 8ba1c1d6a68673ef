"""Folders of models, and checkpoints of authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gossamer import zoo
from gossamer.models import checkpoints

from ..data.published import write
from . import Case

MODELS: dict[str, dict[str, Any]] = {
    "no configuration": {},
    "an empty configuration": {"config.json": ""},
    "a configuration that is no JSON": {"config.json": "{"},
    "a configuration that is a list": {"config.json": []},
    "a configuration of nothing": {"config.json": {}, "model.safetensors": "x"},
    "a field twice": {"config.json": '{"model_type": "vit", "model_type": "bert"}', "model.safetensors": "x"},
    "an unknown family": {"config.json": {"model_type": "vitt"}, "model.safetensors": "x"},
    "code of its own": {
        "config.json": {"model_type": "own", "auto_map": {"AutoModel": "x.Y"}},
        "model.safetensors": "x",
    },
    "no weights": {"config.json": {"model_type": "vit"}},
    "pickled weights": {"config.json": {"model_type": "vit"}, "pytorch_model.bin": "x"},
    "empty weights": {"config.json": {"model_type": "vit"}, "model.safetensors": ""},
    "weights that are none": {"config.json": {"model_type": "vit"}, "model.safetensors": "<html>404</html>"},
    "a size that is a word": {"config.json": {"model_type": "vit", "hidden_size": "wide"}, "model.safetensors": "x"},
    "a size of nothing": {"config.json": {"model_type": "vit", "num_attention_heads": 0}, "model.safetensors": "x"},
    "a model of timm that is none": {"config.json": {"architecture": "vit_none"}, "model.safetensors": "x"},
}


def models() -> Iterator[Case]:
    for name, files in MODELS.items():

        def made(folder: Path, files: dict[str, Any] = files) -> Any:
            (folder / "vit").mkdir()
            for file, content in files.items():
                write(folder / "vit" / file, content)
            return zoo.load(str(folder / "vit"))

        yield f"model, {name}", made, "vit"
    held = {
        "nothing": {},
        "a list": [],
        "a number": 3,
        "no tensors": {"model": {}},
        "numbers for names": {1: torch.ones(2)},
        "text": {"model": 3},
    }
    for name, content in held.items():

        def checkpoint(folder: Path, content: Any = content) -> Any:
            torch.save(content, folder / "authors.pth")
            return checkpoints.read(folder / "authors.pth")

        yield f"checkpoint, {name}", checkpoint, "authors.pth"
        yield (
            f"checkpoint of MAE, {name}",
            lambda f, c=content: (torch.save(c, f / "authors.pth"), zoo.load(f"mae:{f / 'authors.pth'}")),
            "authors.pth",
        )
    for name, content in {
        "empty": b"",
        "zeros": bytes(99),
        "a page": b"<html>",
        "a pickle": b"\x80\x04cos\nsystem\n.",
    }.items():

        def file(folder: Path, content: bytes = content) -> Any:
            (folder / "authors.pth").write_bytes(content)
            return checkpoints.read(folder / "authors.pth")

        yield f"checkpoint, {name}", file, "authors.pth"
