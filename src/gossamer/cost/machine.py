"""What a number was made with: versions of the software, and the hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from gossamer.version import __version__

PACKAGES = ("torch", "transformers", "peft", "timm")
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""Instructions that multiply it, on x86 and on ARM, as torch names them."""


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
    """Processor with its count of logical cores, threads that torch uses, GPU (None without one), and what `bfloat16` tells."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(), "threads": torch.get_num_threads(), "gpu": gpu, "bfloat16": ", ".join(bfloat16()) or None,
    }  # fmt: skip


def bfloat16() -> list[str]:
    """What multiplies bfloat16 here, on the GPU or else on the processor: ["amx_bf16", "avx512_bf16"], ["cuda"].

    Empty where nothing does: torch then emulates it, slower than float32.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        known = torch.cpu.get_capabilities()
        return [name for name in BFLOAT16 if known.get(name)]
    native = accelerator.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return [accelerator.type] if native else []


def tf32() -> bool:
    """Whether an accelerator here multiplies float32 in TF32."""
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8


def readers() -> int:
    """Processes that should read images beside training: one for each processor, at most 8; none without an accelerator."""
    import torch

    return min(8, os.cpu_count() or 1) if torch.accelerator.is_available() else 0


def precision(bf16: bool) -> str:
    """A sentence: what a run computes in, and what this machine has to do with it."""
    found = bfloat16()
    if found:
        return f"computing in {'bfloat16' if bf16 else 'float32'}; this machine has bfloat16 ({', '.join(found)})"
    if bf16:
        return "computing in bfloat16, which this machine only emulates: training.bf16=false is faster"
    return "computing in float32; this machine only emulates bfloat16"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()
