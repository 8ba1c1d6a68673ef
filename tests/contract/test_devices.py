"""Methods where users run them: on an accelerator, under autocast, compiled. None of these is here; their rules are."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import gossamer as gm
from gossamer.anatomy.session import Layout

from . import two_processes
from .table import BACKBONES, METHODS, Backbone, Row, adapt, disturb, meets, pairs, run

ROOT = Path(gm.__file__).parents[2]


class Elsewhere:
    """A device that is not there: tensors without values, of which torch knows where they would be.

    One mode for all tests: transformers keeps the places of patches that it has computed for a size and a device, these too.
    """

    mode = FakeTensorMode()

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


KINDS = ("vit", "swin", "timm", "bert", "t5", "llama", "meter", "clip+bert", "dinov2+llama", "vit+t5")
COMPILED = (
    *(("vit", "vpt"), ("vit", "lora"), ("timm", "cvpt"), ("bert", "houlsby"), ("llama", "apt")),
    *(("clip+bert", "memvp"), ("dinov2+llama", "dvp")),
)


def of_kinds(default: Callable[[str, str], bool]) -> Any:
    """Every method on each kind of structure, slow where it is not run by default; merged tokens are tested with their verb."""
    merging = {name for name, row in METHODS.items() if "merges" in row.needs}
    chosen = [(b, m) for b in KINDS for m in METHODS if meets(b, m) and m not in merging]
    rows = [pytest.param(b, m, id=f"{b}-{m}", marks=() if default(b, m) else pytest.mark.slow) for b, m in chosen]
    return pytest.mark.parametrize(("backbone", "method"), rows)


@of_kinds(lambda backbone, method: (backbone, method) in COMPILED)
def test_training_compiles_without_a_break(backbone: str, method: str) -> None:
    """`fullgraph` refuses to break a graph; the numbers are the same."""
    row = BACKBONES[backbone]
    adapted = disturb(adapt(row, METHODS[method])).train()
    inputs = row.inputs()
    expected = run(adapted, inputs)
    torch._dynamo.reset()
    adapted.compile(fullgraph=True, backend="eager")
    output = run(adapted, inputs)
    output.square().mean().backward()
    assert float((output - expected).detach().abs().max()) <= 1e-5
    assert any(p.grad is not None for p in adapted.trainable().values())


@of_kinds(lambda backbone, method: (backbone, method) == ("vit", "das-run"))
def test_a_finished_model_compiles_without_a_break(backbone: str, method: str) -> None:
    row = BACKBONES[backbone]
    finished = disturb(adapt(row, METHODS[method])).finalize()
    with torch.no_grad():
        expected = run(finished, row.inputs())
        torch._dynamo.reset()
        finished.compile(fullgraph=True, backend="eager")
        output = run(finished, row.inputs())
    assert float((output - expected).abs().max()) <= 1e-5


class Looks(TorchDispatchMode):
    """Counts how often Python asks for a value of a tensor: on an accelerator it waits then for all that was asked before."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def once(backbone: str, method: str) -> bool:
    """Whether this kind is the one that a method meets by default."""
    fit = [kind for kind in KINDS if meets(kind, method)]
    return backbone == fit[zlib.crc32(method.encode()) % len(fit)]


@of_kinds(once)
def test_a_step_looks_at_no_value_beyond_what_the_bare_model_does(backbone: str, method: str) -> None:
    """Of whole texts none at all; transformers itself looks at a mask, once where it makes masks of attention from it."""
    row = BACKBONES[backbone]
    inputs: dict[str, Any] = row.inputs()
    whole = {name: value for name, value in inputs.items() if name != "attention_mask"}
    adapted = disturb(adapt(row, METHODS[method])).train()
    for given, padding in ((whole, "none"), (inputs, "left" if "llama" in backbone else "right")):
        bare, seeing = row.model("sdpa"), {}
        if isinstance(bare, gm.VisionLanguage):
            seeing = {"layout": Layout(padding, "all")}  # type: ignore[arg-type]
        with Looks() as looks, torch.no_grad():
            run(bare, {**given, **seeing})
        with Looks() as ours:
            run(adapted, {**given, **seeing}).square().mean().backward()
        assert ours.count <= (looks.count if given is inputs else 0)


def test_a_look_is_counted() -> None:
    with Looks() as looks:
        assert float(torch.ones(3).sum()) == 3.0
    assert looks.count == 1


@pytest.mark.slow
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
