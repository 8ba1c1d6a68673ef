"""The table of the contract: which methods meet which backbones, and what is done with a pair."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer.methods import das, spt

from .backbones import BACKBONES as BACKBONES
from .backbones import Backbone as Backbone
from .methods import METHODS as METHODS
from .methods import Row as Row

LIVES, EACH = (
    1,
    1,
)  # how many backbones a method meets by default in "life", and in a test of another promise that it has drawn


def unfit(backbone: Backbone, row: Row) -> str | None:
    """What the refusal of a pair says that is not in the table; `test_contract.py` sees that it is refused."""
    return next((says for fact, says in row.needs.items() if not getattr(backbone, fact)), None)


def meets(backbone: str, method: str) -> bool:
    """Whether a pair is in the table; to a method that does not see, a composed model is its language model."""
    return unfit(BACKBONES[backbone], METHODS[method]) is None


def excused(promise: str, backbone: str, method: str) -> str | None:
    """Why a promise means nothing for a pair; None where it is tested."""
    return BACKBONES[backbone].but.get(promise) or METHODS[method].but.get(promise)


def tested(promise: str) -> list[tuple[str, str]]:
    """Every pair that a promise is tested on."""
    return [(b, m) for b in BACKBONES for m in METHODS if meets(b, m) and excused(promise, b, m) is None]


def by_default(promise: str) -> set[tuple[str, str]]:
    """The pairs that run without `-m slow`: the whole table takes hours.

    In "life" every method meets `LIVES` of the backbones that meet all and those that it was made for, and every backbone two of
    the methods that meet all. In any other test those methods and every second of the others, other ones in each test, meet `EACH`
    backbones, and every backbone that none has met one of the methods that meet all.
    """
    every = [(b, m) for b, m in tested(promise) if not BACKBONES[b].like]
    plain = [(b, m) for b, m in every if BACKBONES[b].sees <= ("sees" in METHODS[m].needs) or METHODS[m].meets_all]
    found: set[tuple[str, str]] = set()
    if promise == "life":
        found = {(b, m) for b, m in plain if b in METHODS[m].meets}
        for method in METHODS:
            found |= _drawn(promise, [(b, m) for b, m in plain if m == method and BACKBONES[b].meets_all], LIVES)
        for backbone in BACKBONES:
            found |= _drawn(promise, [(b, m) for b, m in plain if b == backbone and METHODS[m].meets_all], 2)
        return found
    for method in METHODS:
        if METHODS[method].meets_all or zlib.crc32(f"{promise} {method}".encode()) % 2:
            found |= _drawn(promise, [(b, m) for b, m in plain if m == method], EACH)
    for backbone in BACKBONES.keys() - {b for b, _ in found}:
        found |= _drawn(promise, [(b, m) for b, m in plain if b == backbone and METHODS[m].meets_all], EACH)
    return found


def _drawn(promise: str, some: Sequence[tuple[str, str]], count: int) -> set[tuple[str, str]]:
    """A few of some pairs, the same ones for as long as they have their names."""
    return set(sorted(some, key=lambda pair: zlib.crc32(f"{promise} {pair}".encode()))[:count])


def rows(wanted: Callable[[Backbone], bool] = lambda row: True) -> list[Any]:
    """Backbones by name, slow ones where they are built as others are."""
    some = {name: row for name, row in BACKBONES.items() if wanted(row)}
    return [pytest.param(name, marks=pytest.mark.slow if row.like else ()) for name, row in some.items()]


def every(names: str, values: Sequence[Any]) -> Any:
    """Runs a test on each of some values, whose first is a backbone's name; slow where that is built as another is."""
    marks = [pytest.mark.slow if BACKBONES[v[0]].like else () for v in values]
    params = [pytest.param(*v, id="-".join(v), marks=m) for v, m in zip(values, marks, strict=True)]
    return pytest.mark.parametrize(names.split(), params)


def pairs(promise: str) -> Any:
    """Runs a test on every pair that a promise is tested on, most of them slow ones."""
    return _parametrized(tested(promise), by_default(promise))


def refused() -> Any:
    """Runs a test on every pair that is not in the table."""
    every = [(b, m) for b in BACKBONES for m in METHODS if not meets(b, m)]
    fast = {
        (b, m)
        for b, m in every
        if not BACKBONES[b].like
        if BACKBONES[b].sees <= ("sees" in METHODS[m].needs) and (BACKBONES[b].meets_all or METHODS[m].meets_all)
    }
    return _parametrized(every, fast)


def _parametrized(chosen: Sequence[tuple[str, str]], fast: set[tuple[str, str]]) -> Any:
    rows = [
        pytest.param(BACKBONES[b], METHODS[m], id=f"{b}-{m}", marks=() if (b, m) in fast else pytest.mark.slow)
        for b, m in chosen
    ]
    return pytest.mark.large(("backbone", "row"), rows)


def adapt(backbone: Backbone, row: Row, attention: str = "sdpa") -> gm.Adapted:
    """The pair, adapted and in evaluation mode."""
    torch.default_generator.manual_seed(3)
    options = {} if backbone.num_labels is None else {"num_labels": backbone.num_labels}
    return prepared(gm.adapt(backbone.model(attention), row.method, **options).eval(), backbone.inputs())


def prepared(adapted: gm.Adapted, inputs: dict[str, Tensor]) -> gm.Adapted:
    """The adapter with what it needs to see of the training data."""
    items = [{k: v[i] for k, v in inputs.items()} for i in range(3)]
    if spt.unharvested(adapted):
        spt.harvest(adapted, items, batch_size=2)
    das.start(adapted, items)
    return adapted


def disturb(adapted: gm.Adapted) -> gm.Adapted:
    """As after training: everything trainable moves, so that no zero start hides a mistake."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return adapted


def run(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Logits, or states where there is no head. ViLT and MAE shuffle patches: the seed makes runs comparable."""
    torch.default_generator.manual_seed(5)
    if "timm" in type(model).__module__:
        return model(inputs["pixel_values"])
    output = model(**inputs)
    if isinstance(output, Tensor):
        return output
    return next(output[name] for name in ("logits", "last_hidden_state", "sample") if name in output)
