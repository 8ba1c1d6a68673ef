"""Options and settings of the whole test run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import gossamer as gm

REFERENCE = Path(__file__).parent / "reference" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir", type=Path, default=REFERENCE, help="folder of NAME.safetensors + NAME.json cases"
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`large(names, rows)` is `parametrize`; slow rows, which take half a minute to be made, are not where none is asked for."""
    for mark in metafunc.definition.iter_markers("large"):
        names, rows = mark.args
        if metafunc.config.option.markexpr == "not slow":
            rows = [row for row in rows if all(mark.name != "slow" for mark in row.marks)]
        metafunc.parametrize(names, rows)


def pytest_collection_finish() -> None:
    """Searches for garbage only between modules, and never in what torch is made of: a third of all time otherwise."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)


@pytest.fixture(autouse=True, scope="module")
def tidied() -> Iterator[None]:
    """What a module of tests leaves is let go, and what stays is looked at no more."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Here and in all tests by the generator itself: torch.manual_seed writes a traceback down for every absent device."""
    torch.default_generator.manual_seed(0)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Models are built and run in float64, so that no processor's rounding decides over a tolerance."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def a_sheet() -> gm.CostSheet:
    from gossamer.cost import cost

    from .contract.backbones import BACKBONES

    return cost(gm.adapt(BACKBONES["vit"].model(), gm.VPT(prompts=2)))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave no pictures: they take a quarter of a tiny one. The run that all tests share has its own."""
    from . import squares

    squares.trained()
    for name in ("_draw", "_draw_prompts"):
        monkeypatch.setattr(f"gossamer.training.train.{name}", lambda *_: None)


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch, a_sheet: gm.CostSheet) -> None:
    """What is saved has some cost sheet: counting takes three times as long as all else, and `test_cost.py` sees to it."""
    monkeypatch.setattr("gossamer.saving.cost", lambda *_, **__: a_sheet)
