"""Finished models through transformers' own folders: the same function again, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

import gossamer as gm
from gossamer.errors import UserError

from .contract.table import BACKBONES, disturb, run

pytestmark = pytest.mark.usefixtures("uncounted")

METHODS: dict[str, Any] = {
    "vpt": gm.VPT(prompts=3),
    "vpt-shallow": gm.VPT(prompts=3, deep=False),
    "cvpt": gm.CVPT(prompts=3),
    "adapter": gm.Adapter(rank=3),
    "das": gm.DAS(skip=(0,), rank=4),
    "lora": LoraConfig(r=2),
    "vpt+lora": [gm.VPT(prompts=2), LoraConfig(r=2, target_modules=r".*q_proj")],
}


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
@pytest.mark.parametrize("row", ["vit", "llama"])
def test_a_finished_model_comes_back_through_transformers(row: str, method: Any, tmp_path: Path) -> None:
    backbone = BACKBONES[row]
    finished: Any = disturb(gm.adapt(backbone.model(), method).eval()).finalize()
    finished.save_pretrained(tmp_path / "one")
    again = type(finished).from_pretrained(tmp_path / "one").eval()
    expected = run(finished, backbone.inputs())
    torch.testing.assert_close(run(again, backbone.inputs()), expected, rtol=0, atol=1e-6)
    assert not hasattr(again.config, "quantization_config")
    assert not hasattr(finished.config, "quantization_config")
    again.save_pretrained(tmp_path / "two")  # and again from there
    torch.testing.assert_close(
        run(type(finished).from_pretrained(tmp_path / "two").eval(), backbone.inputs()), expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("row", "method"),
    [("t5", gm.DAS(skip=(0,), rank=4)), ("vilt", [gm.VPT(prompts=2), LoraConfig(r=2)])],
    ids=["t5-das", "vilt-vpt+lora"],
)
def test_what_would_not_come_back_is_refused(row: str, method: Any, tmp_path: Path) -> None:
    finished: Any = disturb(gm.adapt(BACKBONES[row].model(), method).eval()).finalize()
    with pytest.raises(
        UserError, match=r"from_pretrained would not give this finished model again, .* Keep the adapter"
    ):
        finished.save_pretrained(tmp_path / "model")
    assert not hasattr(finished.config, "quantization_config")
