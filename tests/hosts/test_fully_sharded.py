"""Weights in pieces on two processes: a step of FSDP is the step of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
import torch.distributed as dist
import transformers as tf
from peft import LoraConfig
from torch.distributed.fsdp import fully_shard

import gossamer as gm

SIZES = {{
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "image_size": 16,
    "patch_size": 4, "num_labels": 3,
}}


def adapted():
    torch.default_generator.manual_seed(0)
    return gm.adapt(tf.ViTForImageClassification(tf.ViTConfig(**SIZES)), {method})


def step(model, pixels, labels):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()(pixel_values=pixels, labels=labels).loss.backward()
    optimizer.step()
    return {{k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in model.state_dict().items()}}


dist.init_process_group("gloo")
rows = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
torch.default_generator.manual_seed(5)
pixels, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
sharded = adapted()
fully_shard(sharded, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
start, alone, found = adapted().state_dict(), step(adapted(), pixels, labels), step(sharded, pixels[rows], labels[rows])
assert any(not torch.equal(v, start[k]) for k, v in alone.items())
assert alone.keys() == found.keys()
for name, tensor in alone.items():
    torch.testing.assert_close(found[name], tensor, msg=name)
dist.destroy_process_group()
"""


METHODS = [
    "LoraConfig(r=2)",
    *(pytest.param(f"gm.{m}", marks=pytest.mark.slow) for m in ("VPT(prompts=2)", "BitFit()", "FullFineTuning()")),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_a_step_in_pieces_is_a_step(method: str, tmp_path: Path) -> None:
    script = tmp_path / "step.py"
    script.write_text(SCRIPT.format(method=method))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
