"""Every row of a mixed batch is answered as its adapter alone answers it: every method on every backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gossamer as gm

from ..contract import table
from ..contract.backbones import BACKBONES
from ..contract.methods import METHODS
from ..contract.table import Backbone, Row, prepared

NAMES = ("first", "second", "third")
WHO = ["second", "first", "third", "first", "second"]  # neither sorted nor as many of each

FAST = [
    *(("vit", method) for method in ("vpt", "ssf", "cvpt+spt+lora", "das-router")),
    *(("timm", "bitfit"), ("timm", "apt"), ("t5", "vpt"), ("llama", "vpt+lora"), ("vit-bare", "cvpt")),
]
OF_ALL = {  # what alone, too, answers a sample in another way beside others
    *(
        ("vit-mae", m) for m in METHODS if m.startswith("tome")
    ),  # MAE draws the order of its tokens, which decides who merges
}
WRITING = [("llama", "vpt+lora"), ("t5", "houlsby")]


def of(promise: str, fast: list[tuple[str, str]]) -> Any:
    """Every pair of the table that LoRA meets as well, most of them slow ones."""
    pairs = [(b, m) for b, m in table.tested(promise) if table.meets(b, "lora") and (b, m) not in OF_ALL]
    return pytest.mark.parametrize(
        ("backbone", "row"),
        [
            pytest.param(BACKBONES[b], METHODS[m], id=f"{b}-{m}", marks=() if (b, m) in fast else pytest.mark.slow)
            for b, m in pairs
        ],
    )


def three(backbone: Backbone, row: Row) -> dict[str, gm.Adapted]:
    """Two adapters of a method with LoRA between them, of different values and, where heads are built, numbers of labels."""
    made = {}
    for number, (name, one) in enumerate(zip(NAMES, (row, METHODS["lora"], row), strict=True)):
        generator = torch.Generator().manual_seed(number)
        labels = None if backbone.num_labels is None else backbone.num_labels + number
        made[name] = prepared(gm.adapt(backbone.model(), one.method, num_labels=labels).eval(), backbone.inputs())
        with torch.no_grad():
            for parameter in made[name].trainable().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return made


def five(backbone: Backbone) -> dict[str, Tensor]:
    return {k: torch.cat([v, v.flip(0)])[:5] for k, v in backbone.inputs().items()}


def values(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return next(output[name] for name in ("logits", "last_hidden_state", "sample") if name in output)


@of("batch", FAST)
@pytest.mark.usefixtures("in_float64")
def test_a_row_is_answered_as_by_its_adapter_alone(backbone: Backbone, row: Row) -> None:
    adapters, inputs = three(backbone, row), five(backbone)
    mixed = gm.Mixed(backbone.model(), adapters)
    answers = values(mixed(**inputs, adapter=WHO))
    for name, given in zip(WHO, range(5), strict=True):
        alone, *others = (
            values(adapters[n](**{k: v[given : given + 1] for k, v in inputs.items()})).detach()[0]
            for n in (name, *NAMES)
        )
        own = answers[given][tuple(slice(0, length) for length in alone.shape)]
        near = 1e-6 * (1 + float(alone.abs().max()))
        assert float((own - alone).abs().max()) <= near
        assert answers[given].numel() == own.numel() or bool((answers[given] == -torch.inf).any())
        told_apart = [o for n, o in zip(NAMES, others, strict=True) if n != name]
        assert all(o.shape != alone.shape or float((o - alone).abs().max()) > 2 * near for o in told_apart)


@of("generation", WRITING)
@pytest.mark.usefixtures("in_float64")
def test_a_text_is_written_as_by_its_adapter_alone(backbone: Backbone, row: Row) -> None:
    adapters = three(backbone, row)
    inputs = {k: v for k, v in five(backbone).items() if not k.startswith("decoder")}
    if "decoder_input_ids" not in backbone.inputs():
        inputs = {k: v.flip(1) if v.dim() == 2 else v for k, v in inputs.items()}
        if not values(backbone.model()(**inputs)).isfinite().all():
            # Upstream's eager attention takes masks of double precision to single: padding that sees nothing becomes NaN.
            inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 3, "num_return_sequences": 2}
    written = gm.Mixed(backbone.model(), adapters).generate(**inputs, **options, adapter_names=WHO)
    for name, given in zip(WHO, range(5), strict=True):
        alone = adapters[name].generate(**{k: v[given : given + 1] for k, v in inputs.items()}, **options)
        assert torch.equal(written[2 * given : 2 * given + 2], alone)
