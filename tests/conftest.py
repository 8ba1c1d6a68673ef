"""Options and settings of the whole test run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

REFERENCE = Path(__file__).parent / "reference" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir", type=Path, default=REFERENCE, help="folder of NAME.safetensors + NAME.json cases"
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
