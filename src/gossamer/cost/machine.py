"""What a number was made with: versions of the software, and the hardware."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from gossamer.version import __version__

PACKAGES = ("torch", "transformers", "peft", "timm")


def versions() -> dict[str, str]:
    """Versions of Python, Gossamer and the packages that decide its numbers; those that are not installed are left out."""
    found = {"gossamer": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor with its count of logical cores, threads that torch uses, and GPU (None without one)."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": _processor(), "threads": torch.get_num_threads(), "gpu": gpu}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()
