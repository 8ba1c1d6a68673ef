"""The table of the contract: which methods meet which backbones, and what is done with a pair."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer.methods import spt

from .backbones import BACKBONES as BACKBONES
from .backbones import Backbone as Backbone
from .methods import METHODS as METHODS
from .methods import Row as Row


def unfit(backbone: Backbone, row: Row) -> str | None:
    """What the refusal of a pair says that is not in the table; `test_contract.py` sees that it is refused."""
    return next((says for fact, says in row.needs.items() if not getattr(backbone, fact)), None)


def adapt(backbone: Backbone, row: Row, attention: str = "sdpa") -> gm.Adapted:
    """The pair, adapted and in evaluation mode."""
    torch.manual_seed(3)
    options = {} if backbone.num_labels is None else {"num_labels": backbone.num_labels}
    return prepared(gm.adapt(backbone.model(attention), row.method, **options).eval(), backbone)


def prepared(adapted: gm.Adapted, backbone: Backbone) -> gm.Adapted:
    """The adapter with what it needs to see of the training data."""
    if spt.unharvested(adapted):
        inputs = backbone.inputs()
        spt.harvest(adapted, [{k: v[i] for k, v in inputs.items()} for i in range(3)], batch_size=2)
    return adapted


def disturb(adapted: gm.Adapted) -> gm.Adapted:
    """As after training: everything trainable moves, so that no zero start hides a mistake."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return adapted


def run(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits, or states where there is no head. ViLT and MAE shuffle patches: the seed makes runs comparable."""
    torch.manual_seed(5)
    if "timm" in type(model).__module__:
        return model(inputs["pixel_values"])
    output = model(**inputs)
    if isinstance(output, Tensor):
        return output
    return output.logits if "logits" in output else output.last_hidden_state
