"""Methods where users run them: on an accelerator, under autocast, compiled. None of these is here; their rules are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import gossamer as gm

from . import two_processes
from .table import BACKBONES, METHODS, Backbone, Row, adapt, disturb, pairs, run

ROOT = Path(gm.__file__).parents[2]


class Elsewhere:
    """A device that is not there: tensors without values, of which torch knows where they would be."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode()

    def tensor(self, here: Tensor) -> Tensor:
        here = here.detach()
        with self.mode:
            return self.mode.from_tensor(here).to("cuda")

    def move(self, module: nn.Module) -> None:
        """As `.to("cuda")` does: every parameter and buffer of the tree of modules, and nothing else."""
        moved: dict[int, tuple[Tensor, Tensor]] = {}  # the old ones are kept, so that no number is given twice
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        if id(tensor) not in moved:
                            moved[id(tensor)] = tensor, self._twin(tensor)
                        held[name] = moved[id(tensor)][1]  # type: ignore[assignment]

    def _twin(self, tensor: Tensor) -> Tensor:
        there = self.tensor(tensor)
        if not isinstance(tensor, nn.Parameter):
            return there
        with self.mode:
            return nn.Parameter(there, requires_grad=tensor.requires_grad)


@pairs("device")
def test_every_tensor_is_reached_when_a_model_moves(backbone: Backbone, row: Row) -> None:
    """A tensor outside the tree of modules, or made on the CPU in a forward pass, is an error here."""
    adapted, there = adapt(backbone, row).train(), Elsewhere()
    there.move(adapted)
    # Without padding, whose mask composed models look at: here are no values to look at.
    whole = {name: value for name, value in backbone.inputs().items() if name != "attention_mask"}
    inputs = {name: there.tensor(value) for name, value in whole.items()}
    with there.mode:
        output = run(adapted, inputs)
    assert output.device.type == "cuda"


def test_a_tensor_that_is_left_behind_is_found() -> None:
    adapted, there = adapt(BACKBONES["vit"], METHODS["vpt"]).train(), Elsewhere()
    part = next(m for m in adapted.methods.modules() if "prompts" in m._parameters)
    part.__dict__["prompts"] = part._parameters.pop("prompts")
    there.move(adapted)
    inputs = {name: there.tensor(value) for name, value in BACKBONES["vit"].inputs().items()}
    with there.mode, pytest.raises(Exception, match=r"FakeTensor|device"):
        run(adapted, inputs)


@pairs("autocast")
def test_autocast_trains(backbone: Backbone, row: Row) -> None:
    """Half precision inside, full precision for what is trained; close to the same without it."""
    adapted = disturb(adapt(backbone, row))
    expected = run(adapted, backbone.inputs())
    adapted.train()
    with torch.autocast("cpu", torch.bfloat16):
        output = run(adapted.eval(), backbone.inputs())
    error = float((output.float() - expected).detach().abs().max() / (1 + expected.detach().abs().max()))
    assert error < 0.1, f"{error:.1e}"
    with torch.autocast("cpu", torch.bfloat16):
        run(adapted.train(), backbone.inputs()).float().square().mean().backward()
    gradients = [p.grad for p in adapted.trainable().values() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(p.dtype == torch.float32 for p in adapted.trainable().values())


COMPILED: list[Any] = [("vit", "vpt"), ("vit", "lora"), ("timm", "cvpt"), ("bert", "houlsby"), ("llama", "apt")]


@pytest.mark.parametrize(("backbone", "method"), COMPILED, ids=["-".join(pair) for pair in COMPILED])
def test_training_compiles_without_a_break(backbone: str, method: str) -> None:
    """`fullgraph` refuses to break a graph; the numbers are the same."""
    row = BACKBONES[backbone]
    adapted = disturb(adapt(row, METHODS[method])).train()
    inputs = row.inputs()
    expected = adapted(**inputs).logits
    torch._dynamo.reset()
    compiled = torch.compile(adapted, fullgraph=True, backend="eager")
    output = compiled(**inputs).logits
    output.square().mean().backward()
    assert float((output - expected).detach().abs().max()) <= 1e-5
    assert all(p.grad is not None for n, p in adapted.trainable().items())


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    """This process is the first; the other one imports what it needs meanwhile."""
    file = tmp_path / "meeting"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(f) for f in (ROOT, ROOT / "src")),
        "OMP_NUM_THREADS": "1",
    }
    module = "tests.contract.two_processes"
    with subprocess.Popen(
        [sys.executable, "-m", module, "1", str(file)], env=environment, stderr=subprocess.PIPE, text=True
    ) as other:
        try:
            two_processes.compare(0, str(file))
            _, errors = other.communicate(timeout=60)
        finally:
            other.kill()
    assert other.returncode == 0, errors
