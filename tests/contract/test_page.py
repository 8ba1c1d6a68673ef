"""The page of backbones says what the contract tests."""

from __future__ import annotations

from . import page
from .table import METHODS


def test_the_page_is_what_the_tables_say() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.text(), "python -m tests.contract.page writes it anew"


def test_every_fact_that_a_method_needs_has_its_reason() -> None:
    """So no cell can be written without one."""
    facts = {fact for row in METHODS.values() for fact in row.needs}
    assert facts == page.NOT_APPLICABLE | set(page.REASONS)
