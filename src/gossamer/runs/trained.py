"""What a finished run left: its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gossamer.adapting import Adapted


def load_adapter(folder: str | Path) -> Adapted:
    """The adapter of a run's folder, or of a folder that `save_pretrained` wrote, on the GPU if there is one."""
    from accelerate import PartialState

    from gossamer.adapting import load

    inner = Path(folder) / "adapter"
    if (Path(folder) / "run.yaml").is_file() and not inner.is_dir():
        raise FileNotFoundError(f"the run in {folder} has not finished: continue it with gossamer train ... --resume")
    return load(inner if inner.is_dir() else folder).to(PartialState().device)
