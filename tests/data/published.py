"""Small files in the formats of published benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def image(path: Path, colour: tuple[int, int, int] = (9, 90, 200)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (7, 5), colour).save(path)
    return path


def write(path: Path, content: Any) -> Path:
    """A JSON file; JSON lines for a list where the name ends in .jsonl, text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        content = "".join(json.dumps(record) + "\n" for record in content)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path
