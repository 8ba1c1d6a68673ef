"""A step of some methods on two processes, each with a sample of its own: `python -m tests.contract.two_processes RANK FILE`.

The gradients that DistributedDataParallel leaves on either process are those of one process with both samples.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import gossamer as gm

from .table import BACKBONES, METHODS, adapt, disturb, run

PAIRS = (  # none with dropout, whose masks differ
    ("timm", "ssf"),
    ("bert", "vpt-sequence"),
    ("llama", "apt+cvpt+lora"),
    ("dinov2+llama", "visual-tokens+lora"),
)


def step(adapted: gm.Adapted, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of every trainable, by name."""
    run(model, inputs).square().mean().backward()
    return {name: p.grad for name, p in adapted.trainable().items() if p.grad is not None}


def compare(rank: int, file: str) -> None:
    """One of the two processes, which find each other by a file.

    Raises:
        AssertionError: gradients differ, or are another process's alone.
    """
    limit = timedelta(seconds=240)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=limit)
    try:
        for backbone, method in PAIRS:
            both = {k: v.double() if v.is_floating_point() else v for k, v in BACKBONES[backbone].inputs(2).items()}
            one = {k: v[rank : rank + 1] for k, v in both.items()}
            alone, shared, mine = (
                disturb(adapt(BACKBONES[backbone], METHODS[method])).double().train() for _ in range(3)
            )
            expected, own = step(alone, alone, both), step(mine, mine, one)
            found = step(shared, DistributedDataParallel(shared), one)
            assert expected.keys() == found.keys() == shared.trainable().keys(), (backbone, method)
            for name, gradient in expected.items():
                scale = 1e-9 * float(gradient.abs().max())
                assert torch.allclose(found[name], gradient, rtol=1e-9, atol=scale), (backbone, method, name)
            assert any(not torch.allclose(own[name], gradient, rtol=1e-3) for name, gradient in expected.items())
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    compare(int(sys.argv[1]), sys.argv[2])
