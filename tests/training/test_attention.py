"""Which attention a step uses: as asked, and by itself the plain one only where that is not slower and needs little memory."""

from __future__ import annotations

from typing import Any

import pytest

from gossamer import hosts
from gossamer.runs.run import Training
from gossamer.training.attention import settled

from ..contract.table import BACKBONES


@pytest.mark.parametrize(
    ("row", "training", "size", "expected"),
    [
        ("vit", {"bf16": True}, 12, "plain"),
        ("vit", {"bf16": True}, 4 * 17, "fused"),  # 290 tokens
        ("vit", {"bf16": False}, 12, "fused"),
        ("vit", {"bf16": True, "attention": "fused"}, 12, "fused"),
        ("vit", {"bf16": False, "attention": "plain"}, 4 * 17, "plain"),
        ("timm", {"bf16": True}, None, "plain"),
        ("bert", {"bf16": True}, None, "fused"),  # texts have any length
        ("vilt", {"bf16": True}, None, "fused"),
        ("qwen2-vl", {"bf16": True}, None, "fused"),
    ],
)
def test_auto_is_settled(row: str, training: dict[str, Any], size: int | None, expected: str) -> None:
    found = settled(Training(**training), hosts.read(BACKBONES[row].model()), {"image_size": size} if size else {})
    assert found.attention == expected
    assert found.bf16 == training["bf16"]
