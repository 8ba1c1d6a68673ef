"""Methods beside a frozen backbone whose Linears are quantised: their outputs are used, their weights neither read nor changed.

`Whole` is built as bitsandbytes' modules are: a Linear by name, its weight whole numbers. torchao's, where it is installed, are
Linears whose weight is a tensor of another kind.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig
from torch import Tensor, nn

import gossamer as gm

from .contract.backbone import LLAMA, VISION
from .contract.table import disturb, run

METHODS: dict[str, Callable[[], Any]] = {
    "lora": lambda: LoraConfig(r=2),
    "vpt": lambda: gm.VPT(prompts=3),
    "vpt-sequence": lambda: gm.VPT(prompts=3, form="sequence"),
    "cvpt": lambda: gm.CVPT(prompts=3),
    "apt": lambda: gm.APT(prompts=3, rank=2),
    "das": lambda: gm.DAS(skip=(1,), rank=2),
    "ssf": lambda: gm.SSF(),
    "adapter": lambda: gm.Adapter(rank=3),
}


class Whole(nn.Linear):
    """A Linear that keeps bytes and a scale for each row, in one column if it is packed, and multiplies by what these stand for."""

    def __init__(self, linear: nn.Linear, *, packed: bool):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        rows = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(rows.reshape(-1, 1) if packed else rows, requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scale", scale)

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight.reshape(self.out_features, self.in_features).to(input.dtype) * self.scale.to(input.dtype)
        return nn.functional.linear(input, weight, self.bias)


def _whole(model: nn.Module, *, packed: bool) -> nn.Module:
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and name not in ("classifier", "lm_head"):
            model.set_submodule(name, Whole(module, packed=packed))
    return model


def _of_torchao(model: nn.Module) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda m, n: type(m) is nn.Linear and n != "classifier")
    return model


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bytes": lambda model: _whole(model, packed=False),
    "packed": lambda model: _whole(model, packed=True),
    "torchao": _of_torchao,
}


def _sees(kind: str) -> nn.Module:
    torch.default_generator.manual_seed(1)
    model = tf.ViTForImageClassification(tf.ViTConfig(**VISION, num_labels=3)).eval()
    return KINDS[kind](model.requires_grad_(False))


@pytest.mark.parametrize("kind", ["bytes", "torchao", pytest.param("packed", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("uncounted")
def test_life(method: str, kind: str, tmp_path: Path) -> None:
    """A step reaches what is trained; saved, loaded, finished; the quantised weights stay, bit by bit."""
    if kind == "torchao" and importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    inputs = {"pixel_values": torch.randn(3, 3, 16, 16)}
    model = _sees(kind)
    adapted = gm.adapt(model, METHODS[method]()).eval()
    run(adapted, inputs).square().mean().backward()
    assert all(p.grad is not None for p in adapted.trainable().values())
    start = run(adapted, inputs)
    trained = run(disturb(adapted), inputs)
    assert not torch.allclose(trained, start)
    adapted.save_pretrained(tmp_path)
    assert torch.equal(run(gm.load(tmp_path, _sees(kind)), inputs), trained)
    torch.testing.assert_close(run(adapted.finalize(), inputs), trained)
    assert torch.equal(run(adapted.detach(), inputs), run(_sees(kind), inputs))


@pytest.mark.parametrize("kind", ["bytes", "packed"])
@pytest.mark.usefixtures("in_float64")
def test_exact_prompts_are_prompts_as_tokens(kind: str) -> None:
    inputs = {"pixel_values": torch.randn(3, 3, 16, 16)}
    forms = [disturb(gm.adapt(_sees(kind), gm.VPT(prompts=3, form=form)).eval()) for form in ("exact", "sequence")]
    torch.testing.assert_close(*(run(adapted, inputs) for adapted in forms))


def test_sizes_are_those_of_the_matrices() -> None:
    torch.default_generator.manual_seed(1)
    plain = tf.LlamaModel(tf.LlamaConfig(**LLAMA))
    sizes = gm.read(plain).blocks()[0].sizes
    assert gm.read(_whole(plain, packed=True)).blocks()[0].sizes == sizes


def test_a_folder_is_of_the_weights_that_it_was_trained_beside(tmp_path: Path) -> None:
    """Quantised otherwise, or not at all, they are other weights."""
    gm.adapt(_sees("bytes"), gm.VPT(prompts=3)).save_pretrained(tmp_path)
    other = tf.ViTForImageClassification(tf.ViTConfig(**VISION, num_labels=3))
    with pytest.raises(ValueError, match="weights"):
        gm.load(tmp_path, other)


def test_what_changes_weights_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"full fine-tuning changes every weight, and that of vit\..*q_proj is quantised"
    ):
        gm.adapt(_sees("bytes"), gm.FullFineTuning())
    with pytest.raises(ValueError, match="cannot be folded: its projections are no plain Linears"):
        gm.adapt(_sees("bytes"), gm.CVPT(form="folded"))
